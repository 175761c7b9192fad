"""`python3 -m edgekit.runner rehearse`, `point` and `powerd`: options, and what they print."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any

from edgekit.errors import InputError


def rehearse_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("release")
    parser.add_argument(
        "--goal", metavar="GOAL", help="min_energy(accuracy>=76.5, deadline=50ms), say; default: the bundle's"
    )
    parser.add_argument(
        "--table", required=True, metavar="FILE", help="what edgekit power calibrate wrote for this board"
    )
    parser.add_argument("--rate", type=float, default=10.0, metavar="HZ", help="inferences a second (default 10)")
    parser.add_argument("--seconds", type=float, default=30.0, help="how long (default 30)")
    parser.add_argument("--trace", metavar="FILE", help="keep what happened, for edgekit power audit")
    parser.add_argument("--clocks", action="store_true", help="also set clocks, through edgekit-powerd")
    parser.add_argument("--json", action="store_true", help="print JSON")


def rehearse(options: Any) -> None:
    from contextlib import ExitStack, closing

    from edgekit.runner.power.caps import Caps
    from edgekit.runner.power.goal import parse_goal
    from edgekit.runner.power.points import read_table
    from edgekit.runner.power.trace import TraceWriter
    from edgekit.runner.rehearse import rehearse, usable

    if not 0 < options.rate <= 10_000 or not 0 < options.seconds <= 86_400:
        raise InputError(
            "--rate from above 0 to 10000, --seconds to 86400", hint="python3 -m edgekit.runner rehearse -h"
        )
    goal, table = parse_goal(options.goal or _bundled(options.release)), read_table(_text(options.table))
    with ExitStack() as stack:
        caps = stack.enter_context(closing(Caps())) if options.clocks else None
        writer = None
        if options.trace:
            try:
                stream = stack.enter_context(open(options.trace, "w", encoding="utf-8"))
            except OSError as error:
                raise InputError(f"cannot write {options.trace}: {error.strerror}", hint="name another file") from None
            writer = TraceWriter(stream, goal, usable(table, sets_clock=options.clocks))
        found = rehearse(
            options.release,
            goal,
            table,
            rate_hz=options.rate,
            seconds=options.seconds,
            trace=writer,
            set_clock=None if caps is None else caps.cap_cpus,
        )
    if options.json:
        print(json.dumps(asdict(found)))
        return
    missed = 100 * found.missed / max(found.inferences, 1)
    print(
        f"{found.inferences} inferences, {found.missed} missed ({missed:.3f} %, {found.left_out} left out), goal {found.goal}"
    )
    if found.accuracy is not None:
        print(f"accuracy {found.accuracy:.3f} % on average, by what the manifest says of its variants")
        if found.fake:
            print("FAKE: a delegate made for tests answered, so that no time of it means anything")
        else:
            print(f"median {found.median_ms:g} ms, p99 {found.p99_ms:g} ms (measured)")
        print(f"{found.energy_j:g} J above idle ({found.energy_provenance})")
        print(f"one decision {found.decision_us:g} us, p99 {found.decision_p99_us:g} us (measured)")
    for name, count in found.points.items():
        print(f"  {count:6d}  {name}")


def point_options(parser: argparse.ArgumentParser) -> None:
    from edgekit.runner.power.points import COVERS

    parser.add_argument("release")
    parser.add_argument("--variant", help="which variant; without it the machine is watched while it idles")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--clock-khz", type=int, help="through edgekit-powerd")
    parser.add_argument("--delegate", default="", help="on this one and no other; default: the bundle's list")
    parser.add_argument("--meter", choices=COVERS, default="board", help="what is to be measured (default board)")


def point(options: Any) -> None:
    from contextlib import ExitStack, closing

    from edgekit.runner.point import idle_power, measure_point
    from edgekit.runner.power.actuators import OperatingPoint
    from edgekit.runner.power.caps import Caps

    with ExitStack() as stack:
        if options.clock_khz is not None:
            caps = stack.enter_context(closing(Caps()))
            caps.cap_cpus(options.clock_khz)
        if options.variant is None:
            found = idle_power(options.seconds, covers=options.meter)
        else:
            chosen = OperatingPoint(
                options.variant, options.threads, clock_khz=options.clock_khz, delegate=options.delegate
            )
            found = measure_point(options.release, chosen, options.seconds, covers=options.meter)
    print(json.dumps(asdict(found)))


def powerd_options(parser: argparse.ArgumentParser) -> None:
    from edgekit.runner.power.powerd import SOCKET

    parser.add_argument("release", nargs="?", help="not needed; what `run powerd` gives")
    parser.add_argument("--socket", default=SOCKET, metavar="PATH", help=f"where to listen (default {SOCKET})")
    parser.add_argument("--group", help="who may connect beside root (default: nobody)")
    parser.add_argument("--user", help="who may connect beside root")


def powerd(options: Any) -> None:
    from edgekit.runner.power.powerd import main

    try:
        main(options.socket, options.group, user=options.user)
    except KeyError as error:
        raise InputError(f"not on this machine: {error.args[0]}", hint="groupadd --system edgekit") from None
    except OSError as error:
        raise InputError(f"cannot listen at {options.socket}: {error.strerror}", hint="run it as root") from None


def _bundled(release: str) -> str:
    from edgekit.bundle import read_bundle

    goal = read_bundle(release).manifest.goal
    if goal is None:
        raise InputError("the bundle names no goal", hint="--goal 'min_energy(accuracy>=90, deadline=50ms)', say")
    return goal


def _text(path: str) -> bytes:
    try:
        with open(path, "rb") as stream:
            return stream.read(1 << 22)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", hint="edgekit power calibrate writes one") from None
