"""Deployments over OpenSSH's own server: keys, host keys, jumps, a wire that is counted, cut and frozen."""

from __future__ import annotations

import os
import pty
import pwd
import select
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from devices import PYTHON, install, keep_small_runtime, recorded, refused, release, wait_until, world
from sshd import Sshd

sys.path.append(str(Path(__file__).resolve().parents[1] / "scripts"))
from standins.link import link_to

from edgekit.bundle import Bundle
from edgekit.deploy import session as session_module
from edgekit.deploy.address import Remote, parse_address
from edgekit.deploy.install import deploy, remove, rollback, status
from edgekit.deploy.session import open_session
from edgekit.errors import (
    DeviceDamaged,
    DeviceError,
    DeviceRefused,
    DeviceUnreachable,
    DeviceUnsupported,
    GoldenMismatch,
    HostKeyChanged,
    HostKeyUnknown,
)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("small_runtime")]
BOARD = Remote("board", None, None)
Run = Callable[..., tuple[int, str, str]]


# -- what should work


def test_deploy_status_rollback_and_remove_over_ssh(sshd: Sshd, tiny_bundle: Bundle, other_bundle: Bundle) -> None:
    first = deploy(tiny_bundle, BOARD, python=PYTHON)
    second = deploy(other_bundle, BOARD, python=PYTHON)
    found = status(BOARD, python=PYTHON, verify=True)
    back = rollback(BOARD, python=PYTHON)

    assert first.root == str(sshd.root)
    assert [row["role"] for row in found["releases"]] == ["current", "previous"]
    assert found["damaged"] == []
    assert back["current"] == first.release == os.path.basename(os.readlink(sshd.root / "current"))
    assert second.files_sent == 3
    remove(BOARD, python=PYTHON)
    assert not sshd.root.exists()


def test_an_address_with_user_and_port_needs_no_alias(sshd: Sshd, tiny_bundle: Bundle) -> None:
    sshd.write_client_config(
        more=f"IdentityFile {sshd.folder / 'id'}\nUserKnownHostsFile {sshd.known_hosts}\nStrictHostKeyChecking yes\n"
    )

    assert deploy(tiny_bundle, parse_address(f"{sshd.user}@127.0.0.1:{sshd.port}"), python=PYTHON).changed


def test_the_python3_of_the_login_shells_path_is_the_default(sshd: Sshd) -> None:
    if shutil.which("python3", path="/usr/local/bin:/usr/bin:/bin") is None:
        pytest.skip("no python3 where a login shell would find it")

    with open_session(BOARD) as session:
        assert session.hello.executable.startswith("/usr/")


def test_deploying_again_is_one_connection_and_under_ten_thousand_bytes(sshd: Sshd, tiny_bundle: Bundle) -> None:
    deploy(tiny_bundle, BOARD, python=PYTHON)
    before = world(sshd.root)

    with link_to(sshd.port) as link:
        sshd.trust(link.port)
        sshd.write_client_config(port=link.port)
        again = deploy(tiny_bundle, BOARD, python=PYTHON)

    assert not again.changed
    assert link.connections == 1
    assert link.total_bytes < 10_000, link.bytes
    assert world(sshd.root) == before


def test_a_first_deployment_is_one_connection_and_one_to_confirm_it(sshd: Sshd, tiny_bundle: Bundle) -> None:
    with link_to(sshd.port) as link:
        sshd.trust(link.port)
        sshd.write_client_config(port=link.port)
        assert deploy(tiny_bundle, BOARD, python=PYTHON).changed

    assert link.connections == 2


def test_a_shell_that_greets_on_both_outputs_is_heard_out(sshd: Sshd, tiny_bundle: Bundle) -> None:
    only_with_bash()
    sshd.bashrc.write_text("echo 'Welcome to the board'; echo 'warning: setlocale' >&2; printf 'no newline'\n")

    assert deploy(tiny_bundle, BOARD, python=PYTHON).changed


def only_with_bash() -> None:
    if not pwd.getpwuid(os.getuid()).pw_shell.endswith("/bash"):
        pytest.skip("the login shell here is not bash")


@pytest.mark.parametrize("alias", ["behind", "piped"])
def test_a_jump_host_is_gone_through_and_nothing_is_left_of_it(sshd: Sshd, tiny_bundle: Bundle, alias: str) -> None:
    deployed = deploy(tiny_bundle, Remote(alias, None, None), python=PYTHON)

    assert deployed.changed
    assert (sshd.root / "current" / "run").exists()
    wait_until(lambda: not sshd.sessions())
    assert not children_named("ssh")


def children_named(name: str) -> list[str]:
    found = subprocess.run(["ps", "-o", "comm=", "--ppid", str(os.getpid())], capture_output=True, text=True).stdout
    return [line for line in found.splitlines() if line.strip() == name]


def test_nothing_runs_on_the_device_when_we_are_done(sshd: Sshd) -> None:
    with open_session(BOARD, python=PYTHON) as session:
        session.request("status")

    wait_until(lambda: not sshd.sessions())


def test_an_agent_holds_the_key_that_a_file_keeps_locked(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    sshd.write_client_config(identity="locked")
    with refused(DeviceRefused, 4) as caught:
        status(BOARD, python=PYTHON)
    assert "passphrase" in str(caught.value)
    assert "ssh-add" in caught.value.hint

    sock = str(sshd.folder / "agent.sock")
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", sock], stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: os.path.exists(sock))
        monkeypatch.setenv("SSH_AUTH_SOCK", sock)
        for name in ("stranger", "other_host_key"):  # other keys in it are not even tried: IdentitiesOnly
            subprocess.run(["ssh-add", "-q", sshd.folder / name], check=True)
        ask = sshd.folder / "askpass"
        ask.write_text("#!/bin/sh\necho a long passphrase\n")
        ask.chmod(0o755)
        environment = {**os.environ, "SSH_ASKPASS": str(ask), "SSH_ASKPASS_REQUIRE": "force"}
        subprocess.run(["ssh-add", "-q", sshd.folder / "locked"], check=True, env=environment, stdin=subprocess.DEVNULL)

        assert status(BOARD, python=PYTHON)["releases"] == []
    finally:
        agent.terminate()
        agent.wait()
        if os.path.exists(sock):
            os.unlink(sock)


# -- who is at the other end


def test_a_port_where_nobody_listens_is_named(sshd: Sshd) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    sshd.write_client_config(port=port)

    with refused(DeviceUnreachable, 4) as caught:
        status(BOARD)

    assert str(port) in str(caught.value)


def test_a_name_that_does_not_exist_is_named(sshd: Sshd) -> None:
    with refused(DeviceUnreachable, 4) as caught:
        status(Remote("nowhere.invalid", None, None))

    assert "nowhere.invalid" in str(caught.value)


def test_something_that_is_not_sshd_is_an_error_without_a_traceback(sshd: Sshd, command: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        sshd.write_client_config(port=server.getsockname()[1])
        done = subprocess.Popen(
            [sys.executable, "-m", "edgekit.cli.main", "status", "board"], stderr=subprocess.PIPE, text=True
        )
        connection, _ = server.accept()
        with connection:
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        _, err = done.communicate(timeout=30)

    assert done.returncode == 4
    assert len(err.splitlines()) == 2, err


def test_an_unknown_host_key_is_refused_and_nothing_is_written(sshd: Sshd, command: Run) -> None:
    sshd.known_hosts.write_text("")

    code, out, err = command("status", "board", "--python", PYTHON)

    assert (code, out) == (4, "")
    assert len(err.splitlines()) == 2
    assert "SHA256:" in err
    assert "ssh-keyscan" in err
    assert sshd.known_hosts.read_text() == ""
    assert not sshd.own_known_hosts.exists()
    with refused(HostKeyUnknown, 4):
        status(BOARD, python=PYTHON)


@pytest.mark.parametrize("marker", ["", "@revoked "])
def test_a_host_key_that_changed_or_was_revoked_is_a_hard_stop(sshd: Sshd, marker: str) -> None:
    key = sshd.host_key() if marker else " ".join((sshd.folder / "other_host_key.pub").read_text().split()[:2])
    sshd.known_hosts.write_text(f"{marker}[127.0.0.1]:{sshd.port} {key}\n")

    with refused(HostKeyChanged, 4) as caught:
        status(BOARD, python=PYTHON, ask=lambda *_: True)  # nobody is asked

    assert "SHA256:" in str(caught.value)
    assert not sshd.own_known_hosts.exists()


def test_a_hashed_known_hosts_file_is_understood(sshd: Sshd) -> None:
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", sshd.known_hosts], check=True, capture_output=True)
    assert "127.0.0.1" not in sshd.known_hosts.read_text()

    assert status(BOARD, python=PYTHON)["releases"] == []


@pytest.mark.parametrize("answer", ["y", "n"])
def test_a_person_at_a_terminal_is_asked_once(sshd: Sshd, answer: str) -> None:
    sshd.known_hosts.write_text("")

    code, shown = at_a_terminal(["status", "board", "--python", PYTHON], answer)

    assert "SHA256:" in shown
    assert (code == 0) == (answer == "y")
    assert sshd.own_known_hosts.exists() == (answer == "y")
    assert sshd.known_hosts.read_text() == ""
    if answer == "y":
        assert sshd.own_known_hosts.read_text() == f"[127.0.0.1]:{sshd.port} {sshd.host_key()}\n"
        assert status(BOARD, python=PYTHON)["releases"] == []  # and not asked again


def at_a_terminal(arguments: list[str], answer: str) -> tuple[int, str]:
    """Runs edgekit at a terminal of its own and types `answer` when it is asked something."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-m", "edgekit.cli.main", *arguments])
    shown, has_typed, deadline = b"", False, time.monotonic() + 30
    while time.monotonic() < deadline:
        if not select.select([terminal], [], [], 1)[0]:
            continue
        try:
            block = os.read(terminal, 4096)
        except OSError:  # the other end is closed
            break
        if not block:
            break
        shown += block
        if b"[y/N]" in shown and not has_typed:
            os.write(terminal, f"{answer}\n".encode())
            has_typed = True
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown.decode(errors="replace")


def test_a_key_that_is_not_authorized_is_refused(sshd: Sshd, command: Run) -> None:
    sshd.write_client_config(identity="stranger")

    code, out, err = command("status", "board")

    assert (code, out) == (4, "")
    assert len(err.splitlines()) == 2
    assert "ssh-copy-id" in err
    assert not sshd.root.exists()


def test_without_any_key_the_hint_is_to_make_one(sshd: Sshd) -> None:
    sshd.write_client_config(identity="no-such-file")

    with refused(DeviceRefused, 4) as caught:
        status(BOARD)

    assert "ssh-keygen" in caught.value.hint


def test_an_agent_with_too_many_keys_gets_the_hint_to_name_one(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    sock = str(sshd.folder / "full-agent.sock")
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", sock], stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: os.path.exists(sock))
        monkeypatch.setenv("SSH_AUTH_SOCK", sock)
        for number in range(8):  # more than sshd's MaxAuthTries
            path = sshd.folder / f"spare-{number}"
            if not path.exists():
                subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
            subprocess.run(["ssh-add", "-q", path], check=True, stderr=subprocess.DEVNULL)
        sshd.write_client_config(more=f"IdentitiesOnly no\nIdentityFile {sshd.folder / 'no-such-file'}\n")

        with refused(DeviceRefused, 4) as caught:
            status(BOARD)

        assert "IdentitiesOnly" in caught.value.hint
    finally:
        agent.terminate()
        agent.wait()


def test_a_jump_host_that_refuses_is_quoted(sshd: Sshd) -> None:
    sshd.write_client_config(more=f"Host board\n    IdentityFile {sshd.folder / 'stranger'}\n    BatchMode yes\n")
    config = (sshd.folder / "ssh_config").read_text()
    (sshd.folder / "ssh_config").write_text(
        config.replace(f"Host board\n    HostName 127.0.0.1\n    Port {sshd.port}\n    User {sshd.user}\n"
                       f"    IdentityFile {sshd.folder / 'id'}\n",
                       f"Host board\n    HostName 127.0.0.1\n    Port {sshd.port}\n    User {sshd.user}\n")
    )  # fmt: skip

    with refused(DeviceUnreachable, 4) as caught:
        status(Remote("behind", None, None))

    assert "Permission denied" in str(caught.value)


# -- what is on it


def test_a_device_without_python_says_what_to_install(sshd: Sshd, tiny_bundle: Bundle) -> None:
    only_with_bash()
    sshd.bashrc.write_text("PATH=/nowhere\n")

    with refused(DeviceUnsupported, 4) as caught:
        deploy(tiny_bundle, BOARD)

    assert "python3" in str(caught.value)
    assert "apt install python3" in caught.value.hint
    assert not sshd.root.exists()


def test_a_python_that_is_not_on_the_device_is_named(sshd: Sshd) -> None:
    with refused(DeviceUnsupported, 4) as caught:
        status(BOARD, python="python3.99")

    assert "python3.99" in str(caught.value)


def test_a_root_that_others_can_write_is_refused(sshd: Sshd, tiny_bundle: Bundle) -> None:
    sshd.root.mkdir()
    sshd.root.chmod(0o777)

    with refused(DeviceRefused, 4):
        deploy(tiny_bundle, BOARD, python=PYTHON)

    assert os.listdir(sshd.root) == []


def test_golden_answers_that_differ_keep_the_release_that_runs(sshd: Sshd, tiny_bundle: Bundle, tmp_path: Path) -> None:
    from tiny_model import tiny_bundle as make

    deploy(tiny_bundle, BOARD, python=PYTHON)
    before = world(sshd.root)

    with refused(GoldenMismatch, 5):
        deploy(make(tmp_path / "wrong", seed=2, golden_shift=1), BOARD, python=PYTHON)

    assert world(sshd.root) == before


def test_a_blob_that_is_refused_while_more_is_being_sent_is_the_error_that_is_shown(
    sshd: Sshd, tiny_bundle: Bundle
) -> None:
    deploy(tiny_bundle, BOARD, python=PYTHON)
    before = world(sshd.root)

    with refused(DeviceDamaged, 4), open_session(BOARD, python=PYTHON) as session:
        for _ in range(40):  # nobody waits for an answer in between
            session.put("0" * 64, os.urandom(1 << 20), answer=False)
        session.request("status")

    assert world(sshd.root) == before


def test_a_runner_that_kills_the_agent_is_an_error(sshd: Sshd) -> None:
    with open_session(BOARD, python=PYTHON) as session:
        install(session, release("good"))
    before = world(sshd.root)

    with refused(DeviceError, 4) as caught, open_session(BOARD, python=PYTHON) as session:
        install(session, release("killer", run=b"#!/bin/sh\nkill -9 $PPID\n"))

    assert "killed" in str(caught.value)
    with open_session(BOARD, python=PYTHON) as session:
        session.request("confirm", id=recorded(sshd.root)["good"])
    wait_until(lambda: world(sshd.root) == before)  # what is to go, goes once it has answered


# -- the wire


def big_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_small_runtime(tmp_path / "cache", **{f"ballast/{i}.bin": os.urandom(1_000_000) for i in range(8)})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_link_that_breaks_in_the_middle_is_an_error_and_the_rest_is_sent_later(
    sshd: Sshd, tiny_bundle: Bundle, other_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy(tiny_bundle, BOARD, python=PYTHON)
    current = os.readlink(sshd.root / "current")
    big_cache(tmp_path, monkeypatch)

    with link_to(sshd.port) as link:
        sshd.trust(link.port)
        sshd.write_client_config(port=link.port)
        link.cut_after(5_000_000)
        with refused(DeviceUnreachable, 4) as caught:
            deploy(other_bundle, BOARD, python=PYTHON)
    assert "nothing was switched" in caught.value.hint
    assert os.readlink(sshd.root / "current") == current

    sshd.write_client_config()
    done = deploy(other_bundle, BOARD, python=PYTHON)

    assert done.changed
    assert 3_000_000 <= done.bytes_sent < 6_000_000
    assert status(BOARD, python=PYTHON, verify=True)["damaged"] == []


@pytest.mark.parametrize("is_sending", [True, False])
def test_a_device_that_falls_silent_is_given_up(sshd: Sshd, monkeypatch: pytest.MonkeyPatch, is_sending: bool) -> None:
    monkeypatch.setattr(session_module, "ANSWER_S", 0.5)
    with link_to(sshd.port) as link:
        sshd.trust(link.port)
        sshd.write_client_config(port=link.port)
        with refused(DeviceUnreachable, 4), open_session(BOARD, python=PYTHON) as session:
            session.request("plan", files={}, volatile=True)
            link.freeze()
            if is_sending:
                for _ in range(40):  # more than all windows and buffers hold
                    session.put("0" * 64, os.urandom(1 << 20), answer=False)
            else:
                session.request("status")

    sshd.write_client_config()
    with open_session(BOARD, python=PYTHON) as session:
        session.request("plan", files={}, volatile=True)


def test_a_server_that_accepts_and_says_nothing_is_given_up(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgekit.deploy import ssh

    monkeypatch.setattr(ssh, "CONNECT_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        sshd.write_client_config(port=server.getsockname()[1])

        with refused(DeviceUnreachable, 4):
            status(BOARD)


def test_the_real_runtime_is_built_once_sent_once_and_answers(
    sshd: Sshd, tiny_bundle: Bundle, other_bundle: Bundle, real_runtime: Path
) -> None:
    first = deploy(tiny_bundle, BOARD, python=PYTHON)
    second = deploy(other_bundle, BOARD, python=PYTHON)

    assert first.bytes_sent > 20_000_000
    assert second.bytes_sent < 100_000
    assert second.check is not None
    assert second.check["runtime"].startswith("ai-edge-litert")
    done = subprocess.run(
        ["/bin/sh", "-c", f"{shlex.quote(str(sshd.root / 'current' / 'run'))} check"],
        capture_output=True,
        text=True,
        cwd="/",
    )
    assert done.returncode == 0, done.stderr
