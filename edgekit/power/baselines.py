"""What is run against the policy: governors, a thermal controller, and published schedulers as we understand their papers.

All of them leave out what is late already, and know the rate of arrivals where their paper does. Those that only set clocks
run one variant: the smallest that reaches the accuracy asked for, with all threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from edgekit.power.device import Device
from edgekit.runner.power.goal import Goal
from edgekit.runner.power.points import Table


class Fixed:
    """One point for ever: always-max, always-min, race-to-idle (which differ in where the clock idles), best static."""

    def __init__(self, index: int) -> None:
        self.index = index

    def arrived(self, now_s: float) -> None:
        """Not of interest here, as everything below that is empty."""

    def choose(self, now_s: float, deadlines: Sequence[float]) -> int | None:
        """Always the same."""
        return self.index

    def finished(self, now_s: float, index: int, latency_s: float) -> None:
        """Nothing is learned."""

    def metered(self, seconds: float, energy_j: float | None) -> None:
        """Nothing is learned."""

    def temperature(self, now_s: float, celsius: float | None) -> None:
        """Nothing is learned."""

    def battery(self, left_j: float | None) -> None:
        """Nothing is learned."""


class _Clocked(Fixed):
    """One variant and all threads; the clock follows."""

    def __init__(self, device: Device, variant: str, threads: int) -> None:
        self.clocks = sorted(mhz for v, t, mhz in device.names if (v, t) == (variant, threads))
        self.at = [device.named(variant, threads, mhz) for mhz in self.clocks]
        super().__init__(self.at[-1])
        self.busy_s = 0.0
        self.since_s = 0.0

    def finished(self, now_s: float, index: int, latency_s: float) -> None:
        self.busy_s += latency_s

    def above(self, mhz: float) -> int:
        """The lowest clock that is at least that."""
        return self.at[next((i for i, clock in enumerate(self.clocks) if clock >= mhz), len(self.clocks) - 1)]


class Ondemand(_Clocked):
    """Linux's ondemand: every 100 ms the highest clock above 80 % load, else in proportion to it."""

    def choose(self, now_s: float, deadlines: Sequence[float]) -> int | None:
        elapsed = now_s - self.since_s
        if elapsed >= 0.1:
            load = min(self.busy_s / elapsed, 1.0)
            low, high = self.clocks[0], self.clocks[-1]
            self.index = self.at[-1] if load > 0.8 else self.above(low + load * (high - low))
            self.busy_s, self.since_s = 0.0, now_s
        return self.index


class Schedutil(_Clocked):
    """Linux's schedutil: 1.25 times the utilisation, which fades with a half-life of 32 ms and scales with the clock."""

    utilisation = 0.0
    seen_s = 0.0

    def finished(self, now_s: float, index: int, latency_s: float) -> None:
        self._fade(now_s - latency_s, 0.0)
        self._fade(now_s, self.clocks[self.at.index(index)] / self.clocks[-1])

    def choose(self, now_s: float, deadlines: Sequence[float]) -> int | None:
        self._fade(now_s, 0.0)
        self.index = self.above(1.25 * self.utilisation * self.clocks[-1])
        return self.index

    def _fade(self, now_s: float, towards: float) -> None:
        share = 1 - 0.5 ** (max(now_s - self.seen_s, 0.0) / 0.032)
        self.utilisation += share * (towards - self.utilisation)
        self.seen_s = now_s


class ThermalPid(_Clocked):
    """Linux's power_allocator (IPA): a PI controller on the temperature gives watts, the highest clock within them runs."""

    def __init__(self, device: Device, variant: str, threads: int, *, limit_c: float) -> None:
        super().__init__(device, variant, threads)
        self.power = [float(device.power_w[i]) for i in self.at]
        self.limit, self.sum = limit_c, 0.0
        ambient_c = 25.0  # what sustainable_power in a device tree is made for
        heat = device.heat
        self.sustainable = (limit_c - ambient_c) / (heat.die_resistance + heat.board_resistance)
        self.proportional = 2 * self.sustainable / 10.0

    def temperature(self, now_s: float, celsius: float | None) -> None:
        if celsius is None:
            return
        error = self.limit - celsius
        if abs(error) < 10:
            self.sum += error
        allowed = self.sustainable + self.proportional * error + 0.1 * self.sum
        self.index = max((i for i, w in zip(self.at, self.power, strict=True) if w <= allowed), default=self.at[0])


class Alert(Fixed):
    """ALERT (Wan et al., ATC 2020): one slowdown, its mean and variance, scales a table; for each input the least energy
    that keeps accuracy and deadline with a probability, or the most accuracy within an energy."""

    def __init__(self, goal: Goal, table: Table, *, energy_j: Callable[[float], float] | None = None) -> None:
        super().__init__(0)
        self.goal, self.energy_j = goal, energy_j
        self.latency = np.array([row.latency_s for row in table.rows])
        self.energy = np.array([table.energy_j(i) for i in range(len(table.rows))])
        self.accuracy = np.array([row.accuracy for row in table.rows])
        self.mean, self.variance = 1.0, 0.01
        self.uncertainty, self.gain = 0.01, 0.5

    def choose(self, now_s: float, deadlines: Sequence[float]) -> int | None:
        left = deadlines[0] - now_s
        late = self.latency * (self.mean + 2.88 * math.sqrt(self.variance))  # 99.8 %
        fits = late <= left
        if self.goal.accuracy is not None:
            good = fits & (self.accuracy >= self.goal.accuracy)
            if good.any():
                return int(np.where(good, self.energy, np.inf).argmin())
        elif self.energy_j is not None:
            good = fits & (self.energy * self.mean <= self.energy_j(now_s))
            if good.any():
                return int(np.where(good, self.accuracy - 1e-3 * self.energy, -np.inf).argmax())
            return int(np.where(fits, self.energy, np.inf).argmin()) if fits.any() else int(self.latency.argmin())
        if fits.any():  # accuracy cannot be kept: the best that is in time
            return int(np.where(fits, self.accuracy - 1e-3 * self.energy, -np.inf).argmax())
        return int(self.latency.argmin())

    def finished(self, now_s: float, index: int, latency_s: float) -> None:
        # adaptive Kalman filter: the process noise follows the innovations
        innovation = latency_s / self.latency[index] - self.mean
        noise = 0.001
        self.uncertainty = 0.7 * self.uncertainty + 0.3 * (self.gain * innovation) ** 2
        prior = self.variance * (1 - self.gain) + self.uncertainty
        self.gain = prior / (prior + noise)
        self.mean += self.gain * innovation
        self.variance = max(prior, 0.0036)


class Poet(Fixed):
    """POET (Imes et al., RTAS 2015): the base speed by a Kalman filter, a deadbeat controller for the speed-up that the
    deadline needs, and two points in turns that give it with the least energy. One variant: it knows no accuracy."""

    def __init__(self, table: Table, rows: Sequence[int], goal: Goal) -> None:
        super().__init__(rows[0])
        self.rows = sorted(rows, key=lambda i: -table.rows[i].latency_s)
        slowest = table.rows[self.rows[0]].latency_s
        self.speed = [slowest / table.rows[i].latency_s for i in self.rows]
        self.joules = [table.energy_j(i) for i in self.rows]
        self.slowest, self.goal = slowest, goal
        self.base, self.variance, self.credit = slowest, 1e-6, 0.0

    def choose(self, now_s: float, deadlines: Sequence[float]) -> int | None:
        left = min((d - now_s) / (i + 1) for i, d in enumerate(deadlines))
        wanted = self.base / max(0.8 * left, 1e-6)  # a fifth of reserve, as it has no margin of its own
        best, least = (len(self.rows) - 1, len(self.rows) - 1, 1.0), math.inf
        for low in range(len(self.rows)):
            for high in range(low, len(self.rows)):
                slow, fast = self.speed[low], self.speed[high]
                if fast < wanted:
                    continue
                share = 1.0 if fast == slow or slow >= wanted else (wanted - slow) / (fast - slow)
                joules = share * self.joules[high] + (1 - share) * self.joules[low]
                if joules < least - 1e-12:
                    best, least = (low, high, share), joules
        low, high, share = best
        self.credit += share
        if self.credit >= 1.0 or share >= 1.0 or self.speed[low] < wanted * 0.8:
            self.credit = max(self.credit - 1.0, -1.0)
            return self.rows[high]
        return self.rows[low]

    def finished(self, now_s: float, index: int, latency_s: float) -> None:
        seen = latency_s * self.speed[self.rows.index(index)]
        self.variance += 1e-5 * self.slowest
        gain = self.variance / (self.variance + 0.01 * self.slowest**2)
        self.base += gain * (seen - self.base)
        self.variance *= 1 - gain
