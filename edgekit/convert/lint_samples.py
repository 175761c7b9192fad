"""Lint of samples: what the model will see while its ranges are measured, beside what it seems to be made for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from edgekit.convert.extremes import Extremes
from edgekit.convert.finding import Finding, listed
from edgekit.convert.flatbuffer import Model, TensorInfo
from edgekit.convert.lint_ranges import span
from edgekit.convert.selection import first_of_each
from edgekit.convert.wiring import Wiring

CONSTANT_SHARE = 0.05  # of the samples: a recording of silence or a black frame now and then is real
REPEATED_SHARE = 0.1
CLIPPED_SHARE = 0.01  # of the values
LITTLE = (
    0.02  # largest value after a model's own scaling when its input came scaled already: 1/255 or 1/127.5, and a bit
)
LOUD = 50.0  # median over the tensors of their largest value; networks that were trained normalize to single digits


def sample_findings(
    model: Model, wiring: Wiring, extremes: Extremes, samples: Mapping[str, np.ndarray]
) -> list[Finding]:
    """`samples`: what the model sees, by input name, (n, ...); a single array needs no particular name."""
    found = [*_repeated(samples)]
    tensors = _input_tensors(model, wiring, samples)
    for name, array in samples.items():
        if not array.size or array.dtype.kind not in "fiub":
            continue
        found += _constant(name, array)
        tensor = tensors.get(name)
        if tensor is not None:
            found += _clipped(name, array, tensor)
            found += _scaled_twice(name, array, tensor, wiring, extremes)
            found += _never_scaled(name, array, tensor, wiring, extremes)
    return found


def _input_tensors(model: Model, wiring: Wiring, samples: Mapping[str, np.ndarray]) -> dict[str, TensorInfo]:
    """Sample array -> the tensor it goes into, by the signature's or the tensor's name."""
    tensors = wiring.tensors(wiring.graph.inputs)
    if len(tensors) == len(samples) == 1:
        return {next(iter(samples)): tensors[0]}
    named = {tensor.name: tensor for tensor in tensors}
    for signature in model.signatures.values():
        if signature.subgraph == 0:
            named |= {name: wiring.graph.tensors[index] for name, index in signature.inputs.items() if index >= 0}
    return {name: named[name] for name in samples if name in named}


def _repeated(samples: Mapping[str, np.ndarray]) -> Iterator[Finding]:
    count = min((len(array) for array in samples.values() if array.ndim), default=0)
    if count == 0:
        return
    repeated = count - len(first_of_each(samples))
    if repeated:
        yield Finding(
            "repeated-samples",
            "samples",
            f"{repeated} of {count} samples are copies of others, bit by bit",
            "record more of what the device meets; copies are used once",
            "warning" if repeated > REPEATED_SHARE * count else "info",
        )


def _constant(name: str, array: np.ndarray) -> Iterator[Finding]:
    rows = array.reshape(len(array), -1)
    if rows.shape[1] < 2:
        return
    constant = np.flatnonzero((rows == rows[:, :1]).all(axis=1))
    if len(constant):
        shown = listed([str(index) for index in constant])
        yield Finding(
            "constant-samples",
            f"input {name}",
            f"{len(constant)} of {len(rows)} samples have the same value everywhere ({rows[constant[0], 0]:g}): {shown}",
            "leave them out unless the device meets silence or darkness; was something else meant to be read?",
            "warning" if len(constant) > CONSTANT_SHARE * len(rows) else "info",
        )


def _clipped(name: str, array: np.ndarray, tensor: TensorInfo) -> Iterator[Finding]:
    """Values that a quantized input cannot hold."""
    known = span({}, tensor)
    if known is None or array.dtype.kind != "f":
        return
    low, high = known
    step = tensor.scale[0]
    clipped = float(((array < low - step) | (array > high + step)).mean())
    if clipped > CLIPPED_SHARE:
        yield Finding(
            "clipped-input",
            f"input {name}",
            f"{clipped:.0%} of the values are outside {low:.3g} to {high:.3g}, what the model's input can hold; the samples go "
            f"from {array.min():.3g} to {array.max():.3g}",
            "give the samples, or a --preprocess spec, the range that the model was quantized for",
        )


def _scaled_twice(
    name: str, array: np.ndarray, tensor: TensorInfo, wiring: Wiring, extremes: Extremes
) -> Iterator[Finding]:
    """Samples of 0..1 for a model that divides by 255 itself."""
    first = wiring.readers.get(tensor.index, [])
    if array.dtype.kind != "f" or len(first) != 1 or first[0].name not in ("MUL", "DIV"):
        return
    after = [span(extremes, out) for out in wiring.tensors(first[0].outputs) if out.name in extremes]
    before = float(np.abs(array).max())
    if not after or after[0] is None or not 0.5 <= before <= 2.0:  # 0..1 or -1..1, which somebody made so
        return
    peak = max(abs(after[0][0]), abs(after[0][1]))
    if 0 < peak <= LITTLE:
        yield Finding(
            "scaled-twice",
            f"input {name}",
            f"the samples go from {array.min():.3g} to {array.max():.3g}, and the model itself multiplies them by "
            f"{peak / before:.3g}: it goes on with values of at most {peak:.2g}",
            "give the samples as they were before they were scaled (pixels from 0 to 255)",
        )


def _never_scaled(
    name: str, array: np.ndarray, tensor: TensorInfo, wiring: Wiring, extremes: Extremes
) -> Iterator[Finding]:
    """Pixels of 0..255 that go into the first layer as they are, and make everything behind it large."""
    first = wiring.readers.get(tensor.index, [])
    low, high = float(array.min()), float(array.max())
    if not first or any(op.name not in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "PAD") for op in first):
        return
    if array.ndim < 3 or low < 0 or not 128 < high <= 255:
        return
    peaks = []
    for operator in wiring.graph.operators:
        known = [span(extremes, out) for out in wiring.tensors(operator.outputs) if out.name in extremes]
        peaks += [max(abs(k[0]), abs(k[1])) for k in known if k is not None]
    usual = float(np.median(peaks)) if peaks else 0.0
    if usual > LOUD:
        yield Finding(
            "never-scaled",
            f"input {name}",
            f"pixels from {low:.3g} to {high:.3g} go into {first[0].name} as they are, and the median tensor behind it reaches "
            f"{usual:.3g}: a network that was trained on 0..1 or -1..1 looks like this",
            "was it trained on pixels from 0 to 255? else add range = [0, 1] or [-1, 1] to the --preprocess spec",
        )
