"""Linear programs, solved by scipy's HiGHS: the only file that imports scipy.

Mixes of operating points, fluid bounds of heat, and the discrete-speed schedule that tends to YDS are all made of this.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekit.errors import EdgekitError, InputError, MissingLibrary
from edgekit.power.instance import Floats, Points


@dataclass(frozen=True)
class Solved:
    """The optimum of a linear program: its value, where it lies, and the price of each row (0 for a slack one)."""

    value: float
    at: Floats
    price_at_most: Floats  # of `at_most`: how much the minimum would fall for one more of the right side; >= 0
    price_equal: Floats


def minimize(
    cost: Floats, *, at_most: tuple[Any, Floats] | None = None, equal: tuple[Any, Floats] | None = None, bounds: Any
) -> Solved | None:
    """The minimum of cost . x under rows (matrix, right side); None if nothing fits. Matrices may be sparse."""
    try:
        from scipy.optimize import linprog
    except ImportError as error:
        raise MissingLibrary("the offline optima need scipy", hint="pip install 'edgekit[power]'") from error
    upper, upper_side = at_most if at_most is not None else (None, None)
    exact, exact_side = equal if equal is not None else (None, None)
    found = linprog(cost, upper, upper_side, exact, exact_side, bounds, method="highs")
    if found.status == 2:
        return None
    if found.status != 0:
        raise EdgekitError(f"a linear program was not solved: {found.message}", hint="report it: a fault in edgekit")
    none = np.zeros(0)
    return Solved(
        float(found.fun),
        found.x,
        -found.ineqlin.marginals if upper is not None else none,
        -found.eqlin.marginals if exact is not None else none,
    )


def sparse(rows: list[int], columns: list[int], values: list[float], shape: tuple[int, int]) -> Any:
    """A sparse matrix from its entries."""
    from scipy.sparse import coo_array

    return coo_array((values, (rows, columns)), shape=shape).tocsr()


def best_mix(points: Points, accuracy: float, *, mean_latency_s: float | None = None) -> Solved | None:
    """Shares of each point, with the least mean energy for a mean accuracy (and at most a mean latency); None: impossible.

    A basic solution of k averages uses at most k + 1 points: two for accuracy alone, which is the lower hull.
    """
    if not len(points):
        raise InputError("there is no operating point to mix", hint="calibrate first")
    rows, sides = [-points.accuracy], [-accuracy]
    if mean_latency_s is not None:
        rows.append(points.latency_s)
        sides.append(mean_latency_s)
    one = (np.ones((1, len(points))), np.ones(1))
    return minimize(points.energy_j, at_most=(np.array(rows), np.array(sides)), equal=one, bounds=(0, 1))
