"""Lint by ranges: values of different size in one tensor, of which int8's 255 equal steps leave the small ones little."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from edgekit.convert.extremes import Extremes
from edgekit.convert.finding import Finding
from edgekit.convert.flatbuffer import TensorInfo
from edgekit.convert.selection import convergence
from edgekit.convert.wiring import Wiring, short

FEWEST_STEPS = 16  # of 255 that an input of a CONCATENATION keeps: 4 bits of 8
GIANT = 1000.0  # largest value of a tensor over the median of the others': more than the weights behind it can even out
USUAL = 0.95  # quantile over the samples up to which an extreme is usual
OUTLIER = 2.0  # width of a tensor over its usual width: 1 bit of 8
OUTLIER_SAMPLES = 16  # fewer say little about what is usual
OUTLIER_SHARE = 0.05  # of the tensors that have to be so
SAME = 0.95  # share of the ranges that one sample makes: 0.25 to 0.9 in networks that work, 0.97 and more scaled twice
MOST = 3  # findings of one kind, the worst first
_BITS = {"int8": (-128, 127), "uint8": (0, 255), "int16": (-32768, 32767)}
_FIXED = {"LOGISTIC", "SOFTMAX", "TANH", "L2_NORMALIZATION", "LOG_SOFTMAX"}  # int8 range by definition


def span(extremes: Extremes, tensor: TensorInfo) -> tuple[float, float] | None:
    """(lowest, highest) value of a tensor: measured, or what its scale can hold; None if unknown."""
    if tensor.name in extremes:
        low, high = (np.asarray(side, np.float64) for side in extremes[tensor.name])
        if low.size and high.size and np.isfinite(low).all() and np.isfinite(high).all():
            return float(low.min()), float(high.max())
        return None
    if len(tensor.scale) == 1 and len(tensor.zero_point) == 1 and tensor.dtype in _BITS:
        low_step, high_step = _BITS[tensor.dtype]
        scale, zero = tensor.scale[0], tensor.zero_point[0]
        if np.isfinite(scale):
            return (low_step - zero) * scale, (high_step - zero) * scale
    return None


def range_findings(wiring: Wiring, extremes: Extremes, *, varied: bool = False) -> list[Finding]:
    """Concatenations of unlike inputs, giant tensors, tensors that few samples widen, samples that change nothing.

    `varied`: the samples are known to differ; else their own extremes have to.
    """
    rules = (_unlike_inputs, _giants, _outliers)
    found = [finding for rule in rules for finding in rule(wiring, extremes)]
    return [*found, *_insensitive(wiring, extremes, varied)]


def decibel(ratio: float) -> float:
    return float(20 * np.log10(ratio)) if ratio > 0 else 0.0


def _unlike_inputs(wiring: Wiring, extremes: Extremes) -> list[Finding]:
    """Coordinates and scores in one tensor: one scale for both."""
    found = []
    written = {operator.index: wiring.tensors(operator.outputs) for operator in wiring.graph.operators}
    is_quantized = any(tensor.dtype in _BITS and tensor.scale for tensors in written.values() for tensor in tensors)
    for operator in wiring.graph.operators:
        if operator.name not in ("CONCATENATION", "PACK"):
            continue
        if is_quantized and any(tensor.dtype == "float32" for tensor in written[operator.index]):
            continue  # of a mixed model, and left in float
        widths = []
        for tensor in wiring.activations(operator):
            known = span(extremes, wiring.graph.tensors[wiring.origin(tensor.index)])
            if known is not None and known[1] > known[0]:
                widths.append((max(known[1], 0.0) - min(known[0], 0.0), tensor.name, known))
        if len(widths) < 2:
            continue
        small, large = min(widths), max(widths)
        steps = 255 * small[0] / large[0]
        if steps < FEWEST_STEPS:
            found.append((steps, operator, small, large))
    return [
        Finding(
            "unlike-concat",
            wiring.layer(operator),
            f"'{short(small[1])}' goes from {small[2][0]:.3g} to {small[2][1]:.3g}, '{short(large[1])}' from "
            f"{large[2][0]:.3g} to {large[2][1]:.3g}: in one tensor the first keeps {steps:.2g} of 255 steps "
            f"({decibel(large[0] / small[0]):.0f} dB less)",
            "give them to the program as two outputs, or scale both to the same range inside the model (boxes to 0..1)",
        )
        for steps, operator, small, large in sorted(found, key=lambda each: each[0])[:MOST]
    ]


def _giants(wiring: Wiring, extremes: Extremes) -> Iterator[Finding]:
    """Such as an attention mask of -1e9, whose sum with scores is quantized."""
    peaks = {}
    for operator in wiring.graph.operators:
        for tensor in wiring.tensors(operator.outputs):
            known = span(extremes, tensor) if tensor.name in extremes else None
            if known is not None and operator.name not in _FIXED:
                peaks[tensor.index] = max(abs(known[0]), abs(known[1]))
    usual = float(np.median(list(peaks.values()))) if peaks else 0.0
    giants = {index: peak for index, peak in peaks.items() if usual > 0 and peak > GIANT * usual}
    for index, peak in sorted(giants.items(), key=lambda item: -item[1])[:1]:
        yield Finding(
            "giant-range",
            wiring.layer(wiring.writer[index]) + (f" and {len(giants) - 1} more" if giants.keys() - {index} else ""),
            f"reaches {peak:.3g}, {peak / usual:.0f} times the median tensor of the model ({usual:.3g}): values of the usual "
            f"size lose {decibel(peak / usual):.0f} dB in it",
            "clip it in the model; a mask needs no more than -30 before a softmax",
        )


def _outliers(wiring: Wiring, extremes: Extremes) -> Iterator[Finding]:
    """Tensors that the widest 5 % of the samples make twice as wide as all others: EfficientNet-B0's trouble.

    One tensor of hundreds is so by chance; many are not. None of 14 networks without the trouble has 2 % of its tensors so.
    """
    gains: list[tuple[float, int]] = []  # (width with all samples over width without the widest, tensor)
    guilty: Counter[int] = Counter()
    known = list(_by_sample(wiring, extremes))
    for tensor, low, high in known:
        width = float(high.max() - low.min())
        usual = float(np.quantile(high, USUAL) - np.quantile(low, 1 - USUAL))
        if usual > 0 and OUTLIER * usual <= width:
            gains.append((width / usual, tensor.index))
            guilty[int(high.argmax() if high.max() > -low.min() else low.argmin())] += 1
    if len(gains) < max(3, OUTLIER_SHARE * len(known)):
        return
    ratio, index = max(gains)
    sample, count = guilty.most_common(1)[0]
    yield Finding(
        "outlier-samples",
        wiring.layer(wiring.writer[index]) + f" and {len(gains) - 1} more",
        f"{len(gains)} of {len(known)} tensors are {OUTLIER:g} to {ratio:.1f} times as wide as without the widest 5 % of the "
        f"samples: the others lose up to {decibel(ratio):.0f} dB; sample {sample} is the widest in {count} of them",
        "look at these samples; if the device will meet their like, choose ranges that clip them (a quantile, not the extremes)",
    )


def _insensitive(wiring: Wiring, extremes: Extremes, varied: bool) -> Iterator[Finding]:
    """Samples that are all the same to the model, as when it divides by 255 what was divided already."""
    found = [(low, high) for _, low, high in _by_sample(wiring, extremes)]
    if not found or len({len(low) for low, _ in found}) != 1:
        return
    inputs = [extremes[tensor.name] for tensor in wiring.tensors(wiring.graph.inputs) if tensor.name in extremes]
    if not varied and not any(np.ptp(np.asarray(side)) > 0 for sides in inputs for side in sides):
        return  # the samples are alike, or only their insides differ: nobody can say
    share = convergence(*(np.stack(sides, 1) for sides in zip(*found, strict=True)))[0][1]
    if share >= SAME:
        yield Finding(
            "insensitive",
            "samples",
            f"all {len(found[0][0])} samples look the same to the model: the first alone makes {share:.1%} of the ranges",
            "does the model scale its input itself, and the samples are scaled already? give them as they were before",
        )


def _by_sample(wiring: Wiring, extremes: Extremes) -> Iterator[tuple[TensorInfo, np.ndarray, np.ndarray]]:
    """(tensor, lowest, highest) of computed tensors whose extremes are known sample by sample, of enough samples."""
    for operator in wiring.graph.operators:
        for tensor in wiring.tensors(operator.outputs):
            low, high = (np.atleast_1d(np.asarray(side, np.float64)) for side in extremes.get(tensor.name, ((), ())))
            many = operator.name not in _FIXED and OUTLIER_SAMPLES <= len(low) == len(high)
            if many and np.isfinite(low).all() and np.isfinite(high).all():
                yield tensor, low, high
