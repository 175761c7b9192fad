"""One variant at any speed: the optimal schedule of Yao, Demers and Shenker (FOCS 1995), and its program of few speeds.

Work is in s at speed 1, power at speed s is s ** alpha; jobs may be interrupted, so both are below what a runner can do.
"""

from __future__ import annotations

import numpy as np

from edgekit.power.instance import Floats
from edgekit.power.linear import minimize


def yds_energy(release: Floats, deadline: Floats, work: Floats, alpha: float) -> float:
    """The least energy: run the densest interval at its density, cut it out of time, go on with the rest."""
    left = [(float(r), float(d), float(w)) for r, d, w in zip(release, deadline, work, strict=True)]
    energy = 0.0
    while left:
        densest, begin, end = -1.0, 0.0, 0.0
        for start in {r for r, _, _ in left}:
            for stop in {d for _, d, _ in left if d > start}:
                density = sum(w for r, d, w in left if r >= start and d <= stop) / (stop - start)
                if density > densest:
                    densest, begin, end = density, start, stop
        energy += densest**alpha * (end - begin)
        rest = [(r, d, w) for r, d, w in left if not (r >= begin and d <= end)]
        cut = end - begin
        left = [(_without(r, begin, end, cut), _without(d, begin, end, cut), w) for r, d, w in rest]
    return energy


def _without(time: float, begin: float, end: float, cut: float) -> float:
    return time if time <= begin else max(begin, time - cut)


def discrete_energy(release: Floats, deadline: Floats, work: Floats, alpha: float, speeds: Floats) -> float | None:
    """The least energy with these speeds only, each job by turns at several if need be; None if they are too slow."""
    edges = np.unique(np.concatenate([release, deadline]))
    lengths = np.diff(edges)
    jobs, kinds, slots = len(work), len(speeds), len(lengths)
    shape = (jobs, slots, kinds)
    inside = (release[:, None] <= edges[:-1]) & (deadline[:, None] >= edges[1:])
    at_most = np.zeros((slots, *shape))
    equal = np.zeros((jobs, *shape))
    for s in range(slots):
        at_most[s, :, s, :] = 1.0
    for j in range(jobs):
        equal[j, j, inside[j], :] = speeds
    cost = np.broadcast_to(speeds**alpha, shape).ravel()
    bounds = [(0.0, None if inside[j, s] else 0.0) for j in range(jobs) for s in range(slots) for _ in range(kinds)]
    found = minimize(
        cost, at_most=(at_most.reshape(slots, -1), lengths), equal=(equal.reshape(jobs, -1), work), bounds=bounds
    )
    return None if found is None else found.value
