"""The layers that are sums of products, convolutions and fully connected ones, as matrices: weights, and what they meet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from edgekit.convert.constants import read_constants
from edgekit.convert.flatbuffer import OperatorInfo, Subgraph, read_model
from edgekit.convert.layers import match_operators
from edgekit.convert.patch import unpack

KINDS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
LARGEST = {"int8": 127, "int4": 7}  # step that a weight can be; symmetric
ALIKE = 0.2  # squared difference of weights as a share of their squares, above which they are not the same layer's


@dataclass(frozen=True)
class Linear:
    """One layer: y = w x + b before its activation function, at every place of the output alike.

    A kernel has `height` x `width` places; a fully connected layer's one.
    """

    operator: OperatorInfo
    x: int  # tensors
    w: int
    b: int | None
    y: int
    channels_in: int
    channels_out: int
    height: int = 1
    width: int = 1
    out_size: tuple[int, int] = (1, 1)  # rows and columns of the output
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    before: tuple[int, int] = (0, 0)  # rows and columns of zeros in front

    @property
    def is_depthwise(self) -> bool:
        return self.operator.name == "DEPTHWISE_CONV_2D"

    @property
    def places(self) -> int:
        """Places of the output in one sample, of the layers that have such."""
        return self.out_size[0] * self.out_size[1]

    def matrix(self, weights: np.ndarray) -> np.ndarray:
        """The weights by output channel: (out, kernel places x in), of a depthwise layer (out, kernel places)."""
        if self.is_depthwise:
            return np.ascontiguousarray(np.moveaxis(weights, 3, 0).reshape(self.channels_out, -1))
        return weights.reshape(self.channels_out, -1)

    def weights(self, matrix: np.ndarray) -> np.ndarray:
        """The other way round, in the shape that the file has."""
        if self.is_depthwise:
            return np.asarray(np.moveaxis(matrix.reshape(self.channels_out, 1, self.height, self.width), 0, 3))
        if self.operator.name == "FULLY_CONNECTED":
            return matrix
        return matrix.reshape(self.channels_out, self.height, self.width, self.channels_in)

    def mean_patch(self, x: np.ndarray) -> np.ndarray:
        """What each weight meets in the mean over all places: (kernel places, in)."""
        if self.operator.name == "FULLY_CONNECTED":
            return np.asarray(x.reshape(-1, self.channels_in).mean(axis=0, keepdims=True))
        x = self._padded(x)
        found = []
        for row in range(self.height):
            for column in range(self.width):
                top, left = row * self.dilation[0], column * self.dilation[1]
                part = x[
                    :,
                    top : top + (self.out_size[0] - 1) * self.stride[0] + 1 : self.stride[0],
                    left : left + (self.out_size[1] - 1) * self.stride[1] + 1 : self.stride[1],
                ]
                found.append(part.mean(axis=(0, 1, 2)))
        return np.stack(found)

    def patches(self, x: np.ndarray, most: int, seed: int) -> np.ndarray:
        """What the weights meet at up to `most` places, drawn by `seed`: (places, kernel places, in)."""
        if self.operator.name == "FULLY_CONNECTED":
            rows = x.reshape(-1, 1, self.channels_in)
            return np.asarray(rows[_drawn(len(rows), most, seed)])
        x = self._padded(x)
        sample, row, column = np.unravel_index(_drawn(len(x) * self.places, most, seed), (len(x), *self.out_size))
        rows = row[:, None, None] * self.stride[0] + np.arange(self.height)[:, None] * self.dilation[0]
        columns = column[:, None, None] * self.stride[1] + np.arange(self.width) * self.dilation[1]
        return np.asarray(x[sample[:, None, None], rows, columns].reshape(len(sample), -1, self.channels_in))

    def _padded(self, x: np.ndarray) -> np.ndarray:
        sizes = []
        for place in (0, 1):
            reach = (self.out_size[place] - 1) * self.stride[place] + 1
            reach += ((self.height, self.width)[place] - 1) * self.dilation[place]
            sizes.append((self.before[place], max(0, reach - self.before[place] - x.shape[1 + place])))
        return np.pad(x, ((0, 0), *sizes, (0, 0)))


def _drawn(count: int, most: int, seed: int) -> np.ndarray:
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, most, replace=False))


def find_layers(graph: Subgraph) -> list[Linear]:
    """The layers of a graph in the order in which they run; those of a form that is not known are left out.

    Their weights are the constant that is stored, also where a DEQUANTIZE for them alone makes real numbers of it.
    """
    readers = Counter(index for operator in graph.operators for index in operator.inputs)
    stored = {
        operator.outputs[0]: operator.inputs[0]
        for operator in graph.operators
        if operator.name == "DEQUANTIZE" and readers[operator.outputs[0]] == 1
    }
    layers = (_layer(graph, operator, stored) for operator in graph.operators)
    return [layer for layer in layers if layer is not None]


def _layer(graph: Subgraph, operator: OperatorInfo, stored: Mapping[int, int]) -> Linear | None:
    if operator.name not in KINDS or len(operator.inputs) < 2 or min(operator.inputs[:2]) < 0:
        return None
    x, y = graph.tensors[operator.inputs[0]], graph.tensors[operator.outputs[0]]
    w = graph.tensors[stored.get(operator.inputs[1], operator.inputs[1])]
    b = operator.inputs[2] if len(operator.inputs) > 2 and operator.inputs[2] >= 0 else None
    tensors = x.index, w.index, b, y.index
    if not w.constant or x.constant or any(size <= 0 for t in (x, y) for size in t.shape):
        return None
    if operator.name == "FULLY_CONNECTED":
        if len(w.shape) != 2 or operator.options.get("weights_format", 0):
            return None
        return Linear(operator, *tensors, channels_in=w.shape[1], channels_out=w.shape[0])
    if len(w.shape) != 4 or len(x.shape) != 4 or len(y.shape) != 4:
        return None
    depthwise = operator.name == "DEPTHWISE_CONV_2D"
    if w.shape[3] != (y if depthwise else x).shape[3] or y.shape[3] % x.shape[3] * depthwise:
        return None  # groups
    options = operator.options
    stride, dilation = (
        (int(options.get(f"{name}h{rest}", 1)), int(options.get(f"{name}w{rest}", 1)))
        for name, rest in (("stride_", ""), ("dilation_", "_factor"))
    )
    before = (0, 0)
    if options.get("padding") == "SAME":
        short = [(y.shape[i] - 1) * stride[i - 1] + (w.shape[i] - 1) * dilation[i - 1] + 1 - x.shape[i] for i in (1, 2)]
        before = (max(short[0], 0) // 2, max(short[1], 0) // 2)
    return Linear(
        operator, *tensors, x.shape[3], y.shape[3], w.shape[1], w.shape[2], (y.shape[1], y.shape[2]), stride, dilation, before
    )  # fmt: skip


# --- a layer in float and in int8 -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Twins:
    """A layer of a quantized file, with what the float model has in its place."""

    layer: Linear  # in the quantized file
    scale: np.ndarray  # of the weights of each output channel
    largest: int  # step that a weight can be: 127, of int4 7
    input_scale: float | None  # of what the layer reads; None: it reads real numbers, and so is its bias
    weights: np.ndarray  # float64, as `Linear.matrix` has them
    bias: np.ndarray  # float64, one for each output channel; zeros where there is none
    steps: np.ndarray  # the weights of the quantized file, int8 also for int4

    @property
    def error(self) -> np.ndarray:
        """What rounding has taken from the weights, float64."""
        return np.asarray(self.weights - self.steps * self.scale[:, None])


def find_twins(float_model: Path, quantized: Path) -> list[Twins]:
    """The layers with int8 or int4 weights whose float counterpart is known, as they run.

    Raises NotAModel as read_model does.
    """
    files = read_model(float_model), read_model(quantized)
    real, whole = read_constants(float_model), read_constants(quantized)
    graphs = files[0].subgraphs[0], files[1].subgraphs[0]
    of_float = {layer.y: layer for layer in find_layers(graphs[0])}
    partner = {q: of_float[f] for f, q, _ in match_operators(*files) if f in of_float}
    found = []
    for layer in find_layers(graphs[1]):
        other = partner.get(layer.y)
        x, w = graphs[1].tensors[layer.x], graphs[1].tensors[layer.w]
        if other is None or other.w not in real or layer.w not in whole or w.dtype not in LARGEST or any(w.zero_point):
            continue
        is_real = x.dtype == "float32"
        if not is_real and (x.dtype not in ("int8", "int16") or len(x.scale) != 1):
            continue
        if len(w.scale) not in (1, layer.channels_out):
            continue
        if graphs[0].tensors[other.w].dtype != "float32" or graphs[0].tensors[other.w].shape != w.shape:
            continue
        weights = other.matrix(_values(graphs[0], real, other.w)).astype(np.float64)
        bias = np.zeros(layer.channels_out)
        if other.b in real:
            bias = _values(graphs[0], real, other.b).astype(np.float64)
        scale = np.broadcast_to(np.array(w.scale, np.float64), (layer.channels_out,))
        steps = layer.matrix(_values(graphs[1], whole, layer.w))
        twins = Twins(layer, scale, LARGEST[w.dtype], None if is_real else x.scale[0], weights, bias, steps)
        if np.square(twins.error).sum() <= ALIKE * np.square(weights).sum():
            found.append(twins)
    return found


def _values(graph: Subgraph, constants: Mapping[int, bytes], index: int) -> np.ndarray:
    tensor = graph.tensors[index]
    if tensor.dtype == "int4":
        return unpack(np.frombuffer(constants[index], np.uint8), prod(tensor.shape)).reshape(tensor.shape)
    return np.frombuffer(constants[index], tensor.dtype).reshape(tensor.shape)
