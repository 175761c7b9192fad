"""`edgekit power show`, `calibrate` and `audit`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from edgekit.cli.device import DEVICE, DEVICE_HELP, ask_beside, ask_host_key, device_options
from edgekit.cli.show import json_option, show_facts, show_json, show_table, showing_progress
from edgekit.runner.power.points import COVERS


@click.group("power", epilog="\b\nExample:\n  edgekit power show pi@raspberrypi.local")
def power_command() -> None:
    """Show what a device draws, measure what its operating points cost, judge how a goal was kept."""


@power_command.command(
    "show",
    epilog=DEVICE_HELP + "\n\b\nExamples:\n  edgekit power show pi@raspberrypi.local\n"
    "  edgekit power show pi@raspberrypi.local --seconds 30 --json\n"
    "  edgekit power show local:.                 this machine\n"
    "On the device itself: ROOT/current/run power",
)
@DEVICE
@click.option(
    "--seconds",
    type=click.FloatRange(0, 100),
    default=1.0,
    show_default=True,
    help="How long to watch for one table, ten times a second; 0 is one look.",
)
@click.option("--once", is_flag=True, help="One table, also on a terminal, where it is renewed until Ctrl-C.")
@device_options
def show_command(device: str, seconds: float, once: bool, python: str, as_json: bool) -> None:
    """Show every sensor of DEVICE: value, where it comes from, and the energy meanwhile.

    Nothing is installed or written there, and no right is needed; what only root may read is shown as absent, with what
    to do. A value is measured, estimated (a fit or a sum, the clock that was asked for) or absent; never 0 for unknown.
    """
    from edgekit.deploy.address import parse_address
    from edgekit.deploy.sensors import open_sensors

    with open_sensors(parse_address(device), python=python, ask=ask_host_key) as sensors:
        is_live = sys.stdout.isatty() and not once and not as_json
        while True:
            found = sensors.watch(max(seconds, 0.2) if is_live else seconds)
            if as_json:
                show_json({"device": device, **found})
                return
            if is_live:
                click.clear()
            _show(device, sensors.board, found)
            if not is_live:
                return


def _show(device: str, board: str, found: Mapping[str, Any]) -> None:
    from edgekit.runner.power.table import COLUMNS, reading_rows, summary

    rows = reading_rows(found)
    facts = [("device", f"{device} ({found['board'] or board})"), *summary(found)]
    if rows:
        show_table(COLUMNS, rows, right=("value",))
    else:
        facts.append(("sensors", "none: a virtual machine or a container, perhaps"))
    show_facts(facts)


@power_command.command(
    "calibrate",
    epilog=DEVICE_HELP + "\n\b\nExamples:\n  edgekit power calibrate bundle pi@raspberrypi.local -o points.json\n"
    "  edgekit power calibrate bundle pi@raspberrypi.local -o points.json --target rpi4 --threads 1,2,4\n"
    "  edgekit power calibrate bundle local:./device -o points.json --watts 6,20",
)
@click.argument("bundle", type=click.Path(path_type=Path))
@DEVICE
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="The table; goes on if it is there."
)
@click.option("--threads", default="1,2,4", show_default=True, help="Numbers of threads.")
@click.option("--variant", "variants", multiple=True, help="Only this variant; may be given again.")
@click.option(
    "--delegate",
    "delegates",
    multiple=True,
    help="On this one (cpu, gpu:precision=f16, edgetpu:performance=Low, or =each for all levels); may be given again.",
)
@click.option(
    "--meter",
    type=click.Choice(COVERS),
    default="board",
    show_default=True,
    help="What is measured; gpu: NVML's counter.",
)
@click.option("--clocks", default="", help="MHz to cap the processor at; needs edgekit-powerd there.")
@click.option("--seconds", type=click.FloatRange(0.2, 20), default=3.0, show_default=True, help="For each point.")
@click.option(
    "--watts",
    metavar="IDLE,BUSY[,UNIT]",
    help="What a board without a meter draws, idle and with all cores busy; and what its accelerator does.",
)
@click.option("--target", help="Take those from a kind of board: edgekit targets.")
@device_options
def calibrate_command(
    bundle: Path,
    device: str,
    output: Path,
    threads: str,
    variants: tuple[str, ...],
    delegates: tuple[str, ...],
    meter: str,
    clocks: str,
    seconds: float,
    watts: str | None,
    target: str | None,
    python: str,
    as_json: bool,
) -> None:
    """Measure every operating point of BUNDLE on DEVICE, where it must be deployed: latency, power, beside idling.

    Each point runs steadily; the board cools in between. What was measured is kept: the same command goes on where it was
    broken off. A board without a meter gets power estimated, and its table says so.
    """
    import datetime
    import hashlib

    from edgekit.bundle import read_bundle
    from edgekit.deploy.address import parse_address
    from edgekit.deploy.points import open_points
    from edgekit.errors import InputError
    from edgekit.power.calibration import as_json as table_json
    from edgekit.power.calibration import calibrate, points_of, said_watts, table_facts

    found = read_bundle(bundle)
    local = hashlib.sha256((bundle / "manifest.json").read_bytes()).hexdigest()
    points = points_of(
        found.manifest, _numbers(threads, "--threads"), variants=variants,
        clocks=[1000 * mhz for mhz in _numbers(clocks, "--clocks")] if clocks else (), delegates=delegates,
    )  # fmt: skip
    with showing_progress(as_json) as progress:
        asked = open_points(parse_address(device), python=python, ask=lambda *key: ask_beside(progress, *key))
        with asked as remote:
            remote.measure(0.2)
            if remote.manifest != local:
                raise InputError(f"another bundle is current on {device}", hint=f"edgekit deploy {bundle} {device}")
            table = calibrate(
                found.manifest,
                points,
                remote.measure,
                output,
                board=remote.board,
                digest=local,
                seconds=seconds,
                watts=said_watts(watts, target),
                meter=meter,
                progress=lambda done, total, what: progress(what, done, total),
                made_at=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            )
    if as_json:
        show_json(table_json(table))
        return
    idle = f"{table.idle_uw / 1e6:.3f} W, {table.idle_provenance} ({table.meter})"
    show_facts([("table", output), ("board", table.board), ("idle", idle)])
    columns = ("variant", "threads", "MHz", "on", "ms", "spread", "W", "J above idle", "accuracy", "power is")
    show_table(columns, table_facts(table), right=(*columns[1:3], *columns[4:9]))


@power_command.command(
    "use",
    epilog=DEVICE_HELP + "\n\b\nExamples:\n  edgekit power use pi@raspberrypi.local points.json\n"
    "  edgekit power use pi@raspberrypi.local --none",
)
@DEVICE
@click.argument("table", type=click.Path(path_type=Path), required=False)
@click.option("--none", "no_table", is_flag=True, help="Take the table away: the goal is not kept any more.")
@device_options
def use_command(device: str, table: Path | None, no_table: bool, python: str, as_json: bool) -> None:
    """Let DEVICE's server keep its bundle's goal, by the TABLE that calibrate wrote; the server is started anew.

    The bundle names the goal (edgekit convert --goal). A table of another bundle, or of which the goal is impossible, is
    left alone by the server, which says so in its log.
    """
    from edgekit.deploy.address import parse_address
    from edgekit.deploy.points import use_points
    from edgekit.errors import InputError
    from edgekit.runner.power.points import read_table

    if (table is None) != no_table:
        raise InputError("which table?", hint="edgekit power use DEVICE points.json, or DEVICE --none")
    try:
        text = None if table is None else table.read_text("utf-8")
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {table}: {error}", hint="edgekit power calibrate writes one") from None
    if text is not None:
        read_table(text)
    found = use_points(parse_address(device), text, python=python, ask=ask_host_key)
    if as_json:
        show_json(found)
        return
    done = "is gone" if no_table else "is in use"
    click.echo(f"{found['device']}: {found['place']} {done}")
    if found["service"] == "none":
        click.echo("nothing keeps a server running there: start it anew with ROOT/current/run serve")


@power_command.command(
    "audit",
    epilog="\b\nExample:\n  edgekit power audit trace.jsonl --picture audit.png --html audit.html",
)
@click.argument("trace", type=click.Path(path_type=Path))
@click.option("--picture", type=click.Path(path_type=Path), help="Power, heat, latency and points over time, as PNG.")
@click.option("--html", "html_file", type=click.Path(path_type=Path), help="Figures and picture as one page.")
@json_option
def audit_command(trace: Path, picture: Path | None, html_file: Path | None, as_json: bool) -> None:
    """Judge TRACE, which `run rehearse --trace` wrote, by the best that anyone could have done with the same jobs.

    Energy over a certified bound (total and above idle), misses, accuracy, temperature and windows of power.
    """
    from dataclasses import asdict

    from edgekit.errors import InputError
    from edgekit.power.audit import audit, page, trace_picture
    from edgekit.runner.power.trace import read_trace

    try:
        with trace.open(encoding="utf-8", errors="replace") as lines:
            read = read_trace(iter(lines))
    except OSError as error:
        raise InputError(
            f"cannot read {trace}: {error.strerror}", hint="run rehearse RELEASE --trace writes one"
        ) from None
    found = audit(read)
    drawn = trace_picture(read) if picture is not None or html_file is not None else b""
    for path, content in ((picture, drawn), (html_file, page(found, drawn).encode() if html_file else b"")):
        if path is not None:
            aside = path.with_name(path.name + ".partial")
            try:
                aside.write_bytes(content)
                aside.replace(path)
            except OSError as error:
                raise InputError(f"cannot write {path}: {error.strerror}", hint="name another file") from None
    if as_json:
        show_json(asdict(found))
        return
    show_facts([(label, text) for label, text in _audit_facts(found) if text])


def _audit_facts(found: Any) -> list[tuple[str, str]]:
    def ratio(value: float | None) -> str:
        return "" if value is None else f"{value:.3f} x the bound"

    def number(value: float | None, unit: str) -> str:
        return "" if value is None else f"{value:.4g} {unit}"

    missed = f"{found.missed} of {found.inferences} ({100 * found.missed_share:.3f} %)"
    accuracy = number(found.accuracy, "%")
    if found.accuracy_missing is not None and accuracy:
        if found.bound_j is None:
            accuracy += f"; nobody could have had more than {found.reachable:.2f} of all"
        accuracy += f", {found.accuracy_missing:.3f} points missing" if found.accuracy_missing > 0 else ", as asked for"
    if found.accuracy_bound is not None and accuracy:
        accuracy += f"; nobody could have had more than {found.accuracy_bound:.2f}"
    heat = number(found.hottest_c, "°C")
    if found.heat_excess_c is not None:
        heat += f", {found.heat_excess_c:.2f} above the limit"
    window = number(found.worst_window_w, "W")
    if found.window_excess_w is not None:
        window += f", {found.window_excess_w:.3f} over the budget"
    return [
        ("goal", found.goal),
        ("watched", f"{found.seconds:g} s"),
        ("missed", missed),
        ("accuracy", accuracy),
        ("energy above idle", f"{found.energy_j:.4g} J ({found.energy_provenance})"),
        ("above idle", ratio(found.above_idle_ratio)),
        ("total", ratio(found.total_ratio)),
        ("at the accuracy delivered", ratio(found.same_accuracy_ratio)),
        ("hottest", heat),
        ("worst window", window),
        ("switches", f"{found.switches_per_s:.2f} a second"),
    ]


def _numbers(text: str, option: str) -> list[int]:
    from edgekit.errors import InputError

    words = [word.strip() for word in text.split(",")]
    if not all(word.isascii() and word.isdecimal() and 0 < int(word) < 100_000 for word in words):
        raise InputError(f"{option} {text!r} is no list of whole numbers", hint=f"{option} 1,2,4")
    return sorted({int(word) for word in words})
