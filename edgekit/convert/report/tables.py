"""The report's tables: columns that can be sorted, numbers to the right, and never more rows than a page can carry."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from edgekit.convert.report.html import Html, join, tag

MOST_ROWS = 600


class Cell:
    """A cell with a value to sort by."""

    def __init__(self, shown: object, value: float | None = None, *, class_: str = "") -> None:
        self.shown, self.value, self.class_ = shown, value, class_


def sortable(columns: Sequence[str], rows: Sequence[tuple[str | None, Sequence[object]]], about: str) -> Html:
    """A table in a box that scrolls; each row has an id or None. Its first column is the row's header."""
    shown = rows[:MOST_ROWS]
    numeric = [all(_is_number(cells[i]) for _, cells in shown) for i in range(len(columns))]
    head = tag(
        "tr",
        *(
            tag("th", tag("button", name, type="button"), scope="col", class_="num" if right else None)
            for name, right in zip(columns, numeric, strict=True)
        ),
    )
    body = [
        tag("tr", *(_cell(cell, numeric[i], header=i == 0) for i, cell in enumerate(cells)), id=row_id)
        for row_id, cells in shown
    ]
    table = tag("table", tag("thead", head), tag("tbody", *body), class_="sortable", aria_label=about)
    left = tag("p", f"{len(rows) - MOST_ROWS} more are not shown.", class_="note") if rows[MOST_ROWS:] else None
    return join(tag("div", table, class_="scroll tall", tabindex=0, role="region", aria_label=about), left)


def mappings(given: Sequence[Any], about: str) -> Html:
    """The same from mappings or dataclasses: every key is a column, in the order in which they come up."""
    rows = [row if isinstance(row, Mapping) else dataclasses.asdict(row) for row in given]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return sortable(
        [column.replace("_", " ") for column in columns], [(None, [row.get(c) for c in columns]) for row in rows], about
    )


def facts(pairs: Sequence[tuple[str, object]]) -> Html:
    """Names and values; None is left out."""
    return tag(
        "dl",
        *(join(tag("dt", name), tag("dd", value)) for name, value in pairs if value is not None and value != ""),
        class_="facts",
    )


def _is_number(cell: object) -> bool:
    shown = cell.shown if isinstance(cell, Cell) and cell.value is None else cell
    return isinstance(shown, Cell) or shown is None or (isinstance(shown, int | float) and not isinstance(shown, bool))


def _cell(cell: object, right: bool, *, header: bool) -> Html:
    value = cell.value if isinstance(cell, Cell) else float(cell) if right and isinstance(cell, int | float) else None
    shown = cell.shown if isinstance(cell, Cell) else cell
    extra = cell.class_ if isinstance(cell, Cell) else ""
    if shown is None:
        shown, value = "–", -1e9 if right else None
    elif isinstance(shown, float):
        shown = f"{shown:.4g}"
    elif isinstance(shown, int) and not isinstance(shown, bool):
        shown = f"{shown:,}"
    classes = " ".join(filter(None, ["num" if right else "", extra])) or None
    number = None if value is None else f"{value:.10g}"
    return tag("th" if header else "td", shown, scope="row" if header else None, class_=classes, data_v=number)
