"""Which operating points to measure on a board, and the table that comes of it. Decides; `cli/power.py` lets it happen.

Each point runs steadily for a while, and the board cools before the next one. What was measured is kept at once, so a
calibration that was broken off goes on where it was.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgekit.delegates import PERFORMANCES, delegate_text, parse_delegate
from edgekit.errors import InputError
from edgekit.manifest import Delegate, Manifest, Variant
from edgekit.runner.power.actuators import OperatingPoint
from edgekit.runner.power.points import PointCost, Table, read_table, write_table

COOLED_MC = 4000  # above its idle temperature a board has cooled
COOLING_S = 60.0  # and after that it is measured as it is
REST_S = 1.0
UNCORE = 0.13  # of the power above idle of a busy Pi 5 does not depend on how many cores work (assumed)
Measure = Callable[
    ..., Mapping[str, Any]
]  # (seconds, variant=, threads=, clock_khz=, ...) -> what deploy/points.py gives
EACH = "each"  # edgetpu:performance=each: all of its clock levels


@dataclass(frozen=True)
class Watts:
    """What a board without a meter is said to draw: idle, and with every core busy; where that is from."""

    idle_uw: int
    busy_uw: int
    cores: int
    source: str
    unit_uw: int | None = None  # what an accelerator draws while it works, at any level; None: nobody said

    def at(self, point: OperatingPoint) -> int:
        """uW while it works. Raises InputError for an accelerator of which nobody said what it draws."""
        share = UNCORE + (1 - UNCORE) * min(point.threads, self.cores) / self.cores
        if point.unit not in ("", "cpu"):
            if self.unit_uw is None:
                raise InputError(
                    f"nobody knows what the {point.unit} draws while it works",
                    hint="say it, beside the board idle and with all cores busy: --watts IDLE,BUSY,UNIT",
                )
            return round(self.idle_uw + self.unit_uw + (self.busy_uw - self.idle_uw) * share)
        return round(self.idle_uw + (self.busy_uw - self.idle_uw) * share)


def points_of(
    manifest: Manifest,
    threads: Sequence[int],
    *,
    variants: Sequence[str] = (),
    clocks: Sequence[int] = (),
    delegates: Sequence[str] = (),
) -> list[OperatingPoint]:
    """Every variant that has an accuracy, on each number of threads, clock and delegate; without any, on its own list.

    `edgetpu:performance=each` is each of its clock levels. An Edge TPU takes only variants that have a file for it, and all
    that is not the processor gets the fewest threads alone, for what stays there.
    """
    names = list(variants) or [v.name for v in manifest.variants if accuracy_ppm(manifest, v) is not None]
    for name in names:
        if accuracy_ppm(manifest, manifest.variant(name)) is None:
            raise InputError(
                f"nobody knows how accurate variant {name} is", hint="convert with --evaluate, or leave it out"
            )
    if not names:
        raise InputError("no variant of this bundle has a known accuracy", hint="convert again with --evaluate samples")
    caps: Sequence[int | None] = list(clocks) or [None]
    points = [
        OperatingPoint(name, count, clock_khz=cap, delegate=delegate)
        for name in names
        for delegate in _delegates_of(manifest.variant(name), delegates)
        for count in (threads if delegate.partition(":")[0] in ("", "cpu") else [min(threads)])
        for cap in caps
    ]
    if not points:
        raise InputError(
            f"no variant of this bundle can run on {', '.join(delegates)}",
            hint="edgekit edgetpu BUNDLE makes files for it",
        )
    return points


def _delegates_of(variant: Variant, wanted: Sequence[str]) -> list[str]:
    """The wanted delegates as this variant takes them: with what its own list says of each (file, library), levels apart."""
    if not wanted:
        return [""]
    found: list[str] = []
    for text in wanted:
        for level in PERFORMANCES if text.endswith(f"performance={EACH}") else ("",):
            asked = parse_delegate(text.replace(f"performance={EACH}", f"performance={level}") if level else text)
            own = next((one for one in variant.delegates if one.name == asked.name), None)
            if own is None and asked.name == "edgetpu":
                continue
            options = {**({} if own is None else own.options), **asked.options}
            options.pop("threads", None)  # of the point
            found.append(delegate_text(Delegate(asked.name, options)))
    return list(dict.fromkeys(found))


def accuracy_ppm(manifest: Manifest, variant: Variant) -> int | None:
    """The variant's accuracy by the manifest: its metric against labels, else how often it agrees with float."""
    for quality in variant.qualities:
        if quality.float_value is not None and 0 <= quality.value <= 1:
            return round(quality.value * 1e6)
    for other in manifest.variants:  # the float variant was measured beside the others
        for quality in other.qualities:
            if quality.float_value is not None and 0 <= quality.float_value <= 1 and variant.quantization == "float32":
                return round(quality.float_value * 1e6)
    return next((round(q.value * 1e6) for q in variant.qualities if q.metric == "same class as float"), None)


def calibrate(
    manifest: Manifest,
    points: Sequence[OperatingPoint],
    measure: Measure,
    output: Path,
    *,
    board: str,
    digest: str,
    seconds: float,
    watts: Watts | None = None,
    meter: str = "board",
    progress: Callable[[int, int, str], None] = lambda done, total, what: None,
    made_at: str = "",
    clock: Callable[[], float] = time.monotonic,
) -> Table:
    """Measures what `output` does not have yet, and writes it after each point. Raises InputError without any power."""
    table = _started(output, digest)
    idle = measure(seconds, meter=meter)
    power = idle["power_uw"] or (watts.idle_uw if watts else None)
    if power is None:
        hint = "say what it draws: --watts IDLE,BUSY, or --target for a kind of board that we have figures of"
        raise InputError(
            "this board has no meter of all that it draws"
            if meter == "board"
            else f"no meter of the {meter} answers there",
            hint=hint if meter == "board" else "edgekit power show DEVICE lists what there is",
        )
    if meter != "board" and any(point.unit != meter for point in points):
        raise InputError(
            f"a meter of the {meter} says nothing about other units", hint=f"--delegate {meter} alone, or --meter board"
        )
    fresh = Table(
        board,
        digest,
        made_at,
        power,
        "measured" if idle["provenance"] == "measured" else "estimated",
        idle["meter"] or (watts.source if watts else ""),
        (),
        covers=meter,
    )
    rows = [] if table is None else list(table.rows)
    done = {row.point for row in rows}
    for number, point in enumerate(points):
        progress(number, len(points), point.words)
        if point in done:
            continue
        _cool(measure, idle["celsius_mc"], clock)
        delegate, clock_khz = point.delegate or None, point.clock_khz
        found = measure(
            seconds, variant=point.variant, threads=point.threads, clock_khz=clock_khz, delegate=delegate, meter=meter
        )
        rows.append(_row(manifest, point, found, watts))
        _write(output, replace(fresh, rows=tuple(rows)))
    progress(len(points), len(points), "done")
    return replace(fresh, rows=tuple(rows))


def _row(manifest: Manifest, point: OperatingPoint, found: Mapping[str, Any], watts: Watts | None) -> PointCost:
    accuracy = accuracy_ppm(manifest, manifest.variant(point.variant))
    power = found["power_uw"] or (watts.at(point) if watts else None)
    if power is None or accuracy is None or not found["latency_us"]:
        raise InputError("a point was not measured: its meter stopped", hint="start again; what was measured is kept")
    provenance = "measured" if found["provenance"] == "measured" else "estimated"
    return PointCost(
        *(point, max(found["latency_us"], 1), found["spread_ppm"], power, accuracy, provenance, found["runs"]),
        fake=found["fake"],
    )


def _cool(measure: Measure, idle_mc: int | None, clock: Callable[[], float]) -> None:
    until = clock() + COOLING_S
    while True:
        celsius = measure(REST_S)["celsius_mc"]
        if celsius is None or idle_mc is None or celsius <= idle_mc + COOLED_MC or clock() >= until:
            return


def _started(output: Path, digest: str) -> Table | None:
    if not output.exists():
        return None
    table = read_table(output.read_bytes())
    if table.bundle != digest:
        raise InputError(f"{output} is the table of another bundle", hint="name another file, or delete that one")
    return table


def _write(path: Path, table: Table) -> None:
    aside = path.with_name(path.name + ".partial")
    aside.write_text(write_table(table), "utf-8")
    aside.replace(path)


def table_facts(table: Table) -> list[tuple[str, ...]]:
    """(variant, threads, MHz, on, ms, spread, W, J above idle, accuracy, provenance) of each point, for a person.

    What a FAKE took is nobody's time, and is not shown.
    """
    rows: list[tuple[str, ...]] = []
    for i, row in enumerate(table.rows):
        mhz = "" if row.point.clock_khz is None else f"{row.point.clock_khz / 1000:.0f}"
        where = " ".join(filter(None, ("FAKE" * row.fake, row.point.unit, row.point.level)))
        cells = (f"{row.latency_us / 1000:.3f}", f"{row.spread_ppm / 1e4:.1f} %", f"{row.power_uw / 1e6:.2f}")
        energy = f"{table.energy_j(i):.4f}"
        cells, energy = (("", "", ""), "") if row.fake else (cells, energy)
        rows.append(
            (
                row.point.variant,
                str(row.point.threads),
                mhz,
                where,
                *cells,
                energy,
                f"{row.accuracy:.2f}",
                row.provenance,
            )
        )
    return rows


def as_json(table: Table) -> Any:
    """The table as it is written."""
    return json.loads(write_table(table))


def said_watts(text: str | None, target: str | None) -> Watts | None:
    """What --watts says, or a kind of board's figures; None where neither is given."""
    from edgekit.target import load_target

    if text is not None:
        try:
            idle, busy, *unit = (round(float(word) * 1e6) for word in text.split(","))
        except (ValueError, OverflowError):
            idle, busy, unit = 0, 0, []
        if not 0 < idle < busy < 10**10 or len(unit) > 1 or not all(0 < one < 10**10 for one in unit):
            raise InputError(f"--watts {text!r} is not IDLE,BUSY or IDLE,BUSY,UNIT", hint="--watts 2.8,9.7")
        cores = (load_target(target).cores if target else None) or 4
        return Watts(idle, busy, cores, "said with --watts", unit[0] if unit else None)
    if target is None:
        return None
    kind = load_target(target)
    if kind.idle_mw is None or kind.busy_mw is None:
        raise InputError(f"we have no figures of what {target} draws", hint="say them: --watts IDLE,BUSY")
    return Watts(kind.idle_mw * 1000, kind.busy_mw * 1000, kind.cores or 4, f"target {target}")
