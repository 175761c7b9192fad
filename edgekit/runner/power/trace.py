"""A trace: what a policy was asked, what it chose and what the sensors said, line by line; `edgekit power audit` judges it.

The first line says goal and table; then one line for each inference and each look at the sensors. Times are us of a
monotonic clock that starts at 0. Standard library only.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any

from edgekit.errors import InputError
from edgekit.runner.power.goal import Goal, goal_text, parse_goal
from edgekit.runner.power.points import Table, read_table, write_table

if TYPE_CHECKING:
    from dataclasses import dataclass
else:
    from edgekit.values import dataclass

FORMAT = 1
LEFT_OUT = -1
MOST_LINES = 1_000_000  # of a file: 40 MB, a day at 10 inferences a second
AGAIN = "record again: python3 -m edgekit.runner rehearse RELEASE --trace FILE, or copy it again"


class TraceWriter:
    """Writes a trace, at most MOST_LINES of it."""

    def __init__(self, stream: IO[str], goal: Goal, table: Table) -> None:
        self._stream, self._left = stream, MOST_LINES
        header = {"edgekit_trace": FORMAT, "goal": goal_text(goal), "table": json.loads(write_table(table))}
        stream.write(json.dumps(header, sort_keys=True) + "\n")

    def job(self, arrived_s: float, started_s: float, ended_s: float, row: int | None) -> None:
        """An inference; `row` None: left out at `started_s`."""
        times = [round(t * 1e6) for t in (arrived_s, started_s, ended_s)]
        self._write(f'{{"job":[{times[0]},{times[1]},{times[2]},{LEFT_OUT if row is None else row}]}}\n')

    def look(self, at_s: float, used_j: float | None, celsius: float | None) -> None:
        """The machine's energy since the start of the trace, and its hottest sensor; None where nobody knows."""
        fields = [round(at_s * 1e6), *(None if v is None else round(v * s) for v, s in ((used_j, 1e6), (celsius, 1e3)))]
        self._write(json.dumps({"look": fields}) + "\n")

    def _write(self, line: str) -> None:
        if self._left > 0:
            self._left -= 1
            self._stream.write(line)


@dataclass(frozen=True)
class Trace:
    """What was recorded. `jobs`: (arrived, started, ended in s, row or LEFT_OUT); `looks`: (at, J so far, °C)."""

    goal: Goal
    table: Table
    jobs: tuple[tuple[float, float, float, int], ...]
    looks: tuple[tuple[float, float | None, float | None], ...]


def read_trace(lines: Iterator[str]) -> Trace:
    """The trace in a file's lines; a last line that was cut off (a board that lost power) is left out."""
    try:
        header = dict(json.loads(next(lines, "")))
        version = header.pop("edgekit_trace", None)
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError("this is no trace of a policy", hint=AGAIN) from error
    if type(version) is not int or version != FORMAT:
        raise InputError(f"a trace of format {version!r}, this edgekit reads format {FORMAT}", hint=AGAIN)
    if set(header) != {"goal", "table"} or not isinstance(header["goal"], str):
        raise InputError("the trace says no goal or no table", hint=AGAIN)
    goal, table = parse_goal(header["goal"]), read_table(json.dumps(header["table"]))
    jobs: list[tuple[float, float, float, int]] = []
    looks: list[tuple[float, float | None, float | None]] = []
    for number, line in enumerate(lines, 2):
        if not line.endswith("\n"):
            break
        try:
            _add(json.loads(line), len(table.rows), jobs, looks)
        except (ValueError, TypeError, KeyError, RecursionError):
            raise InputError(f"line {number} of the trace is damaged", hint=AGAIN) from None
    if not jobs:
        raise InputError("the trace has no inference", hint=AGAIN)
    return Trace(goal, table, tuple(jobs), tuple(looks))


def _add(fields: Any, rows: int, jobs: list[Any], looks: list[Any]) -> None:
    ((kind, values),) = fields.items()
    for value in values:
        if value is not None and (type(value) is not int or abs(value) > 1 << 53):
            raise ValueError(kind)
    if kind == "job":
        arrived, started, ended, row = values
        if not arrived <= started <= ended or not LEFT_OUT <= row < rows or (jobs and arrived / 1e6 < jobs[-1][0]):
            raise ValueError(kind)
        jobs.append((arrived / 1e6, started / 1e6, ended / 1e6, row))
    elif kind == "look":
        at, used, celsius = values
        looks.append((at / 1e6, None if used is None else used / 1e6, None if celsius is None else celsius / 1e3))
    else:
        raise ValueError(kind)
