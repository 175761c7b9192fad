"""What one decision of the power policy takes, here or on a device over ssh: choosing a point, and learning from the answer.

72 points, six inferences waiting, noisy answers. What is sent is the policy's own code; the device needs no more than python3.
"""

import io
import json
import platform
import random
import shlex
import statistics
import subprocess
import sys
import time
import zipfile
from pathlib import Path

ALLOWED_US = (
    300.0  # of choosing and learning together, median; a board's own code must not be what it spends its energy on
)
VARIANTS, THREADS, CLOCKS = 6, 4, 3
WAITING = 6
EDGEKIT = Path(__file__).resolve().parents[2] / "edgekit"
# the runner's own __init__ imports numpy, which a policy does not need: an empty one goes instead
SENT = ("__init__.py", "errors.py", "values.py", "runner/power/*.py")
THERE = """
import json, sys, tempfile
with tempfile.NamedTemporaryFile(suffix=".zip") as file:
    file.write(sys.stdin.buffer.read())
    file.flush()
    sys.path.insert(0, file.name)
    import decision
    print(json.dumps(decision.timed(%d)))
"""


def add_options(parser):
    parser.add_argument("--count", type=int, default=20_000, help="decisions (default 20000)")
    parser.add_argument("--ssh", metavar="HOST", help="there instead: scripts/vpi run scripts/bench decision --ssh vpi")


def measure(options):
    from . import Row

    if options.ssh:
        line = f"python3 -I -c {shlex.quote(THERE % options.count)}"
        done = subprocess.run(["ssh", options.ssh, line], input=packed(), stdout=subprocess.PIPE)
        if done.returncode != 0:
            sys.exit(f"bench: {options.ssh} could not run it (exit code {done.returncode})")
        found = json.loads(done.stdout)
    else:
        found = timed(options.count)
    print(
        f"{found['machine']}, {found['points']} points, {WAITING} waiting, {options.count} decisions (measured there)"
    )
    for what in ("choosing", "learning", "both"):
        told = found[what]
        is_both = what == "both"
        name = f"{what}, us: p99 {told['p99']:.1f}, mean {told['mean']:.1f}, median"
        ok = not is_both or told["median"] <= ALLOWED_US
        yield Row(name, "", f"{told['median']:.1f}", "", f"{ALLOWED_US:g}" if is_both else "", ok)


def packed():
    """The policy and this file, as a zip that a Python can import from."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        for pattern in SENT:
            for path in sorted(EDGEKIT.glob(pattern)):
                archive.write(path, f"edgekit/{path.relative_to(EDGEKIT)}")
        archive.writestr("edgekit/runner/__init__.py", "")
        archive.write(__file__, "decision.py")
    return held.getvalue()


def timed(count):
    """Microseconds of `count` decisions on the machine that this runs on."""
    from edgekit.runner.power.goal import parse_goal
    from edgekit.runner.power.policy import Policy

    table = points()
    policy = Policy(parse_goal("min_energy(accuracy>=76, deadline=100ms, watts=6, temp<=80)"), table, rate_hz=20.0)
    chance = random.Random(0)
    choosing, learning = [], []
    for number in range(count):
        now = number * 0.05
        policy.arrived(now)
        waiting = [now + 0.1 + i * 0.02 for i in range(WAITING)]
        started = time.perf_counter_ns()
        chosen = policy.choose(now, waiting)
        chose = time.perf_counter_ns() - started
        if chosen is None:  # nothing to learn from
            continue
        took = table.rows[chosen].latency_s * chance.lognormvariate(0, 0.06)
        started = time.perf_counter_ns()
        policy.finished(now + took, chosen, took)
        learning.append((time.perf_counter_ns() - started) / 1e3)
        choosing.append(chose / 1e3)
        if number % 20 == 0:
            policy.metered(1.0, 2.5)
            policy.temperature(now, 60.0)
    both = [a + b for a, b in zip(choosing, learning)]  # noqa: B905  a board's Python may be 3.9
    machine = f"{platform.machine()}, Python {platform.python_version()}"
    told = {"choosing": choosing, "learning": learning, "both": both}
    return {"machine": machine, "points": len(table.rows), **{name: figures(each) for name, each in told.items()}}


def figures(values):
    ordered = sorted(values)
    return {
        "median": statistics.median(ordered),
        "p99": ordered[int(0.99 * (len(ordered) - 1))],
        "mean": statistics.fmean(ordered),
    }


def points():
    """A table of a board with as many points as one has: variants, threads and clocks, faster for more watts."""
    from edgekit.runner.power.actuators import OperatingPoint
    from edgekit.runner.power.points import Heat, PointCost, Table

    rows = []
    for variant in range(VARIANTS):
        for threads in range(1, THREADS + 1):
            for clock in range(1, CLOCKS + 1):
                speed = threads**0.8 * clock**0.9
                rows.append(
                    PointCost(
                        OperatingPoint(f"v{variant}", threads, clock_khz=clock * 600_000),
                        round(60_000 * (1 + variant) / speed),
                        50_000,
                        round(1e6 * (2.0 + 0.4 * threads * clock**1.8 / 2)),
                        700_000 + 25_000 * variant,
                        "estimated",
                        10,
                    )
                )
    heat = Heat(1000, 4000, 7000, 100_000, "estimated")
    return Table("made for this bench", "", "", 2_000_000, "estimated", "none", tuple(rows), heat)
