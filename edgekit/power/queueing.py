"""The least energy for a mean accuracy when jobs queue: dynamic programming over (job, backlog) at a price of accuracy.

Backlog is how long the machine is still busy when a job is released; what runs is not interrupted, first come first
served. A backlog rounded down makes every job easier, so the optimum of that is below every schedule: a certified bound.
Rounded up, it gives a schedule that can be run. A job may be left out: no energy, and its accuracy is 0.

By weak duality price * n * accuracy + (least energy - price * accuracy won) is a bound at every price; the best is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from edgekit.power.instance import Floats, Jobs, Points

BINS = 400
DROPPED = -1
_EXACT = 1e-9  # of a bin: what floating point loses on a grid that fits exactly


@dataclass
class EnergyBound:
    """No schedule of these jobs with that mean accuracy (of all jobs; one that is late or left out counts 0) uses less."""

    jobs: int
    values: list[tuple[float, float]] = field(default_factory=list)  # (price in J per point, least priced cost in J)

    def at(self, accuracy: float) -> float:
        """J above idle, for a mean accuracy in points."""
        return max(0.0, max(cost + price * self.jobs * accuracy for price, cost in self.values))

    def accuracy(self, energy_j: float) -> float:
        """The other way round: the most mean accuracy (of all jobs) for so many J above idle."""
        return min((energy_j - cost) / (price * self.jobs) for price, cost in self.values)


def priced_cost(
    jobs: Jobs, points: Points, price: float, *, bins: int = BINS, round_up: bool = False
) -> tuple[float, Floats]:
    """The least of (energy - price * accuracy) over all schedules, J, and the value of each backlog of the first job."""
    first, _ = _recursion(jobs, points, price, bins, round_up, None)
    return float(first[0]), first


def feasible_plan(jobs: Jobs, points: Points, price: float, *, bins: int = BINS) -> tuple[list[int], float, float]:
    """A schedule that meets every deadline it takes on: point of each job (DROPPED: left out), its J, its mean accuracy."""
    chosen = np.empty((len(jobs), bins + 1), dtype=np.int16)
    _recursion(jobs, points, price, bins, True, chosen)
    step = _longest(jobs) / bins
    plan, energy, won, busy = [], 0.0, 0.0, 0.0
    gaps = jobs.gaps_s
    for i in range(len(jobs)):
        point = int(chosen[i, min(bins, int(np.ceil(busy / step - _EXACT)))])
        plan.append(point)
        if point != DROPPED:
            busy += float(jobs.slowdown[i] * points.latency_s[point])
            energy += float(jobs.slowdown[i] * points.energy_j[point])
            won += float(points.accuracy[point])
        busy = max(0.0, busy - float(gaps[i]))
    return plan, energy, won / len(jobs)


def energy_bound(
    jobs: Jobs, points: Points, accuracy: float, *, bins: int = BINS, evaluations: int = 12, near: float | None = None
) -> EnergyBound:
    """The best certified bound for a mean accuracy; the price is searched around `near` if that is given, J per point."""
    points = points.undominated()
    bound = EnergyBound(len(jobs))

    def value(log_price: float) -> float:
        price = float(np.exp(log_price))
        cost = priced_cost(jobs, points, price, bins=bins)[0]
        bound.values.append((price, cost))
        return cost + price * len(jobs) * accuracy

    spread = float(np.ptp(points.energy_j)) or float(points.energy_j[0])
    usual = near or spread / max(float(np.ptp(points.accuracy)), 0.1)
    width = 1.2 if near else 3.0
    maximize(value, np.log(usual) - width, np.log(usual) + width, evaluations)
    return bound


def most_accuracy(jobs: Jobs, points: Points) -> float:
    """The most mean accuracy (of all jobs) that any schedule reaches, whatever it uses: a certified bound too."""
    points = points.undominated()
    used = float(jobs.slowdown.sum() * points.energy_j.max())
    price = 1e3 * (used + 1e-9)  # a point of accuracy is worth more than all that could be used
    return min(float(points.accuracy.max()), (used - priced_cost(jobs, points, price)[0]) / (price * len(jobs)))


def maximize(value: Callable[[float], float], low: float, high: float, evaluations: int) -> float:
    """Golden section for a concave function; the best value seen."""
    golden = (np.sqrt(5) - 1) / 2
    left, right = high - golden * (high - low), low + golden * (high - low)
    at_left, at_right = value(left), value(right)
    best = max(at_left, at_right)
    for _ in range(max(0, evaluations - 2)):
        if at_left >= at_right:
            high, right, at_right = right, left, at_left
            left = high - golden * (high - low)
            at_left = value(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + golden * (high - low)
            at_right = value(right)
        best = max(best, at_left, at_right)
    return float(best)


def _longest(jobs: Jobs) -> float:
    return float((jobs.deadline_s - jobs.release_s).max())


def _recursion(
    jobs: Jobs, points: Points, price: float, bins: int, round_up: bool, chosen: np.ndarray | None
) -> tuple[Floats, float]:
    """The value of every backlog before the first job. `chosen`, if given, is filled with the best point of each state."""
    longest = _longest(jobs)
    step = longest / bins
    backlog = np.arange(bins + 1)
    following = np.zeros(bins + 1)
    gaps, until = jobs.gaps_s / step, (jobs.deadline_s - jobs.release_s) / step
    latency, reward = points.latency_s / step, price * points.accuracy
    for i in range(len(jobs) - 1, -1, -1):
        slow = jobs.slowdown[i]
        taken = latency * slow
        gap = min(gaps[i], 2.0 * bins)
        shift = taken - gap
        shift = np.ceil(shift - _EXACT) if round_up else np.floor(shift + _EXACT)
        after = np.clip(backlog + shift.astype(int)[:, None], 0, bins)
        cost = (slow * points.energy_j - reward)[:, None] + following[after]
        cost[backlog + taken[:, None] > until[i] + _EXACT] = np.inf
        idle = -gap
        dropped = int(np.ceil(idle - _EXACT)) if round_up else int(np.floor(idle + _EXACT))
        left_out = following[np.clip(backlog + dropped, 0, bins)]
        best = cost.min(axis=0)
        if chosen is not None:
            chosen[i] = np.where(best <= left_out, cost.argmin(axis=0), DROPPED)
        following = np.minimum(best, left_out)
    return following, step
