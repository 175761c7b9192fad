"""edgekit-powerd as a service: what is installed, for whom, and that clocks are as before whatever ends it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from devices import refused, wait_until

from edgekit.bundle import Bundle
from edgekit.cli import device as device_commands
from edgekit.deploy import helper
from edgekit.deploy.address import Local, Remote
from edgekit.deploy.disk import Refused
from edgekit.deploy.helper import FILE, SOCKET, UNIT, Place, install_helper, remove_helper, unit_text
from edgekit.deploy.install import HELPER, deploy, remove, status
from edgekit.errors import DeviceRefused, InputError
from edgekit.runner.power.caps import Caps
from edgekit.runner.power.powerd import SOCKET as SPOKEN

if TYPE_CHECKING:
    from standins.nspawn import Device

POLICY = "sys/devices/system/cpu/cpufreq/policy0"
NO_SYSTEMD = not Path("/run/systemd/system").is_dir()
slow = pytest.mark.slow


class Systemctl:
    """Takes the commands instead of systemd; `fails` is the word of one that does not work."""

    def __init__(self, fails: str = "") -> None:
        self.said: list[str] = []
        self.fails = fails

    def __call__(self, command: list[str]) -> tuple[int, str, str]:
        self.said.append(" ".join(command[1:]))
        return (1, "", "it said no") if command[1] == self.fails else (0, "", "")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    (tmp_path / "units").mkdir()
    return Place(str(tmp_path / "units"), str(tmp_path / "var" / "powerd"))


@pytest.fixture
def root(tmp_path: Path) -> str:
    """A ROOT with a release in use that has the real helper."""
    from edgekit.runner.power import powerd

    content = Path(powerd.__file__).read_bytes()
    listing = {
        "edgekit_release": 1,
        "files": {FILE: {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}},
    }
    text = json.dumps(listing)
    folder = tmp_path / "root" / "releases" / hashlib.sha256(text.encode()).hexdigest()[:16]
    (folder / FILE).parent.mkdir(parents=True)
    (folder / FILE).write_bytes(content)
    (folder / "release.json").write_text(text)
    (tmp_path / "root" / "current").symlink_to(folder)
    return str(tmp_path / "root")


def test_where_it_listens_is_where_it_is_asked() -> None:
    assert SOCKET == SPOKEN


def test_it_is_copied_from_the_release_in_use_started_and_taken_away(root: str, place: Place) -> None:
    first, again, gone = Systemctl(), Systemctl(), Systemctl()
    changed = install_helper(root, place, call=first)
    kept = install_helper(root, place, call=again)
    mode = stat.S_IMODE(os.stat(place.script).st_mode)
    text, script = Path(place.unit).read_text(), Path(place.script).read_bytes()
    elsewhere = remove_helper("/another/root", place, call=gone)

    assert changed == [place.script, place.unit]
    assert script == (Path(root) / "current" / FILE).read_bytes()
    assert f"X-EdgekitRoot={root}\n" in text
    assert first.said == ["daemon-reload", f"enable --quiet {UNIT}", f"restart {UNIT}"]
    assert (kept, again.said) == ([], [f"enable --quiet {UNIT}", f"start {UNIT}"])
    assert not mode & 0o022
    assert (elsewhere, gone.said) == ([], [])
    assert remove_helper(root, place, call=gone) == [place.unit, place.folder]
    assert not os.path.exists(place.unit) and not os.path.exists(place.folder)
    assert gone.said[0] == f"disable --quiet --now {UNIT}"


def test_a_helper_that_is_not_as_it_was_sent_is_not_made_roots(root: str, place: Place) -> None:
    (Path(root) / "current" / FILE).write_text("import os; os.system('true')")
    call = Systemctl()

    with pytest.raises(Refused, match="no release in use"):
        install_helper(root, place, call=call)
    assert (os.listdir(place.units), call.said, os.path.exists(place.folder)) == ([], [], False)


def test_that_of_another_root_and_a_service_that_does_not_start_are_refused(root: str, place: Place) -> None:
    with pytest.raises(Refused, match="failed: it said no"):
        install_helper(root, place, call=Systemctl("restart"))
    with pytest.raises(Refused, match="is installed here already"):
        install_helper("/another/root", place, call=Systemctl())


def test_only_a_python_that_only_root_can_change_runs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = tmp_path / "python3"
    shutil.copy("/bin/true", mine)
    mine.chmod(0o777)
    monkeypatch.setattr(sys, "executable", str(mine))

    assert helper.trusted_python() in (None, os.path.realpath("/usr/bin/python3"))
    mine.chmod(0o755)
    assert helper.trusted_python() != str(mine) or os.stat(tmp_path).st_uid == 0


def test_systemd_itself_rates_the_sandbox(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze")
    (tmp_path / UNIT).write_text(unit_text("/root/x", "/usr/bin/python3", Place(), "edgekit"))
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(tmp_path / UNIT)]
    done = subprocess.run(command, capture_output=True, text=True)
    if "--offline" in done.stderr:
        pytest.skip("systemd-analyze is older than 250")
    from test_service import score

    assert score(done.stdout) <= 1.9, done.stdout  # it is root, and may write below /sys


@pytest.mark.parametrize("path", ["/a b", "/a%n", "/a\nUser=x"])
def test_a_root_that_systemd_would_read_otherwise_is_refused(path: str) -> None:
    with pytest.raises(Refused, match="cannot be named"):
        unit_text(path, "/usr/bin/python3", Place(), "edgekit")


# -- consent


@pytest.mark.skipif(not NO_SYSTEMD, reason="systemd runs here")
@pytest.mark.usefixtures("small_runtime")
def test_without_systemd_it_is_refused_before_anything_is_sent(tiny_bundle: Bundle, device: Local) -> None:
    with refused(DeviceRefused, 4) as caught:
        deploy(tiny_bundle, device, power=True)
    assert "systemd is not running" in str(caught.value)
    assert not device.root.exists()


def test_nobody_is_asked_where_nobody_is_and_a_no_ends_it(
    command: Any, tiny_bundle: Bundle, device: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, err = command("deploy", tiny_bundle.path, device, "--power")
    asked: list[str] = []

    def say_no(question: str, **how: Any) -> bool:
        asked.append(question)
        raise device_commands.click.Abort

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(device_commands.click, "confirm", say_no)
    with pytest.raises(device_commands.click.Abort):
        device_commands.agree("Install it?", "--power asks")

    assert (code, "--yes" in err) == (2, True)
    assert asked == ["Install it?"]
    assert not device.root.exists()
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    with pytest.raises(InputError, match="nobody is there"):
        device_commands.agree("Install it?", "--power asks")


# -- the daemon itself, on a tree


def write_tree(folder: Path) -> Path:
    """The cpufreq files of a Raspberry Pi 5."""
    files = {"scaling_available_frequencies": "1500000 1800000 2400000", "scaling_max_freq": "2400000"}
    (folder / POLICY).mkdir(parents=True)
    for name, text in files.items():
        (folder / POLICY / name).write_text(text + "\n")
    return folder / POLICY / "scaling_max_freq"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_clocks_are_as_before_when_it_ends_and_after_a_kill_when_it_starts_again(tmp_path: Path, number: int) -> None:
    from edgekit.runner.power import powerd

    clock, path = write_tree(tmp_path), str(tmp_path / "run" / "p.sock")
    command = [sys.executable, "-I", powerd.__file__, "--socket", path, "--root", str(tmp_path)]
    with subprocess.Popen(command) as running:
        wait_until(lambda: os.path.exists(path), 20)
        time.sleep(0.1)
        caps = Caps(path)
        caps.cap_cpus(1_600_000)
        inside = clock.read_text().strip()
        running.send_signal(number)
        running.wait(10)
        caps.close()
    left = clock.read_text().strip()
    done = subprocess.run([*command, "--restore"], check=False, capture_output=True, text=True)

    assert inside == "1500000"
    assert left == ("2400000" if number == signal.SIGTERM else "1500000")
    assert (done.returncode, done.stderr, clock.read_text().strip()) == (0, "", "2400000")
    assert not os.path.exists(powerd.kept_by(path))


def test_what_was_kept_is_believed_only_as_far_as_it_is_ours(tmp_path: Path) -> None:
    from edgekit.runner.power.powerd import Knobs

    clock, kept = write_tree(tmp_path), tmp_path / "before.json"
    for text in (
        "",
        "[]",
        "{}",
        '{"caps": {"cpufreq/../../x": "1", "cpufreq/policy0": "x"}, "mode": 3}',
        '{"caps": 3, "mode": null}',
    ):
        kept.write_text(text)
        assert Knobs(str(tmp_path), kept=str(kept)).restore() == []
    assert clock.read_text().strip() == "2400000"


# -- on a booted device


@slow
def test_root_gets_a_hardened_service_that_restores_whatever_ends_it_and_remove_takes_it(
    machine: Device, real_runtime: Path, tiny_bundle: Bundle
) -> None:
    address = Remote(machine.name, "root", None)
    planned = deploy(tiny_bundle, address, power=True, dry_run=True)
    before = status(address)["power"]
    done = deploy(tiny_bundle, address, power=True)
    after = status(address)["power"]
    owner = machine.inside("stat", "-c", "%U %a", SOCKET)
    clock = write_tree(machine.root / "var/lib/fake")
    start = (
        f"/usr/bin/python3 -I /var/lib/edgekit-powerd/powerd.py --socket {SOCKET} --user edgekit --root /var/lib/fake"
    )
    folder = machine.root / "etc/systemd/system" / f"{UNIT}.d"
    folder.mkdir()
    (folder / "test.conf").write_text(
        f"[Service]\nReadWritePaths=/var/lib/fake\nExecStart=\nExecStart={start}\nExecStopPost=\nExecStopPost={start} --restore\n"
    )
    machine.inside("systemctl", "daemon-reload")
    machine.inside("systemctl", "restart", UNIT)
    ask = (
        "import json, socket, sys, time\ns = socket.socket(socket.AF_UNIX)\n"
        f's.connect("{SOCKET}")\ns.sendall(b\'{{"op": "cap", "what": "cpufreq/policy0", "to": 1500000}}\\n\')\n'
        "print(s.recv(100).decode(), flush=True)\ntime.sleep(60)\n"
    )
    (machine.root / "var/lib/fake/ask.py").write_text(ask)
    client = ["systemd-run", "--quiet", "--uid=edgekit", "--unit=asks", "python3", "/var/lib/fake/ask.py"]
    capped = []
    for end in (
        ["systemctl", "kill", "--signal=KILL", UNIT],
        ["systemctl", "stop", "asks"],
        ["systemctl", "restart", UNIT],
    ):
        machine.inside(*client)
        wait_until(lambda: clock.read_text().strip() == "1500000", 20)
        capped.append(clock.read_text().strip())
        machine.inside(*end)
        wait_until(lambda: clock.read_text().strip() == "2400000", 20)
        machine.inside("systemctl", "stop", "asks", check=False)
        wait_until(lambda: machine.inside("systemctl", "is-active", UNIT, check=False).strip() == "active", 20)
    table = machine.inside("systemd-analyze", "security", "--no-pager", UNIT)
    shutil.rmtree(folder)
    again = deploy(tiny_bundle, address, power=True)
    remove(address)

    from test_service import score

    assert HELPER in planned.steps
    assert (before, after) == ({"installed": False, "active": False}, {"installed": True, "active": True})
    assert done.power == ("/var/lib/edgekit-powerd/powerd.py", f"/etc/systemd/system/{UNIT}")
    assert again.power == () and not again.changed
    assert owner.split() == ["edgekit", "600"]
    assert capped == ["1500000"] * 3
    assert score(table) <= 1.9, table
    assert list((machine.root / "etc/systemd/system").rglob("edgekit*")) == []
    assert not (machine.root / "var/lib/edgekit-powerd").exists()
    assert machine.pids("powerd") == []


@slow
def test_a_login_with_sudo_gets_it_for_its_own_runner_and_without_a_password_for_sudo_it_is_refused(
    machine: Device, real_runtime: Path, tiny_bundle: Bundle
) -> None:
    address = Remote(machine.name, None, None)
    machine.inside("mv", "/etc/sudoers.d/pi", "/root/pi")
    try:
        with pytest.raises(DeviceRefused, match="it needs root"):
            deploy(tiny_bundle, address, power=True)
    finally:
        machine.inside("mv", "/root/pi", "/etc/sudoers.d/pi")
    done = deploy(tiny_bundle, address, power=True)
    owner = machine.inside("stat", "-c", "%U %a", SOCKET)
    active = status(address)["power"]["active"]
    left = remove(address)["left"]

    assert done.power is not None and len(done.power) == 2
    assert (owner.split(), active, left) == (["pi", "600"], True, "")
    assert not (machine.root / "etc/systemd/system" / UNIT).exists()
