"""How long the next answer may take so that those behind it are in time too. Standard library only."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

AHEAD_S = 0.3  # arrivals of so long are expected to come as fast as the last few
FEW = 6  # arrivals that say how fast they come
MOST_LOOKED_AT = 64  # of a queue: a longer one is overload anyway
SLOW_SHARE = 0.02  # of each gap in the mean rate


class Arrivals:
    """How fast inferences come: now, by the last few, and on average."""

    def __init__(self, rate_hz: float | None = None) -> None:
        self._times = [0.0] * FEW
        self._count = 0
        self._mean_gap = 1.0 / rate_hz if rate_hz else 0.0

    def arrived(self, now_s: float) -> None:
        """One came."""
        if self._count:
            gap = now_s - self._times[(self._count - 1) % FEW]
            if gap >= 0:  # not a clock that was set back
                share = max(SLOW_SHARE, 1.0 / (self._count + 1))
                self._mean_gap += share * (gap - self._mean_gap) if self._mean_gap else gap
            else:
                self._count = 0
        self._times[self._count % FEW] = now_s
        self._count += 1

    def rate_now(self, now_s: float) -> float:
        """Per second, by the last few and by how long ago they came; 0 before the second one."""
        known = min(self._count, FEW)
        if known < 2:
            return 0.0
        elapsed = now_s - self._times[(self._count - known) % FEW]
        last = now_s - self._times[(self._count - 1) % FEW]
        # the gap that is still open counts only once it is longer than the others
        spanned = elapsed - last
        return (known - 1) / spanned if spanned > 0 and last * (known - 1) <= spanned else known / max(elapsed, 1e-6)

    @property
    def mean_rate(self) -> float:
        """Per second, over the last hundred or so; 0 if nobody knows."""
        return 1.0 / self._mean_gap if self._mean_gap > 0 else 0.0


def pace(now_s: float, deadlines: Sequence[float], *, rate_hz: float, deadline_s: float) -> float:
    """Seconds for the answer that starts now, if all that wait, and all that are expected, get as much.

    Optimal Available (Yao, Demers, Shenker 1995; within alpha ** alpha of the optimum, Bansal, Kimbrel, Pruhs 2007): run at
    the speed that the densest of the known intervals needs. Expected arrivals are one more such interval.
    """
    share = (AHEAD_S + deadline_s) / (len(deadlines) + rate_hz * AHEAD_S)
    for count, deadline in enumerate(islice(deadlines, MOST_LOOKED_AT), 1):
        if (deadline - now_s) / count < share:
            share = (deadline - now_s) / count
    return share


def latest(now_s: float, deadlines: Sequence[float], fastest_s: float) -> float:
    """Seconds for the answer that starts now, if all that wait are then answered as fast as can be."""
    least = deadlines[0]
    taken = 0.0
    for deadline in islice(deadlines, MOST_LOOKED_AT):
        if deadline - taken < least:
            least = deadline - taken
        taken += fastest_s
    return least - now_s
