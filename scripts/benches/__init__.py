"""What all benches share: rows of a table, and measuring two things in turns.

A bench is a module here: `add_options(parser)`, and `measure(options)` that gives rows; its docstring's first line is its help.
"""

import os
import statistics
import sys
from collections.abc import Callable, Iterable
from typing import NamedTuple


class Row(NamedTuple):
    what: str
    base: str  # the plain tool
    ours: str
    difference: str
    allowed: str
    ok: bool


def in_turns(base: Callable[[], float], ours: Callable[[], float], rounds: int) -> tuple[list[float], list[float]]:
    """`rounds` results of each, in turns and with the first one changing, after one of each to warm up."""
    base(), ours()
    found: tuple[list[float], list[float]] = ([], [])
    for i in range(rounds):
        for which in (0, 1) if i % 2 else (1, 0):
            found[which].append((base, ours)[which]())
    return found


def ratio_row(what: str, base: list[float], ours: list[float], unit: str, *, at_most: float) -> Row:
    """Ours as a multiple of the base: the median of the ratios of neighbours."""
    ratio = statistics.median(o / b for b, o in zip(base, ours, strict=True))
    return Row(what, _median(base, unit), _median(ours, unit), f"{ratio:.2f} x", f"{at_most:g} x", ratio <= at_most)


def added_row(what: str, base: list[float], ours: list[float], unit: str, *, at_most: float) -> Row:
    """What ours adds to the base: the median of the differences of neighbours."""
    added = statistics.median(o - b for b, o in zip(base, ours, strict=True))
    shown = f"+{added:.1f} {unit}"
    return Row(what, _median(base, unit), _median(ours, unit), shown, f"+{at_most:g} {unit}", added <= at_most)


def limit_row(what: str, ours: list[float], unit: str, *, at_most: float) -> Row:
    """A figure that has nothing beside it."""
    value = statistics.median(ours)
    return Row(what, "", _median(ours, unit), "", f"{at_most:g} {unit}", value <= at_most)


def print_rows(rows: Iterable[Row]) -> bool:
    """Prints the table; True if every row is within what is allowed."""
    lines = [("", "plain", "edgekit", "difference", "allowed", "")]
    lines += [(*row[:5], "ok" if row.ok else "TOO MUCH") for row in rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    for line in lines:
        print(
            "  ".join(
                cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
            )
        )
    return all(line[-1] != "TOO MUCH" for line in lines)


def child_environment() -> dict[str, str]:
    """For timing new processes: this Python's modules, and bytecode is kept, as it is for any user."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}


def _median(values: list[float], unit: str) -> str:
    return f"{statistics.median(values):.1f} {unit}"
