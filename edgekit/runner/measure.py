"""Measures a release on the machine it runs on: latency of one answer, and from a new process to its first answer."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit.bundle import read_bundle
from edgekit.errors import EdgekitError
from edgekit.runner.check import golden_inputs, read_golden
from edgekit.runner.interpreter import runtime_version
from edgekit.runner.model import load


@dataclass(frozen=True)
class Latency:
    """What was measured for one variant; all times in microseconds except where the name says otherwise."""

    variant: str
    runtime: str
    threads: int | None  # None: what the bundle says
    runs: int
    median_us: float
    p99_us: float
    cold_start_ms: float  # median of a few new processes: start of Python to the first answer


def measure_release(
    path: Path | str, *, runs: int = 200, threads: int | None = None, variant: str | None = None
) -> list[Latency]:
    """Measured latency of `model(x)` (float in, float out) for each variant, or for one, on its golden inputs."""
    bundle = read_bundle(path)
    golden = read_golden(bundle)
    names = [variant] if variant is not None else [v.name for v in bundle.manifest.variants]
    return [_measure(path, name, golden, runs, threads) for name in names]


def _measure(path: Path | str, variant: str, golden: object, runs: int, threads: int | None) -> Latency:
    model = load(path, variant=variant, threads=threads)
    inputs = golden_inputs(model, golden)  # type: ignore[arg-type]
    for sample in (inputs * 10)[:10]:  # the first calls fill caches and page in weights
        model(sample)
    taken = np.empty(runs)
    for i in range(runs):
        sample = inputs[i % len(inputs)]
        started = time.perf_counter_ns()
        model(sample)
        taken[i] = (time.perf_counter_ns() - started) / 1000
    cold = sorted(_first_answer_ms(path, variant) for _ in range(3))[1]
    return Latency(
        variant,
        runtime_version(),
        threads,
        runs,
        round(float(np.median(taken)), 1),
        round(float(np.percentile(taken, 99)), 1),
        round(cold, 1),
    )


def _first_answer_ms(path: Path | str, variant: str) -> float:
    """From the start of a new Python to the first answer to a golden input, in milliseconds."""
    command = [sys.executable, "-s", "-m", "edgekit.runner", "first", str(path), "--variant", variant]
    started = time.perf_counter_ns()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        process.stdout.readline()
        taken = (time.perf_counter_ns() - started) / 1e6
    if process.returncode != 0:
        raise EdgekitError("a new process of the runner did not answer", hint="run: python3 -m edgekit.runner check")
    return taken
