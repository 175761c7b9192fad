"""What keeps a runner running: the units as text, and how the systemd of a booted device starts, watches and gives up on them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from devices import refused, wait_until, world
from hypothesis import given
from hypothesis import strategies as st

from edgekit.bundle import Bundle
from edgekit.deploy import install, systemd
from edgekit.deploy.address import Local, Remote
from edgekit.deploy.disk import Refused
from edgekit.deploy.install import Deployment, deploy, remove, rollback, status
from edgekit.deploy.logs import read_logs
from edgekit.deploy.service import find_service
from edgekit.deploy.units import GUARD, RECOVER, ROLLBACK, RUNNER, Needs, root_of, socket_path, unit_files
from edgekit.errors import DeviceUnreachable, DeviceUnsupported, EdgekitError, InputError, NotInstalled

if TYPE_CHECKING:
    from standins.nspawn import Device

ROOT = "/var/lib/edgekit"
ROOMS = "/root/.local/state/edgekit"  # of root, on a device
HOME = "/home/pi/.local/state/edgekit"
NO_SYSTEMD = not Path("/run/systemd/system").is_dir()


def needs(kind: str = "system", **more: Any) -> Needs:
    usual: dict[str, Any] = {
        "root": ROOT,
        "agent": f"{ROOT}/agent/current.py",
        "python": "/usr/bin/python3",
        "visible": (),
        "devices": frozenset(),
        "groups": frozenset(("plugdev", "render", "video")),
        "namespaces": True,
    }
    return Needs(kind, **{**usual, **more})


# -- as text


def test_the_units_refer_to_current_and_to_the_agents_file_and_to_nothing_else_of_the_release() -> None:
    files = unit_files(needs())

    assert files.keys() == {RUNNER, RECOVER, ROLLBACK, GUARD}
    assert f"ExecStart=/bin/sh {ROOT}/current/run serve --socket /run/edgekit/edgekit.sock\n" in files[RUNNER]
    for name, verb in ((RECOVER, "recover"), (ROLLBACK, "failed"), (GUARD, "guard %i")):
        assert f"ExecStart=/usr/bin/python3 -I {ROOT}/agent/current.py {verb}\n" in files[name]
    assert f"Before={RUNNER}" in files[RECOVER] and f"RequiredBy={RUNNER}" in files[RECOVER]
    assert f"OnFailure={ROLLBACK}" in files[RUNNER]
    assert {root_of(text) for text in files.values()} == {ROOT}


@given(st.text(max_size=30) | st.from_regex(r"(/[a-z %$\"'\\;:\n.]{1,8}){1,4}", fullmatch=True))
def test_a_path_is_written_as_it_is_or_refused(path: str) -> None:
    try:
        text = unit_files(needs(root=path))[RUNNER]
    except Refused:
        return

    assert re.fullmatch(r"[A-Za-z0-9_.+@~,=/-]+", path)
    assert f"ExecStart=/bin/sh {path}/current/run serve --socket" in text


@pytest.mark.parametrize(
    "path", ["/a b", "/a%n", "/a$x", "/a\nUser=root", '/"', "/a:b", "relative", "/", "/a/../b", "/ü"]
)
@pytest.mark.parametrize("key", ["root", "agent", "python", "visible"])
def test_what_systemd_would_read_otherwise_is_refused(path: str, key: str) -> None:
    with pytest.raises(Refused, match="cannot be named in a systemd unit"):
        unit_files(needs(**{key: (path,) if key == "visible" else path}))


def test_groups_and_devices_are_those_of_the_delegates_and_exist() -> None:
    plain, coral, gpu = (unit_files(needs(devices=frozenset(d)))[RUNNER] for d in ((), ("edgetpu",), ("gpu",)))

    assert "SupplementaryGroups" not in plain and "PrivateDevices=yes" in plain
    assert "SupplementaryGroups=plugdev\n" in coral  # there is no group apex here
    assert "DeviceAllow=char-usb_device rw" in coral and "AF_NETLINK" in coral and "PrivateDevices" not in coral
    assert "SupplementaryGroups=render video\n" in gpu and "DeviceAllow=char-drm rw" in gpu
    assert ["MemoryDenyWriteExecute=yes" in text for text in (plain, coral, gpu)] == [True, True, False]
    assert ["CacheDirectory=edgekit" in text for text in (plain, coral, gpu)] == [True, True, True]
    assert all("ProcSubset" not in text for text in (plain, coral, gpu))


def test_a_root_that_the_sandbox_hides_is_bound_into_it() -> None:
    assert "BindReadOnlyPaths=/root/x\n" in unit_files(needs(root="/root/x"))[RUNNER]
    assert "BindReadOnlyPaths=/home/pi/py\n" in unit_files(needs(visible=("/home/pi/py",)))[RUNNER]
    assert "BindReadOnlyPaths" not in unit_files(needs())[RUNNER]


def test_a_users_units_name_neither_a_user_nor_what_only_root_can_do() -> None:
    walled, plain = (unit_files(needs("user", root="/home/pi/e", namespaces=n))[RUNNER] for n in (True, False))

    assert "--socket /home/pi/e/run/edgekit.sock\n" in plain
    for text in (walled, plain):
        assert "\nUser=" not in text and "RuntimeDirectory" not in text
        assert "SystemCallFilter=@system-service" in text and "WantedBy=default.target" in text
    assert "ReadWritePaths=/home/pi/e/run -/home/pi/e/cache\n" in walled
    assert "ProtectSystem" not in plain


@pytest.mark.parametrize(
    ("devices", "most"), [((), 0.9), (("edgetpu",), 1.5), (("gpu",), 1.5), (("edgetpu", "gpu"), 1.5)]
)
def test_systemd_itself_rates_the_sandbox(tmp_path: Path, devices: tuple[str, ...], most: float) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze")
    (tmp_path / RUNNER).write_text(unit_files(needs(devices=frozenset(devices)))[RUNNER])
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(tmp_path / RUNNER)]
    done = subprocess.run(command, capture_output=True, text=True)
    if "--offline" in done.stderr:
        pytest.skip("systemd-analyze is older than 250")

    assert score(done.stdout) <= most, done.stdout


def score(table: str) -> float:
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", table)
    assert found, table
    return float(found[1])


# -- where there is no systemd


@pytest.mark.skipif(not NO_SYSTEMD, reason="systemd runs here")
def test_without_systemd_nothing_is_kept_running_unless_that_was_asked_for(tmp_path: Path) -> None:
    service = find_service(str(tmp_path))

    assert (service.kind, service.socket, service.state()["active"]) == ("none", None, False)
    assert service.install(str(tmp_path), "/agent") == []
    for kind in ("system", "user"):
        with pytest.raises(Refused) as caught:
            find_service(str(tmp_path), kind)
        assert caught.value.reply["error"] == "DeviceUnsupported"
        assert "systemd is not running" in caught.value.reply["message"]


def test_a_kind_that_there_is_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="no such kind"):
        find_service(str(tmp_path), "cron")


def test_the_units_of_another_root_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd, "SYSTEM_UNITS", str(tmp_path))
    text = unit_files(needs())[RUNNER]
    (tmp_path / RUNNER).write_text(text)
    mine = systemd.Systemd(ROOT, "system")
    other = systemd.Systemd("/srv/other", "system")

    assert mine.installed_root() == other.installed_root() == ROOT
    with pytest.raises(Refused, match=f"a runner of {ROOT} is installed here already"):
        other.install("/srv/other", "/srv/other/agent/current.py")
    other.remove()
    assert (tmp_path / RUNNER).read_text() == text
    assert find_service(ROOT).kind == "system"


def test_what_any_release_asks_for_is_what_the_unit_gives(tmp_path: Path) -> None:
    for number, names in enumerate((["cpu"], ["edgetpu", "cpu"])):
        folder = tmp_path / "releases" / str(number)
        folder.mkdir(parents=True)
        variant = {"delegates": [{"name": name, "options": {}} for name in names]}
        (folder / "manifest.json").write_text(json.dumps({"variants": [variant]}))
    (tmp_path / "releases" / "damaged").mkdir()
    (tmp_path / "releases" / "damaged" / "manifest.json").write_text('{"variants": 3}')

    assert systemd.delegates_of(str(tmp_path)) == {"cpu", "edgetpu"}
    assert systemd.delegates_of(str(tmp_path / "nowhere")) == set()


@pytest.mark.usefixtures("small_runtime")
def test_a_folder_of_this_machine_starts_nothing_by_itself_and_has_no_log(
    device: Local, tiny_bundle: Bundle, command: Callable[..., tuple[int, str, str]]
) -> None:
    done = deploy(tiny_bundle, device)
    code, out, err = command("logs", f"local:{device.root}")

    assert done.service == "none"
    assert (code, out) == (NotInstalled.exit_code, "")
    assert "keeps no runner running" in err


@pytest.mark.skipif(not NO_SYSTEMD, reason="systemd runs here")
@pytest.mark.usefixtures("small_runtime")
def test_a_service_that_a_current_release_cannot_have_changes_nothing(
    device: Local, tiny_bundle: Bundle, command: Callable[..., tuple[int, str, str]]
) -> None:
    deploy(tiny_bundle, device)
    before = world(device.root)
    planned = deploy(tiny_bundle, device, service="user", dry_run=True)
    with refused(DeviceUnsupported, 4):
        deploy(tiny_bundle, device, service="user")

    assert [step.what for step in planned.steps] == [f"release {planned.release} stays; service user instead of none"]
    assert world(device.root) == before
    assert not deploy(tiny_bundle, device, service="none").changed
    assert "would service" in command("deploy", tiny_bundle.path, device, "--service", "user", "--dry-run")[1]


@pytest.mark.skipif(not NO_SYSTEMD, reason="systemd runs here")
@pytest.mark.usefixtures("small_runtime")
def test_a_service_that_cannot_be_had_is_an_error_and_nothing_is_switched(device: Local, tiny_bundle: Bundle) -> None:
    with refused(DeviceUnsupported, 4):
        deploy(tiny_bundle, device, service="system")

    assert not (device.root / "current").exists()


# -- on a device with a systemd

slow = pytest.mark.slow
INFER = """
import http.client, json, socket, sys
c = http.client.HTTPConnection("localhost", timeout=20); c.sock = socket.socket(socket.AF_UNIX); c.sock.connect(sys.argv[1])
c.request(sys.argv[2], sys.argv[3], sys.argv[4] if len(sys.argv) > 4 else None)
print(c.getresponse().read().decode())
"""


def ask(machine: Device, path: str, method: str, target: str, fields: Any = None) -> Any:
    body = [] if fields is None else [json.dumps(fields)]
    return json.loads(machine.inside("python3", "-c", INFER, path, method, target, *body))


def as_root(machine: Device) -> Remote:
    return Remote(machine.name, "root", None)


def as_pi(machine: Device) -> Remote:
    return Remote(machine.name, None, None)


def show(machine: Device, *names: str) -> dict[str, str]:
    """Properties of the system's runner, as systemd says them."""
    out = machine.inside("systemctl", "show", RUNNER, *(f"--property={name}" for name in names))
    return dict(line.split("=", 1) for line in out.splitlines())


def main_pid(machine: Device) -> int:
    return int(show(machine, "MainPID")["MainPID"])


def in_use(machine: Device, root: str = ROOMS) -> str:
    return os.path.basename(os.readlink(machine.root / root.lstrip("/") / "current"))


def is_serving(machine: Device, release: str, path: str = "/run/edgekit/edgekit.sock") -> bool:
    with contextlib.suppress(AssertionError, ValueError):
        return bool(ask(machine, path, "GET", "/v2")["edgekit"]["release"] == release)
    return False


@contextlib.contextmanager
def drop_in(machine: Device, text: str) -> Iterator[None]:
    """Other settings for the runner, so that a test need not wait as long as a board does."""
    folder = machine.root / "etc/systemd/system" / f"{RUNNER}.d"
    folder.mkdir()
    (folder / "test.conf").write_text(text)
    machine.inside("systemctl", "daemon-reload")
    try:
        yield
    finally:
        shutil.rmtree(folder)
        machine.inside("systemctl", "daemon-reload")


@pytest.fixture
def deployed(machine: Device, real_runtime: Path, tiny_bundle: Bundle) -> Deployment:
    """Root has deployed `tiny`; a no-op where a test before has."""
    return deploy(tiny_bundle, as_root(machine))


@pytest.fixture
def trial(machine: Device, deployed: Deployment, other_bundle: Bundle) -> Iterator[list[BaseException]]:
    """`other` is in use, on trial, and well, and nobody confirms it; what became of its deployment is in the list."""
    became: list[BaseException] = []

    def work() -> None:
        try:
            deploy(other_bundle, as_root(machine), window_s=300, confirm="device")
        except EdgekitError as error:
            became.append(error)

    before = in_use(machine)
    thread = threading.Thread(target=work)
    thread.start()
    wait_until(lambda: in_use(machine) != before, 60)
    trying = in_use(machine)
    wait_until(lambda: is_serving(machine, trying), 60)
    yield became
    thread.join(60)
    assert not thread.is_alive()


@slow
def test_root_gets_a_system_unit_whose_sandbox_lets_the_interpreter_work(
    machine: Device, deployed: Deployment, tiny_bundle: Bundle
) -> None:
    from edgekit.runner import load

    values = np.random.default_rng(5).uniform(-4, 4, (3, 4)).astype(np.float32)
    tensor = {"name": "x", "datatype": "FP32", "shape": [3, 4], "data": values.reshape(-1).tolist()}
    path = socket_path("system", ROOMS)
    found = ask(machine, path, "POST", "/v2/models/tiny/infer", {"inputs": [tensor]})["outputs"][0]
    about = ask(machine, path, "GET", "/v2")["edgekit"]
    table = machine.inside("systemd-analyze", "security", "--no-pager", RUNNER)

    assert np.float32(found["data"]).tobytes() == load(tiny_bundle.path)(values).tobytes()
    assert (about["release"], about["pid"]) == (deployed.release, main_pid(machine))
    assert score(table) <= 0.9, table
    assert machine.inside("stat", "-c", "%U:%G %a", path, f"/proc/{main_pid(machine)}").split() == [
        *("edgekit:edgekit", "660"),
        *("edgekit:edgekit", "555"),
    ]


@slow
def test_who_serves_can_read_the_release_and_write_nothing_of_it(machine: Device, deployed: Deployment) -> None:
    release = f"{ROOMS}/releases/{deployed.release}"
    sandbox = ["nsenter", "-t", str(main_pid(machine)), "-m", "--"]
    edgekit = ["setpriv", "--reuid=edgekit", "--regid=edgekit", "--clear-groups", "--"]
    readable = machine.inside(*sandbox, *edgekit, "cat", f"{release}/release.json")
    paths = (
        ROOMS,
        f"{ROOMS}/releases",
        release,
        f"{release}/run",
        f"{ROOMS}/journal.json",
        f"{ROOMS}/agent/current.py",
    )
    for path in paths:
        for prefix in (sandbox, [*sandbox, *edgekit]):  # the sandbox is read-only for root too
            writable = machine.inside(*prefix, "sh", "-c", f"touch {path} && echo yes", check=False)
            assert writable == "", path

    assert json.loads(readable)["name"] == "tiny"
    assert machine.inside(*sandbox, "ls", "/home", "/tmp").split() == ["/home:", "/tmp:"]
    assert machine.inside("id", "-nG", "edgekit").split() == ["edgekit"]


@slow
def test_one_that_hangs_is_killed_by_the_watchdog_and_started_anew(machine: Device, deployed: Deployment) -> None:
    with drop_in(machine, "[Service]\nWatchdogSec=1\nRestartSec=100ms\n"):
        machine.inside("systemctl", "restart", RUNNER)
        pid = main_pid(machine)
        machine.kill(pid, signal.SIGSTOP)
        wait_until(lambda: main_pid(machine) not in (0, pid) and is_serving(machine, deployed.release), 60)

        assert show(machine, "NRestarts")["NRestarts"] == "1"
        assert "watchdog" in machine.inside("journalctl", "--no-pager", "-u", RUNNER, "-n", "40")
    machine.inside("systemctl", "restart", RUNNER)


@slow
def test_the_log_is_read_over_the_channel_and_followed(
    machine: Device, deployed: Deployment, command: Callable[..., tuple[int, str, str]]
) -> None:
    code, out, _ = command("logs", f"root@{machine.name}", "-n", "50")
    lines = []
    following = read_logs(as_root(machine), 1, follow=True)
    lines.append(next(following))
    machine.inside("systemctl", "restart", RUNNER)
    for line in following:
        lines.append(line)
        if "serving tiny" in line:
            break
    following.close()  # type: ignore[attr-defined]

    assert code == 0
    assert any(line.endswith("serving tiny (int8) at /run/edgekit/edgekit.sock") for line in out.splitlines())
    assert [sum(word in line for line in lines) for word in ("Stopping edgekit", "Starting edgekit-runner")] == [1, 1]


@slow
def test_a_release_on_trial_that_keeps_dying_is_given_up_at_the_start_limit(
    machine: Device, deployed: Deployment, trial: list[BaseException]
) -> None:
    limit = "[Unit]\nStartLimitBurst=2\n[Service]\nRestartSec=100ms\n"
    trying = in_use(machine)
    with drop_in(machine, limit):
        kills = 0
        while in_use(machine) == trying and kills < 6:
            pid = main_pid(machine)
            if pid > 0:  # else it is between two
                machine.inside("kill", "-SEGV", str(pid), check=False)
                kills += 1
            time.sleep(0.3)
        wait_until(lambda: is_serving(machine, deployed.release), 90)

    assert in_use(machine) == deployed.release
    assert show(machine, "ActiveState")["ActiveState"] == "active"
    journal = json.loads((machine.root / ROOMS.lstrip("/") / "journal.json").read_text())
    assert (journal["phase"], journal["good"], journal["failed"][-1]) == ("idle", deployed.release, trying)


@slow
def test_a_trial_that_nobody_confirms_ends_with_the_release_before(
    machine: Device, deployed: Deployment, other_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*args: object, **options: object) -> None:
        raise DeviceUnreachable("the workstation is switched off", hint="-")

    monkeypatch.setattr(install, "confirm_release", die)
    with pytest.raises(DeviceUnreachable):
        deploy(other_bundle, as_root(machine), window_s=10)
    trying = in_use(machine)
    guarded = machine.inside("systemctl", "is-active", f"edgekit-guard@{trying}", check=False).strip()
    wait_until(lambda: in_use(machine) != trying and is_serving(machine, deployed.release), 90)

    assert trying != deployed.release
    assert guarded == "active"
    wait_until(lambda: machine.pids("current.py guard") == [], 30)
    assert show(machine, "ActiveState", "Result") == {"ActiveState": "active", "Result": "success"}


@slow
def test_a_crash_in_the_trial_ends_it_before_the_runner_starts(
    machine: Device, deployed: Deployment, trial: list[BaseException]
) -> None:
    machine.cut()
    wait_until(lambda: is_serving(machine, deployed.release), 60)
    order = machine.inside("journalctl", "--no-pager", "-b", "-o", "cat", "-u", RECOVER, "-u", RUNNER).splitlines()

    assert in_use(machine) == deployed.release
    recovered = next(i for i, line in enumerate(order) if line.startswith("Finished edgekit-recover"))
    started = next(i for i, line in enumerate(order) if line.startswith("Starting edgekit-runner"))
    assert recovered < started
    assert not any("serving other" in line for line in order)


@slow
def test_rolling_back_starts_the_release_before(machine: Device, deployed: Deployment, other_bundle: Bundle) -> None:
    newer = deploy(other_bundle, as_root(machine))
    assert is_serving(machine, newer.release)
    rollback(as_root(machine))

    assert is_serving(machine, deployed.release)


@slow
def test_a_user_without_root_gets_a_unit_that_outlives_the_login_and_a_crash(
    machine: Device, real_runtime: Path, tiny_bundle: Bundle
) -> None:
    done = deploy(tiny_bundle, as_pi(machine))
    path = socket_path("user", HOME)
    table = machine.ssh(f"systemd-analyze --user security --no-pager {RUNNER}").stdout
    machine.kill_ssh()
    alive = is_serving(machine, done.release, path)
    pid = str(ask(machine, path, "GET", "/v2")["edgekit"]["pid"])
    sandbox = ["nsenter", "-t", pid, "-m", "--", "sh", "-c"]
    written = machine.inside(*sandbox, f"touch {HOME}/x {HOME}/releases/x {HOME}/current/x && echo yes", check=False)
    machine.cut()
    wait_until(lambda: is_serving(machine, done.release, path), 60)

    assert (done.service, alive, written) == ("user", True, "")
    assert score(table) <= 1.5, table
    assert (machine.root / "var/lib/systemd/linger/pi").exists()
    assert any("serving tiny" in line for line in read_logs(as_pi(machine), 20))
    remove(as_pi(machine))
    assert not (machine.root / HOME.lstrip("/")).exists()
    assert list((machine.root / "home/pi/.config/systemd/user").glob("edgekit*")) == []
    assert machine.pids("current/run|edgekit.runner") == [main_pid(machine)]


@slow
def test_something_else_keeps_a_current_release_running_when_that_is_asked_for(
    machine: Device, deployed: Deployment, tiny_bundle: Bundle
) -> None:
    release, units = in_use(machine), machine.root / "etc/systemd/system"

    planned = deploy(tiny_bundle, as_root(machine), service="none", dry_run=True)
    still = (units / RUNNER).exists() and is_serving(machine, release)
    without = deploy(tiny_bundle, as_root(machine), service="none")
    gone = (units / RUNNER).exists()
    back = deploy(tiny_bundle, as_root(machine), service="system")

    assert [step.stage for step in planned.steps] == [step.stage for step in without.steps] == ["service"]
    assert still
    assert (without.service_before, without.service, without.files_sent, gone) == ("system", "none", 0, False)
    assert (back.service_before, back.service) == ("none", "system")
    assert back.health is not None and back.health["server"]["release"] == release
    assert is_serving(machine, release) and in_use(machine) == release
    assert not deploy(tiny_bundle, as_root(machine), service="system").changed
    assert not deploy(tiny_bundle, as_root(machine)).changed


@slow
def test_removing_takes_units_account_and_processes(machine: Device, deployed: Deployment) -> None:
    assert status(as_root(machine))["releases"] != []
    remove(as_root(machine))

    assert list((machine.root / "etc/systemd/system").rglob("edgekit*")) == []
    assert machine.inside("systemctl", "list-units", "--all", "--no-legend", "edgekit*") == ""
    assert machine.inside("getent", "passwd", "edgekit", check=False) == ""
    assert not (machine.root / ROOMS.lstrip("/")).exists()
    assert machine.pids("edgekit.runner") == []


@slow
@pytest.mark.long  # everything is sent once more
def test_who_was_called_edgekit_before_us_stays(machine: Device, real_runtime: Path, tiny_bundle: Bundle) -> None:
    machine.inside("useradd", "-m", "-c", "a person", "edgekit")
    deploy(tiny_bundle, as_root(machine))
    remove(as_root(machine))

    assert "a person" in machine.inside("getent", "passwd", "edgekit")
    machine.inside("userdel", "-r", "edgekit", check=False)


def test_lines_must_be_a_number(command: Callable[..., tuple[int, str, str]]) -> None:
    assert command("logs", "local:x", "-n", "0")[0] == InputError.exit_code
