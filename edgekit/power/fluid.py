"""The most accuracy under a limit on energy or heat, with no queue: bounds that hold for every schedule, by weak duality.

A limit has a price (J are worth points); each job then takes the point with the best accuracy minus price, and whatever
the price, the sum is above what any schedule can reach. Linear programs find good prices; they need not be exact.

Heat is two nodes, die on board. Over a slot each node's balance holds exactly for the slot's mean temperatures, and a
mean of what stays below the limit is below the limit, so the program is a relaxation whatever happens within a slot.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgekit.power.instance import Floats, Jobs, Points
from edgekit.power.linear import Solved, minimize, sparse
from edgekit.power.queueing import maximize


@dataclass(frozen=True)
class HeatModel:
    """Die on board in air: resistances in °C per W, time constants in s (each node alone), temperatures in °C."""

    die_resistance: float
    die_tau_s: float
    board_resistance: float
    board_tau_s: float
    ambient_c: float

    @property
    def die_capacity(self) -> float:
        """J per °C."""
        return self.die_tau_s / self.die_resistance

    @property
    def board_capacity(self) -> float:
        """J per °C."""
        return self.board_tau_s / self.board_resistance

    def settled(self, power_w: float) -> tuple[float, float]:
        """Die and board after a long time at one power."""
        board = self.ambient_c + self.board_resistance * power_w
        return board + self.die_resistance * power_w, board

    def after(self, die: float, board: float, power_w: float, seconds: float) -> tuple[float, float]:
        """Die and board some time later, in steps of a twentieth of the faster time constant."""
        steps = max(1, int(np.ceil(seconds / (0.05 * self.die_tau_s))))
        step = seconds / steps
        for _ in range(steps):
            flow = (die - board) / self.die_resistance
            lost = (board - self.ambient_c) / self.board_resistance
            die += step * (power_w - flow) / self.die_capacity
            board += step * (flow - lost) / self.board_capacity
        return die, board


def won_at(
    jobs: Jobs, points: Points, price: Floats | float, price_of_time: Floats | float = 0.0
) -> tuple[float, float]:
    """The most of (accuracy - price * energy - price_of_time * latency) over all jobs, each alone, and the J of that."""
    prices = np.broadcast_to(np.asarray(price, dtype=float), len(jobs))
    per_second = np.broadcast_to(np.asarray(price_of_time, dtype=float), len(jobs))
    until = jobs.deadline_s - jobs.release_s
    best, energy = np.zeros(len(jobs)), np.zeros(len(jobs))
    for latency, joules, accuracy in zip(points.latency_s, points.energy_j, points.accuracy, strict=True):
        fits = jobs.slowdown * latency <= until
        gain = np.where(fits, accuracy - jobs.slowdown * (prices * joules + per_second * latency), 0.0)
        better = gain > best
        best = np.where(better, gain, best)
        energy = np.where(better, jobs.slowdown * joules, energy)
    return float(best.sum()), float(energy.sum())


def accuracy_bound(jobs: Jobs, points: Points, energy_j: float) -> float:
    """No schedule that uses at most this energy above idle has a higher mean accuracy of all jobs (late or left out: 0)."""
    points = points.undominated()

    def value(log_price: float) -> float:
        price = float(np.exp(log_price))
        return -(won_at(jobs, points, price)[0] + price * energy_j)

    free = won_at(jobs, points, 0.0)[0]
    usual = np.log(max(float(np.ptp(points.accuracy)), 0.1) / (float(np.ptp(points.energy_j)) or 1.0))
    return min(free, -maximize(value, usual - 6, usual + 6, 40)) / len(jobs)


def heat_bound(
    jobs: Jobs,
    points: Points,
    heat: HeatModel,
    *,
    idle_w: float,
    limit_c: float,
    start: tuple[float, float],
    slot_s: float,
) -> tuple[float, float]:
    """The most mean accuracy of all jobs that keeps the die at or below `limit_c`, and the J above idle of that program.

    `start`: die and board, °C. Raises nothing if even idling is too hot: the bound is then 0.
    """
    points = points.undominated()
    slots = max(1, int(np.ceil((float(jobs.deadline_s.max()) + 1e-9) / slot_s)))
    of_job = np.minimum((jobs.release_s / slot_s).astype(int), slots - 1)
    last = np.minimum((jobs.deadline_s / slot_s).astype(int), slots - 1)
    counts = np.bincount(of_job, minlength=slots)
    slow = np.bincount(of_job, jobs.slowdown, minlength=slots) / np.maximum(counts, 1)
    hottest = _hottest(slots, slot_s, heat, idle_w, limit_c, start)
    # what is released within a slot runs within it and one deadline more
    busy_s = np.full(slots, slot_s + float((jobs.deadline_s - jobs.release_s).max()))
    coarse = _program(hottest, counts.astype(float), slow, points, busy_s)
    if coarse is None:
        return 0.0, 0.0
    energy = coarse.at[: slots * len(points)].reshape(slots, -1) @ points.energy_j
    price = np.maximum(coarse.price_equal[:slots], 0.0)  # points per J of each slot
    matrix, side, exact, exact_side, bounds = hottest
    cost = np.zeros(5 * slots)
    cost[:slots] = -price
    dearest = minimize(cost, at_most=(matrix, side), equal=(exact, exact_side), bounds=bounds)
    assert dearest is not None
    # a job may run in any slot from its release to its deadline: the cheapest of them bounds them all
    each = np.minimum(price[of_job], price[last])
    hurry = np.maximum(coarse.price_at_most[slots : 2 * slots], 0.0)  # points per s of each slot
    won, _ = won_at(jobs, points, each, hurry[of_job])
    return (won - dearest.value + float(hurry @ busy_s)) / len(jobs), float((energy * slow).sum())


_Program = tuple[object, Floats, object, Floats, list[tuple[float | None, float | None]]]


def _hottest(
    slots: int, slot_s: float, heat: HeatModel, idle_w: float, limit_c: float, start: tuple[float, float]
) -> _Program:
    """Rows over (energy, die at the end, board at the end, mean die, mean board) of each slot: what heat allows."""
    rows: list[int] = []
    columns: list[int] = []
    values: list[float] = []
    side = np.zeros(2 * slots)

    def put(row: int, column: int, value: float) -> None:
        rows.append(row)
        columns.append(column)
        values.append(value)

    for s in range(slots):
        die, board = 2 * s, 2 * s + 1
        put(die, s, 1.0)  # E = C (die after - before) + (mean die - mean board) slot / R - idle
        put(die, slots + s, -heat.die_capacity)
        put(die, 3 * slots + s, -slot_s / heat.die_resistance)
        put(die, 4 * slots + s, slot_s / heat.die_resistance)
        side[die] = -idle_w * slot_s
        put(board, 2 * slots + s, heat.board_capacity)
        put(board, 3 * slots + s, -slot_s / heat.die_resistance)
        put(board, 4 * slots + s, slot_s / heat.die_resistance + slot_s / heat.board_resistance)
        side[board] = heat.ambient_c * slot_s / heat.board_resistance
        if s:
            put(die, slots + s - 1, heat.die_capacity)
            put(board, 2 * slots + s - 1, -heat.board_capacity)
        else:
            side[die] -= heat.die_capacity * start[0]
            side[board] += heat.board_capacity * start[1]
    exact = sparse(rows, columns, values, (2 * slots, 5 * slots))
    rows, columns, values = [], [], []
    # within a slot the board rises no faster than a die at the limit heats it, and falls no faster than in air
    rises = float(np.exp(-slot_s / (heat.die_resistance * heat.board_capacity)))
    falls = float(np.exp(-slot_s / heat.board_tau_s))
    slack = np.tile([limit_c * (1 - rises), limit_c * (1 - rises), -heat.ambient_c * (1 - falls)], slots)
    for s in range(slots):
        put(3 * s, 2 * slots + s, 1.0)  # end of the slot and its mean
        put(3 * s, 4 * slots + s, -rises)
        put(3 * s + 1, 4 * slots + s, 1.0)  # its mean and its begin
        put(3 * s + 2, 4 * slots + s, -1.0)
        if s:
            put(3 * s + 1, 2 * slots + s - 1, -rises)
            put(3 * s + 2, 2 * slots + s - 1, falls)
        else:
            slack[1] += rises * start[1]
            slack[2] -= falls * start[1]
    slowly = sparse(rows, columns, values, (3 * slots, 5 * slots))
    bounds: list[tuple[float | None, float | None]] = [(0.0, None)] * slots
    # a board is never hotter than its die, nor colder than air and its own start
    board_bounds = (min(heat.ambient_c, start[1]), limit_c)
    bounds += ([(None, limit_c)] * slots + [board_bounds] * slots) * 2
    return slowly, slack, exact, side, bounds


def _program(hottest: _Program, counts: Floats, slow: Floats, points: Points, busy_s: Floats) -> Solved | None:
    """Jobs of each slot by point (all of one mean slowdown) beside what heat allows; the most accuracy."""
    slowly, slack, exact, exact_side, bounds = hottest
    slots, kinds = len(counts), len(points)
    jobs = slots * kinds
    heat_rows, heat_columns = exact.nonzero()  # type: ignore[attr-defined]
    heat_values = exact[heat_rows, heat_columns]  # type: ignore[index]
    index = np.arange(jobs)
    rows = [*(index // kinds), *range(slots), *(heat_rows + slots)]
    columns = [*index, *(jobs + np.arange(slots)), *(heat_columns + jobs)]
    values = [*(np.repeat(slow, kinds) * np.tile(points.energy_j, slots)), *(-np.ones(slots)), *heat_values]
    equal = sparse(rows, columns, values, (3 * slots, jobs + 5 * slots))
    latencies = np.repeat(slow, kinds) * np.tile(points.latency_s, slots)
    of_slot = [int(i) for i in index // kinds]
    slow_rows, slow_columns = slowly.nonzero()  # type: ignore[attr-defined]
    at_most = sparse(
        [*of_slot, *(index // kinds + slots), *(slow_rows + 2 * slots)],
        [*index, *index, *(slow_columns + jobs)],
        [*np.ones(jobs), *latencies, *slowly[slow_rows, slow_columns]],  # type: ignore[index]
        (5 * slots, jobs + 5 * slots),
    )
    cost = np.concatenate([-np.tile(points.accuracy, slots), np.zeros(5 * slots)])
    return minimize(
        cost,
        at_most=(at_most, np.concatenate([counts, busy_s, slack])),
        equal=(equal, np.concatenate([np.zeros(slots), exact_side])),
        bounds=[(0.0, None)] * jobs + bounds,
    )
