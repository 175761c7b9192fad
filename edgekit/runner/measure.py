"""Measures a release on the machine it runs on: latency in steady state, from a new process to the first answer, memory,
energy where there is a meter; and whether the machine was fit to be measured meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.bundle import read_bundle
from edgekit.errors import EdgekitError
from edgekit.runner.check import golden_inputs, read_golden
from edgekit.runner.conditions import Conditions, watch_conditions
from edgekit.runner.interpreter import runtime_version
from edgekit.runner.model import load
from edgekit.runner.placement import Placement, words

MLPERF_QUERIES, MLPERF_S = 1024, 60.0  # single stream: at least so many and so long, judged by the 90th percentile
WARM_UP_S = 0.2  # and at least 10 calls: caches, pages of weights, clocks that rise
BLOCKS = 8  # of a run, whose medians must agree
JUDGED_S = 0.5  # shorter runs are not judged for noise: one interruption is a block of theirs
NOISY = 0.15  # (largest - smallest median) / median of the blocks, beyond which a run says little
HOT_MC = 3000  # thousandths of a degree: that much warmer at the end and slower, the machine was not in a steady state
SLOWER = 1.1  # median of the last block over that of the first


@dataclass(frozen=True)
class Latency:
    """What was measured for one variant on one unit. Times are None for a FAKE or a software unit: they mean nothing."""

    variant: str
    runtime: str
    threads: int | None  # None: what the bundle says
    runs: int
    median_us: float | None
    p90_us: float | None
    p99_us: float | None
    cold_start_ms: float | None  # median of a few new processes: start of Python to the first answer
    peak_bytes: (
        int | None
    )  # resident memory of such a process, Python and numpy included; None: the system does not tell
    seconds: float  # of steady state
    energy_uj: float | None  # of an inference, with what the machine draws anyway; None without a meter
    energy_of: str  # what the meter measures and how it knows: "board, measured"; "" without one
    noise: float  # how far apart the medians of the run's blocks are, as a share
    conditions: Conditions
    invalid: tuple[str, ...]  # why the run says little: throttled, noisy; empty for a good one
    placement: Placement

    @property
    def is_valid(self) -> bool:
        """True if nothing speaks against the numbers."""
        return not self.invalid


def measure_release(
    path: Path | str,
    *,
    runs: int = 200,
    threads: int | None = None,
    variant: str | None = None,
    delegates: Sequence[str] = (),
    require: str | None = None,
    seconds: float = 0.0,
    mlperf: bool = False,
    cold: bool = True,
) -> list[Latency]:
    """Measured latency of `model(x)` (float in, float out) for each variant, or for one, on its golden inputs.

    At least `runs` inferences and `seconds`; `mlperf` asks for MLPerf's single-stream minimum. `cold`: also new processes.
    """
    if mlperf:
        runs, seconds = max(runs, MLPERF_QUERIES), max(seconds, MLPERF_S)
    bundle = read_bundle(path)
    golden = read_golden(bundle)
    names = [variant] if variant is not None else [v.name for v in bundle.manifest.variants]
    chosen: dict[str, Any] = {"delegates": delegates, "require": require, "threads": threads}
    return [_measure(path, name, golden, runs, seconds, chosen, cold=cold) for name in names]


def _measure(
    path: Path | str, variant: str, golden: Any, runs: int, seconds: float, chosen: dict[str, Any], *, cold: bool
) -> Latency:
    model = load(path, variant=variant, **chosen)
    placement = model.placement
    inputs = golden_inputs(model, golden)
    _warm_up(model, inputs)
    with watch_conditions() as conditions:
        taken = _steady(model, inputs, runs, seconds, conditions.look)
    found = conditions.result(taken.sum() * 1e3, len(taken))
    first = [_first_answer(path, variant, chosen) for _ in range(3)] if cold else []
    shown = not (placement.fake or placement.software)
    noise, drift = spread(taken)
    return Latency(
        variant=variant,
        runtime=runtime_version(),
        threads=chosen["threads"],
        runs=len(taken),
        median_us=round(float(np.median(taken)), 1) if shown else None,
        p90_us=round(float(np.percentile(taken, 90)), 1) if shown else None,
        p99_us=round(float(np.percentile(taken, 99)), 1) if shown else None,
        cold_start_ms=round(sorted(ms for ms, _ in first)[1], 1) if shown and first else None,
        peak_bytes=max((peak for _, peak in first if peak), default=None),
        seconds=round(float(taken.sum()) / 1e6, 3),
        energy_uj=found.energy_uj if shown else None,
        energy_of=found.energy_of if shown else "",
        noise=round(noise, 3),
        conditions=found,
        invalid=tuple(judge(noise if taken.sum() >= JUDGED_S * 1e6 else 0.0, drift, found)),
        placement=placement,
    )


def latency_lines(latency: Latency, *, mlperf: bool) -> Iterator[str]:
    """What a person reads of it."""
    if latency.median_us is None:
        yield f"{latency.variant}: {words(latency.placement)}; its times mean nothing and are not shown"
        return
    percentile = f"p90 {latency.p90_us:g} us, " if mlperf else ""
    cold = f", new process to first answer {latency.cold_start_ms:g} ms" if latency.cold_start_ms else ""
    yield (
        f"{latency.variant}: median {latency.median_us:g} us, {percentile}p99 {latency.p99_us:g} us over "
        f"{latency.runs} runs{cold} (measured, {latency.runtime})"
    )
    for why in latency.invalid:
        yield f"{latency.variant}: not a good measurement, {why}"


def _warm_up(model: Any, inputs: Sequence[Any]) -> None:
    until, calls = time.perf_counter() + WARM_UP_S, 0
    while calls < 10 or time.perf_counter() < until:
        model(inputs[calls % len(inputs)])
        calls += 1


def _steady(model: Any, inputs: Sequence[Any], runs: int, seconds: float, look: Callable[[], None]) -> Any:
    """Microseconds of each inference. Sensors are read between them, never during one."""
    taken: list[float] = []
    now = time.perf_counter_ns()
    until, next_look = now + seconds * 1e9, now
    while len(taken) < runs or now < until:
        if now >= next_look:
            look()
            next_look = time.perf_counter_ns() + 100_000_000
        sample = inputs[len(taken) % len(inputs)]
        started = time.perf_counter_ns()
        model(sample)
        now = time.perf_counter_ns()
        taken.append((now - started) / 1000)
    look()
    return np.array(taken)


def spread(taken: Any) -> tuple[float, float]:
    """How far the medians of a run's blocks are apart, as a share of the middle one; and the last over the first."""
    medians = [float(np.median(block)) for block in np.array_split(taken, BLOCKS) if len(block)]
    middle = float(np.median(medians)) or 1.0
    return (max(medians) - min(medians)) / middle, medians[-1] / (medians[0] or 1.0)


def judge(noise: float, drift: float, conditions: Conditions) -> list[str]:
    """Why a run says little: nothing for a good one."""
    why = [f"throttled meanwhile: {name}" for name in conditions.throttled]
    warmer = None
    if conditions.temperature_mc is not None:
        warmer = conditions.temperature_mc[1] - conditions.temperature_mc[0]
    if drift > SLOWER and warmer is not None and warmer > HOT_MC:
        why.append(f"{warmer / 1000:.1f} °C warmer and {drift:.2f} times slower at its end")
    elif noise > NOISY:
        why.append(f"noisy: medians of its parts are {noise:.0%} apart")
    return why


def _first_answer(path: Path | str, variant: str, chosen: dict[str, Any]) -> tuple[float, int]:
    """Milliseconds from the start of a new Python to the first answer to a golden input, and its peak memory, 0 if untold."""
    command = [sys.executable, "-s", "-m", "edgekit.runner", "first", str(path), "--variant", variant]
    command += [word for text in chosen["delegates"] for word in ("--delegate", text)]
    command += ["--threads", str(chosen["threads"])] if chosen["threads"] else []
    started = time.perf_counter_ns()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        process.stdout.readline()
        taken = (time.perf_counter_ns() - started) / 1e6
        peak = process.stdout.read().strip()
    if process.returncode != 0:
        raise EdgekitError("a new process of the runner did not answer", hint="run: python3 -m edgekit.runner check")
    return taken, int(peak) if peak.isdigit() else 0


def peak_bytes() -> int | None:
    """The most resident memory this process ever had; None where the system does not tell."""
    try:
        with open("/proc/self/status", "rb") as stream:
            (kib,) = (line.split()[1] for line in stream if line.startswith(b"VmHWM:"))
        return int(kib) * 1024
    except (OSError, ValueError):
        return None
