"""What a task metric is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray
Outputs = Mapping[str, Array]  # the model's answers (n, ...) by output name, in the model's order


@dataclass(frozen=True)
class Metric:
    """A number for labels and outputs, in two steps, so that sets of samples can be drawn without judging them anew."""

    name: str  # for people: "top-1 accuracy"
    each: Callable[[Array, Outputs], Any]  # what every sample contributes; rows that can be chosen: each[indexes]
    total: Callable[[Any], float]  # the metric of those rows
    lower_is_better: bool = False
    in_points: bool = True  # a share of 1: a loss is told in points of 100; else in % of the float model's value
    is_mean: bool = False  # of one number for each sample
    of_classes: bool = False  # the largest score is the model's answer

    def score(self, labels: Array, outputs: Outputs) -> float:
        """The metric of all samples."""
        return float(self.total(self.each(labels, outputs)))
