"""What the machine was like while it was measured: heat, clocks, throttling and energy, by the sensors of power/."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from edgekit.runner.power.board import Board, main_meter
from edgekit.runner.power.energy import Energies
from edgekit.runner.power.raspberrypi import THROTTLED_NOW, seen_bits
from edgekit.runner.power.reading import ABSENT, Reading

if TYPE_CHECKING:
    from dataclasses import dataclass
else:
    from edgekit.values import dataclass

INTERVAL_MS = 100
COVERED = 0.8  # of the time, that a meter must have measured for its energy to be told


@dataclass(frozen=True)
class Conditions:
    """None: the machine cannot tell."""

    temperature_mc: tuple[int, int] | None  # the hottest sensor before and after, thousandths of °C
    clock_hz: tuple[int, int] | None  # the lowest and highest that a processor's clock was seen at
    throttled: tuple[str, ...]  # what the firmware said it did meanwhile (Raspberry Pi)
    energy_uj: float | None  # of an inference
    energy_of: str


class Watch:
    """Looks at a board now and then."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._energies = Energies(INTERVAL_MS)
        self._temperatures: list[int] = []
        self._clocks: list[int] = []
        self._throttled = 0
        self._readings: list[Reading] = []
        self._started = board.clock()

    def look(self) -> None:
        """One look at every sensor."""
        self._readings = self._board.look()
        self._energies.add(self._readings, self._board.clock())
        self._throttled |= seen_bits(self._readings)
        live = [r for r in self._readings if r.provenance != ABSENT and r.value is not None]
        hottest = [r.value for r in live if r.quantity == "temperature" and r.value is not None]
        if hottest:
            self._temperatures.append(max(hottest))
        self._clocks += [r.value for r in live if r.quantity == "clock" and r.value is not None]

    def result(self, busy_ns: float, inferences: int) -> Conditions:
        """All of it; `inferences` took `busy_ns` of the time that was watched."""
        energy, energy_of = None, ""
        meter = main_meter(self._readings)
        for each in self._energies.results():
            if meter and (each.name, each.covers) == (meter.name, meter.covers) and each.energy_uj is not None:
                watched = self._board.clock() - self._started
                if each.covered_ms > COVERED * watched and each.covered_ms > 0:
                    power_uw = each.energy_uj * 1000 / each.covered_ms
                    energy = round(power_uw * busy_ns / 1e9 / inferences, 1)
                    energy_of = f"{each.covers}, {each.provenance}"
        return Conditions(
            (self._temperatures[0], self._temperatures[-1]) if self._temperatures else None,
            (min(self._clocks), max(self._clocks)) if self._clocks else None,
            tuple(name for bit, name in THROTTLED_NOW.items() if self._throttled >> bit & 1),
            energy,
            energy_of,
        )


@contextmanager
def watch_conditions(board: Board | None = None) -> Iterator[Watch]:
    """A watch whose first look is before the block."""
    watch = Watch(board or Board())
    watch.look()
    yield watch
