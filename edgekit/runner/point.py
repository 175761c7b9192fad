"""Measures one operating point of a release on this machine: steady inference for a while, beside idling just before."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path

from edgekit.bundle import read_bundle
from edgekit.runner.check import golden_inputs, read_golden
from edgekit.runner.power.actuators import OperatingPoint, on_cpus
from edgekit.runner.power.board import Board, main_meter
from edgekit.runner.power.energy import Energies
from edgekit.runner.power.thermal import hottest_mc
from edgekit.runner.variants import is_fake, open_point

LOOK_S = 0.2
WARM_S = 0.5  # caches, clocks and lazily prepared weights
QUARTILES = 1.349  # standard deviations apart in a Gaussian: what else ran now and then is no property of the point


@dataclass(frozen=True)
class Measured:
    """What one point took. Power is of what the meter was to cover, None where nothing measures all of it."""

    latency_us: int  # median
    spread_ppm: int  # relative standard deviation, from the quartiles
    runs: int
    power_uw: int | None
    provenance: str  # of power: measured, estimated or absent
    meter: str
    celsius_mc: int | None  # the hottest sensor afterwards
    fake: bool  # it ran on a delegate made for tests, or on a program that plays a GPU: its time means nothing


def idle_power(seconds: float, *, board: Board | None = None, covers: str = "board") -> Measured:
    """The machine at rest, with nothing of ours running but the look at its sensors. `covers`: which meter, board or gpu."""
    return _watched(board or Board(), seconds, None, covers)


def measure_point(
    release: Path | str, point: OperatingPoint, seconds: float, *, board: Board | None = None, covers: str = "board"
) -> Measured:
    """Inference after inference of the golden inputs for so long. Raises DelegateUnavailable if its delegate does not serve."""
    with on_cpus(point.cpus):
        model = open_point(release, point)
        samples = golden_inputs(model, read_golden(read_bundle(release)))
        until, count = time.perf_counter() + WARM_S, 0
        while time.perf_counter() < until:
            model(samples[count % len(samples)])
            count += 1

        def work(number: int) -> None:
            model(samples[number % len(samples)])

        found = _watched(board or Board(), seconds, work, covers)
        return replace(found, fake=is_fake(model))


def _watched(board: Board, seconds: float, work: object, covers: str) -> Measured:
    energies = Energies(round(LOOK_S * 1000))
    taken: list[float] = []
    began = time.perf_counter()
    looked = -LOOK_S
    readings = []
    while True:
        elapsed = time.perf_counter() - began
        if elapsed - looked >= LOOK_S or elapsed >= seconds:
            readings = board.look()
            energies.add(readings, board.clock())
            looked = elapsed
        if elapsed >= seconds:
            break
        if callable(work):
            started = time.perf_counter()
            work(len(taken))
            taken.append(time.perf_counter() - started)
        else:
            time.sleep(LOOK_S / 4)
    meter = main_meter([reading for reading in readings if reading.covers == covers])
    found = None
    if meter is not None:
        found = next((e for e in energies.results() if (e.name, e.covers) == (meter.name, covers)), None)
    typical = statistics.median(taken) if taken else 0.0
    low, _, high = statistics.quantiles(taken, n=4) if len(taken) > 3 else (typical, typical, typical)
    spread = (high - low) / QUARTILES / typical if taken else 0.0
    power = None if found is None else found.power_uw
    return Measured(
        round(typical * 1e6),
        round(spread * 1e6),
        len(taken),
        power,
        "absent" if found is None or power is None else found.provenance,
        "" if meter is None or power is None else meter.name,
        hottest_mc(readings),
        False,
    )
