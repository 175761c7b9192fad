"""The table of operating points of one board: what each costs and gives, and where that is known from. A JSON file.

Read as every border: the version first, then each key once and with its type. Integers in the smallest unit.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from edgekit.errors import InputError
from edgekit.runner.power.actuators import OperatingPoint
from edgekit.runner.power.reading import ESTIMATED, MEASURED

if TYPE_CHECKING:
    from dataclasses import dataclass
else:
    from edgekit.values import dataclass

FORMAT = 2
MOST_POINTS = 1000
COVERS = ("board", "gpu")  # what a meter may measure
AGAIN = "calibrate again: edgekit power calibrate BUNDLE DEVICE"


@dataclass(frozen=True)
class PointCost:
    """One operating point: latency of an answer, what is drawn meanwhile (Table.covers), and the variant's accuracy."""

    point: OperatingPoint
    latency_us: int
    spread_ppm: int  # relative standard deviation of latency, parts per million
    power_uw: int  # while it works
    accuracy_ppm: int  # of the variant, parts per million; from the manifest
    provenance: str  # of power: measured or estimated. Latency is always measured on the board
    runs: int  # inferences that were timed
    fake: bool = False  # a delegate made for tests, or a GPU that is a program: its time means nothing

    @property
    def latency_s(self) -> float:
        """Seconds."""
        return self.latency_us / 1e6

    @property
    def accuracy(self) -> float:
        """Points of percent."""
        return self.accuracy_ppm / 1e4


@dataclass(frozen=True)
class Heat:
    """How the board warms: die on board in air. Integers: m°C per W, and ms."""

    die_mc_per_w: int
    die_tau_ms: int
    board_mc_per_w: int
    board_tau_ms: int
    provenance: str


@dataclass(frozen=True)
class Table:
    """What is known of a board's operating points."""

    board: str
    bundle: str  # digest of the bundle that was measured; "" if it is none
    made_at: str  # UTC, as ISO 8601; "" if nobody knows
    idle_uw: int
    idle_provenance: str
    meter: str  # the sensor, or how it was estimated
    rows: tuple[PointCost, ...]
    heat: Heat | None = None
    covers: str = "board"  # what the meter measures: the whole board, or the gpu alone

    def energy_j(self, index: int) -> float:
        """J above idle of one answer at that point."""
        row = self.rows[index]
        return max(row.power_uw - self.idle_uw, 0) / 1e6 * row.latency_s


def write_table(table: Table) -> str:
    """The text of a table's file: same table, same text."""
    heat = None if table.heat is None else dict(vars(table.heat))
    fields = dict(vars(table), heat=heat, rows=[_row_fields(row) for row in table.rows])
    return json.dumps({"edgekit_points": FORMAT, **fields}, indent=1, sort_keys=True, allow_nan=False) + "\n"


def _row_fields(row: PointCost) -> dict[str, Any]:
    point = dict(vars(row.point), cpus=list(row.point.cpus))
    return dict(vars(row), point=point)


def read_table(text: str | bytes) -> Table:
    """The table in a file's text. Raises InputError for anything else."""
    try:
        fields = dict(json.loads(text))
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError("the table of operating points is not JSON", hint=AGAIN) from error
    version = fields.pop("edgekit_points", None)
    if type(version) is not int or version != FORMAT:
        raise InputError(f"a table of format {version!r}, this edgekit reads format {FORMAT}", hint=AGAIN)
    try:
        return _table(fields)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"the table of operating points is damaged: {error}", hint=AGAIN) from None


def _table(fields: dict[str, Any]) -> Table:
    rows = fields.pop("rows")
    heat = fields.pop("heat")
    if not isinstance(rows, list) or not 0 < len(rows) <= MOST_POINTS:
        raise ValueError(f"rows: 1 to {MOST_POINTS} are wanted")
    table = Table(
        rows=tuple(_row(dict(row)) for row in rows),
        heat=None if heat is None else Heat(**_checked(dict(heat), {"provenance": str})),
        **_checked(
            fields,
            dict.fromkeys(("board", "bundle", "made_at", "idle_provenance", "meter", "covers"), str),
            {"idle_uw"},
        ),
    )
    if table.idle_provenance not in (MEASURED, ESTIMATED):
        raise ValueError("idle_provenance")
    if table.covers not in COVERS:
        raise ValueError("covers")
    if len({row.point for row in table.rows}) != len(table.rows):
        raise ValueError("a point is there twice")
    return table


def _row(fields: dict[str, Any]) -> PointCost:
    point = dict(fields.pop("point"))
    cpus = point.pop("cpus")
    clock = point.pop("clock_khz")
    fake = fields.pop("fake")
    if not isinstance(cpus, list) or not all(type(cpu) is int and 0 <= cpu < 4096 for cpu in cpus):
        raise ValueError("cpus")
    if clock is not None and type(clock) is not int:
        raise ValueError("clock_khz")
    if type(fake) is not bool:
        raise ValueError("fake")
    checked = _checked(point, {"variant": str, "delegate": str})
    zero = {"spread_ppm", "power_uw", "runs", "accuracy_ppm"}
    row = PointCost(
        point=OperatingPoint(cpus=tuple(cpus), clock_khz=clock, **checked),
        fake=fake,
        **_checked(fields, {"provenance": str}, zero),
    )
    if row.provenance not in (MEASURED, ESTIMATED) or row.accuracy_ppm > 1_000_000:
        raise ValueError("provenance or accuracy")
    return row


def _checked(fields: dict[str, Any], texts: dict[str, type], zero: set[str] | None = None) -> dict[str, Any]:
    """The fields, if they are texts where they should be and else whole numbers above 0 (or from 0 on, `zero`)."""
    for key, value in fields.items():
        if key in texts:
            if not isinstance(value, str) or len(value) > 500:
                raise ValueError(key)
        elif type(value) is not int or not (0 if key in (zero or ()) else 1) <= value < 1 << 50:
            raise ValueError(key)
    return fields
