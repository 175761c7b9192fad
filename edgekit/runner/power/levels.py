"""Which clock level of an Edge TPU a goal wants. Standard library only.

libedgetpu takes the level when the device is opened, for all that use it: it cannot change from answer to answer, as variants and
threads do, but only by closing the device and opening it again, for which everybody waits. So it is chosen seldom, by the
table and by how many inferences come, and the policy then chooses among the points of that level and those that have none.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.runner.power.feasible import MARGIN
from edgekit.runner.power.goal import Goal
from edgekit.runner.power.hull import least_energy, lower_hull
from edgekit.runner.power.points import Table

USED = 0.7  # of the time at most: what is left keeps a queue short
WORTH = 0.9  # another level must cost so much less to be worth a change


def rows_at(table: Table, level: str) -> list[int]:
    """The rows that can run while the device is open at that level."""
    return [i for i, row in enumerate(table.rows) if row.point.level in ("", level)]


def best_level(goal: Goal, table: Table, *, rate_hz: float = 0.0, now: str = "") -> str:
    """The level that keeps the goal for the least energy above idle, "" for a table without levels; `now` is the one in use."""
    levels = sorted({row.point.level for row in table.rows} - {""})
    fits = [row.accuracy for row in table.rows if row.latency_s * MARGIN <= goal.deadline_s]
    wanted = goal.accuracy if goal.accuracy is not None else max(fits, default=0.0)
    costs = {level: _cost(goal, table, rows_at(table, level), wanted, rate_hz) for level in levels}
    best = min(levels, key=costs.__getitem__, default="")
    if now in costs and costs[now][:2] == costs[best][:2] and costs[best][2] > WORTH * costs[now][2]:
        return now
    return best


def _cost(goal: Goal, table: Table, rows: Sequence[int], wanted: float, rate_hz: float) -> tuple[float, float, float]:
    """How far the level is from keeping up, then from the accuracy, then what an answer costs, J above idle."""
    fits = [i for i in rows if table.rows[i].latency_s * MARGIN <= goal.deadline_s]
    if not fits:
        return 1e9, 0.0, 0.0
    gains = [table.rows[i].accuracy for i in fits]
    seconds = [table.rows[i].latency_s for i in fits]
    energies = [table.energy_j(i) for i in fits]
    busy = least_energy(lower_hull(seconds, gains), seconds, gains, wanted)[0] * rate_hz
    short = max(wanted - max(gains), 0.0)
    return max(busy - USED, 0.0), short, least_energy(lower_hull(energies, gains), energies, gains, wanted)[0]
