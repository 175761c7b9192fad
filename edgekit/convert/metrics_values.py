"""Metrics of answers that are numbers: how far they are from the targets."""

from __future__ import annotations

import numpy as np

Array = np.ndarray


def absolute_errors(targets: Array, answers: Array) -> Array:
    """(n,): the mean |answer - target| of each sample."""
    return np.asarray(np.abs(answers.astype(np.float64) - targets).reshape(len(targets), -1).mean(axis=1))


def squared_errors(targets: Array, answers: Array) -> Array:
    """(n,): the mean (answer - target)^2 of each sample."""
    return np.asarray(np.square(answers.astype(np.float64) - targets).reshape(len(targets), -1).mean(axis=1))


def root_of_mean(rows: Array) -> float:
    """RMSE of `squared_errors` rows."""
    return float(np.sqrt(rows.mean()))


def both(targets: Array, answers: Array) -> Array:
    """(n, 2, values): targets and answers."""
    count = len(targets)
    return np.stack([targets.reshape(count, -1), answers.reshape(count, -1)], axis=1).astype(np.float64)


def r2(rows: Array) -> float:
    """Coefficient of determination of `both` rows, the mean over the values whose targets differ; 1 is exact.

    https://en.wikipedia.org/wiki/Coefficient_of_determination. NaN where no target differs from another.
    """
    targets, answers = rows[:, 0], rows[:, 1]
    spread = np.square(targets - targets.mean(axis=0)).sum(axis=0)
    left = np.square(targets - answers).sum(axis=0)
    varied = spread > 0
    return float(np.mean(1.0 - left[varied] / spread[varied])) if varied.any() else float("nan")
