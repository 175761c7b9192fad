"""The channels between two layers of a float .tflite brought nearer to one another: the same answers, easier to quantize.

Nagel et al. 2019, https://arxiv.org/abs/1906.04721, 4.1: what the first layer writes to a channel is divided by a factor,
what the second one reads of it is multiplied by the same. That changes no answer where what lies between is positively
homogeneous, f(s x) = s f(x), as ReLU is. ReLU6 is not, so such pairs are left alone.

Weights have a scale for each channel here, activations have one for all: it is the activations that gain. So factors come
from what they reach on samples, where there are some; the paper takes the weights for it. SQNR before the softmax on
samples held out, int8 with min/max of 100 samples: DS-CNN 30.5 dB, by weights 31.0, by samples 32.5; ResNet8 28.7, 28.4,
28.7; a dense autoencoder 41.7, 41.2, 41.3. Whether a network gains has to be tried.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit.convert.calibrate import Feeds
from edgekit.convert.constants import read_constants
from edgekit.convert.flatbuffer import OperatorInfo, Subgraph, read_model
from edgekit.convert.linear import KINDS
from edgekit.convert.observe import observe
from edgekit.convert.patch import own_constants
from edgekit.convert.wiring import Wiring

STRENGTH = 0.25  # 0.5 would make channels that differ only in their weights equal: too much for each network measured
LIMIT = 16.0  # of a factor: channels that are all but dead on the samples may not be so on the device

_HOMOGENEOUS = ("NONE", "RELU")  # of the fused activation functions
# operators that keep channels apart, in the last dimension, and are homogeneous
_BETWEEN = {"PAD", "RELU", "LEAKY_RELU", "MAX_POOL_2D", "AVERAGE_POOL_2D", "MEAN", "RESHAPE", "SQUEEZE", "EXPAND_DIMS"}
_BETWEEN |= {"SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"}
_OUT_AXIS = {"CONV_2D": 0, "FULLY_CONNECTED": 0, "DEPTHWISE_CONV_2D": 3}  # of the weights
_IN_AXIS = {"CONV_2D": 3, "FULLY_CONNECTED": 1, "DEPTHWISE_CONV_2D": 3}


@dataclass(frozen=True)
class Pair:
    """Two layers, and how many channels there are between them; nobody else reads what the first one writes."""

    first: OperatorInfo
    second: OperatorInfo
    channels: int


def equalized(float_model: Path, output: Path, *, strength: float = STRENGTH, feeds: Feeds | None = None) -> int:
    """Writes `float_model` with its channels rescaled to `output`; the number of pairs changed, with 0 nothing is written.

    `strength` is the power of the ratios that are made up for: 0 none, 0.5 as in the paper. `feeds` are samples as the
    model sees them: with them the ratios are those of the activations. Answers differ by float rounding only (100 dB and
    more). Raises NotAModel as read_model does.
    """
    content = bytearray(float_model.read_bytes())
    constants, graph = own_constants(content), read_model(float_model).subgraphs[0]
    pairs = find_pairs(graph, read_constants(float_model))
    reached = _reached(float_model, feeds, pairs) if feeds is not None and pairs else None
    changed = sum(_rescale(graph, constants, pair, strength, reached) for pair in pairs)
    if changed:
        output.write_bytes(content)
    return changed


def find_pairs(graph: Subgraph, constants: Mapping[int, bytes]) -> list[Pair]:
    """The pairs between which channels could be rescaled without a change to any answer, in the order in which they run."""
    wiring = Wiring.of(graph)
    found = []
    for first in graph.operators:
        shape = graph.tensors[first.outputs[0]].shape if first.outputs else ()
        if first.name in KINDS and shape and _is_homogeneous(first):
            second = _only_reader(wiring, first.outputs[0], shape[-1], constants)
            if second is not None and second.name in KINDS:
                found.append(Pair(first, second, shape[-1]))
    return found


def _is_homogeneous(operator: OperatorInfo) -> bool:
    return operator.options.get("fused_activation_function", "NONE") in _HOMOGENEOUS


def _only_reader(wiring: Wiring, index: int, channels: int, constants: Mapping[int, bytes]) -> OperatorInfo | None:
    """Who reads a tensor, behind whatever hands on its channels; None if several do, or if channels are mixed before.

    After a RESHAPE to a longer last dimension, channel i is at every place that is i modulo their number.
    """
    tensors = wiring.graph.tensors
    while True:  # ends: operators run in order, no tensor is written twice
        readers = wiring.readers.get(index, [])
        if len(readers) != 1 or index in wiring.graph.outputs:
            return None
        reader = readers[0]
        if reader.inputs[0] != index or index in reader.inputs[1:]:
            return None
        if reader.name not in _BETWEEN:
            return reader
        before, after = tensors[index].shape, tensors[reader.outputs[0]].shape
        is_kept = after[-1:] == before[-1:]
        if reader.name == "RESHAPE":
            is_kept = bool(after) and after[-1] > 0 and after[-1] % channels == 0
        if reader.name == "MEAN":
            axes = np.frombuffer(constants.get(reader.inputs[1], b""), np.int32)
            is_kept = axes.size > 0 and not ({-1, len(before) - 1} & set(axes.tolist()))
        if not is_kept or not _is_homogeneous(reader) or len(reader.outputs) != 1:
            return None
        index = reader.outputs[0]


def _reached(model: Path, feeds: Feeds, pairs: list[Pair]) -> dict[int, np.ndarray]:
    """Tensor index -> the largest absolute value in each channel, of what first layers write."""
    tensors = [pair.first.outputs[0] for pair in pairs]
    rows = observe(model, feeds, lambda _, read: [_largest(read(index), -1) for index in tensors])
    return {index: np.max([row[place] for row in rows], axis=0) for place, index in enumerate(tensors)}


def _largest(values: np.ndarray, axis: int) -> np.ndarray:
    return np.asarray(np.abs(np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)).max(axis=1))


def _rescale(
    graph: Subgraph,
    constants: Mapping[int, np.ndarray],
    pair: Pair,
    strength: float,
    reached: Mapping[int, np.ndarray] | None,
) -> bool:
    """Whether the pair's constants were changed: not if others read them too, nor where all channels are alike."""
    first, second = (constants.get(operator.inputs[1]) for operator in (pair.first, pair.second))
    has_bias = len(pair.first.inputs) > 2 and pair.first.inputs[2] >= 0
    bias = constants.get(pair.first.inputs[2]) if has_bias else None
    if first is None or second is None or (has_bias and bias is None):
        return False
    if {a.dtype.name for a in (first, second, bias) if a is not None} != {"float32"}:
        return False
    out_axis, in_axis = _OUT_AXIS[pair.first.name], _IN_AXIS[pair.second.name]
    times, rest = divmod(second.shape[in_axis], pair.channels)
    if first.shape[out_axis] != pair.channels or rest or (pair.second.name == "CONV_2D" and times != 1):
        return False  # groups

    multiplied = pair.second.name == "DEPTHWISE_CONV_2D"  # a channel's outputs lie side by side; else they are repeated
    if reached is not None:
        ratio = reached[pair.first.outputs[0]].astype(np.float64)
    else:
        read = _largest(second, in_axis).reshape((-1, times) if multiplied else (times, -1))
        read = read.max(axis=1 if multiplied else 0)
        ratio = np.divide(_largest(first, out_axis), read, out=np.zeros(len(read)), where=read > 0)
    factor = _factors(ratio, strength)
    if (factor == 1).all():
        return False
    first /= _along(factor, out_axis, first.ndim)
    if bias is not None:
        bias /= factor
    second *= _along(np.repeat(factor, times) if multiplied else np.tile(factor, times), in_axis, second.ndim)
    return True


def _factors(ratio: np.ndarray, strength: float) -> np.ndarray:
    """float32, around 1; 1 for channels without a ratio."""
    alive = np.isfinite(ratio) & (ratio > 0)
    factor = np.ones(len(ratio))
    if alive.any():
        factor[alive] = (ratio[alive] / np.median(ratio[alive])) ** strength
    return np.clip(factor, 1 / LIMIT, LIMIT).astype(np.float32)


def _along(values: np.ndarray, axis: int, dimensions: int) -> np.ndarray:
    return values.reshape([-1 if place == axis else 1 for place in range(dimensions)])
