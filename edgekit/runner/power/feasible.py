"""Whether a goal can be reached at all, before anything runs; if not, the nearest one that can. Standard library only."""

from __future__ import annotations

import math
from dataclasses import replace

from edgekit.errors import InputError
from edgekit.runner.power.goal import Goal, goal_text
from edgekit.runner.power.hull import least_energy, lower_hull
from edgekit.runner.power.points import Table

MARGIN = 1.05  # of latency: a deadline of exactly the mean would be missed half of the time


def check_goal(goal: Goal, table: Table, *, rate_hz: float | None = None, ambient_c: float | None = None) -> None:
    """Returns if the table says that the goal can be kept; raises InputError with the nearest possible goal otherwise.

    `rate_hz`: how many inferences come on average; without it only one at a time is judged. `ambient_c`: air, for temp<=.
    """
    fastest = min(row.latency_s for row in table.rows)
    if goal.deadline_s < fastest * MARGIN:
        nearest = replace(goal, deadline_s=_up(fastest * MARGIN, 1e-3))
        _refuse(f"no operating point answers within {goal.deadline_s * 1e3:g} ms", nearest)
    fits = [i for i, row in enumerate(table.rows) if row.latency_s * MARGIN <= goal.deadline_s]
    best = max(table.rows[i].accuracy for i in fits)
    if goal.accuracy is not None and goal.accuracy > best:
        slower = [row.latency_s for row in table.rows if row.accuracy >= goal.accuracy]
        more = replace(goal, deadline_s=_up(min(slower) * MARGIN, 1e-3)) if slower else None
        _refuse(
            f"no variant that answers within {goal.deadline_s * 1e3:g} ms reaches {goal.accuracy:g} %",
            replace(goal, accuracy=_down(best, 1e-4)),
            more,
        )
    if rate_hz is not None:
        _check_rate(goal, table, fits, rate_hz)
    _check_power(goal, table, fits, rate_hz or 0.0, ambient_c)


def _check_rate(goal: Goal, table: Table, fits: list[int], rate_hz: float) -> None:
    """The machine must be done with them before the next ones come."""
    latencies = [table.rows[i].latency_s for i in fits]
    accuracies = [table.rows[i].accuracy for i in fits]
    if min(latencies) * rate_hz > 1:
        raise InputError(
            f"{rate_hz:g} inferences a second are more than this board answers",
            hint=f"nearest possible: {_down(1 / min(latencies), 0.1):g} a second",
        )
    if goal.accuracy is None:
        return
    hull = lower_hull(latencies, accuracies)
    if least_energy(hull, latencies, accuracies, goal.accuracy)[0] * rate_hz > 1:
        low, high = min(accuracies), goal.accuracy
        for _ in range(50):
            middle = (low + high) / 2
            fast = least_energy(hull, latencies, accuracies, middle)[0] * rate_hz <= 1
            low, high = (middle, high) if fast else (low, middle)
        _refuse(
            f"at {rate_hz:g} inferences a second {goal.accuracy:g} % takes more time than there is",
            replace(goal, accuracy=_down(low, 1e-4)),
        )


def _check_power(goal: Goal, table: Table, fits: list[int], rate_hz: float, ambient_c: float | None) -> None:
    energies = [table.energy_j(i) for i in fits]
    least = min(energies)
    if goal.accuracy is not None:
        accuracies = [table.rows[i].accuracy for i in fits]
        least = least_energy(lower_hull(energies, accuracies), energies, accuracies, goal.accuracy)[0]
    watts = table.idle_uw / 1e6 + least * rate_hz
    keeping = f"this board idles at {table.idle_uw / 1e6:.3g} W"
    if rate_hz:
        keeping += f" and needs {watts:.3g} W at {rate_hz:g} inferences a second"
    if goal.watts is not None and goal.watts <= watts:
        _refuse(f"{goal.watts:g} W are too few: {keeping}", replace(goal, watts=_up(watts * 1.01, 0.01)))
    if goal.lifetime_s is not None and goal.battery_j is not None and goal.battery_j < watts * goal.lifetime_s:
        _refuse(
            f"the battery does not last {goal.lifetime_s:g} s: {keeping}",
            replace(goal, lifetime_s=_down(goal.battery_j / watts * 0.999, 1.0)),
            replace(goal, battery_j=_up(watts * goal.lifetime_s * 1.001, 1.0)),
        )
    if goal.temp_c is not None and ambient_c is not None and table.heat is not None:
        settled = ambient_c + (table.heat.die_mc_per_w + table.heat.board_mc_per_w) / 1e3 * watts
        if settled > goal.temp_c:
            _refuse(
                f"in air of {ambient_c:g} °C it settles at {settled:.3g} °C: {keeping}",
                replace(goal, temp_c=_up(settled + 0.5, 0.1)),
            )


def _refuse(why: str, *nearest: Goal | None) -> None:
    possible = " or ".join(goal_text(goal) for goal in nearest if goal is not None)
    raise InputError(f"the goal is impossible: {why}", hint=f"nearest possible: {possible}")


def _up(value: float, step: float) -> float:
    return math.ceil(value / step - 1e-9) * step


def _down(value: float, step: float) -> float:
    return math.floor(value / step + 1e-9) * step
