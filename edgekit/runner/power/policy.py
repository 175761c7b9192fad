"""Which operating point runs the next inference, so that a goal is kept with the least energy, or the most accuracy.

An inference costs energy above idle and wins accuracy; a price of accuracy (J per point) makes both one number, and the
point with the least energy - price * accuracy runs, among those that are in time, within budget and cool enough.
The price is what one learns. With one limit, the optimum is a mix of two points at one fixed price (hull.py).

Guarantees, each a test in tests/test_power_policy.py:

* Accuracy, any arrivals and any noise. log price moves by g (A - a), g = GAIN / span, with each answer (mirror descent on the
  dual: Balseiro, Lu, Mirrokni, Operations Research 2023) and by a bounded memory of what is owed. Summed up, what is owed after
  n answers is (log price_n - log price_1) / g - memory: once the price is so high that a point with a >= A is always taken, it
  falls, so mean accuracy >= A - (constant) / n. Deadlines, budget and heat may take away such points; then A is missed, told
  by `owed`.
* Deadline. What is planned is exceeded by a share eps of answers in the long run, whatever happens (belief.Margin).
* Budget. Energy above idle in any window of W s is at most (B - idle) W by the table and the meter (limits.Bucket).
* Heat. limits.HeatGuard. Battery: spending is re-planned from what is left, and never beyond it.
* Memory is constant: no list grows with time.

Standard library only; times are seconds of a monotonic clock, energies J, accuracy points of percent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from edgekit.runner.power.belief import Belief, Margin
from edgekit.runner.power.goal import Goal
from edgekit.runner.power.hull import least_energy, lower_hull
from edgekit.runner.power.limits import heat_guard, window_bucket
from edgekit.runner.power.pace import Arrivals, latest, pace
from edgekit.runner.power.points import Table

GAIN = 0.019  # of the price's logarithm, per answer and accuracy owed, as a share of what the variants span
MEMORY = 2000.0  # answers within which owed accuracy is paid back
MOST_REMEMBERED = 30.0  # times what the variants span: what memory may ask for beyond what is owed
ENERGY_GAIN = 0.004  # of the price's logarithm, per answer that used twice what it may
REFRESH = 20  # answers after which the candidates are chosen anew
METER_S = 1.0  # the meter is believed over at least so long
USUAL = 0.001  # of each answer in the slowdown that the price takes for granted
RESERVE = 2.5  # of the cheapest answer stays in a bucket, so that the next one is not left out
CROWDED = 1.5  # times slower than the table: something else runs
MOST_MARGIN = 2.0  # times the latency, whatever the margin says: with such noise nothing is safe
FREE = 1e6  # J per point: accuracy at any price
BUCKET_S = 0.5  # within which a bucket is brought back to half full


class Policy:
    """Chooses an operating point for each inference. One thread, first come first served.

    Called in this order: `arrived` for each inference as it comes, `choose` when the machine is free and one waits,
    `finished` with the time that it took. `metered`, `temperature` and `battery` whenever there is something to tell.
    `jobs_left` says how many inferences are still expected until the lifetime ends; without it the mean rate does.
    """

    def __init__(
        self,
        goal: Goal,
        table: Table,
        *,
        now_s: float = 0.0,
        seed: int = 0,
        rate_hz: float | None = None,
        jobs_left: Callable[[float], float] | None = None,
        learns: bool = True,
    ) -> None:
        self.goal, self.table = goal, table
        self.idle_w = table.idle_uw / 1e6
        self.belief = Belief(table, seed=seed, learns=learns)
        self.margin = Margin()
        self.owed = 0.0  # points of accuracy: what is missing to the goal so far
        self.used_j = 0.0  # above idle, as it was believed when it was used
        self._won = self._answers = 0.0
        self._memory = self._usual_slow = 0.0  # the latter: logarithm, over a thousand answers
        self._accuracy = [row.accuracy for row in table.rows]
        self._span = max(max(self._accuracy) - min(self._accuracy), 0.01)
        self._arrivals = Arrivals(rate_hz)
        self._jobs_left = jobs_left
        self._started = self._now = now_s
        self._spent_at: float | None = None
        self._battery = goal.battery_j
        self._planned = 0.0  # latency that the running answer was planned with
        self._busy: dict[int, float] = {}
        self._since_refresh = REFRESH
        self._log_price = self._log_fast = 0.0  # corrections of what the hull says
        self._candidates: list[tuple[float, float, float, float, int]] = []
        self._hull: list[tuple[float, float]] = []
        self._fastest = self._least = 0.0
        self._cheapest = 0
        self._first_price = FREE
        fits = self.restrict(range(len(table.rows)))
        self._bucket, self._window_w = window_bucket(goal, self.idle_w, min(self.belief.energy[i] for i in fits), now_s)
        self._heat, self._heat_bucket = heat_guard(goal, table, self.idle_w, now_s)

    @property
    def mean_accuracy(self) -> float | None:
        """Points, of all answers so far; None before the first one."""
        return self._won / self._answers if self._answers else None

    @property
    def rate_hz(self) -> float:
        """How many inferences come a second, on average or now if that is more; 0 if nobody knows."""
        return max(self._arrivals.mean_rate, self._arrivals.rate_now(self._now))

    def restrict(self, rows: Sequence[int]) -> list[int]:
        """From now on one of these rows of the table; which of them can be in time at all. All else that was learned stays."""
        self._rows = rows
        fits = [i for i in rows if self.table.rows[i].latency_s <= self.goal.deadline_s] or list(rows)
        if self.goal.accuracy is not None:
            energies, gains = [self.belief.energy[i] for i in fits], [self._accuracy[i] for i in fits]
            # the cheapest point at all wins if any accuracy will do: the price must still move both ways from there
            self._first_price = (
                least_energy(lower_hull(energies, gains), energies, gains, self.goal.accuracy)[1] or 1e-6
            )
        self._refresh()
        return fits

    def arrived(self, now_s: float) -> None:
        """An inference came."""
        self._arrivals.arrived(now_s)

    def choose(self, now_s: float, deadlines: Sequence[float]) -> int | None:
        """The row of the table for the inference that waits longest; None: leave it out, it would be late or over a limit.

        `deadlines`: of all that wait, in their order.
        """
        self._now = now_s
        slow = self.belief.slow
        fastest = self._fastest * slow
        flows = self._flows(now_s)
        if fastest > deadlines[0] - now_s:
            return None
        rate = self._arrivals.rate_now(now_s)
        spendable = min((fill for fill, _, _ in flows), default=math.inf)
        price = self._price(now_s, slow, rate, flows)
        room = latest(now_s, deadlines, fastest)
        wanted = pace(now_s, deadlines, rate_hz=rate, deadline_s=self.goal.deadline_s)
        best = late = -1
        best_score = late_score = math.inf
        reserve = RESERVE * self._least * slow
        spendable -= reserve
        z = self.margin.z
        for latency, spread, energy, accuracy, index in self._candidates:
            energy *= slow
            # what is left must be enough for the cheapest one after it
            if energy > spendable and (index != self._cheapest or energy > spendable + reserve):
                continue
            score = energy - price * accuracy
            expected = latency * slow
            margin = z * spread
            if expected * (1 + (margin if margin < MOST_MARGIN else MOST_MARGIN)) > room:
                continue
            if expected <= wanted:
                if score < best_score:
                    best, best_score = index, score
            elif score < late_score:
                late, late_score = index, score
        if best < 0:
            best = self._hurried(late, spendable + reserve, slow, deadlines[0] - now_s)
        if best < 0:
            return None
        self._planned = self.belief.latency[best] * slow * (1 + z * self.belief.spread[best])
        return best

    def finished(self, now_s: float, index: int, latency_s: float) -> None:
        """The inference that was chosen last is done, and took so long."""
        self._now = now_s
        belief = self.belief
        self.margin.seen(latency_s > self._planned)
        belief.finished(index, latency_s)
        used = belief.energy_of(index, latency_s)
        self._usual_slow += max(USUAL, 1 / (self._answers + 1)) * (math.log(belief.slow) - self._usual_slow)
        self._busy[index] = self._busy.get(index, 0.0) + latency_s
        self.used_j += used
        self._won += self._accuracy[index]
        self._answers += 1
        if self._bucket is not None:
            self._bucket.take(belief.careful_energy(index, latency_s))
        if self._heat_bucket is not None:
            self._heat_bucket.take(used)
        if self.goal.accuracy is not None:
            self._owe(self.goal.accuracy - self._accuracy[index])
        self._spent(now_s, used)
        self._since_refresh += 1
        if self._since_refresh >= REFRESH:
            self._refresh()

    def metered(self, seconds: float, energy_j: float | None) -> None:
        """The machine used so much within the last `seconds`, idling included; None: the meter did not answer."""
        busy, self._busy = self._busy, {}
        if energy_j is not None and 0 < seconds < 1e5 and math.isfinite(energy_j):
            self.belief.metered(energy_j, self.idle_w * seconds, busy)
        if self._heat is not None:
            work = sum(self.belief.energy_of(i, s) for i, s in busy.items())
            power = self.idle_w + work / max(seconds, 1e-3) if energy_j is None else energy_j / max(seconds, 1e-3)
            self._heat.drew(self._now, power, seconds)

    def temperature(self, now_s: float, celsius: float | None) -> None:
        """What the hottest sensor says; None if none answers."""
        if self._heat is not None:
            self._heat.looked(now_s, celsius)

    def battery(self, left_j: float | None) -> None:
        """What is left; None if no gauge answers, and then the policy counts itself."""
        if left_j is not None and math.isfinite(left_j) and left_j >= 0:
            self._battery = left_j

    def _price(self, now_s: float, slow: float, rate_now: float, flows: Sequence[tuple[float, float, float]]) -> float:
        """What a point of accuracy may cost now, J."""
        price = FREE
        if self.goal.accuracy is not None:  # a board that is slower than its table for long pays more for everything
            price = self._first_price * math.exp(self._log_price + self._usual_slow)
        target = self._target(now_s)
        if target is not None:
            soft = self._hull_price(target)
            price = min(price, soft * math.exp(self._log_fast))
        rate = max(self._arrivals.mean_rate, rate_now)
        for fill, depth, watts in flows:
            if rate:
                back = (fill - depth / 2) / BUCKET_S
                price = min(price, slow * self._hull_price((watts + back) / rate / slow))
        return price

    def _flows(self, now_s: float) -> list[tuple[float, float, float]]:
        """Of each bucket that limits what may be spent: J in it, J at most, and the W that flow into it now."""
        flows = []
        if self._bucket is not None:
            flows.append((self._bucket.fill(now_s, self._window_w), self._bucket.depth_j, self._window_w))
        if self._heat is not None and self._heat_bucket is not None:
            watts = self._heat.allowed_w(now_s) - self.idle_w
            flows.append((self._heat_bucket.fill(now_s, watts), self._heat_bucket.depth_j, watts))
        return flows

    def _target(self, now_s: float) -> float | None:
        """J above idle per answer that the battery allows on average; None: as many as one likes."""
        if self.goal.lifetime_s is not None and self._battery is not None:
            left_s = self._started + self.goal.lifetime_s - now_s
            jobs = self._jobs_left(now_s) if self._jobs_left is not None else self._arrivals.mean_rate * left_s
            if left_s > 0 and jobs > 0:
                return max(self._battery - self.idle_w * left_s, 0.0) / max(jobs, 1.0)
        return None

    def _hull_price(self, energy_j: float) -> float:
        """The price at which the best mix costs about so much per answer, J per point."""
        before, from_j = 0.0, 0.0
        for cost, price in self._hull:
            if cost > energy_j:
                return before + (price - before) * (energy_j - from_j) / (cost - from_j)
            before, from_j = price, cost
        return FREE

    def _owe(self, points: float) -> None:
        self.owed += points
        most = MOST_REMEMBERED * self._span
        self._memory = min(max(self._memory + self.owed / MEMORY, -most), most)
        self._log_price = min(max(GAIN / self._span * (self.owed + self._memory), -7.0), 7.0)

    def _spent(self, now_s: float, used: float) -> None:
        if self._battery is not None:
            elapsed = 0.0 if self._spent_at is None else now_s - self._spent_at
            self._spent_at = now_s
            self._battery = max(0.0, self._battery - used - self.idle_w * min(max(elapsed, 0.0), 3600.0))
        target = self._target(now_s)
        if target:
            step = ENERGY_GAIN * (1 - min(used / target, 4.0))
            self._log_fast = min(max(self._log_fast + step, -2.0), 2.0)

    def _hurried(self, late: int, spendable: float, slow: float, left_s: float) -> int:
        """When nothing is fast enough with its margin: what keeps the queue in time, else the fastest that may run."""
        if late >= 0:
            return late
        best, least = -1, math.inf
        for latency, _, energy, _, index in self._candidates:
            # where others want the cores, threads wait for one another
            weighed = latency * math.sqrt(self.table.rows[index].point.threads) if slow > CROWDED else latency
            if energy * slow <= spendable and latency * slow <= left_s and weighed < least:
                best, least = index, weighed
        return best

    def _refresh(self) -> None:
        """New candidates: for each variant the points that no other one beats, by energies drawn from what is believed."""
        self._since_refresh = 0
        belief = self.belief
        latency, spread = belief.latency, belief.spread
        order = sorted(self._rows, key=latency.__getitem__)
        self._fastest = latency[order[0]]
        least: dict[float, float] = {}
        candidates = []
        for i in order:
            energy, accuracy = belief.drawn_energy(i), self._accuracy[i]
            if energy < least.get(accuracy, math.inf):
                least[accuracy] = energy
                candidates.append((latency[i], spread[i], energy, accuracy, i))
        self._candidates = candidates
        self._least, self._cheapest = min((c[2], c[4]) for c in candidates)
        fits = [c for c in candidates if c[0] <= self.goal.deadline_s] or candidates[:1]
        costs, gains = [c[2] for c in fits], [c[3] for c in fits]
        hull = lower_hull(costs, gains)
        slopes = [(costs[b] - costs[a]) / (gains[b] - gains[a]) for a, b in zip(hull, hull[1:])]
        # a corner's price is between those of its segments; in between it rises, so that every mix has a price of its own
        between = zip([0.0, *slopes], [*slopes, FREE])
        self._hull = [(costs[k], (low + min(high, 2 * low or high)) / 2) for k, (low, high) in zip(hull, between)]
