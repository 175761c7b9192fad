"""All sensors of the machine this runs on, each asked no more often than it has something new."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from edgekit.runner.power.clock import read_cpu_clocks, read_gpu_clocks, read_time_in_state
from edgekit.runner.power.hwmon import SLOW_MS, read_meters, read_supply
from edgekit.runner.power.jetson import EVERY_MS as RAILS_MS
from edgekit.runner.power.jetson import is_jetson, read_rails
from edgekit.runner.power.nvml import COUNTER_MS, load_nvml, read_gpus
from edgekit.runner.power.rapl import read_rapl
from edgekit.runner.power.raspberrypi import read_clock, read_pmic, read_throttling
from edgekit.runner.power.reading import ABSENT, Reading, read_text
from edgekit.runner.power.supply import EVERY_MS as SUPPLY_MS
from edgekit.runner.power.supply import read_supplies
from edgekit.runner.power.thermal import read_temperatures
from edgekit.runner.power.vcio import Ask, ask_firmware

PMIC_MS = 100
FIRMWARE_MS = 500  # throttle word and measured clock
TEMPERATURE_MS = 100
_BEST_FIRST = ("board", "battery", "processor", "gpu")

Read = Callable[[int], "list[Reading]"]  # at_ms -> readings


def now_ms() -> int:
    """The board's monotonic clock: small boards start in 1970, and are set later."""
    return time.monotonic_ns() // 1_000_000


class Board:
    """The sensors of one machine. `sys` is where its /sys lies; clock, firmware and NVML can be given too."""

    def __init__(
        self,
        sys: str = "/sys",
        *,
        clock: Callable[[], int] = now_ms,
        ask: Ask = ask_firmware,
        nvml: Callable[[], Any] = load_nvml,
    ) -> None:
        self.sys = sys
        self.clock = clock
        model = read_text(os.path.join(sys, "firmware/devicetree/base/model"))[0] or ""
        self.model = "".join(char for char in model if char.isprintable())
        self.is_jetson = is_jetson(sys)
        self._parts = _parts(sys, ask, None if self.is_jetson else nvml(), self.model, is_jetson=self.is_jetson)
        self._last: dict[int, tuple[int, list[Reading]]] = {}

    def look(self) -> list[Reading]:
        """Every reading. One that its sensor cannot have renewed yet is the old one, with its old time."""
        readings: list[Reading] = []
        for index, (every_ms, read) in enumerate(self._parts):
            now = self.clock()
            at_ms, found = self._last.get(index, (None, []))
            if at_ms is None or not 0 <= now - at_ms < every_ms:
                found = read(now)
                self._last[index] = now, found
            readings += found
        return readings

    def time_in_state(self) -> dict[str, dict[int, int]]:
        """cpufreq policy -> Hz -> ms since boot."""
        return read_time_in_state(self.sys)


def _parts(sys: str, ask: Ask, nvml: Any, model: str, *, is_jetson: bool) -> list[tuple[int, Read]]:
    """(how often, what) to read on this machine, the order of the table."""
    meters: tuple[int, Read] = (SLOW_MS, lambda at: read_meters(sys, at, is_jetson=is_jetson))
    parts: list[tuple[int, Read]] = []
    if is_jetson:
        parts += [(RAILS_MS, lambda at: read_rails(sys, at)), (0, lambda at: read_gpu_clocks(sys, at))]
    if model.startswith("Raspberry Pi"):
        parts.append((PMIC_MS, lambda at: read_pmic(ask, at)))
        parts.append((FIRMWARE_MS, lambda at: read_throttling(sys, ask, at) + read_clock(ask, at)))
        parts.append((FIRMWARE_MS, lambda at: read_supply(sys, at)))
    parts += [
        meters,
        (0, lambda at: read_rapl(sys, at)),
        (SUPPLY_MS, lambda at: read_supplies(sys, at)),
        (COUNTER_MS, lambda at: read_gpus(nvml, at)),
        (TEMPERATURE_MS, lambda at: read_temperatures(sys, at)),
        (0, lambda at: read_cpu_clocks(sys, at)),
    ]
    return parts


def main_meter(readings: list[Reading]) -> Reading | None:
    """The reading that says most about the whole machine: of the board, else of a part; None if there is no live one.

    A meter on a HAT is taken before an estimate. Counters are taken before powers of the same thing.
    """
    live = [r for r in readings if r.quantity in ("power", "energy") and r.provenance != ABSENT]
    for covers in _BEST_FIRST:
        found = [r for r in live if r.covers == covers]
        if found:
            return min(found, key=lambda r: (r.provenance != "measured", r.quantity != "energy"))
    return None
