"""The lower hull: which operating points are worth mixing. Standard library only.

With one binding average (accuracy, or energy) the optimal mix of points is a linear program with two rows, so an optimal
solution has at most two points, neighbours on the lower convex hull of (accuracy, energy); the slope between them is the
price of accuracy. Kim, Imes and Hoffmann, CPSNA 2015, for speed and power; `edgekit/power/linear.py` is the program.
"""

from __future__ import annotations

from collections.abc import Sequence


def lower_hull(costs: Sequence[float], gains: Sequence[float]) -> list[int]:
    """Indices of the hull's corners, gain and slope rising: the points that are cheapest at some price of gain."""
    hull: list[int] = []
    for i in sorted(range(len(costs)), key=lambda i: (gains[i], -costs[i])):
        while hull and costs[hull[-1]] >= costs[i]:  # costs no less, and gains no more
            hull.pop()
        while len(hull) > 1:
            a, b = hull[-2], hull[-1]
            if (costs[b] - costs[a]) * (gains[i] - gains[a]) < (costs[i] - costs[a]) * (gains[b] - gains[a]):
                break
            hull.pop()
        hull.append(i)
    return hull


def least_energy(
    hull: Sequence[int], costs: Sequence[float], gains: Sequence[float], wanted: float
) -> tuple[float, float]:
    """The mean cost of the best mix with that mean gain, and the price of gain there (0 if the cheapest point suffices).

    `wanted` beyond the most gainful point is taken as that; the price there is that of the last segment.
    """
    first = hull[0]
    if wanted <= gains[first]:
        return costs[first], 0.0
    price = 0.0
    for a, b in zip(hull, hull[1:]):
        price = (costs[b] - costs[a]) / (gains[b] - gains[a])
        if wanted <= gains[b]:
            return costs[a] + price * (wanted - gains[a]), price
    return costs[hull[-1]], price
