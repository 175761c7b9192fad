"""Limits on power over time: a budget for every window, and heat. Standard library only."""

from __future__ import annotations

import math

from edgekit.runner.power.goal import DEFAULT_WINDOW_S, Goal
from edgekit.runner.power.points import Heat, Table

AHEAD_S = 200.0  # heat is planned so far ahead: spending it at once wins less than spending it evenly
LOST_S = 5.0  # without a temperature after that, only the model is left
BLIND_C = 2.0  # and it is believed with so much less room
MARGIN_C = 0.45  # below the limit: a Pi steps by 0.55 °C, half of that may be hidden, and a little

UNKNOWN_HEAT = Heat(1500, 4000, 9000, 200_000, "estimated")  # a bare board the size of a card, with some reserve
HEAT_AHEAD_J = 1.0  # may be spent before its heat has to be gone
STEP = 0.125  # of the die's time constant: what the model goes on by at once
DEPTH = 0.02  # of a window's energy may be taken at once


class Bucket:
    """Leaky bucket: what is taken within any stretch of t seconds is at most rate * t + depth (Cruz, 1991).

    With rate * W + depth <= budget, no window of W is over its budget. It holds for any clock: one that jumps ahead
    brings no more than `depth`, one that is set back brings nothing.
    """

    def __init__(self, depth_j: float, now_s: float) -> None:
        self.depth_j, self._left, self._seen = depth_j, depth_j, now_s

    def fill(self, now_s: float, rate_w: float) -> float:
        """J that may be taken now; below 0 after more was taken than was there."""
        elapsed = now_s - self._seen
        self._seen = now_s
        if elapsed > 0:
            self._left = min(self.depth_j, self._left + max(rate_w, 0.0) * elapsed)
        return self._left

    def take(self, energy_j: float) -> None:
        """What was really used, be it more than was there."""
        self._left -= energy_j


class HeatGuard:
    """The power that keeps the hottest sensor below a limit: a control barrier over die and board.

    What is drawn heats the die, whose heat flows into the board through R_die, and on into the air. Power is allowed so
    that neither the die, once it has settled on the board as it is now, nor both a while ahead reach the limit; for the
    fitted two nodes {T <= limit} is then invariant. The air's temperature is not known and is what the observer learns.
    """

    def __init__(
        self,
        limit_c: float,
        *,
        die_c_per_w: float,
        die_tau_s: float,
        board_c_per_w: float,
        board_tau_s: float,
        idle_w: float,
    ) -> None:
        self._limit = limit_c - MARGIN_C
        self._die_r, self._board_r, self._tau = die_c_per_w, board_c_per_w, board_tau_s
        self._die_tau, self._idle = die_tau_s, idle_w
        self._board: float | None = None
        self._die = self._air = 0.0
        self._power = idle_w  # the mean of the last seconds, until the first temperature
        self._seen_s: float | None = None

    def drew(self, now_s: float, power_w: float, seconds: float) -> None:
        """The machine drew so much for so long; the model goes on by that."""
        seconds = min(max(seconds, 0.0), 10.0)
        if self._board is None:
            self._power += (power_w - self._power) * (1 - math.exp(-seconds / self._die_tau))
        else:
            steps = math.ceil(seconds / (STEP * self._die_tau)) or 1
            part = seconds / steps
            for _ in range(steps):
                flow = (self._die - self._board) / self._die_r
                self._die += part / self._die_tau * (power_w - flow) * self._die_r
                self._board += part / self._tau * (flow * self._board_r + self._air - self._board)

    def looked(self, now_s: float, celsius: float | None) -> None:
        """What the hottest sensor says; None if it does not answer."""
        if celsius is None or not -40.0 < celsius < 150.0:
            return
        if self._board is None or self._seen_s is None:
            self._board, self._die, self._seen_s = celsius - self._die_r * self._power, celsius, now_s
            self._air = (
                self._board - self._board_r * self._power
            )  # as if it had settled: the hottest air that explains it
            return
        elapsed = min(max(now_s - self._seen_s, 0.0), 10.0)
        self._seen_s = now_s
        surprise = celsius - self._die
        gain = 1 - math.exp(-elapsed / 20.0)
        self._die += surprise * gain
        self._board += surprise * gain
        self._air = min(max(self._air + surprise * min(0.5, elapsed * 0.02), -40.0), 90.0)

    def allowed_w(self, now_s: float) -> float:
        """For the whole machine, from now on; idle power if nothing is known yet."""
        if self._board is None or self._seen_s is None:
            return self._idle
        limit = self._limit - (BLIND_C if now_s - self._seen_s > LOST_S else 0.0)
        stays = math.exp(-AHEAD_S / self._tau)
        # board(t) + R_die P <= limit, with board(t) = board stays + (air + R_board P) (1 - stays)
        later = (limit - self._board * stays - self._air * (1 - stays)) / (self._die_r + self._board_r * (1 - stays))
        return min((limit - self._board) / self._die_r, later)


def window_bucket(goal: Goal, idle_w: float, least_j: float, now_s: float) -> tuple[Bucket | None, float]:
    """The bucket of a power budget, and the W above idle that flow into it."""
    if goal.watts is None:
        return None, 0.0
    window = goal.window_s or DEFAULT_WINDOW_S
    energy = max(goal.watts - idle_w, 0.0) * window
    depth = min(max(DEPTH * energy, 2.5 * least_j), energy)
    return Bucket(depth, now_s), (energy - depth) / window


def heat_guard(goal: Goal, table: Table, idle_w: float, now_s: float) -> tuple[HeatGuard | None, Bucket | None]:
    """The guard of a temperature, and the bucket that its power flows into."""
    if goal.temp_c is None:
        return None, None
    heat = table.heat or UNKNOWN_HEAT
    guard = HeatGuard(
        goal.temp_c,
        die_c_per_w=heat.die_mc_per_w / 1e3,
        die_tau_s=heat.die_tau_ms / 1e3,
        board_c_per_w=heat.board_mc_per_w / 1e3,
        board_tau_s=heat.board_tau_ms / 1e3,
        idle_w=idle_w,
    )
    return guard, Bucket(HEAT_AHEAD_J, now_s)
