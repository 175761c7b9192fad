"""A goal kept by real inference on this machine, with real deadlines and something else that comes and goes, beside fixed points.

Every variant with a known accuracy on 1 and 2 threads. Latencies, deadlines and decisions are measured; energy is by the table,
which is estimated where this machine has no meter (6 W idle, 20 W busy), so joules only compare points with one another.
"""

import os
import subprocess
import sys
import tempfile
import threading
from dataclasses import replace
from pathlib import Path

from . import Row

SPIN = "while True: pass"


def add_options(parser):
    parser.add_argument(
        "bundle", type=Path, nargs="?", default=Path("build/demo/bundle"), help="with two variants or more"
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="of each policy (default 20)")
    parser.add_argument("--rounds", type=int, default=2, help="turns of each (default 2)")
    parser.add_argument("--deadline", type=float, default=100.0, metavar="MS", help="at least (default 100)")
    parser.add_argument("--quiet", action="store_true", help="nothing comes and goes")


def measure(options):
    from edgekit.bundle import read_bundle
    from edgekit.power.calibration import Watts, calibrate, points_of
    from edgekit.runner.point import idle_power, measure_point
    from edgekit.runner.power.actuators import OperatingPoint
    from edgekit.runner.power.goal import Goal, goal_text
    from edgekit.runner.rehearse import rehearse

    if not (options.bundle / "manifest.json").is_file():
        sys.exit(
            f"bench: {options.bundle} is not a bundle\n  scripts/demo makes build/demo/bundle, or give the path of another"
        )
    manifest = read_bundle(options.bundle).manifest

    def ask(seconds, variant=None, threads=None, **more):
        found = (
            idle_power(0)
            if variant is None
            else measure_point(options.bundle, OperatingPoint(variant, threads), seconds)
        )
        return vars(found)

    with tempfile.TemporaryDirectory() as scratch:
        table = calibrate(
            manifest, points_of(manifest, [1, 2]), ask, Path(scratch) / "t.json", board="here", digest="", seconds=1.0,
            watts=Watts(6_000_000, 20_000_000, os.cpu_count() or 1, "said"),
        )  # fmt: skip
    accuracies = sorted({row.accuracy for row in table.rows})
    if len(accuracies) < 2:
        sys.exit(
            f"bench: {options.bundle} has one variant with a known accuracy\n  convert with --variants int8,float32"
        )
    slowest = max(row.latency_s for row in table.rows)
    wanted = round((accuracies[0] + accuracies[-1]) / 2, 4)
    deadline, rate = max(20 * slowest, options.deadline / 1e3), min(0.25 / slowest, 100.0)
    goal = Goal("min_energy", deadline, accuracy=wanted)
    print(
        f"{goal_text(goal)} at {rate:.0f} a second, {'nothing else runs' if options.quiet else 'two processes spin for 3 of 6 s'}"
    )
    tables = {"edgekit": table}
    for row in table.rows:
        if row.accuracy >= wanted:
            tables[f"{row.point.variant}, {row.point.threads} threads"] = replace(table, rows=(row,))
    found = {name: [] for name in tables}
    for _ in range(options.rounds):
        for name, rows in tables.items():
            with contention(quiet=options.quiet):
                found[name].append(rehearse(options.bundle, goal, rows, rate_hz=rate, seconds=options.seconds))
    for name, runs in found.items():
        count = sum(run.inferences for run in runs)
        missed = 100 * sum(run.missed for run in runs) / count
        energy = 1e3 * sum(run.energy_j for run in runs) / count
        mean = sum(run.accuracy or 0 for run in runs) / len(runs)
        decision = (
            f", decision {runs[0].decision_us:g} us, p99 {runs[0].decision_p99_us:g} us" if name == "edgekit" else ""
        )
        left_out = sum(run.left_out for run in runs)
        late = sum(run.missed for run in runs) - left_out
        why = f"{left_out} left out, as nobody ran in time, {late} late"
        energy_text = f"{energy:.3f} mJ each ({runs[0].energy_provenance})"
        print(f"  {name}: missed {missed:.2f} % ({why}), accuracy {mean:.3f}, {energy_text}{decision}")
        print(f"    {runs[-1].points}")
    ours = found.pop("edgekit")
    each = {
        name: sum(run.energy_j for run in runs) / sum(run.inferences for run in runs) for name, runs in found.items()
    }
    late = {name: sum(run.missed for run in runs) / sum(run.inferences for run in runs) for name, runs in found.items()}
    best = min(each, key=each.get)
    energy = sum(run.energy_j for run in ours) / sum(run.inferences for run in ours)
    missed = sum(run.missed for run in ours) / sum(run.inferences for run in ours)
    deficit = max(wanted - (run.accuracy or 0) for run in ours)
    most = 100 * min(late.values()) + 1
    yield Row(
        "above idle, mJ",
        f"{1e3 * each[best]:.3f} ({best})",
        f"{1e3 * energy:.3f}",
        f"{energy / each[best]:.2f} x",
        "1 x",
        energy <= each[best],
    )
    yield Row(
        "missed %",
        f"{100 * min(late.values()):.2f} (fewest)",
        f"{100 * missed:.2f}",
        "",
        f"{most:.2f}",
        100 * missed <= most,
    )
    yield Row("accuracy missing, points", "", f"{max(deficit, 0):.4f}", "", "0.05", deficit <= 0.05)
    decisions = sorted(run.decision_us for run in ours)
    yield Row("one decision, us (median)", "", f"{decisions[0]:g}", "", "100", decisions[0] <= 100)


class contention:
    """Two processes that spin for 3 of every 6 s."""

    def __init__(self, *, quiet):
        self._quiet, self._ended = quiet, threading.Event()

    def __enter__(self):
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def __exit__(self, *_):
        self._ended.set()
        self._thread.join()

    def _run(self):
        while not self._ended.wait(3.0) and not self._quiet:
            spinning = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(2)]
            self._ended.wait(3.0)
            for process in spinning:
                process.kill()
                process.wait()
