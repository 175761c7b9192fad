"""What is believed of this board right now: how slow it is, what each operating point costs, and how far to trust that.

The table is where it starts; every answer and every look at the meter corrects it. Standard library only.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping

from edgekit.runner.power.points import Table

JUMP = 3.0  # standard deviations: not noise any more, something else runs
FAST, SLOW = 0.5, 0.08  # how much of a surprise is believed, beyond a jump and before it
TABLE_ERROR = 0.04  # relative standard deviation of one point's latency and power, before anything was seen
METER_ERROR = 0.02  # of one look at the meter, idling included; shared by the points that ran meanwhile
WANDERS = 2e-7  # variance that a point's cost gains with each answer: air, supply and silicon drift
LIES = 0.7  # |log| beyond which a correction of the table is not believed: a factor of two
LEAST_SPREAD, MOST_SPREAD = 0.02, 0.3
CAREFUL = 1.5  # standard deviations of a point's power that a budget is charged more


class Margin:
    """How many standard deviations a latency is planned with: adaptive conformal inference (Gibbs and Candès, NeurIPS 2021).

    z rises by g (1 - eps) with each answer that took longer than planned, and falls by g eps with each other one, so

        |share of answers beyond the plan - eps| <= (z_most - z_least + g) / (g n)      for any sequence,

    as long as z stays within its ends (at the upper end the plan is as careful as it can be).
    """

    def __init__(self, eps: float = 0.0005, *, gain: float = 0.5, start: float = 6.0, most: float = 60.0) -> None:
        self.z, self._eps, self._gain, self._most = start, eps, gain, most

    def seen(self, exceeded: bool) -> None:
        """An answer took longer than it was planned, or not."""
        self.z = min(max(self.z + self._gain * ((1.0 if exceeded else 0.0) - self._eps), 0.0), self._most)


class Belief:
    """Latencies and energies of a table's points as they are now.

    One slowdown, common to all points, follows contention and throttling at once; each point's own error is learned
    slowly, as the mean of a Gaussian over its logarithm.
    """

    def __init__(self, table: Table, *, seed: int = 0, learns: bool = True) -> None:
        self._table_latency = [row.latency_s for row in table.rows]
        self._table_power = [max(table.energy_j(i) / row.latency_s, 1e-4) for i, row in enumerate(table.rows)]
        self.spread = [min(max(row.spread_ppm / 1e6, LEAST_SPREAD), MOST_SPREAD) for row in table.rows]
        count = len(table.rows)
        self._off = [0.0] * count  # log of (true latency / table), the mean
        self._off_var = [TABLE_ERROR**2] * count
        self._power_off = [0.0] * count
        self._power_var = [TABLE_ERROR**2] * count
        self._log_slow = 0.0
        self._random = random.Random(seed)  # noqa: S311  # for exploring, not for secrets
        self._learns = learns
        self.latency = list(self._table_latency)  # s, at slowdown 1
        self.energy = [p * s for p, s in zip(self._table_power, self._table_latency)]  # J above idle, at slowdown 1

    @property
    def slow(self) -> float:
        """What every latency is multiplied with now."""
        return math.exp(self._log_slow)

    def finished(self, index: int, latency_s: float) -> None:
        """An answer of that point took so long. Times that cannot be (a clock that was set) are left out."""
        if not 0.0 < latency_s < 1e4 * self._table_latency[index]:
            return
        found = math.log(latency_s / self.latency[index])
        surprise = found - self._log_slow
        noise = self.spread[index]
        jumped = abs(surprise) > JUMP * noise
        self._log_slow += (FAST if jumped else SLOW) * surprise
        self._log_slow = min(max(self._log_slow, -4.0), 6.0)
        if jumped or not self._learns:
            return
        variance = self._off_var[index] + WANDERS
        gain = variance / (variance + 2 * noise**2)  # twice: the slowdown is uncertain too
        self._off[index] = _believable(self._off[index] + gain * surprise)
        self._off_var[index] = variance * (1 - gain)
        self.latency[index] = self._table_latency[index] * math.exp(self._off[index])
        self._update_energy(index)

    def metered(self, energy_j: float, idle_j: float, busy_s: Mapping[int, float]) -> None:
        """The meter counted so much while each point worked for so long; what surprises is shared among them."""
        parts = {i: self._power(i) * s for i, s in busy_s.items() if s > 0}
        expected = sum(parts.values())
        above = energy_j - idle_j
        if not self._learns or expected <= 0 or not 0.2 < above / expected < 5:  # a dead or foreign meter
            return
        surprise = math.log(above / expected)
        noise = METER_ERROR * energy_j / above
        shares = {i: part / expected for i, part in parts.items()}
        total = noise**2 + sum(share * share * self._power_var[i] for i, share in shares.items())
        for i, share in shares.items():
            gain = self._power_var[i] * share / total
            self._power_off[i] = _believable(self._power_off[i] + gain * surprise)
            self._power_var[i] = self._power_var[i] * (1 - gain * share) + WANDERS
            self._update_energy(i)

    def energy_of(self, index: int, latency_s: float) -> float:
        """J above idle of an answer that took so long."""
        return self._power(index) * latency_s

    def careful_energy(self, index: int, latency_s: float) -> float:
        """The same with reserve for what is not known yet of the point's power."""
        return self._power(index) * latency_s * (1 + CAREFUL * math.sqrt(self._power_var[index]))

    def drawn_energy(self, index: int) -> float:
        """The point's energy as one draw of what is believed (Thompson): what is uncertain is tried now and then."""
        if not self._learns:
            return self.energy[index]
        deviation = math.sqrt(self._off_var[index] + self._power_var[index])
        return self.energy[index] * math.exp(self._random.gauss(0.0, deviation))

    def _power(self, index: int) -> float:
        return self._table_power[index] * math.exp(self._power_off[index])

    def _update_energy(self, index: int) -> None:
        self.energy[index] = self._power(index) * self.latency[index]


def _believable(off: float) -> float:
    return min(max(off, -LIES), LIES)
