"""Judges a recorded trace by what could have been done at best: the same jobs, the same slowdowns, a clairvoyant scheduler.

How slow the machine was at each inference is what it took over what the table says; where one was left out, as slow as its
neighbour. Bounds are of the table's points: whoever has a better table has a better bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekit.power.fluid import HeatModel, heat_bound
from edgekit.power.instance import Floats, Jobs, Points
from edgekit.power.picture import Panel, draw
from edgekit.power.queueing import energy_bound, most_accuracy
from edgekit.power.score import window_powers
from edgekit.runner.power.goal import DEFAULT_WINDOW_S, goal_text
from edgekit.runner.power.trace import LEFT_OUT, Trace

SLOT_S = 5.0


@dataclass(frozen=True)
class Audit:
    """What a trace was worth; None where the goal or the sensors say nothing about it."""

    goal: str
    seconds: float
    inferences: int
    missed: int  # late or left out
    missed_share: float
    lateness_p99_ms: float  # of the late ones beyond their deadline; 0 if none was
    accuracy: float | None  # mean of what was answered in time
    accuracy_missing: float | None  # points below the goal
    energy_j: float  # above idle
    energy_provenance: str
    reachable: float  # nobody could have had more accuracy of all jobs, those that cannot be in time counted as 0
    bound_j: (
        float | None
    )  # above idle: the least for the accuracy asked for; None also where nobody could have had that
    above_idle_ratio: float | None
    total_ratio: float | None
    same_accuracy_ratio: float | None  # beside the bound at the accuracy that was delivered
    accuracy_bound: float | None  # nobody could have had more with that energy
    hottest_c: float | None
    heat_excess_c: float | None
    worst_window_w: float | None
    window_excess_w: float | None
    switches_per_s: float


def audit(trace: Trace) -> Audit:
    """The figures. Bounds take some seconds for ten thousand inferences."""
    goal, table = trace.goal, trace.table
    arrived, started, ended, row = (np.array(column) for column in zip(*trace.jobs, strict=True))
    begin = float(arrived[0])
    points = table_points(trace)
    done = row != LEFT_OUT
    took = np.where(done, ended - started, 0.0)
    slow = _slowdowns(took, row, points.latency_s)
    jobs = Jobs(arrived - begin, arrived - begin + goal.deadline_s, slow)
    on_time = done & (ended <= arrived + goal.deadline_s + 1e-6)
    used = np.where(done, slow * points.energy_j[row], 0.0)
    energy, provenance = float(used.sum()), "estimated"
    seconds = float(max(ended.max(), arrived.max()) - begin)
    idle_j = table.idle_uw / 1e6 * seconds
    metered = [(at, joules) for at, joules, _ in trace.looks if joules is not None]
    if len(metered) > 1 and metered[-1][0] - metered[0][0] >= 0.8 * seconds:
        spanned, joules = metered[-1][0] - metered[0][0], metered[-1][1] - metered[0][1]
        energy, provenance = joules - table.idle_uw / 1e6 * spanned, "measured"
    elif all(r.provenance == "measured" for r in table.rows):
        provenance = "predicted"  # from a measured table and measured times
    accuracy = points.accuracy[row]
    delivered = float(accuracy[done].mean()) if done.any() else None
    won = float(np.where(on_time, accuracy, 0.0).mean())
    wanted = goal.accuracy if goal.accuracy is not None else won
    bound = energy_bound(jobs, points, min(wanted, won), evaluations=14)  # at what was delivered
    best = min(bound.accuracy(energy), float(points.accuracy.max()))
    same = bound.at(won)
    reachable = most_accuracy(jobs, points)
    least = None
    if goal.accuracy is not None and goal.accuracy <= reachable:
        least = energy_bound(jobs, points, goal.accuracy, evaluations=14).at(goal.accuracy)
    celsius = [c for _, _, c in trace.looks if c is not None]
    if goal.temp_c is not None and table.heat is not None and celsius:
        best = min(best, _heat_bound(trace, jobs, points, celsius[0]))
    worst = _worst_window(trace, started - begin, ended - begin, used, seconds)
    late = (ended - arrived - goal.deadline_s)[done & ~on_time]
    return Audit(
        goal_text(goal),
        round(seconds, 3),
        len(row),
        int((~on_time).sum()),
        float((~on_time).mean()),
        float(np.percentile(late, 99) * 1e3) if len(late) else 0.0,
        delivered,
        None if goal.accuracy is None or delivered is None else max(goal.accuracy - delivered, 0.0),
        energy,
        provenance,
        reachable,
        least,
        energy / least if least else None,
        (energy + idle_j) / (least + idle_j) if least else None,
        energy / same if same > 1e-9 else None,
        best if goal.accuracy is None else None,
        max(celsius) if celsius else None,
        max(max(celsius) - goal.temp_c, 0.0) if celsius and goal.temp_c is not None else None,
        worst,
        None if worst is None or goal.watts is None else max(worst - goal.watts, 0.0),
        float(np.count_nonzero(np.diff(row[done])) / max(seconds, 1e-9)),
    )


def table_points(trace: Trace) -> Points:
    """The table as the bounds take it."""
    table = trace.table
    latency = np.array([row.latency_s for row in table.rows])
    energy = np.array([table.energy_j(i) for i in range(len(table.rows))])
    return Points(latency, energy, np.array([row.accuracy for row in table.rows]))


def _slowdowns(took: Floats, row: np.ndarray, latency: Floats) -> Floats:
    """Of each job; a left-out one has its neighbour's, and 1 if nothing was answered at all."""
    known = np.flatnonzero(row != LEFT_OUT)
    if not len(known):
        return np.ones(len(row))
    slow = took[known] / latency[row[known]]
    nearest = np.clip(np.searchsorted(known, np.arange(len(row))), 0, len(known) - 1)
    return np.asarray(np.maximum(slow[nearest], 1e-6))


def _heat_bound(trace: Trace, jobs: Jobs, points: Points, die_c: float) -> float:
    """With the hottest air that explains where the trace began: as if it had idled for long."""
    heat = trace.table.heat
    assert heat is not None
    assert trace.goal.temp_c is not None
    idle = trace.table.idle_uw / 1e6
    die, board = heat.die_mc_per_w / 1e3, heat.board_mc_per_w / 1e3
    air = die_c - (die + board) * idle
    model = HeatModel(die, heat.die_tau_ms / 1e3, board, heat.board_tau_ms / 1e3, air)
    start = model.settled(idle)
    return heat_bound(jobs, points, model, idle_w=idle, limit_c=trace.goal.temp_c, start=start, slot_s=SLOT_S)[0]


def _worst_window(trace: Trace, started: Floats, ended: Floats, used: Floats, seconds: float) -> float | None:
    if trace.goal.watts is None:
        return None
    idle = trace.table.idle_uw / 1e6
    edges = np.unique(np.concatenate([[0.0], started, ended, [seconds]]))
    above = np.concatenate([[0.0], np.cumsum(used)])
    at = np.concatenate([[0.0], ended])
    joules = np.interp(edges, at, above) + idle * edges
    return float(window_powers(edges, joules, trace.goal.window_s or DEFAULT_WINDOW_S).max())


def trace_picture(trace: Trace) -> bytes:
    """Power, temperature, latency and chosen points over time, as PNG."""
    arrived, started, ended, row = (np.array(column) for column in zip(*trace.jobs, strict=True))
    done, begin = row != LEFT_OUT, float(arrived[0])
    names = [f"{r.point.variant} {r.point.threads}T {(r.point.clock_khz or 0) // 1000 or ''}" for r in trace.table.rows]
    slots = np.arange(0.0, float(ended.max()) - begin + 1.0)
    used = np.bincount(
        (started[done] - begin).astype(int),
        [trace.table.energy_j(i) for i in row[done]] * (ended - started)[done] / _table_latency(trace, row[done]),
        minlength=len(slots),
    )[: len(slots)]
    lines: list[tuple[str, Floats, Floats]] = [
        ("by the table", slots, np.asarray(used + trace.table.idle_uw / 1e6, dtype=np.float64))
    ]
    metered = np.array([(at, joules) for at, joules, _ in trace.looks if joules is not None])
    if len(metered) > 2:
        lines.append(("meter", metered[1:, 0], np.diff(metered[:, 1]) / np.maximum(np.diff(metered[:, 0]), 1e-9)))
    panels = [Panel("power, W", lines, limit=trace.goal.watts)]
    hot = np.array([(at, c) for at, _, c in trace.looks if c is not None])
    if len(hot):
        panels.append(Panel("hottest sensor, °C", [("", hot[:, 0], hot[:, 1])], limit=trace.goal.temp_c))
    answered = ended[done] - arrived[done]
    panels.append(
        Panel(
            "answer after, ms", points=[("", started[done] - begin, answered * 1e3)], limit=trace.goal.deadline_s * 1e3
        )
    )
    panels.append(Panel("point", points=[("", started[done] - begin, row[done].astype(float))], names=names))
    return draw(panels, goal_text(trace.goal))


def _table_latency(trace: Trace, rows: np.ndarray) -> Any:
    return np.array([r.latency_s for r in trace.table.rows])[rows]


def page(found: Audit, picture: bytes) -> str:
    """An HTML page with the figures and the picture in it; nothing is loaded from elsewhere."""
    import base64
    import html

    rows = "".join(
        f"<tr><th>{html.escape(name.replace('_', ' '))}</th><td>{html.escape(_shown(value))}</td></tr>"
        for name, value in vars(found).items()
    )
    image = base64.b64encode(picture).decode()
    return (
        "<!doctype html><meta charset=utf-8><title>power audit</title><style>body{font:15px sans-serif;margin:2em}"
        "th{text-align:left;padding-right:2em;font-weight:normal}img{max-width:100%}</style>"
        f"<h1>{html.escape(found.goal)}</h1><table>{rows}</table><img alt='over time' src='data:image/png;base64,{image}'>\n"
    )


def _shown(value: object) -> str:
    return "-" if value is None else f"{value:.5g}" if isinstance(value, float) else str(value)
