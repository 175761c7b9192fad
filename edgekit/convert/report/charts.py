"""The report's drawings as inline SVG: SQNR of every layer, scores side by side, waveforms."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgekit.convert.layers import Layer, short_name
from edgekit.convert.report.html import Html, join, tag

GOOD_DB, FAIR_DB, EXACT_DB = 20.0, 10.0, 300.0
_HEIGHT, _TOP, _LEFT, _BOTTOM = 220, 14, 44, 26
_POINTS = 240  # of a waveform: each the lowest and highest value of its share


def grade(sqnr_db: float | None) -> str:
    """`good`, `fair` or `poor`; `none` for what has no number."""
    if sqnr_db is None:
        return "none"
    return "good" if sqnr_db >= GOOD_DB else "fair" if sqnr_db >= FAIR_DB else "poor"


def sqnr_text(sqnr_db: float | None, unit: str = " dB") -> str:
    """`23.4 dB`, `exact`, or that there is nothing to compare."""
    if sqnr_db is None:
        return "all zero"
    return "exact" if sqnr_db >= EXACT_DB else f"{sqnr_db:.1f}{unit}"


def layer_chart(layers: Sequence[Layer]) -> Html:
    """One bar for each layer in the order in which they run; a bar says its name when it is pointed at."""
    known = [layer.sqnr_db for layer in layers if layer.sqnr_db is not None and layer.sqnr_db < EXACT_DB]
    most = float(np.clip(np.ceil(max([40.0, *known]) / 10) * 10, 40, 60))
    step = max(7.0, 960.0 / max(len(layers), 1))
    wide = min(step * 0.8, 56.0)
    width = max(_LEFT + step * len(layers) + 8, 320)
    plot = _HEIGHT - _TOP - _BOTTOM

    def y(value: float) -> float:
        return round(_TOP + plot * (1 - min(max(value, 0.0), most) / most), 1)

    grid = [
        join(
            tag("line", x1=_LEFT, x2=round(width, 1), y1=y(db), y2=y(db), class_="limit" if db in (10, 20) else "grid"),
            tag("text", f"{db} dB" if db == most else db, x=_LEFT - 8, y=y(db) + 4, class_="tick"),
        )
        for db in range(0, int(most) + 1, 10)
    ]
    bars = []
    for place, layer in enumerate(layers):
        value = layer.sqnr_db
        top = min(y(value or 0.0), _TOP + plot - 2)
        x = _LEFT + step * place
        number = f" {layer.index}" if layer.index >= 0 else ""
        told = f"{layer.operator}{number}, {short_name(layer.name)}: {sqnr_text(value)}"
        bars.append(
            tag(
                "g",
                tag("rect", x=round(x, 1), y=_TOP, width=round(step, 1), height=plot, class_="hit"),
                tag(
                    "rect",
                    x=round(x + (step - wide) / 2, 1),
                    y=top,
                    width=round(wide, 1),
                    height=round(_TOP + plot - top, 1),
                    rx=min(3, round(step / 6, 1)),
                    class_="mark",
                ),
                tag("title", told),
                class_=f"bar {grade(value)}",
                data_t=told,
                data_row=f"layer-{layer.index}",
            )
        )
    ends = (
        tag("text", "input", x=_LEFT, y=_HEIGHT - 6, class_="end"),
        tag("text", "answer", x=round(_LEFT + step * len(layers), 1), y=_HEIGHT - 6, class_="end right"),
    )
    worst = min(known, default=0.0)
    about = (
        f"SQNR of {len(layers)} layers in the order in which they run; the lowest has {worst:g} dB. A table follows."
    )
    return tag(
        "svg",
        tag("title", "SQNR per layer"),
        *grid,
        *bars,
        *ends,
        class_="layers fit" if step >= 13 else "layers",
        role="img",
        aria_label=about,
        tabindex=0,
        viewBox=f"0 0 {width:.0f} {_HEIGHT}",
        width=round(width),
        height=_HEIGHT,
    )


def growth_chart(curve: Sequence[tuple[int, float]], settled: float) -> Html:
    """Share of the final ranges by number of samples, which double from point to point; a dashed line where it is enough."""
    width, plot = 640, _HEIGHT - _TOP - _BOTTOM
    lowest = min(0.9, *(share for _, share in curve))
    step = 5 if lowest >= 0.75 else 10 if lowest >= 0.5 else 20  # percent
    ticks = range(int(100 * lowest) // step * step, 101, step)
    least = ticks[0] / 100
    logs = np.log2([count for count, _ in curve])

    def x(place: int) -> float:
        return round(
            float(_LEFT + 24 + (width - _LEFT - 60) * (logs[place] - logs[0]) / max(logs[-1] - logs[0], 1e-9)), 1
        )

    def y(share: float) -> float:
        return round(float(_TOP + plot * (1 - (share - least) / (1 - least))), 1)

    grid = [
        join(
            tag("line", x1=_LEFT, x2=width - 12, y1=y(tick / 100), y2=y(tick / 100), class_="grid"),
            tag("text", f"{tick}%", x=_LEFT - 6, y=y(tick / 100) + 4, class_="tick"),
        )
        for tick in ticks
    ]
    limit = tag("line", x1=_LEFT, x2=width - 12, y1=y(settled), y2=y(settled), class_="limit")
    points = [(x(place), y(share)) for place, (_, share) in enumerate(curve)]
    dots = [
        tag("g", tag("title", f"{count} samples: {share:.1%}"), tag("circle", cx=a, cy=b, r=4, class_="int8"),
            tag("text", count, x=a, y=_HEIGHT - 6, class_="middle"))
        for (a, b), (count, share) in zip(points, curve, strict=True)
    ]  # fmt: skip
    said = ", ".join(f"{count}: {share:.0%}" for count, share in curve)
    return tag(
        "svg",
        tag("title", "Share of the final ranges by number of samples"),
        *grid,
        limit,
        tag("polyline", points=" ".join(f"{a},{b}" for a, b in points), class_="line"),
        *dots,
        class_="growth", role="img", aria_label=f"Share of the final ranges by number of samples: {said}.",
        viewBox=f"0 0 {width} {_HEIGHT}", width=width, height=_HEIGHT,
    )  # fmt: skip


def score_bars(rows: Sequence[tuple[str, float, float, bool]], *, low: float, high: float, variant: str) -> Html:
    """(name, float, int8, is the label) rows: two bars each on one scale, with their numbers, as a table."""
    span = (high - low) or 1.0

    def bar(value: float, kind: str) -> Html:
        share = round(100 * min(max((value - low) / span, 0.0), 1.0), 1)
        return tag(
            "svg",
            tag("rect", width=share, height=6, rx=1.5, class_=kind),
            viewBox="0 0 100 6",
            preserveAspectRatio="none",
            class_="score",
            aria_hidden="true",
        )

    lines = [
        tag(
            "tr",
            tag("th", name, tag("span", " label", class_="badge") if is_label else None, scope="row"),
            tag("td", bar(real, "float"), tag("span", f"{real:.3g}")),
            tag("td", bar(int8, "int8"), tag("span", f"{int8:.3g}")),
        )
        for name, real, int8, is_label in rows
    ]
    head = tag("tr", tag("td"), tag("th", "float", scope="col"), tag("th", variant, scope="col"))
    return tag("table", tag("thead", head), tag("tbody", *lines), class_="scores")


def waveform(signals: Sequence[tuple[np.ndarray, str]], about: str) -> Html:
    """Signals over one another on one scale; each (values, class)."""
    low = min((float(values.min()) for values, _ in signals if values.size), default=0.0)
    high = max((float(values.max()) for values, _ in signals if values.size), default=0.0)
    span = (high - low) or 1.0

    def points(values: np.ndarray) -> str:
        parts = np.array_split(values, min(len(values), _POINTS))
        pairs = []
        for place, part in enumerate(parts):
            x = 300 * place / max(len(parts) - 1, 1)
            ends = (part[0],) if len(part) == 1 else (part.min(), part.max())
            pairs += [f"{x:.1f},{2 + 56 * (1 - (float(value) - low) / span):.1f}" for value in ends]
        return " ".join(pairs)

    lines = [
        tag("polyline", points=points(np.asarray(values, np.float64).reshape(-1)), class_=kind)
        for values, kind in signals
    ]
    return tag("svg", tag("title", about), *lines, viewBox="0 0 300 60", class_="wave", role="img", aria_label=about)


def value_bars(values: np.ndarray, about: str) -> Html:
    """A bar for each value, from zero; for inputs that are a handful of numbers."""
    numbers = values.reshape(-1).astype(np.float64)[:64]
    high, low = max(0.0, float(numbers.max(initial=0.0))), min(0.0, float(numbers.min(initial=0.0)))
    span, step = (high - low) or 1.0, 300 / max(len(numbers), 1)
    zero = 2 + 56 * high / span
    bars = [
        tag(
            "rect",
            x=round(step * i + step * 0.1, 1),
            width=round(step * 0.8, 1),
            class_="float",
            y=round(min(zero, zero - 56 * v / span), 1),
            height=round(max(abs(56 * v / span), 0.5), 1),
        )
        for i, v in enumerate(numbers)
    ]
    return tag("svg", tag("title", about), *bars, viewBox="0 0 300 60", class_="wave", role="img", aria_label=about)
