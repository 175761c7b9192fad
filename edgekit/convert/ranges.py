"""From what was measured to one range for each tensor: the policies. Which one is best differs by network (see choose.py).

Global min/max lets one odd sample stretch a range: EfficientNet-B0's accuracy falls from 0.878 to 0.688. The moving average
of litert-quantizer clips: 9 to 19 dB where min/max gives 28 to 37.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from edgekit.convert.calibrate import BINS, Extremes, Histograms
from edgekit.convert.modes import PERCENTILES, QUANTILES

Ranges = Mapping[str, "tuple[float, float]"]  # tensor name -> (lowest, highest) value

LEVELS = 255  # steps between the ends of a range
SHRINKS = np.linspace(1.0, 0.1, 46)  # ends of a range that the search for the least error tries, as a share of the full


def min_max(extremes: Extremes) -> Ranges:
    """The extremes over all samples: clips nothing that was seen. What TFLiteConverter does."""
    return _ranges(extremes.names, extremes.low.min(axis=0), extremes.high.max(axis=0))


def quantile(extremes: Extremes, q: float) -> Ranges:
    """The q-quantile over samples of each sample's extremes: what all but the oddest samples need."""
    low, high = np.quantile(extremes.low, 1 - q, axis=0), np.quantile(extremes.high, q, axis=0)
    return _ranges(extremes.names, low, high)


def percentile(histograms: Histograms, percent: float) -> Ranges:
    """The values that `percent` of all values stay below, and above: the most extreme values are cut off."""
    share = np.cumsum(histograms.counts, axis=1) / np.maximum(histograms.counts.sum(axis=1, keepdims=True), 1)
    step = (histograms.high - histograms.low) / BINS
    first = (share <= 1 - percent / 100).sum(axis=1)  # bins below the range
    last = (share < percent / 100).sum(axis=1) + 1
    return _ranges(histograms.names, histograms.low + first * step, histograms.low + last * step)


def least_error(histograms: Histograms) -> Ranges:
    """For each tensor the range with the least mean squared error: what is clipped beside what is rounded.

    The high end is searched first, then the low one. Zero stays in the range, as the quantizers want it.
    """
    low, high = np.minimum(histograms.low, 0.0), np.maximum(histograms.high, 0.0)
    for place, counts in enumerate(histograms.counts):
        width = (histograms.high[place] - histograms.low[place]) / BINS
        used = np.flatnonzero(counts)
        used = used[used != int(-histograms.low[place] / width if width else 0)]  # zero itself is never rounded
        centres, weights = histograms.low[place] + (used + 0.5) * width, counts[used]
        high[place] = _best(centres, weights, np.full_like(SHRINKS, low[place]), high[place] * SHRINKS, 1)
        low[place] = _best(centres, weights, low[place] * SHRINKS, np.full_like(SHRINKS, high[place]), 0)
    return _ranges(histograms.names, low, high)


def _best(centres: np.ndarray, weights: np.ndarray, low: np.ndarray, high: np.ndarray, end: int) -> float:
    """The candidate for one end of the range (0: low, 1: high) with the least squared error."""
    beyond = centres - np.clip(centres, low[:, None], high[:, None])
    rounding = ((high - low) / LEVELS) ** 2 / 12  # of everything inside: https://arxiv.org/abs/2004.09602, 3.3
    error = (np.square(beyond) * weights).sum(axis=1) + rounding * (weights * (beyond == 0)).sum(axis=1)
    return float((low, high)[end][int(error.argmin())])


BY_EXTREMES: Mapping[str, Callable[[Extremes], Ranges]] = {
    "min-max": min_max,
    **{f"quantile-{q:g}": partial(quantile, q=q) for q in QUANTILES},
}
BY_HISTOGRAMS: Mapping[str, Callable[[Histograms], Ranges]] = {
    **{f"percentile-{p:g}": partial(percentile, percent=p) for p in PERCENTILES},
    "least-error": least_error,
}


def _ranges(names: tuple[str, ...], low: np.ndarray, high: np.ndarray) -> Ranges:
    return {name: (float(a), float(b)) for name, a, b in zip(names, low, high, strict=True)}
