"""paramiko and the `ssh` command as ways to a device: what both must do alike, and what only `ssh` can."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from devices import PYTHON, install, refused, release, wait_until
from keys import make_key, ssh_agent
from sshd import Sshd, running_sshd

from edgekit.deploy.address import Remote, Transport, parse_address
from edgekit.deploy.install import deploy, status
from edgekit.deploy.route import find_route, only_openssh
from edgekit.deploy.session import open_session
from edgekit.errors import (
    DeviceRefused,
    DeviceUnreachable,
    DeviceUnsupported,
    EdgekitError,
    HostKeyChanged,
    HostKeyUnknown,
)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("small_runtime")]
BOTH: Any = pytest.mark.parametrize("transport", ["paramiko", "openssh"])
Run = Callable[..., tuple[int, str, str]]


def board(transport: Transport = "auto", alias: str = "board") -> Remote:
    return Remote(alias, None, None, transport)


def refuse(*_: str) -> bool:
    return False


def vouch(*_: str) -> bool:
    return True


# -- alike


@BOTH
def test_a_release_is_deployed(sshd: Sshd, tiny_bundle: Any, transport: Transport) -> None:
    assert deploy(tiny_bundle, board(transport), python=PYTHON).changed
    assert not deploy(tiny_bundle, board(transport), python=PYTHON).changed
    wait_until(lambda: not sshd.sessions())


@BOTH
def test_a_key_that_nobody_knows_is_refused_and_one_that_is_vouched_for_is_kept(
    sshd: Sshd, transport: Transport
) -> None:
    sshd.known_hosts.write_text("")
    with refused(HostKeyUnknown, 4):
        status(board(transport), python=PYTHON, ask=refuse)
    assert not sshd.own_known_hosts.exists()
    asked: list[tuple[str, ...]] = []

    def ask(*key: str) -> bool:
        asked.append(key)
        return True

    status(board(transport), python=PYTHON, ask=ask)
    status(board(transport), python=PYTHON, ask=ask)

    assert [name for name, *_ in asked] == [f"[127.0.0.1]:{sshd.port}"]
    assert sshd.own_known_hosts.read_text() == f"[127.0.0.1]:{sshd.port} {sshd.host_key()}\n"
    assert sshd.known_hosts.read_text() == ""


@BOTH
@pytest.mark.parametrize("marker", ["", "@revoked "])
def test_a_key_that_changed_or_was_revoked_is_a_hard_stop(sshd: Sshd, transport: Transport, marker: str) -> None:
    key = sshd.host_key() if marker else " ".join((sshd.folder / "other_host_key.pub").read_text().split()[:2])
    sshd.known_hosts.write_text(f"{marker}[127.0.0.1]:{sshd.port} {key}\n")

    with refused(HostKeyChanged, 4):
        status(board(transport), python=PYTHON, ask=vouch)

    assert not sshd.own_known_hosts.exists()


@BOTH
def test_a_login_that_is_refused_is_not_a_host_key_that_is(sshd: Sshd, transport: Transport) -> None:
    sshd.write_client_config(identity="stranger")

    with refused(DeviceRefused, 4):
        status(board(transport), ask=vouch)


@BOTH
def test_a_port_where_nobody_listens_is_unreachable(sshd: Sshd, transport: Transport) -> None:
    sshd.write_client_config(port=1)

    with refused(DeviceUnreachable, 4):
        status(board(transport), ask=vouch)


@BOTH
def test_a_banner_and_a_greeting_come_before_the_protocol(sshd: Sshd, tmp_path: Path, transport: Transport) -> None:
    (tmp_path / "banner").write_text("Authorised use only.\nEDGEKIT\n" * 20)
    with another_sshd(sshd, tmp_path / "with-banner", more=f"Banner {tmp_path / 'banner'}\n") as server:
        server.bashrc.write_text("echo 'Welcome'; echo 'warning: setlocale' >&2; printf 'no newline'\n")

        assert status(board(transport, "other"), python=PYTHON)["releases"] == []


@BOTH
def test_a_device_without_python_says_so(sshd: Sshd, transport: Transport) -> None:
    with refused(DeviceUnsupported, 4):
        status(board(transport), python="python3.99")


@BOTH
def test_a_session_that_is_killed_is_told(sshd: Sshd, transport: Transport) -> None:
    with refused(DeviceUnreachable, 4), open_session(board(transport), python=PYTHON) as session:
        install(session, release("good"))
        for pid in sshd.sessions():
            os.kill(pid, 9)
        session.request("status")


# -- jumps


@BOTH
def test_two_jumps_are_gone_through(sshd: Sshd, tmp_path: Path, transport: Transport) -> None:
    with ExitStack() as stack:
        second = stack.enter_context(another_sshd(sshd, tmp_path / "second", "second"))
        far = stack.enter_context(another_sshd(sshd, tmp_path / "far", "far", also="    ProxyJump board,second\n"))

        found = status(board(transport, "far"), python=PYTHON)

    assert found["root"] == str(far.root)
    assert len({second.host_key(), far.host_key(), sshd.host_key()}) == 3


def test_a_jump_whose_host_key_is_wrong_is_not_gone_through(sshd: Sshd, tmp_path: Path) -> None:
    with another_sshd(sshd, tmp_path / "far", "far", also="    ProxyJump board\n"):
        wrong = " ".join((sshd.folder / "other_host_key.pub").read_text().split()[:2])
        kept = [line for line in sshd.known_hosts.read_text().splitlines() if f"]:{sshd.port} " not in line]
        sshd.known_hosts.write_text("\n".join([*kept, f"[127.0.0.1]:{sshd.port} {wrong}"]) + "\n")

        with refused(DeviceUnreachable, 4):
            status(board("auto", "far"), ask=vouch)


# -- what only ssh can


def test_a_host_key_that_an_authority_signed_is_trusted(sshd: Sshd, tmp_path: Path) -> None:
    with another_sshd(sshd, tmp_path / "signed", authority=True) as server:
        authority = (server.folder / "ca.pub").read_text()
        sshd.known_hosts.write_text(f"@cert-authority [127.0.0.1]:* {authority}")

        assert only_openssh(find_route(board("auto", "other"))) == "@cert-authority"
        assert status(board("auto", "other"), python=PYTHON)["releases"] == []
        assert status(board("openssh", "other"), python=PYTHON)["releases"] == []
        with refused(HostKeyUnknown, 4):
            status(board("paramiko", "other"), python=PYTHON)


def test_a_host_key_that_another_authority_signed_is_not(sshd: Sshd, tmp_path: Path) -> None:
    with another_sshd(sshd, tmp_path / "signed", authority=True):
        stranger = (sshd.folder / "other_host_key.pub").read_text()
        sshd.known_hosts.write_text(f"@cert-authority [127.0.0.1]:* {stranger}")

        with refused(DeviceRefused, 4) as caught:
            status(board("auto", "other"), python=PYTHON, ask=vouch)

    assert "verification failed" in str(caught.value).lower()


def test_a_login_with_a_certificate_is_left_to_ssh(sshd: Sshd, tmp_path: Path) -> None:
    certificate = tmp_path / "signed" / "stranger-cert.pub"
    also = f"    IdentityFile {tmp_path / 'signed' / 'stranger'}\n    CertificateFile {certificate}\n"
    with another_sshd(sshd, tmp_path / "signed", authority=True, also=also) as server:
        sshd.trust_key(server)
        assert only_openssh(find_route(board("auto", "other"))) == "certificatefile"
        assert status(board("auto", "other"), python=PYTHON)["releases"] == []


def test_an_agent_that_the_configuration_names_is_asked(sshd: Sshd, tmp_path: Path) -> None:
    sock = tmp_path / "agent"
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", str(sock)], stdout=subprocess.DEVNULL)
    try:
        wait_until(sock.exists)
        known = {**os.environ, "SSH_AUTH_SOCK": str(sock)}
        subprocess.run(["ssh-add", "-q", sshd.folder / "id"], check=True, env=known)
        sshd.write_client_config(identity="no-such-file", more=f"IdentityAgent {sock}\nIdentitiesOnly no\n")

        assert only_openssh(find_route(board())) == "identityagent"
        assert status(board(), python=PYTHON)["releases"] == []
        with refused(DeviceRefused, 4):
            status(board("paramiko"), python=PYTHON)
    finally:
        agent.terminate()
        agent.wait()


def test_a_server_that_shares_no_cipher_with_paramiko_is_reached_by_ssh(sshd: Sshd, tmp_path: Path) -> None:
    with another_sshd(sshd, tmp_path / "modern", more="Ciphers chacha20-poly1305@openssh.com\n"):
        assert status(board("auto", "other"), python=PYTHON)["releases"] == []
        with refused_with(DeviceUnreachable) as caught:
            status(board("paramiko", "other"), python=PYTHON)

    assert "--transport openssh" in caught[0].hint


def test_a_key_on_a_fido_token_is_left_to_ssh(sshd: Sshd) -> None:
    (sshd.folder / "token.pub").write_text("sk-ssh-ed25519@openssh.com AAAA me\n")
    sshd.write_client_config(identity="token")

    assert "FIDO" in only_openssh(find_route(board()))


@pytest.mark.parametrize("held_by", ["file", "agent"])
def test_a_key_on_a_fido_token_logs_in_and_its_touch_is_asked_for(
    sshd: Sshd, token: Path, held_by: str, tmp_path: Path, command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = make_key(tmp_path, "token", "ed25519-sk")
    with ExitStack() as stack:
        if held_by == "agent":
            monkeypatch.setenv("SSH_AUTH_SOCK", stack.enter_context(ssh_agent(tmp_path, key, token=token)))
            key.unlink()
        provider = "" if held_by == "agent" else f"SecurityKeyProvider {token}\n"
        sshd.write_client_config(identity=str(key), more=provider)
        assert only_openssh(find_route(board()))
        with refused(DeviceRefused, 4):
            status(board(), python=PYTHON)
        stack.enter_context(sshd.letting_in(key.with_name("token.pub")))

        code, out, err = command("status", "board", "--python", PYTHON, "--json")

    assert (code, err) == (0, "edgekit: you may need to touch the FIDO token to log in\n")
    assert json.loads(out)["releases"] == []


def test_a_key_on_a_fido_token_whose_public_half_is_gone_is_left_to_ssh(
    sshd: Sshd, token: Path, tmp_path: Path
) -> None:
    key = make_key(tmp_path, "token", "ed25519-sk")
    sshd.write_client_config(identity=str(key), more=f"IdentityFile {sshd.folder / 'id'}\n")
    key.with_name("token.pub").unlink()

    assert "FIDO" in only_openssh(find_route(board()))
    assert status(board("paramiko"), python=PYTHON)["releases"] == []  # paramiko cannot use it, and goes on to the next


def test_the_agents_key_on_a_fido_token_is_touched_only_if_no_other_logs_in(
    sshd: Sshd, token: Path, tmp_path: Path, finger: Path, command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    finger.touch()
    key = make_key(tmp_path, "token", "ed25519-sk")
    sshd.write_client_config(more="IdentitiesOnly no\n")
    finger.unlink()
    with ssh_agent(tmp_path, key, token=token) as socket:
        monkeypatch.setenv("SSH_AUTH_SOCK", socket)
        assert command("status", "board", "--python", PYTHON)[::2] == (0, "")  # nobody was asked to touch it

        finger.touch()
        sshd.write_client_config(identity="none", more="IdentitiesOnly no\n")
        with sshd.letting_in(tmp_path / "token.pub"):
            code, _, err = command("status", "board", "--python", PYTHON)
        assert (code, err) == (0, "edgekit: you may need to touch the FIDO token to log in\n")


def test_a_login_waits_for_the_touch_of_a_fido_token(
    sshd: Sshd, token: Path, tmp_path: Path, finger: Path, command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    finger.touch()
    key = make_key(tmp_path, "token", "ed25519-sk")
    finger.unlink()
    sshd.write_client_config(identity=str(key), more=f"SecurityKeyProvider {token}\n")
    words = [sys.executable, "-m", "edgekit.cli.main", "status", "board", "--python", PYTHON]
    with (
        sshd.letting_in(tmp_path / "token.pub"),
        subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process,
    ):
        assert process.stderr is not None
        told = process.stderr.readline()
        waits = process.poll() is None
        finger.touch()
        err = process.communicate(timeout=60)[1]

    assert (told, waits) == ("edgekit: you may need to touch the FIDO token to log in\n", True)
    assert (process.returncode, err) == (0, "")


# -- the option


def test_the_option_reaches_the_wire(sshd: Sshd, command: Run) -> None:
    (sshd.bashrc).write_text("echo $SSH_CLIENT >> $XDG_STATE_HOME/seen\n")
    for transport in ("paramiko", "openssh", "auto"):
        code, _, err = command("status", "board", "--python", PYTHON, "--transport", transport)
        assert (code, err) == (0, "")

    code, _, err = command("status", "board", "--transport", "pigeon")

    assert code == 2
    assert "openssh" in err
    assert parse_address("board", "openssh") == board("openssh")


# -- host-key


def test_a_changed_key_is_replaced_on_purpose(sshd: Sshd, command: Run) -> None:
    wrong = " ".join((sshd.folder / "other_host_key.pub").read_text().split()[:2])
    for path in (sshd.known_hosts, sshd.own_known_hosts):
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(f"[127.0.0.1]:{sshd.port} {wrong}\nelsewhere {wrong}\n")
    code, out, _ = command("host-key", "show", "board", "--json")
    assert code == 4  # it is not the one on file
    code, out, err = command("host-key", "replace", "board")
    assert (code, out) == (2, "")  # nobody there to ask
    fingerprint = next(word for word in err.split() if word.startswith("SHA256:")).rstrip(",;:.")
    code, _, _ = command("host-key", "replace", "board", "--fingerprint", "SHA256:" + "A" * 43)
    assert code == 4
    assert wrong in sshd.known_hosts.read_text().splitlines()[0]

    code, out, err = command("host-key", "replace", "board", "--fingerprint", fingerprint)

    assert (code, err) == (0, "")
    assert fingerprint in out
    assert f"elsewhere {wrong}" in sshd.known_hosts.read_text()
    assert f":{sshd.port} {wrong}" not in sshd.known_hosts.read_text() + sshd.own_known_hosts.read_text()
    assert command("host-key", "show", "board")[0] == 0
    assert status(board(), python=PYTHON)["releases"] == []


# -- more servers


@contextmanager
def another_sshd(
    first: Sshd, folder: Path, alias: str = "other", *, authority: bool = False, more: str = "", also: str = ""
) -> Iterator[Sshd]:
    """One more server, which the first one's client knows as `alias`; `also` is lines for that."""
    folder.mkdir()
    with running_sshd(folder, authority=authority, more=more) as server:
        server.bashrc.parent.mkdir(exist_ok=True)
        key = "" if "IdentityFile" in also else f"    IdentityFile {folder / 'id'}\n"
        with (first.folder / "ssh_config").open("a") as config:
            config.write(
                f"\nHost {alias}\n    HostName 127.0.0.1\n    Port {server.port}\n    User {server.user}\n{key}{also}"
                f"    IdentitiesOnly yes\n    UserKnownHostsFile {first.known_hosts}\n    GlobalKnownHostsFile /dev/null\n"
            )
        if not authority:
            first.trust_key(server)
        yield server


@contextmanager
def refused_with(kind: type[EdgekitError]) -> Iterator[list[EdgekitError]]:
    """An error of that kind or a finer one."""
    caught: list[EdgekitError] = []
    with pytest.raises(kind) as found:
        yield caught
    caught.append(found.value)
