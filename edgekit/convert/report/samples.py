"""The report's sections about samples: those that int8 changes most, side by side, and how classes moved."""

from __future__ import annotations

import numpy as np

from edgekit.convert.compare import Comparison, Worst
from edgekit.convert.report.about import About
from edgekit.convert.report.charts import score_bars, value_bars, waveform
from edgekit.convert.report.html import Html, join, tag
from edgekit.convert.report.png import as_pictures, data_url
from edgekit.convert.report.tables import sortable

_MOST_CLASSES = 16  # of a matrix; more are a list
_WAVE = 65  # values from which on a 1-D input is a waveform


def samples_section(comparison: Comparison, about: About) -> Html | None:
    """The worst samples: input, float's answer, int8's answer."""
    if not comparison.worst:
        return None
    shown = _inputs_shown(comparison.worst)
    cards = [_card(worst, drawn, comparison, about) for worst, drawn in zip(comparison.worst, shown, strict=True)]
    told = f"The {len(cards)} of {comparison.count} samples whose answers {comparison.variant} changes most"
    told += ", those with another class first." if comparison.is_classifier else "."
    return tag("section", tag("h2", "Worst samples"), tag("p", told), tag("div", *cards, class_="samples"))


def _inputs_shown(worst: tuple[Worst, ...]) -> list[Html]:
    drawn: list[list[Html]] = [[] for _ in worst]
    for number in range(len(worst[0].inputs)):
        arrays = [w.inputs[number] for w in worst]
        pictures = as_pictures(arrays)
        for place, (w, array) in enumerate(zip(worst, arrays, strict=True)):
            said = f"input of sample {w.index}"
            if pictures is not None:
                height, width = pictures[place].shape[:2]
                drawn[place].append(tag("img", src=data_url(pictures[place]), alt=f"{said}, {width}×{height}"))
            elif array.size >= _WAVE:
                drawn[place].append(waveform([(np.asarray(array).reshape(-1), "input")], said))
            else:
                drawn[place].append(value_bars(np.asarray(array), said))
    return [join(*parts) for parts in drawn]


def _card(worst: Worst, drawn: Html, comparison: Comparison, about: About) -> Html:
    title = f"Sample {worst.index}"
    if worst.label is not None:
        title += f", label {about.class_name(worst.label)}"
    if comparison.is_classifier:
        answer = _class_scores(worst, about, comparison.variant)
    else:
        real, int8 = (np.asarray(a).reshape(-1) for a in (worst.float_answer, worst.int8_answer))
        if real.size <= 8:
            low, high = (f(min(0.0, float(real.min())), max(0.0, float(real.max()))) for f in (min, max))
            rows = [(f"[{i}]", float(real[i]), float(int8[i]), False) for i in range(real.size)]
            answer = score_bars(rows, low=low, high=high, variant=comparison.variant)
        else:
            legend = tag(
                "ul",
                *(
                    tag("li", tag("i", class_=k, aria_hidden="true"), name)
                    for k, name in (("float", "float"), ("int8", comparison.variant))
                ),
                class_="legend",
            )
            drawing = waveform([(real, "float"), (int8, "int8")], f"answers of float and {comparison.variant}")
            answer = join(tag("p", "answers", class_="kicker"), drawing, legend)
    drawn = join(tag("p", "input", class_="kicker"), drawn)
    note = tag("p", f"SQNR {worst.sqnr_db:g} dB", class_="note")
    return tag("article", tag("h3", title), drawn, answer, note, class_="sample")


def _class_scores(worst: Worst, about: About, variant: str) -> Html:
    real, int8 = np.asarray(worst.float_answer, np.float64), np.asarray(worst.int8_answer, np.float64)
    best = list(dict.fromkeys([*np.argsort(-real, kind="stable")[:3], *np.argsort(-int8, kind="stable")[:2]]))
    if worst.label is not None and worst.label not in best and worst.label < real.size:
        best.append(np.int64(worst.label))
    rows = [(about.class_name(int(c)), float(real[c]), float(int8[c]), int(c) == worst.label) for c in best]
    ends = [value for _, a, b, _ in rows for value in (a, b)]
    return score_bars(
        rows, low=min(0.0, *ends) if min(ends) >= 0 else min(*real, *int8), high=max(*ends, 1e-9), variant=variant
    )


def confusion_section(comparison: Comparison, about: About) -> Html | None:
    """Which classes became which; a matrix where there are few."""
    if not comparison.is_classifier:
        return None
    changes = comparison.changes
    moved = sum(change.count for change in changes)
    if not moved:
        told = f"None of {comparison.count} samples has another class than the float model gave it."
        return tag("section", tag("h2", "Classes that changed"), tag("p", told))
    told = f"{moved} of {comparison.count} samples ({moved / comparison.count:.1%}) have another class than float gave them."
    if comparison.has_labels:
        lost, won = (
            sum(c.count for c in changes if (c.float_class if kind else c.int8_class) == c.truth)
            for kind in (True, False)
        )
        told += f" {lost} were right before, {won} became right, {moved - lost - won} are wrong either way."
    used = sorted({c for change in changes for c in (change.float_class, change.int8_class)})
    parts = []
    if 1 < len(used) <= _MOST_CLASSES:
        parts.append(_matrix(used, comparison, about))
    rows = []
    for change in changes:
        names = [about.class_name(change.float_class), about.class_name(change.int8_class)]
        truth = [] if change.truth is None else [about.class_name(change.truth)]
        rows.append((None, [*names, *truth, change.count]))
    columns = ("float says", f"{comparison.variant} says", *(("label",) if len(rows[0][1]) == 4 else ()), "samples")
    table = sortable(columns, rows, "Classes that changed")
    return tag("section", tag("h2", "Classes that changed"), tag("p", told), *parts, table)


def _matrix(used: list[int], comparison: Comparison, about: About) -> Html:
    counts = {(real, int8): 0 for real in used for int8 in used}
    for change in comparison.changes:
        counts[change.float_class, change.int8_class] += change.count
    head = tag(
        "tr",
        tag("th", f"float ↓ {comparison.variant} →", scope="col"),
        *(tag("th", about.class_name(c), scope="col") for c in used),
    )

    def cell(real: int, int8: int) -> Html:
        count = counts[real, int8]
        return tag(
            "td", count or ("·" if real != int8 else ""), class_="same" if real == int8 else "more" if count else None
        )

    body = [
        tag("tr", tag("th", about.class_name(real), scope="row"), *(cell(real, int8) for int8 in used)) for real in used
    ]
    table = tag(
        "table", tag("thead", head), tag("tbody", *body), class_="matrix", aria_label="How many moved between classes"
    )
    return join(
        tag("div", table, class_="scroll", tabindex=0, role="region", aria_label="Classes that changed"), tag("p", "")
    )
