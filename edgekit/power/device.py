"""Simulated devices: operating points, heat, contention and noise. Simulation: no figure that comes of it is hardware's.

Where a number has a source it is named; "assumed" says that it has none and should be measured (`edgekit power calibrate`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from edgekit.power.fluid import HeatModel
from edgekit.power.instance import Floats, Jobs, Points
from edgekit.runner.power.actuators import OperatingPoint
from edgekit.runner.power.points import Heat, PointCost, Table

# accuracy of the int8 models, %, and their latency on a Pixel 4 with 4 threads, ms: EfficientNet-lite0 to lite4, from the
# README of tensorflow/tpu; the first one is a smaller network, assumed
VARIANTS = {
    "small": (70.8, 4.6),
    "lite0": (74.4, 6.5),
    "lite1": (75.9, 9.1),
    "lite2": (77.0, 12.0),
    "lite3": (79.0, 18.0),
    "lite4": (80.2, 30.0),
}
ONE_THREAD = 3.18  # ms at 2.4 GHz on one core of a Pi 5, per ms above (assumed)
SPEED_UP = {1: 1.0, 2: 1.8, 4: 2.9}  # of int8 by threads (assumed)
MEMORY_SHARE = 0.24  # of latency at 2.4 GHz, which the clock does not change (assumed)
VOLTS = {1500: 0.82, 1800: 0.85, 2100: 0.885, 2400: 0.915}  # MHz -> V, Pi 5: geerlingguy/sbc-reviews issue 21
IDLE_W = 2.75  # Pi 5: sbc-reviews 2.8 W, 2.7 W by meter
UNCORE_W, CORE_W = 0.9, 0.747  # busy, and per core, V² and GHz: fitted to 9.6 W at 4 x 2.4 GHz (stress-ng: 9.7 W)
HOLDS_W = 0.25  # an idle clock that is held at its highest (assumed)
SPREAD, SPIKES, SPIKE = 0.06, 0.002, 1.5  # of latency: log-normal, and how often how much more (assumed)
METER_NOISE = 0.01  # of one second at the meter: ten samples of 3 % each (assumed)
THROTTLES_C = (
    (80.0, 1800),
    (85.0, 1500),
)  # the firmware's own: progressive from 80 °C, hard from 85 °C (Pi documentation)

COOLED = HeatModel(1.0, 4.0, 4.5, 250.0, 25.0)  # active cooler: 4 to 5 °C/W, assumed from published temperatures
BARE = HeatModel(1.0, 4.0, 7.8, 220.0, 45.0)  # no cooler, in a box at 45 °C


@dataclass(frozen=True)
class Device:
    """What a simulated board really is. `names[i]`: variant, threads, MHz of point i."""

    names: tuple[tuple[str, int, int], ...]
    points: Points
    power_w: Floats  # of the machine while it works at that point
    idle_w: float
    holds_w: float
    heat: HeatModel

    def named(self, variant: str, threads: int, mhz: int) -> int:
        """The index of a point."""
        return self.names.index((variant, threads, mhz))

    def only(self, mhz: int) -> Device:
        """The same where nobody may set the clock."""
        kept = np.array([clock == mhz for _, _, clock in self.names])
        names = tuple(name for name in self.names if name[2] == mhz)
        return replace(self, names=names, points=self.points.taken(kept), power_w=self.power_w[kept])

    def table(self, *, latency_error: float = 0.0, power_error: float = 0.0, seed: int = 0) -> Table:
        """What a calibration would have written, with errors of its own for each point."""
        rng = np.random.default_rng(seed)
        wrong = np.exp(rng.normal(0, 1, (2, len(self.points))) * [[latency_error], [power_error]])
        rows = []
        for i, (variant, threads, mhz) in enumerate(self.names):
            latency = self.points.latency_s[i] * wrong[0, i]
            power = self.idle_w + (self.power_w[i] - self.idle_w) * wrong[1, i]
            rows.append(
                PointCost(
                    OperatingPoint(variant, threads, clock_khz=mhz * 1000),
                    round(latency * 1e6),
                    round(SPREAD * 1e6),
                    round(power * 1e6),
                    round(self.points.accuracy[i] * 1e4),
                    "measured",
                    100,
                )
            )
        heat = Heat(
            round(self.heat.die_resistance * 1e3),
            round(self.heat.die_tau_s * 1e3),
            round(self.heat.board_resistance * 1e3),
            round(self.heat.board_tau_s * 1e3),
            "measured",
        )
        return Table("simulated", "", "", round(self.idle_w * 1e6), "measured", "simulated", tuple(rows), heat)


def pi5(heat: HeatModel = COOLED) -> Device:
    """A Raspberry Pi 5: 6 variants, 4 clocks, 1, 2 or 4 threads."""
    return _device(VOLTS, IDLE_W, UNCORE_W, CORE_W, heat, ONE_THREAD)


def wide() -> Device:
    """An accelerator whose clock goes down to a quarter, with the voltage: synthetic, to show what DVFS can give."""
    volts = {600: 0.55, 1000: 0.65, 1600: 0.82, 2400: 1.1}
    return _device(volts, 4.6, 0.35, 1.35, replace(COOLED, board_resistance=1.3), ONE_THREAD * 0.6)


def _device(
    volts: dict[int, float], idle_w: float, uncore_w: float, core_w: float, heat: HeatModel, per_ms: float
) -> Device:
    names, rows = [], []
    for variant, (accuracy, pixel_ms) in VARIANTS.items():
        for threads, speed_up in SPEED_UP.items():
            for mhz, voltage in volts.items():
                slower = MEMORY_SHARE + (1 - MEMORY_SHARE) * 2400 / mhz
                latency = pixel_ms * per_ms * 1e-3 * slower / speed_up
                above = uncore_w + threads * core_w * voltage**2 * mhz / 1000
                names.append((variant, threads, mhz))
                rows.append((latency, above * latency, accuracy, idle_w + above))
    columns = np.array(rows)
    points = Points(columns[:, 0], columns[:, 1], columns[:, 2])
    return Device(tuple(names), points, columns[:, 3], idle_w, HOLDS_W, heat)


def slowdowns(release: Floats, rng: np.random.Generator, *, contention: float = 1.3) -> Floats:
    """Of each job: something else runs for 5 s of every 25 s, noise, and spikes."""
    phase = rng.uniform(0, 25)
    busy = (release + phase) % 25.0 < 5.0
    slow = np.where(busy, contention, 1.0) * rng.lognormal(0, SPREAD, len(release))
    return slow * np.where(rng.random(len(release)) < SPIKES, SPIKE, 1.0)


def jobs_of(release: Floats, deadline_s: float, rng: np.random.Generator) -> Jobs:
    """Inferences at these times, with one relative deadline."""
    return Jobs(release, release + deadline_s, slowdowns(release, rng))
