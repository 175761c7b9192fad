"""What a clairvoyant would know: jobs with their slowdowns, and what each operating point costs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Points:
    """Operating points, one entry each. Energy is above idle: what the machine draws anyway cannot be saved."""

    latency_s: Floats
    energy_j: Floats
    accuracy: Floats  # points of percent

    def __len__(self) -> int:
        return len(self.latency_s)

    def taken(self, which: Any) -> Points:
        """Some of them, by index or mask."""
        return Points(self.latency_s[which], self.energy_j[which], self.accuracy[which])

    def undominated(self) -> Points:
        """Without those that another one beats or equals in latency, energy and accuracy at once."""
        kept: list[int] = []
        for i in np.lexsort((-self.accuracy, self.energy_j, self.latency_s)):
            beaten = any(
                self.latency_s[k] <= self.latency_s[i]
                and self.energy_j[k] <= self.energy_j[i]
                and self.accuracy[k] >= self.accuracy[i]
                for k in kept
            )
            if not beaten:
                kept.append(int(i))
        return self.taken(np.array(kept, dtype=int))


@dataclass(frozen=True)
class Jobs:
    """Inferences in the order of their release. `slowdown` scales latency and energy of whatever point runs the job."""

    release_s: Floats
    deadline_s: Floats
    slowdown: Floats

    def __len__(self) -> int:
        return len(self.release_s)

    def taken(self, which: Any) -> Jobs:
        """Some of them, by index or mask."""
        return replace(
            self,
            release_s=self.release_s[which],
            deadline_s=self.deadline_s[which],
            slowdown=self.slowdown[which],
        )

    @property
    def gaps_s(self) -> Floats:
        """From each release to the next one; after the last one, for ever."""
        return np.append(np.diff(self.release_s), np.inf)
