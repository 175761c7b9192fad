"""The lowest and the highest value of every tensor, by its name: what the lint looks at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgekit.convert import calibrate

# Tensor name -> (lowest, highest): of all samples a number each, or of each sample an array (n,) each.
Extremes = Mapping[str, tuple[Any, Any]]


def by_name(found: calibrate.Extremes) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """What calibration measured, as the lint looks at it."""
    return {name: (found.low[:, i], found.high[:, i]) for i, name in enumerate(found.names)}
