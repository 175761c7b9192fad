"""Looks at a board for a while: the last readings, the energy meanwhile, and how long each clock ran. As plain values."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from edgekit.runner.power.board import Board, main_meter
from edgekit.runner.power.clock import time_between
from edgekit.runner.power.energy import Energies
from edgekit.runner.power.raspberrypi import THROTTLED_NOW, seen_bits

INTERVAL_MS = 100


def watch(
    board: Board, seconds: float, *, interval_ms: int = INTERVAL_MS, sleep: Callable[[float], None] = time.sleep
) -> dict[str, Any]:
    """What `edgekit power show --json` prints. Under a second or two, slow sensors have no energy to tell."""
    clocks = board.time_in_state()
    energies = Energies(interval_ms)
    started = board.clock()
    until = started + round(seconds * 1000)
    throttled = 0
    while True:
        readings = board.look()
        now = board.clock()
        energies.add(readings, now)
        throttled |= seen_bits(readings)
        if now >= until or now < started:
            break
        sleep(min(interval_ms, until - now) / 1000)
    meter = main_meter(readings)
    return {
        "board": board.model,
        "watched_ms": now - started,
        "main_meter": meter and {"name": meter.name, "quantity": meter.quantity, "covers": meter.covers},
        "readings": [dict(asdict(r), unit=r.unit, age_ms=r.age_ms(now)) for r in readings],
        "energies": [dict(asdict(e), power_uw=e.power_uw) for e in energies.results()],
        "throttled_meanwhile": [name for bit, name in THROTTLED_NOW.items() if throttled >> bit & 1],
        "time_in_state_ms": time_between(clocks, board.time_in_state()),
    }
