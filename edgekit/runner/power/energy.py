"""Energy out of readings: counters by their difference, powers by the trapezoid; time that nobody measured is a gap."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from edgekit.runner.power.reading import ABSENT, ESTIMATED, MEASURED, Reading

if TYPE_CHECKING:
    from dataclasses import dataclass
else:
    from edgekit.values import dataclass

LATE = 3  # a sample is fresh until this many intervals have passed
MOST_W = 5000  # of anything: a counter may have wrapped twice once this could have filled it


@dataclass(frozen=True)
class Energy:
    """What one meter counted over a while. The mean power is `energy_uj` over `covered_ms`, not over the whole time."""

    name: str
    energy_uj: int | None  # None: not one interval was measured
    covered_ms: int  # of the time, how much was measured
    gap_ms: int  # and how much was not: a dead sensor, stale samples, a counter that was reset
    gaps: int
    provenance: str
    covers: str

    @property
    def power_uw(self) -> int | None:
        """The mean over what was measured."""
        if self.energy_uj is None or self.covered_ms <= 0:
            return None
        return round(self.energy_uj * 1000 / self.covered_ms)


class Meter:
    """Adds up one sensor's readings, of power or of a counter.

    A sample that is offered twice (its sensor had nothing new) is no new time. An interval counts only between two
    live samples that follow one another closely enough; the rest, clock jumps included, is told as a gap and adds
    nothing: a dead sensor never goes on drawing what it said last.
    """

    def __init__(self, interval_ms: int) -> None:
        self._interval_ms = interval_ms
        self._last: Reading | None = None  # the last live one
        self._until_ms: int | None = None  # time is told up to here
        self._twice_nj = 0  # the energy in nJ (uW ms), doubled so that the trapezoid's halves stay whole
        self._covered = self._gap = self._gaps = 0
        self._in_gap = False
        self._seen: Reading | None = None
        self._is_estimated = False

    def add(self, reading: Reading, now_ms: int) -> None:
        """The next reading, in the order of time; `now_ms` is when it was offered."""
        self._seen = reading if self._seen is None or reading.provenance != ABSENT else self._seen
        if self._until_ms is None:
            self._until_ms = reading.at_ms
        late_ms = LATE * max(self._interval_ms, reading.every_ms)
        if self._last is not None and reading.at_ms < self._last.at_ms:  # the clock jumped: begin again from here
            self._last, self._until_ms = None, reading.at_ms
        last, value = self._last, reading.value
        if value is None or reading.provenance == ABSENT:
            self._last = None
            self._miss(reading.at_ms)
            return
        if now_ms - reading.at_ms > late_ms:  # stale: it says nothing about now
            self._last = None
            self._miss(now_ms)
            return
        if last is not None and reading.at_ms == last.at_ms:
            return
        counted = None if last is None else self._between(last, reading, late_ms)
        if counted is None or last is None:
            self._miss(reading.at_ms)
        else:
            self._twice_nj += counted
            self._covered += reading.at_ms - last.at_ms
            self._until_ms = reading.at_ms
            self._in_gap = False
            self._is_estimated |= ESTIMATED in (reading.provenance, last.provenance)
        self._last = reading

    def _miss(self, until_ms: int) -> None:
        """Time up to there was not measured."""
        assert self._until_ms is not None
        lost = until_ms - self._until_ms
        if lost > 0:
            self._gap += lost
            self._gaps += not self._in_gap
            self._in_gap = True
        self._until_ms = max(until_ms, self._until_ms)

    def _between(self, last: Reading, reading: Reading, late_ms: int) -> int | None:
        """Twice the energy between two samples, in nJ; None if nobody can tell."""
        assert last.value is not None
        assert reading.value is not None
        elapsed = reading.at_ms - last.at_ms
        if last.quantity != reading.quantity or last.covers != reading.covers:  # a battery that is charged now
            return None
        if reading.quantity == "power":
            return None if elapsed > late_ms else (last.value + reading.value) * elapsed
        risen = reading.value - last.value
        if reading.wraps_at is not None:
            if elapsed * MOST_W * 1000 >= reading.wraps_at:
                return None
            if risen < 0:
                risen += reading.wraps_at
        if risen < 0 or risen > elapsed * MOST_W * 1000:  # it was reset: by a driver that was loaded again, say
            return None
        return 2 * risen * 1000

    def result(self) -> Energy | None:
        """What was counted so far; None before the first reading."""
        if self._seen is None:
            return None
        provenance = ABSENT if not self._covered else ESTIMATED if self._is_estimated else MEASURED
        energy = round(self._twice_nj / 2000) if self._covered else None
        seen = self._seen
        return Energy(seen.name, energy, self._covered, self._gap, self._gaps, provenance, seen.covers)


class Energies:
    """A meter for each sensor of power, and for each counter."""

    def __init__(self, interval_ms: int) -> None:
        self._interval_ms = interval_ms
        self._meters: dict[tuple[str, str], Meter] = {}

    def add(self, readings: Iterable[Reading], now_ms: int) -> None:
        """One look at the board. A sensor that is missing from it gets an absent sample, so that its time is a gap."""
        found = {(r.name, r.quantity): r for r in readings if r.quantity in ("power", "energy")}
        for key, reading in found.items():
            self._meters.setdefault(key, Meter(self._interval_ms)).add(reading, now_ms)
        for key in self._meters.keys() - found.keys():
            name, quantity = key
            self._meters[key].add(Reading(name, quantity, None, ABSENT, now_ms, "", "gone"), now_ms)

    def results(self) -> list[Energy]:
        """Each meter's energy; a power is left out where the same thing has a counter that works."""
        found = {key: meter.result() for key, meter in self._meters.items()}
        counted = {
            name for (name, quantity), energy in found.items() if quantity == "energy" and energy and energy.covered_ms
        }
        return [e for (name, quantity), e in found.items() if e and not (quantity == "power" and name in counted)]
