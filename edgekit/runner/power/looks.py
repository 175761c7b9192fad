"""Tells a policy what the sensors of this machine say: energy since the last look, the hottest sensor, what a battery holds."""

from __future__ import annotations

from edgekit.errors import InputError
from edgekit.runner.power.board import Board, main_meter
from edgekit.runner.power.energy import Energies
from edgekit.runner.power.goal import Goal
from edgekit.runner.power.policy import Policy
from edgekit.runner.power.reading import ABSENT
from edgekit.runner.power.thermal import hottest_mc
from edgekit.runner.power.trace import TraceWriter

EVERY_MS = 1000


class Looks:
    """One look at a time; a sensor that does not answer is told as such, and time that nobody measured adds nothing."""

    def __init__(self, board: Board, *, covers: str = "board") -> None:
        self._board, self._covers = board, covers
        self._energies = Energies(EVERY_MS)
        self._counted_uj = self._covered_ms = 0
        self._has_gauge = False
        self.at_s = 0.0
        self.used_j: float | None = None  # of what `covers` says, since the first look; None: no meter of all of it
        self.hottest_c: float | None = None  # so far

    @property
    def has_meter(self) -> bool:
        """Whether the machine's energy was measured at all."""
        return self.used_j is not None

    def check(self, goal: Goal) -> None:
        """After the first look: raises InputError for a goal of something that no sensor here tells."""
        if goal.temp_c is not None and self.hottest_c is None:
            raise InputError(
                "temp<= needs a thermometer, and none answers here", hint="edgekit power show says which there are"
            )
        if goal.lifetime_s is not None and goal.battery_j is None and not self._has_gauge:
            raise InputError(
                "lifetime= needs to know what is left, and no gauge answers here", hint="say battery=40Wh, or so"
            )

    def tell(self, policy: Policy, now_s: float, trace: TraceWriter | None = None) -> None:
        """One look, told to the policy and to the trace."""
        readings = self._board.look()
        self._energies.add(readings, self._board.clock())
        # a meter of something else says nothing about what the table counts
        meter = main_meter([reading for reading in readings if reading.covers == self._covers])
        energy_j, seconds = None, max(now_s - self.at_s, 0.0)
        if meter is not None:
            found = self._energies.results()
            counted = next((e for e in found if (e.name, e.covers) == (meter.name, self._covers)), None)
            if counted is not None and counted.energy_uj is not None:
                covered = counted.covered_ms - self._covered_ms
                if covered >= 0.8 * seconds * 1000 > 0:
                    energy_j = (counted.energy_uj - self._counted_uj) / 1e6
                self._counted_uj, self._covered_ms = counted.energy_uj, counted.covered_ms
                self.used_j = counted.energy_uj / 1e6
        hottest = hottest_mc(readings)
        celsius = None if hottest is None else hottest / 1000
        if celsius is not None:
            self.hottest_c = celsius if self.hottest_c is None else max(celsius, self.hottest_c)
        stored = [
            r.value for r in readings if r.quantity == "stored" and r.provenance != ABSENT and r.value is not None
        ]
        self._has_gauge = bool(stored)
        if seconds > 0:
            policy.metered(seconds, energy_j)
        policy.temperature(now_s, celsius)
        if policy.goal.battery_j is None:  # one that was named is counted by the policy itself
            policy.battery(sum(stored) / 1e6 if stored else None)
        if trace is not None:
            trace.look(now_s, self.used_j, celsius)
        self.at_s = now_s
