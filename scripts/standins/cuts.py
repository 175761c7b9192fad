"""Power cuts while edgekit deploys to the virtual Pi: whatever is on the disk then, it boots into a release that is whole.

Each round deploys a new release and cuts the power (SIGKILL to qemu) at a random moment of it, or shortly after it was
confirmed; boots; and looks: the release in use is the old or the new one, the new one if the workstation was told so, every
byte of it is as it was sent, and its server answers. A server that is still starting, and works at it, is slow and not wrong:
such a round is shown, and counted apart, as not judged.

With --without-fsync the agent is sent with every fsync taken out. Then this has to find damage, or it would find nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import tree, vpi

ROOT = Path(__file__).resolve().parents[2]
STATE = "/home/pi/.local/state/edgekit"
WINDOW_S = 900  # a boot ends a trial whatever its window is; an emulated board on a busy machine is slow
PATIENT = "vm.dirty_writeback_centisecs=6000\\nvm.dirty_expire_centisecs=6000"
SERVER_S = 300  # of the guest's own (vpi.clock) for the server to answer after a boot; it needs 20
SLOW_S = 600  # more of them for a server that is still starting, for the first time, and uses the processor
SETTLE_S = 8  # after a deployment, when its writes are half on the disk if nobody asked for them: ext4 commits every 5
LOOK = """
import http.client, json, os, socket, subprocess
root = "%s"
found = {"current": os.path.basename(os.readlink(root + "/current")), "server": None}
try:
    found["journal"] = json.load(open(root + "/journal.json"))
except (OSError, ValueError) as error:
    found["journal"] = {"phase": "unreadable: %%s" %% error}
connection = http.client.HTTPConnection("localhost", timeout=10)
connection.sock = socket.socket(socket.AF_UNIX)
try:
    connection.sock.connect(root + "/run/edgekit.sock")
    connection.request("GET", "/v2")
    found["server"] = json.loads(connection.getresponse().read())["edgekit"]["release"]
except (OSError, ValueError, http.client.HTTPException):
    pass
names = ["ActiveState", "SubState", "Result", "NRestarts", "CPUUsageNSec"]
ask = ["systemctl", "--user", "show", "edgekit-runner.service", "edgekit-recover.service", "--property=" + ",".join(names)]
said = subprocess.run(ask, stdout=subprocess.PIPE, universal_newlines=True).stdout.strip().split("\\n\\n")
units = [dict(line.split("=", 1) for line in unit.splitlines()) for unit in said if unit]
found["units"] = dict(zip(["runner", "recover"], units))
print(json.dumps(found))
"""
_WITHOUT_FSYNC = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from agent_without import ALL, agent_without
from edgekit.cli.main import main
from edgekit.deploy import session
agent = agent_without(ALL)
session.packed_agent = lambda: agent
sys.exit(main(sys.argv[1:]))
"""


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="scripts/vpi cuts", description=__doc__.partition("\n")[0])
    parser.add_argument("-n", "--rounds", type=int, default=12, help="power cuts (default 12)")
    parser.add_argument("--seed", type=int, default=None, help="of the moments; shown, so that they can be had again")
    parser.add_argument(
        "--without-fsync", action="store_true", help="send an agent that syncs nothing: must be found out"
    )
    options = parser.parse_args(words)
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    print(json.dumps({"seed": seed}), flush=True)
    with tempfile.TemporaryDirectory(prefix="edgekit-cuts-", dir=tree.BUILD) as name, _running(Path(name)) as bench:
        if options.without_fsync:
            bench.start = [sys.executable, "-c", _WITHOUT_FSYNC, str(ROOT / "tests")]
        wrong = bench.cut(options.rounds, random.Random(seed), stop=options.without_fsync)
    if options.without_fsync:
        print("an agent without fsync was found out" if wrong else "an agent without fsync was NOT found out")
        return 0 if wrong else 1
    print(f"{options.rounds} power cuts: {options.rounds - bench.slow} judged, {wrong} that were not survived")
    if bench.slow:
        print(
            f"{bench.slow} not judged: the server was still starting; this machine is too slow, or does too much else"
        )
    return 1 if wrong else 0


class _Bench:
    def __init__(self, pi: vpi.VirtualPi, folder: Path) -> None:
        self.pi = pi
        self.folder = folder
        self.start = [sys.executable, "-m", "edgekit.cli.main"]
        self.slow = 0  # rounds that could not be judged
        self._number = 0

    def cut(self, rounds: int, chance: random.Random, *, stop: bool) -> int:
        """How many rounds went wrong; with `stop`, ends with the first."""
        wrong = 0
        release = self._first()  # both went well: what is wrong from now on is the power cut's doing
        self._frozen = self.folder / "deployed"
        self.pi.freeze(self._frozen)
        self.pi.thaw(self._frozen)
        for number in range(rounds):
            line, found = self._round(chance.uniform(0, self._took_s + SETTLE_S), release, at_end=stop)
            print(json.dumps({"cut": number + 1, **line}), flush=True)
            release = found or release
            self.slow += "slow" in line
            if line["wrong"]:
                # a boot that takes too long says nothing about files: only files found damaged count against the mutant
                wrong += any(what.startswith("damaged") for what in line["wrong"]) if stop else 1
                if stop and wrong:
                    break
                self.pi.cut()
                self.pi.thaw(self._frozen)  # the disk as it was after the first deployments
                release = self._first_release
        return wrong

    def _first(self) -> str:
        """A device with one release, whose id is returned; and the seconds that a deployment takes there."""
        self.pi.thaw()
        # Dirty pages wait as long as people let them who spare an SD card. The kernel's own choice is no help to test with: 6.1
        # writes all there is every 5 s on a device that has written little (seen in nr_written), which hides a missing fsync.
        self.pi.ssh(f"printf '{PATIENT}\\n' | sudo tee /etc/sysctl.d/patient.conf && sudo sysctl -q --system")
        release = ""
        for _ in range(2):  # the first one brings the runtime
            began = time.monotonic()
            done = self._deploying()
            out, err = done.communicate()
            if done.returncode != 0:
                sys.exit(f"vpi: the deployment failed without a cut: {err[-1000:]}")
            self._took_s, release = time.monotonic() - began, str(json.loads(out)["release"])
        self.pi.ssh("sync")
        print(json.dumps({"deployment_s": round(self._took_s, 1), "release": release}), flush=True)
        self._first_release = release
        return release

    def _round(self, after_s: float, old: str, *, at_end: bool) -> tuple[dict[str, Any], str | None]:
        process = self._deploying()
        began = time.monotonic()
        try:
            out, said = process.communicate(timeout=None if at_end else after_s)
            self._took_s = time.monotonic() - began  # how busy this machine is changes
            time.sleep(SETTLE_S if at_end else max(0, after_s - (time.monotonic() - began)))
        except subprocess.TimeoutExpired:
            out = said = ""
        self.pi.cut()
        process.kill()
        late, late_said = process.communicate()
        confirmed = json.loads(out or late)["release"] if process.returncode == 0 else None
        line: dict[str, Any] = {"after_s": round(time.monotonic() - began, 1), "in": last_event(said or late_said)}
        line |= {"old": old, "confirmed": confirmed}
        began = time.monotonic()
        try:
            self.pi.boot()
            line |= {"boot_s": round(time.monotonic() - began, 1), "starved_s": round(self.pi.starved_s(), 1)}
            found = self._look(*((30, 0) if at_end else (SERVER_S, SLOW_S)))  # at_end: damage is looked for
            line |= {"current": found["current"], "server": found["server"], "phase": found["journal"].get("phase")}
            line["wrong"] = self._judge(found, old, confirmed)
            if found["slow"]:
                line["slow"] = found["units"]
            if line["wrong"] and not at_end:
                line["log"] = self._log()
        except (AssertionError, TimeoutError, ValueError, OSError, subprocess.TimeoutExpired) as error:
            line["wrong"] = [str(error)[-300:]]
        return line, line.get("current")

    def _look(self, server_s: float, slow_s: float) -> dict[str, Any]:
        """What is in use, once its server answers; or what there is when the time is over, and whether it was only slow."""
        began, before = self.pi.clock(), None
        while True:
            found = dict(json.loads(self.pi.ssh(f"python3 - <<'END'\n{LOOK % STATE}\nEND").stdout))
            found["slow"] = found["server"] is None and before is not None and is_starting(before, found["units"])
            waited = self.pi.clock() - began
            if found["server"] == found["current"] or waited > server_s + (slow_s if found["slow"] else 0):
                return found
            if before is None or waited > server_s - 60:
                before = found["units"]
            time.sleep(10 if waited > server_s - 60 else 1)

    def _log(self) -> list[str]:
        """What the services said in this boot."""
        units = "--unit=edgekit-runner --unit=edgekit-recover --unit=edgekit-rollback"
        done = self.pi.ssh(f"journalctl --user --boot --no-pager --quiet --lines=40 {units}", check=False)
        return done.stdout.splitlines()

    def _judge(self, found: dict[str, Any], old: str, confirmed: str | None) -> list[str]:
        wrong = []
        if found["server"] != found["current"] and not found["slow"]:
            wrong.append(f"the server of {found['current']} does not answer ({found['server']})")
        if found["journal"].get("phase") != "idle" or found["journal"].get("good") != found["current"]:
            wrong.append(f"the journal says {found['journal']}")
        if confirmed is not None and found["current"] != confirmed:
            wrong.append(f"{confirmed} was confirmed, {found['current']} is in use")
        if confirmed is None and found["current"] != old and found["current"] != self._newest():
            wrong.append(f"{found['current']} is neither the old nor the new release")
        out, err = self._edgekit("status", vpi.NAME, "--verify", "--json").communicate()
        assert out, f"nobody can say whether it is whole: {err}"  # no word of damage either
        if damaged := json.loads(out)["damaged"]:
            wrong.append(f"damaged: {damaged}")
        return wrong

    def _newest(self) -> str | None:
        """The id of the release that was being deployed, as --dry-run tells it."""
        out, _ = self._edgekit("deploy", str(self._bundle), vpi.NAME, "--dry-run", "--json").communicate()
        return str(json.loads(out)["release"]) if out else None

    def _deploying(self) -> subprocess.Popen[str]:
        self._number += 1
        self._bundle = _bundle(self.folder / f"bundle{self._number}", self._number)
        return self._edgekit("deploy", str(self._bundle), vpi.NAME, "--json", "--window", str(WINDOW_S))

    def _edgekit(self, *words: str) -> subprocess.Popen[str]:
        cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        known = {**os.environ, **self.pi.environment, "XDG_CACHE_HOME": cache, "PYTHONPATH": str(ROOT)}
        return subprocess.Popen(
            [*self.start, *words],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=known, cwd=self.folder,
        )  # fmt: skip


def last_event(said: str) -> str | None:
    """What a deployment did last, as it told on stderr; None if it had not begun."""
    events = [json.loads(line)["event"] for line in said.splitlines() if line.startswith("{") and line.endswith("}")]
    return events[-1] if events else None


def is_starting(before: dict[str, dict[str, str]], now: dict[str, dict[str, str]]) -> bool:
    """True if the runner, or the recovery that it waits for, is in its first start and has used the processor since."""

    def works(name: str) -> bool:
        unit, used = now.get(name, {}), [each.get(name, {}).get("CPUUsageNSec", "") for each in (before, now)]
        first = unit.get("ActiveState") == "activating" and unit.get("NRestarts", "0") in ("", "0")
        return (
            first
            and unit.get("Result") == "success"
            and used[1].isdigit()
            and int(used[1]) > int(used[0] if used[0].isdigit() else 0)
        )

    return works("runner") or works("recover")


@contextlib.contextmanager
def _running(folder: Path) -> Iterator[_Bench]:
    pi = vpi.VirtualPi(folder / "pi", vpi.prepared())
    try:
        yield _Bench(pi, folder)
    finally:
        pi.cut()


def _bundle(folder: Path, number: int) -> Path:
    """A tiny model with 2 MB beside it that were never sent."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    from tiny_model import tiny_bundle

    from edgekit.bundle import write_bundle

    made = tiny_bundle(folder.with_name(f"{folder.name}-tiny"), title=f"cut-{number}-{os.getpid()}")
    contents = {name: made.file(name).read_bytes() for name in made.manifest.files}
    contents["models/ballast.bin"] = os.urandom(2_000_000)
    manifest = dataclasses.replace(made.manifest, name=f"cut-{number}")
    return Path(write_bundle(folder, manifest, contents).path)
