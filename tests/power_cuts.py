"""Cuts the power at every block that ext4 writes while the real agent works, and looks what the next start makes of it.

    scripts/cuts              everything (minutes): every write, disks that reorder, recoveries cut again, deployed again; then
                              an agent without its fsyncs, which has to be found out
    scripts/cuts --fsyncs     leaves out each of the agent's fsyncs in turn: which of them this ext4 needs
    tests/test_power_cuts.py  a part of it

Kernel, ext4 and its journal recovery are the real ones (recorded_disk.py); so are the agent, as a session sends it, its file on
the device, which recovers, and in one script the whole of `edgekit deploy`. What must hold: after_a_cut.py.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import recorded_disk as disk
from after_a_cut import Known, has_agent, start_machine, start_own, state
from agent_without import ALL, agent_without, called
from deployments import MOUNT, SCRIPTS, Device, Recorded, Script, make_bundles, record
from recorded_disk import BLOCK, Entry, Recording

from edgekit.errors import EdgekitError

MUTATED = "deployment that takes the oldest away"  # by an agent without fsyncs
TRIES = 3  # to find it out: another program of this machine may call sync(2) just then


@dataclass(frozen=True)
class Plan:
    """Which cuts are made."""

    every: int = 1  # of the writes
    unordered: int = 0  # disks that keep what they like of what came after the last flush, for each of those
    again: float = 0.0  # the share after which something is deployed again
    nested: float = 0.0  # the share whose recovery is cut again
    block: int = BLOCK
    lies: bool = False  # the disk says that it has written what it has not
    enough: int = 1 << 30  # violations


@dataclass
class Result:
    """What was cut, and what did not hold."""

    cuts: Counter[str] = field(default_factory=Counter)
    violations: Counter[str] = field(default_factory=Counter)
    again: int = 0
    seconds: float = 0.0


class Cutter:
    """Cuts the power in what was recorded, and judges."""

    def __init__(self, folder: Path, recorded: Recorded, script: Script, plan: Plan, seed: str) -> None:
        self.result = Result()
        self._folder, self._recorded, self._script, self._plan = folder, recorded, script, plan
        self._chance = random.Random(seed)

    def cut_all(self) -> Result:
        began = time.monotonic()
        flushed, pending = disk.cut(self._recorded.image, [], self._folder / "flushed"), []
        number, first = 0, self._chance.randrange(self._plan.every)
        for entry in self._recorded.entries:
            if self.result.violations.total() >= self._plan.enough:
                break
            if entry.is_flush and not self._plan.lies:
                disk.write_to(flushed, pending)
                pending = []
            if entry.is_flush:
                continue
            pending.append(entry)
            number += 1
            if number % self._plan.every == first:
                self._cut_at(flushed, pending)
        self.result.seconds = time.monotonic() - began
        return self.result

    def _cut_at(self, flushed: Path, pending: list[Entry]) -> None:
        known = self._recorded.known_at(pending[-1].end)
        self._look(disk.cut(flushed, pending, self._folder / "cut"), known, "in order")
        if len(pending) > 1 or len(pending[0].data) > self._plan.block:  # else there is nothing to keep in part
            for _ in range(self._plan.unordered):
                kept = disk.unordered(pending, self._chance, self._plan.block)
                self._look(disk.cut(flushed, kept, self._folder / "cut"), known, "unordered")

    def _look(self, image: Path, known: Known, kind: str, *, nested: bool = True) -> None:
        """The machine starts with that disk; perhaps something is deployed then, or the power goes again before."""
        if nested and self._chance.random() < self._plan.nested:
            self._cut_recovery(image, known)
        self.result.cuts[kind] += 1
        place = self._folder / f"start{self.result.cuts.total()}"  # a guard of the one before may still look there
        try:
            with disk.mounted(image, place) as mounted:
                root = mounted / "device"
                wrong = start_machine(root, known, self._recorded.listings, lambda: disk.new_boot(self._folder))
                if not wrong and self._chance.random() < self._plan.again:
                    wrong = self._deploy_again(root, known)
            place.rmdir()
        except OSError as error:
            wrong = str(error)
        if wrong:
            self.result.violations[f"{kind}: {wrong}"] += 1

    def _deploy_again(self, root: Path, known: Known) -> str:
        self.result.again += 1
        device = Device(root, known)
        try:
            self._script.again(device)
            device.tidied()
        except EdgekitError as error:
            return f"G4 doing it again fails: {error}"
        half = [path.name for path in (*root.glob("releases/.tmp-*"), *root.glob("runtimes/.tmp-*"))]
        return f"G4 half-made things stay: {half}" if half else state(root, device.known[-1], self._recorded.listings)

    def _cut_recovery(self, image: Path, known: Known) -> None:
        """The power goes again while the kernel recovers its journal, and the agent its releases."""
        before = disk.cut(image, [], self._folder / "before-recovery")
        try:
            with Recording(self._folder, before, MOUNT) as recording:
                disk.new_boot(self._folder)
                if has_agent(recording.place / "device"):
                    with contextlib.suppress(OSError):  # what it says then is judged without a cut
                        start_own(recording.place / "device", "recover")
                entries = disk.read_log(recording.log)
        except disk.NotMounted:  # so is that
            return
        writes = [number for number, entry in enumerate(entries, 1) if not entry.is_flush]
        for number in self._chance.sample(writes, min(len(writes), 8)):
            cut = disk.cut(before, entries[:number], self._folder / "cut-again")
            self._look(cut, known, "in recovery", nested=False)


# -- the command


def cut_script(folder: Path, name: str, plan: Plan, seed: int, **options: Any) -> dict[str, Any]:
    """One script, recorded and cut; as a line for people and programs."""
    recorded = record(folder, SCRIPTS[name], **options)
    result = Cutter(folder, recorded, SCRIPTS[name], plan, f"{seed} {name}").cut_all()
    flushes = sum(entry.is_flush for entry in recorded.entries)
    counts = {"writes": len(recorded.entries) - flushes, "flushes": flushes, "cuts": dict(result.cuts)}
    return {"script": name, **counts, "done again": result.again, "violations": dict(result.violations),
            "s per cut": round(result.seconds / max(1, result.cuts.total()), 3)}  # fmt: skip


def cut_fsyncs(folder: Path, names: Sequence[str], plan: Plan, seed: int, options: str) -> Iterator[dict[str, Any]]:
    """For each fsync that the agent makes in a script: the first violation without it, if there is one."""
    for name in names:
        log = folder / "called"
        log.unlink(missing_ok=True)
        record(folder, SCRIPTS[name], agent=agent_without("", log), options=options)
        for fsync, count in {"": 0, **called(log)}.items():  # first none, of an agent that can do without sync(2)
            line = cut_script(folder, name, plan, seed, agent=agent_without(fsync, log), options=options)
            yield {"script": name, "fsync": fsync, "calls": count, "violation": next(iter(line["violations"]), None)}


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="scripts/cuts", description=__doc__.partition("\n")[0])
    parser.add_argument("--script", action="append", choices=SCRIPTS, help="only this one; several times for several")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="cut at every Nth write (default 1)")
    parser.add_argument("-n", "--unordered", type=int, default=3, metavar="N",
                        help="at each, also N disks that kept what they liked since the last flush (default 3)")  # fmt: skip
    parser.add_argument("--again", type=float, default=0.1, metavar="SHARE", help="of cuts: do it again (default 0.1)")
    parser.add_argument(
        "--nested", type=float, default=0.05, metavar="SHARE", help="of cuts: cut recovery (default 0.05)"
    )
    parser.add_argument(
        "--block", type=int, default=BLOCK, metavar="BYTES", help="that are written whole (default 4096)"
    )
    parser.add_argument(
        "--mount", default=MOUNT, metavar="OPTIONS", help=f"of ext4 while it is written (default {MOUNT})"
    )
    parser.add_argument("--lying", action="store_true", help="the disk ignores flushes: nobody promises anything then")
    parser.add_argument("--seed", type=int, default=None, help="of what chance decides; shown, to be had again")
    parser.add_argument(
        "--without-fsync", action="store_true", help="only an agent that syncs nothing: must be found out"
    )
    parser.add_argument("--fsyncs", action="store_true", help="leave out each fsync in turn")
    options = parser.parse_args(words)
    if disk.INSIDE not in os.environ:
        if reason := disk.why_not():
            sys.exit(f"cuts: {reason}")
        command = disk.apart([sys.executable, __file__, *words])
        os.execvpe(command[0], command, {**os.environ, disk.INSIDE: "1"})
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    kernel = subprocess.run(["uname", "-sr"], capture_output=True, text=True, check=True).stdout.strip()
    print(json.dumps({"seed": seed, "kernel": kernel, "mount": options.mount}), flush=True)
    plan = Plan(options.every, options.unordered, options.again, options.nested, options.block, options.lying)
    names, cuts, wrong, is_found = options.script or list(SCRIPTS), 0, 0, True
    began = time.monotonic()
    with disk.workplace() as folder:
        if "edgekit deploy" in names and not options.without_fsync:
            make_bundles(folder / "cache")
        if options.fsyncs:
            for line in cut_fsyncs(folder, names, replace(plan, enough=1), seed, options.mount):
                print(json.dumps(line), flush=True)
            return 0
        for name in [] if options.without_fsync else names:
            line = cut_script(folder, name, plan, seed, options=options.mount)
            print(json.dumps(line), flush=True)
            cuts, wrong = cuts + sum(line["cuts"].values()), wrong + sum(line["violations"].values())
        if options.without_fsync or not options.script:
            is_found = False
            for _ in range(TRIES):
                if not is_found:
                    line = cut_script(folder, MUTATED, Plan(), seed, agent=agent_without(ALL))
                    is_found = any("G1" in what for what in line["violations"])  # lost is one thing, damaged another
                    print(json.dumps({"without fsync": line, "found out": is_found}), flush=True)
    print(json.dumps({"cuts": cuts, "violations": wrong, "s": round(time.monotonic() - began)}))
    return 1 if wrong or not is_found else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the first process of its namespace would not hear it
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
