"""A picture of a day: lines and points over time, one panel below the other, as PNG. The only file that draws; wants Pillow."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgekit.errors import MissingLibrary
from edgekit.power.instance import Floats

WIDTH, HEIGHT = 1200, 210  # pixels, of a panel
LEFT, RIGHT, TOP, BOTTOM = 90, 20, 28, 24
COLORS = ("#1f6fb4", "#d1495b", "#2a9d5c", "#8a5fbf", "#c77d0a", "#5f6b7a", "#0b8f9a", "#a03a7b")
INK, GRID, LIMIT = "#222222", "#dddddd", "#c0392b"


@dataclass
class Panel:
    """What is drawn over one time axis. Lines are (name, times, values); points are too, without a line between them."""

    title: str
    lines: list[tuple[str, Floats, Floats]] = field(default_factory=list)
    points: list[tuple[str, Floats, Floats]] = field(default_factory=list)
    limit: float | None = None
    names: Sequence[str] = ()  # of the values 0, 1, ... instead of numbers


def draw(panels: Sequence[Panel], title: str) -> bytes:
    """A PNG. Each pixel column of a line shows the least and the greatest value in it: nothing short is lost."""
    try:
        from PIL import Image, ImageDraw
    except ImportError as error:
        raise MissingLibrary("a picture needs Pillow", hint="pip install 'edgekit[power]'") from error
    image = Image.new("RGB", (WIDTH, 30 + HEIGHT * len(panels)), "white")
    pen = ImageDraw.Draw(image)
    pen.text((LEFT, 8), title, fill=INK)
    series = [s for panel in panels for s in (*panel.lines, *panel.points) if len(s[1])]
    begin = min((float(times.min()) for _, times, _ in series), default=0.0)
    end = max((float(times.max()) for _, times, _ in series), default=1.0)
    for number, panel in enumerate(panels):
        _draw_panel(pen, panel, 30 + number * HEIGHT, begin, max(end, begin + 1e-9))
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    return out.getvalue()


def _draw_panel(pen: Any, panel: Panel, top: int, begin: float, end: float) -> None:
    series = [s for s in (*panel.lines, *panel.points) if len(s[1])]
    values = np.concatenate([s[2] for s in series]) if series else np.zeros(1)
    low, high = float(values.min()), float(values.max())
    if panel.names:
        low, high = -0.5, len(panel.names) - 0.5
    elif panel.limit is not None:
        low, high = min(low, panel.limit), max(high, panel.limit)
    pad = 0.0 if panel.names else 0.05 * (high - low) or 1.0
    low, high = low - pad, high + pad
    box = (LEFT, top + TOP, WIDTH - RIGHT, top + HEIGHT - BOTTOM)

    def x_of(times: Floats) -> Floats:
        return np.asarray(box[0] + (times - begin) / (end - begin) * (box[2] - box[0]))

    def y_of(found: Floats) -> Floats:
        return np.asarray(box[3] - (found - low) / (high - low) * (box[3] - box[1]))

    ticks = range(len(panel.names)) if panel.names else np.linspace(low + pad, high - pad, 4)
    for tick in ticks:
        y = float(y_of(np.array(float(tick))))
        pen.line((box[0], y, box[2], y), fill=GRID)
        pen.text((6, y - 6), str(panel.names[int(tick)])[:14] if panel.names else f"{tick:.4g}", fill=INK)
    for tick in np.linspace(begin, end, 7):
        pen.text((float(x_of(np.array(tick))) - 12, box[3] + 6), f"{tick:.4g} s", fill=INK)
    if panel.limit is not None:
        y = float(y_of(np.array(panel.limit)))
        pen.line((box[0], y, box[2], y), fill=LIMIT)
    for number, (_, times, found) in enumerate(panel.lines):
        _draw_line(pen, x_of(times), y_of(found), COLORS[number % len(COLORS)])
    for number, (_, times, found) in enumerate(panel.points):
        color = COLORS[(number + len(panel.lines)) % len(COLORS)]
        spots = np.unique(np.stack([x_of(times).round(), y_of(found).round()], axis=1), axis=0)
        for x, y in spots:
            pen.rectangle((x, y - 2, x, y + 2), fill=color)
    pen.text((box[0], top + 10), panel.title, fill=INK)
    across = box[0] + 8 * len(panel.title) + 30
    for number, (name, _, _) in enumerate((*panel.lines, *panel.points)):
        pen.rectangle((across, top + 12, across + 10, top + 20), fill=COLORS[number % len(COLORS)])
        pen.text((across + 16, top + 10), name, fill=INK)
        across += 40 + 7 * len(name)
    pen.rectangle(box, outline=INK)


def _draw_line(pen: Any, x: Floats, y: Floats, color: str) -> None:
    columns = x.astype(int)
    edges = np.flatnonzero(np.diff(columns, prepend=columns[0] - 1))
    lows, highs = np.minimum.reduceat(y, edges), np.maximum.reduceat(y, edges)
    last: tuple[int, float] | None = None
    for index, low, high in zip(edges, lows, highs, strict=True):
        at = int(columns[index])
        pen.line((at, float(low), at, float(high)), fill=color)
        if last is not None:
            pen.line((*last, at, float(y[index])), fill=color)
        last = (at, float(low + high) / 2)
