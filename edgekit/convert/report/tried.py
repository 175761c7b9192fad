"""The report's sections about what was tried: range policies, repairs, and how many samples the ranges needed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekit.convert.report.about import About
from edgekit.convert.report.charts import growth_chart
from edgekit.convert.report.html import Html, tag
from edgekit.convert.report.tables import Cell, sortable
from edgekit.convert.selection import SETTLED, enough


def policies_section(about: About) -> Html | None:
    """The range policies and how each did; the chosen one is marked."""
    if not about.policies:
        return None
    counts = sorted({row["count"] for row in about.policies if row.get("count") is not None})
    judged = f", on {' or '.join(map(str, counts))} samples that made no ranges" if counts else ""
    told = f"How the ranges of the tensors were chosen{judged}: decibels are SQNR to float."
    several = len({row.get("variant") for row in about.policies}) > 1
    head = (*(("variant",) if several else ()), "policy", "SQNR, dB", "median, dB", "float's class")
    rows = [
        (None, [*([row["variant"]] if several else ()), _marked(row["policy"], row.get("chosen"), "chosen"),
                _number(row.get("sqnr_db"), ".1f"), _number(row.get("median_sqnr_db"), ".1f"),
                _number(row.get("same_class"), ".1%")])
        for row in about.policies
    ]  # fmt: skip
    return _section("Range policies tried", told, sortable(head, rows, "Range policies tried"))


def repairs_section(about: About) -> Html | None:
    """What was tried after the gate had refused a variant, in that order, and what came of it."""
    if not about.repairs:
        return None
    several = len({row["variant"] for row in about.repairs}) > 1
    rows: list[tuple[str | None, list[object]]] = []
    for number, row in enumerate(about.repairs, 1):
        decibels = [_number(row[side], ".1f") for side in ("before_db", "after_db")]
        words = [Cell(text, class_="words") for text in (row["what"], _outcome(row))]
        said = Cell(row["gate"] or "was not asked", class_="name")
        which = (row["variant"],) if several else ()
        rows.append((None, [Cell(number, number), *which, row["step"], words[0], *decibels, words[1], said]))
    told = (
        "The gate refused the model at first. These repairs were tried, the cheapest first; one is kept if the answers come "
        "nearer to float's (SQNR on samples that no repair has seen), and the gate says when it is enough."
    )
    head = (
        "#",
        *(("variant",) if several else ()),
        "repair",
        "what",
        "before, dB",
        "after, dB",
        "result",
        "the gate said",
    )
    return _section("Repairs tried", told, sortable(head, rows, "Repairs tried"))


def growth_section(about: About) -> Html | None:
    """How the ranges grew with the number of samples."""
    curve = about.convergence
    if len(curve) < 2:
        return None
    count = enough(curve)
    last = curve[-1][0]
    said = f"{count} samples make {SETTLED:.0%} of them" if count is not None else "they were still growing at the end"
    told = f"How much of the final ranges so many samples make, the mean over all tensors: {said}; {last} were used."
    hint = None if count is not None else tag("p", "More samples would widen the ranges: give more.", class_="note")
    return _section("Samples and ranges", told, tag("div", growth_chart(curve, SETTLED), class_="scroll"), hint)


def _section(title: str, told: str, *parts: Html | None) -> Html:
    return tag("section", tag("h2", title), tag("p", told), *parts)


def _outcome(row: Mapping[str, Any]) -> str:
    if row["after_db"] is None:
        return "nothing to do"
    return "kept, passed" if row["passed"] else "kept" if row["kept"] else "not kept"


def _marked(name: object, mark: object, said: str) -> Cell:
    return Cell(tag("span", name, " ", tag("span", said, class_="badge good")) if mark else name)


def _number(value: float | None, form: str) -> Cell | None:
    return None if value is None else Cell(format(value, form), value)
