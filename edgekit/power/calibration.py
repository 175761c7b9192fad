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

from edgekit.errors import InputError
from edgekit.manifest import Manifest, Variant
from edgekit.runner.power.actuators import OperatingPoint
from edgekit.runner.power.points import PointCost, Table, read_table, write_table

COOLED_MC = 4000  # above its idle temperature a board has cooled
COOLING_S = 60.0  # and after that it is measured as it is
REST_S = 1.0
UNCORE = 0.13  # of the power above idle of a busy Pi 5 does not depend on how many cores work (assumed)
Measure = Callable[..., Mapping[str, Any]]  # (seconds, variant=, threads=, clock_khz=) -> what deploy/points.py gives


@dataclass(frozen=True)
class Watts:
    """What a board without a meter is said to draw: idle, and with every core busy; where that is from."""

    idle_uw: int
    busy_uw: int
    cores: int
    source: str

    def at(self, threads: int) -> int:
        """uW while so many threads work."""
        share = UNCORE + (1 - UNCORE) * min(threads, self.cores) / self.cores
        return round(self.idle_uw + (self.busy_uw - self.idle_uw) * share)


def points_of(
    manifest: Manifest, threads: Sequence[int], *, variants: Sequence[str] = (), clocks: Sequence[int] = ()
) -> list[OperatingPoint]:
    """Every variant that has an accuracy, on each number of threads, at each clock."""
    names = list(variants) or [v.name for v in manifest.variants if accuracy_ppm(manifest, v) is not None]
    for name in names:
        if accuracy_ppm(manifest, manifest.variant(name)) is None:
            raise InputError(
                f"nobody knows how accurate variant {name} is", hint="convert with --evaluate, or leave it out"
            )
    if not names:
        raise InputError("no variant of this bundle has a known accuracy", hint="convert again with --evaluate samples")
    caps: Sequence[int | None] = list(clocks) or [None]
    return [OperatingPoint(n, t, clock_khz=c) for n in names for t in threads for c in caps]


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
    progress: Callable[[int, int, str], None] = lambda done, total, what: None,
    made_at: str = "",
    clock: Callable[[], float] = time.monotonic,
) -> Table:
    """Measures what `output` does not have yet, and writes it after each point. Raises InputError without any power."""
    table = _started(output, digest)
    idle = measure(seconds)
    power = idle["power_uw"] or (watts.idle_uw if watts else None)
    if power is None:
        raise InputError(
            "this board has no meter of all that it draws",
            hint="say what it draws: --watts IDLE,BUSY, or --target for a kind of board that we have figures of",
        )
    fresh = Table(
        board,
        digest,
        made_at,
        power,
        "measured" if idle["provenance"] == "measured" else "estimated",
        idle["meter"] or (watts.source if watts else ""),
        (),
    )
    rows = [] if table is None else list(table.rows)
    done = {row.point for row in rows}
    for number, point in enumerate(points):
        words = f"{point.variant}, {point.threads} threads" + (f", {point.clock_khz} kHz" if point.clock_khz else "")
        progress(number, len(points), words)
        if point in done:
            continue
        _cool(measure, idle["celsius_mc"], clock)
        found = measure(seconds, variant=point.variant, threads=point.threads, clock_khz=point.clock_khz)
        rows.append(_row(manifest, point, found, watts))
        _write(output, replace(fresh, rows=tuple(rows)))
    progress(len(points), len(points), "done")
    return replace(fresh, rows=tuple(rows))


def _row(manifest: Manifest, point: OperatingPoint, found: Mapping[str, Any], watts: Watts | None) -> PointCost:
    accuracy = accuracy_ppm(manifest, manifest.variant(point.variant))
    power = found["power_uw"] or (watts.at(point.threads) if watts else None)
    if power is None or accuracy is None or not found["latency_us"]:
        raise InputError("a point was not measured: its meter stopped", hint="start again; what was measured is kept")
    provenance = "measured" if found["provenance"] == "measured" else "estimated"
    return PointCost(
        point, max(found["latency_us"], 1), found["spread_ppm"], power, accuracy, provenance, found["runs"]
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
    """(variant, threads, MHz, ms, spread, W, J above idle, accuracy, provenance) of each point, for a person."""
    rows: list[tuple[str, ...]] = []
    for i, row in enumerate(table.rows):
        mhz = "" if row.point.clock_khz is None else f"{row.point.clock_khz / 1000:.0f}"
        cells = (f"{row.latency_us / 1000:.3f}", f"{row.spread_ppm / 1e4:.1f} %", f"{row.power_uw / 1e6:.2f}")
        more = (f"{table.energy_j(i):.4f}", f"{row.accuracy:.2f}", row.provenance)
        rows.append((row.point.variant, str(row.point.threads), mhz, *cells, *more))
    return rows


def as_json(table: Table) -> Any:
    """The table as it is written."""
    return json.loads(write_table(table))
