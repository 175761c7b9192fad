"""Every state of a deployment, and what can happen in it, on a device with a real systemd and a real sshd.

Whatever happens: the release in use afterwards is the old one or the new one, whole, and its server answers. The new one
only if it was confirmed; and the same command, run again, ends well.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from devices import wait_until

if TYPE_CHECKING:
    from standins.nspawn import Device

    from edgekit.bundle import Bundle

pytestmark = pytest.mark.slow
WINDOW_S = 12.0  # of a trial that is interrupted, at least; the guard ends it then
MOST_S = 60.0  # the same on a machine that does ten other things
CALM_S = 120.0  # of one that nothing happens to
STATES = (
    "connect",
    "send",
    "check",
    "recorded",
    "switched",
    "confirm",
    "done",
)  # recorded: the trial, before the switch
HAPPENINGS = ("agent killed", "ssh killed", "workstation killed", "reboot", "power gone", "link down")
EVERY_COMMIT = {  # the others take twenty minutes and are marked long
    ("user", "check", "agent killed"),
    ("user", "switched", "reboot"),
    ("system", "recorded", "power gone"),
}
ASK = """
import http.client, socket, sys
connection = http.client.HTTPConnection("localhost", timeout=5)
connection.sock = socket.socket(socket.AF_UNIX)
connection.sock.connect(sys.argv[1])
connection.request("GET", "/v2")
print(connection.getresponse().read().decode())
"""


@dataclasses.dataclass
class Board:
    """A device as one kind of login and service uses it."""

    device: Device
    kind: str  # of service: user (login pi) or system (login root)
    folder: Path
    bundle: Bundle
    took_s: float = 0.0  # by the last deployment that was let alone

    @property
    def window_s(self) -> float:
        """Of a trial that is interrupted: long enough to come to where that happens, however busy this machine is."""
        return min(max(WINDOW_S, 2 * self.took_s), MOST_S)

    @property
    def user(self) -> str:
        return "pi" if self.kind == "user" else "root"

    @property
    def root(self) -> str:
        """ROOT, as the device names it."""
        return f"{'/home/pi' if self.kind == 'user' else '/root'}/.local/state/edgekit"

    @property
    def root_here(self) -> Path:
        """The same files, as this machine sees them: whether the device runs or not."""
        return self.device.root / self.root.lstrip("/")

    def journal(self) -> dict[str, Any]:
        return dict(json.loads((self.root_here / "journal.json").read_text()))

    def in_use(self) -> str:
        return os.path.basename(os.readlink(self.root_here / "current"))

    def new_bundle(self) -> Path:
        """The bundle with 2 MB in it that were never sent: a new release, and something to be interrupted in."""
        from edgekit.bundle import write_bundle

        contents = {name: self.bundle.file(name).read_bytes() for name in self.bundle.manifest.files}
        contents["models/ballast.bin"] = os.urandom(2_000_000)
        name = f"n{time.time_ns()}"
        return write_bundle(self.folder / name, dataclasses.replace(self.bundle.manifest, name=name), contents).path

    def deploying(self, bundle: Path, window_s: float) -> subprocess.Popen[str]:
        words = ["deploy", str(bundle), f"{self.user}@{self.device.name}", "--json", "--window", f"{window_s:.0f}"]
        return subprocess.Popen(
            [sys.executable, "-m", "edgekit.cli.main", *words, "--service", self.kind],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def deploy(self, bundle: Path) -> str:
        """The release that this made."""
        began = time.monotonic()
        out, err = (process := self.deploying(bundle, CALM_S)).communicate(timeout=300)
        assert process.returncode == 0, err
        self.took_s = time.monotonic() - began
        return str(json.loads(out)["release"])

    def answers_with(self) -> str:
        """The release whose server answers; "" while none does."""
        path = f"{self.root}/run/edgekit.sock" if self.kind == "user" else "/run/edgekit/edgekit.sock"
        said = self.device.inside("python3", "-c", ASK, path, check=False)
        try:
            return str(json.loads(said)["edgekit"]["release"])
        except (ValueError, KeyError):
            return ""


@pytest.fixture(scope="module")
def boards(_machine: Device, _farm: Any, tiny_bundle: Bundle, tmp_path_factory: Any) -> Iterator[dict[str, Board]]:
    """The device with a first release, once under a user's systemd and once under the system's."""
    folder = tmp_path_factory.mktemp("bundles")
    # qemu-user knows neither the seccomp filters nor the new mount calls that a hardened system unit needs
    kinds = ("user",) if _farm.emulated else ("user", "system")
    found = {kind: Board(_machine, kind, folder, tiny_bundle) for kind in kinds}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in _farm.environment.items():
            patch.setenv(name, value)
        patch.setenv("XDG_CACHE_HOME", os.environ.get("EDGEKIT_TEST_CACHE", str(tmp_path_factory.mktemp("cache"))))
        for board in found.values():
            board.deploy(board.new_bundle())
        yield found


def board_of(boards: dict[str, Board], kind: str) -> Board:
    if kind not in boards:
        pytest.skip("a hardened system unit does not run under qemu-user")
    return boards[kind]


@pytest.mark.parametrize(
    ("kind", "state", "happening"),
    [
        pytest.param(*case, marks=() if case in EVERY_COMMIT else pytest.mark.long, id=" - ".join(case))
        for case in [(kind, state, what) for kind in ("user", "system") for state in STATES for what in HAPPENINGS]
    ],
)
def test_a_deployment_that_is_interrupted_leaves_the_old_release_or_a_confirmed_new_one(
    boards: dict[str, Board], kind: str, state: str, happening: str
) -> None:
    board, device = board_of(boards, kind), board_of(boards, kind).device
    old, bundle = board.in_use(), board.new_bundle()
    wait_until(lambda: board.answers_with() == old, 60)
    window_s = board.window_s
    device.link.rate = 1_000_000  # two seconds for what is sent
    try:
        process = board.deploying(bundle, window_s)
        until(process, state, board, old)
        HAPPEN[happening](board, process)
        out, _ = process.communicate(timeout=300)
    finally:
        device.link.rate = None
        device.link_up()
    device.wait_up()
    wait_until(lambda: board.journal()["phase"] == "idle", window_s + 60)
    wait_until(lambda: board.answers_with() == board.in_use(), 60)

    found = board.journal()
    new = json.loads(out)["release"] if process.returncode == 0 else None
    assert found["good"] == board.in_use()
    assert found["good"] == (new or old) or state in ("confirm", "done")  # the answer may be lost, not the confirmation
    if new is not None:
        assert found["good"] == new
    again = board.deploy(bundle)
    assert board.in_use() == again == board.journal()["good"] != old
    assert board.answers_with() == again
    assert damaged(board) == []


def until(process: subprocess.Popen[str], state: str, board: Board, old: str) -> None:
    """Returns when the deployment has come to that state, as it says itself or as the device's disk shows."""
    assert process.stderr is not None
    if state in ("connect", "send", "check", "confirm"):
        for line in process.stderr:
            assert line.startswith("{"), line
            if json.loads(line).get("event") == state:
                break
        else:
            raise AssertionError(f"it ended before {state}")
    threading.Thread(target=process.stderr.read, daemon=True).start()
    if state == "done":
        process.wait(60)
    is_there = {
        "recorded": lambda: board.journal()["phase"] == "trial",
        "switched": lambda: board.in_use() != old,
    }
    wait_until(is_there.get(state, lambda: True), 60)


def agents(board: Board) -> list[int]:
    return board.device.pids("python3 -I -c import sys,zlib")


def kill_agent(board: Board, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 1
    while not (found := agents(board)) and time.monotonic() < deadline:
        time.sleep(0.01)
    for pid in found:
        board.device.inside("kill", "-KILL", str(pid), check=False)


def kill_workstation(board: Board, process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)


def pull_the_cable(board: Board, process: subprocess.Popen[str]) -> None:
    board.device.link_down()
    time.sleep(board.window_s + 2)
    board.device.link_up()


HAPPEN: dict[str, Callable[[Board, subprocess.Popen[str]], None]] = {
    "agent killed": kill_agent,
    "ssh killed": lambda board, process: board.device.kill_ssh(),
    "workstation killed": kill_workstation,
    "reboot": lambda board, process: board.device.reboot(),
    "power gone": lambda board, process: board.device.cut(),
    "link down": pull_the_cable,
}


def damaged(board: Board) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-m", "edgekit.cli.main", "status", f"{board.user}@{board.device.name}", "--verify", "--json"],
        capture_output=True, text=True,
    )  # fmt: skip
    return list(json.loads(done.stdout)["damaged"])


def test_a_server_that_does_not_stay_up_is_taken_back_by_systemd_itself(boards: dict[str, Board]) -> None:
    board = board_of(boards, "system")
    wait_until(lambda: board.answers_with() == board.in_use())
    first = board.device.inside("systemctl", "show", "edgekit-runner", "-p", "MainPID", "--value").strip()

    board.device.kill(int(first))

    wait_until(lambda: board.answers_with() == board.in_use())
    assert board.device.inside("systemctl", "show", "edgekit-runner", "-p", "MainPID", "--value").strip() != first


@pytest.mark.long
def test_a_server_that_stops_answering_is_started_anew_by_the_watchdog(boards: dict[str, Board]) -> None:
    board = board_of(boards, "system")
    wait_until(lambda: board.answers_with() == board.in_use())
    pid = int(board.device.inside("systemctl", "show", "edgekit-runner", "-p", "MainPID", "--value"))

    board.device.kill(pid, signal.SIGSTOP)

    def is_another() -> bool:
        said = board.device.inside("systemctl", "show", "edgekit-runner", "-p", "MainPID", "--value").strip()
        return said not in ("0", str(pid))

    wait_until(is_another, 90)
    wait_until(lambda: board.answers_with() == board.in_use())


def test_a_users_server_starts_with_the_machine_and_nobody_logged_in(boards: dict[str, Board]) -> None:
    board = board_of(boards, "user")
    board.device.reboot()

    wait_until(lambda: board.answers_with() == board.in_use())
    assert board.device.inside("loginctl", "show-user", "pi", "-p", "Linger", "--value").strip() == "yes"


@pytest.mark.parametrize("kind", ["user", "system"])
def test_a_server_keeps_packed_weights_for_all_its_sandbox(boards: dict[str, Board], kind: str) -> None:
    from edgekit.bundle import read_bundle, write_bundle
    from edgekit.delegates import parse_delegate

    board = board_of(boards, kind)
    made = read_bundle(board.new_bundle())
    packing = (parse_delegate("cpu:weight_cache=true"),)
    variants = tuple(dataclasses.replace(variant, delegates=packing) for variant in made.manifest.variants)
    contents = {name: made.file(name).read_bytes() for name in made.manifest.files}
    path = write_bundle(board.folder / f"packs-{kind}", dataclasses.replace(made.manifest, variants=variants), contents)

    release = board.deploy(path.path)

    wait_until(lambda: board.answers_with() == release)
    cache = board.root_here / "cache" if kind == "user" else board.device.root / "var/cache/edgekit/edgekit/runner"
    assert [file.suffix for file in cache.iterdir() if "weights" in file.name] == [".weights"]
