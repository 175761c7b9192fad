"""The lowest and the highest value of every tensor, by its name: what the lint looks at."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.convert import calibrate
from edgekit.convert.tflite_file import fed
from edgekit.runner.interpreter import open_interpreter
from edgekit.runner.model import describe_variant

# Tensor name -> (lowest, highest): of all samples a number each, or of each sample an array (n,) each.
Extremes = Mapping[str, tuple[Any, Any]]


def extremes_by_name(path: Path, samples: Mapping[str, np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Tensor name -> (lowest, highest) on each sample, of the float .tflite `path`.

    `samples` are what the model sees, by input name, (n, ...) without batch. Raises SamplesError where they do not fit.
    """
    described = describe_variant(open_interpreter(path, threads=1), "", quantization="float32")
    return by_name(calibrate.measure_extremes(path, fed(samples, described.inputs)))


def by_name(found: calibrate.Extremes) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """What calibration measured, as the lint looks at it."""
    return {name: (found.low[:, i], found.high[:, i]) for i, name in enumerate(found.names)}
