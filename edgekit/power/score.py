"""How a played day is judged: energy over a bound, misses, accuracy, heat, windows of power, battery."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgekit.power.device import Device
from edgekit.power.instance import Floats
from edgekit.power.queueing import EnergyBound
from edgekit.power.simulate import DROPPED, Played


@dataclass(frozen=True)
class Score:
    """Figures of one run; None where the scenario has no such limit. Ratios are to a bound that nobody can be below."""

    energy_j: float  # above idle
    total_ratio: float | None
    above_idle_ratio: float | None
    same_accuracy_ratio: float | None  # to the bound at the accuracy that was really delivered
    missed: float  # share
    accuracy: float  # mean of what was answered, points
    accuracy_bound: float | None  # the most that anyone could have had
    hottest_c: float
    hot_share: float | None  # of time above the limit
    worst_window_w: float | None
    windows_over: float | None  # share of windows over the budget
    lived: float  # share of the lifetime
    battery_left: float | None  # share of what was there


def score(
    device: Device,
    played: Played,
    *,
    bound: EnergyBound | None = None,
    wanted: float | None = None,
    accuracy_bound: float | None = None,
    limit_c: float | None = None,
    watts: float | None = None,
    window_s: float | None = None,
    battery_j: float | None = None,
) -> Score:
    """Everything that a table shows of one run."""
    done = played.point != DROPPED
    accuracy = device.points.accuracy[played.point]
    energy = float(played.energy_j.sum())
    if played.edge_s[-1] > 0:  # a clock that is held up while idle is energy above idle too
        energy = float(played.used_j[-1] - device.idle_w * played.edge_s[-1])
    delivered = float(accuracy[done].mean()) if done.any() else 0.0
    total = above = same = None
    if bound is not None and wanted is not None:
        idle = device.idle_w * played.horizon_s
        least = bound.at(wanted)
        above, total = energy / least, (energy + idle) / (least + idle)
        won = float(np.where(played.on_time, accuracy, 0.0).mean())
        at_won = bound.at(won)
        same = energy / at_won if at_won > 0.1 * least else None  # with many misses the bound says nothing
    worst = over = None
    if watts is not None and window_s is not None:
        found = window_powers(played.edge_s, played.used_j, window_s)
        worst, over = float(found.max()), float((found > watts * (1 + 1e-9)).mean())
    gone = float(np.diff(played.edge_s)[played.celsius[1:] > limit_c].sum()) if limit_c is not None else None
    return Score(
        energy,
        total,
        above,
        same,
        float(1 - played.on_time.mean()),
        delivered,
        accuracy_bound,
        float(played.celsius.max()),
        None if gone is None else gone / played.horizon_s,
        worst,
        over,
        1.0 if played.died_s is None else played.died_s / played.horizon_s,
        None if battery_j is None else 1 - float(played.used_j[-1]) / battery_j,
    )


def window_powers(edge_s: Floats, used_j: Floats, window_s: float) -> Floats:
    """Mean power of windows of that length: all that begin or end where the power changes, and so the worst one too."""
    if edge_s[-1] <= window_s:
        return np.array([used_j[-1] / max(edge_s[-1], 1e-9)])
    begins = np.concatenate([edge_s, edge_s - window_s])
    begins = begins[(begins >= 0) & (begins <= edge_s[-1] - window_s)]  # a sum could round beyond the last one
    return np.asarray((np.interp(begins + window_s, edge_s, used_j) - np.interp(begins, edge_s, used_j)) / window_s)
