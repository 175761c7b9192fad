"""The same int8 file with other ranges, without a quantizer: only scales, zero points and biases differ.

What a quantizer does with ranges is learnt from two files that it made, with ranges of which no two are alike: each scale
and zero point must follow from some of them, and the first file with the second's ranges must be the second file, byte by
byte. Where it is not, nothing is learnt. Files to be judged, not to be shipped.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

Ranges = Mapping[str, "tuple[float, float]"]  # tensor name -> (lowest, highest) value
Step = tuple[np.float32, int]  # scale, zero point
Source = str | tuple[str, ...] | None  # a tensor; several, whose union it is; None: the step is always the same

_INPUTS = {  # of the kinds that have one: where input, weights and bias are
    schema.BuiltinOperator.CONV_2D: (0, 1, 2),
    schema.BuiltinOperator.DEPTHWISE_CONV_2D: (0, 1, 2),
    schema.BuiltinOperator.FULLY_CONNECTED: (0, 1, 2),
    schema.BuiltinOperator.TRANSPOSE_CONV: (2, 1, 3),
}
_LOWEST, _HIGHEST = -128, 127
_LEAST_SHARE = 0.7  # of a range that is left of it where no two may be alike


def distinct(ranges: Ranges, seed: int) -> Ranges:
    """Somewhat smaller ranges, of which no two are alike: what a quantizer makes of them tells where it comes from."""
    rng = np.random.default_rng(seed)
    shares = rng.uniform(_LEAST_SHARE, 1.0, (len(ranges), 2))
    return {name: (low * a, high * b) for (name, (low, high)), (a, b) in zip(ranges.items(), shares, strict=True)}


class Reranger:
    """Makes files with other ranges of the one that it was learnt from.

    `sources`: of each computed int8 tensor's step. `constants`: the float model's, of which biases are made.
    """

    def __init__(self, parts: _Parts, sources: Mapping[int, Source], constants: Mapping[str, np.ndarray]) -> None:
        self._parts, self._sources = parts, sources
        none = np.zeros(1, np.float32)  # a bias that the quantizer added
        found = [(constants.get(bias.name, none), bias.values.size) for bias in parts.biases]
        self._biases = [(one if one.size == size else none).copy() for one, size in found]  # not views of a whole model

    def __call__(self, ranges: Ranges) -> bytes:
        """The file with these ranges of the float model's tensors."""
        steps = self._parts.steps
        for tensor, source in self._sources.items():
            if source is not None:
                scale, zero_point = steps[tensor]
                scale[0], zero_point[0] = _step(source, ranges)
        for bias, values in zip(self._parts.biases, self._biases, strict=True):
            bias.scales[...] = steps[bias.input][0][0] * bias.weight_scales
            with np.errstate(all="ignore"):  # weights that are all zero
                bias.values[...] = _rounded(values * (np.float32(1) / bias.scales))
        return bytes(self._parts.file)


def learn(float_model: bytes, files: Sequence[bytes], several: Sequence[Ranges]) -> Reranger | None:
    """What makes the second file of the first, both by one quantizer of that float model; None if that is not clear.

    `several`: the ranges that each was made with, as `distinct` gives them.
    """
    one, two = (_Parts(bytearray(file)) for file in files)
    if one.steps.keys() != two.steps.keys() or [x.shape for x in one.unread] != [x.shape for x in two.unread]:
        return None
    first = {_step(name, several[0]): name for name in several[0]}
    sources: dict[int, Source] = {}
    for tensor, views in one.steps.items():
        steps = _value(views), _value(two.steps[tensor])
        named = first.get(steps[0])
        candidates: Iterable[str | tuple[str, ...]] = chain(
            [] if named is None else [named], one.beside(tensor, several[0])
        )
        for source in candidates:
            if all(_step(source, ranges) == step for ranges, step in zip(several, steps, strict=True)):
                sources[tensor] = source
                break
        else:
            if steps[0] != steps[1]:
                return None
            sources[tensor] = None
    reranger = Reranger(one, sources, _constants(float_model))
    for ours, theirs in zip(one.unread, two.unread, strict=True):
        ours[...] = theirs
    return reranger if reranger(several[1]) == files[1] else None


@dataclass(frozen=True)
class _Bias:
    name: str
    values: np.ndarray  # int32
    scales: np.ndarray
    input: int  # the tensor whose scale times the weights' is its own
    weight_scales: np.ndarray


class _Parts:
    """Views of what may differ between files of one model: writing to them changes `file`."""

    def __init__(self, file: bytearray) -> None:
        self.file = file
        root = schema.Model.GetRootAs(file, 0)
        graph = root.Subgraphs(0)
        tensors = [graph.Tensors(index) for index in range(graph.TensorsLength())]
        self.steps: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # computed int8 tensor -> scale, zero point
        self.biases: list[_Bias] = []
        self.unread: list[np.ndarray] = []  # minima and maxima, which the quantizer leaves in a trial
        self._names = [tensor.Name().decode("utf-8", "replace") for tensor in tensors]
        self._operators: list[list[int]] = []  # the computed int8 tensors of each
        for index, tensor in enumerate(tensors):
            details = tensor.Quantization()
            if details is None:
                continue
            self.unread += [view for view in (details.MinAsNumpy(), details.MaxAsNumpy()) if np.ndim(view)]
            computed = not root.Buffers(tensor.Buffer()).DataLength()
            if (
                computed
                and tensor.Type() == schema.TensorType.INT8
                and details.ScaleLength() == details.ZeroPointLength() == 1
            ):
                self.steps[index] = details.ScaleAsNumpy(), details.ZeroPointAsNumpy()
        for operator in map(graph.Operators, range(graph.OperatorsLength())):
            inputs, outputs = operator.InputsAsNumpy(), operator.OutputsAsNumpy()
            self._operators.append(
                [int(i) for i in (*np.atleast_1d(inputs), *np.atleast_1d(outputs)) if i in self.steps]
            )
            code = root.OperatorCodes(operator.OpcodeIndex())
            places = _INPUTS.get(max(code.BuiltinCode(), code.DeprecatedBuiltinCode()))
            if places is None or len(inputs) <= places[2] or inputs[places[2]] < 0:
                continue
            fed, weights, bias = (int(inputs[place]) for place in places)
            made, of = tensors[bias].Quantization(), tensors[weights].Quantization()
            if fed in self.steps and tensors[bias].Type() == schema.TensorType.INT32 and None not in (made, of):
                values = root.Buffers(tensors[bias].Buffer()).DataAsNumpy().view(np.int32)
                self.biases.append(_Bias(self._names[bias], values, made.ScaleAsNumpy(), fed, of.ScaleAsNumpy()))

    def beside(self, tensor: int, known: Collection[str]) -> Iterator[tuple[str, ...]]:
        """The known names of each operator's tensors that has this one among them."""
        for each in self._operators:
            names = tuple(self._names[other] for other in each if self._names[other] in known)
            if tensor in each and names:
                yield names


def _constants(float_model: bytes) -> dict[str, np.ndarray]:
    """The float32 constants by name, flat."""
    root = schema.Model.GetRootAs(float_model, 0)
    graph = root.Subgraphs(0)
    found = {}
    for tensor in map(graph.Tensors, range(graph.TensorsLength())):
        buffer = root.Buffers(tensor.Buffer())
        if tensor.Type() == schema.TensorType.FLOAT32 and buffer.DataLength():
            found[tensor.Name().decode("utf-8", "replace")] = buffer.DataAsNumpy().view(np.float32)
    return found


def _value(views: tuple[np.ndarray, np.ndarray]) -> Step:
    return np.float32(views[0][0]), int(views[1][0])


def _step(source: str | tuple[str, ...], ranges: Ranges) -> Step:
    """Scale and zero point of a tensor's range, or of the union of several, in float32 as LiteRT's quantizer has it."""
    own = [ranges[name] for name in ([source] if isinstance(source, str) else source)]
    low, high = np.float32(min(0.0, *(low for low, _ in own))), np.float32(max(0.0, *(high for _, high in own)))
    scale = (high - low) / np.float32(_HIGHEST - _LOWEST)
    if not scale:
        return scale, 0
    zero_point = int(_rounded(np.float32(_LOWEST) - low / scale))
    return scale, min(max(zero_point, _LOWEST), _HIGHEST)


def _rounded(values: Any) -> Any:
    """To the nearest whole number, halves away from zero, as C's round does; within int32."""
    away = np.copysign(np.floor(np.abs(values, dtype=np.float64) + 0.5), values)
    return np.clip(away, -(2**31), 2**31 - 1)
