"""Where int8 leaves float: both models run with every tensor kept, and each operator's output is compared in decibel."""

from __future__ import annotations

import contextlib
import difflib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.convert.calibrate import shared_out
from edgekit.convert.flatbuffer import Model as File
from edgekit.convert.flatbuffer import OperatorInfo, Subgraph, TensorInfo, read_model
from edgekit.convert.gate import decibel
from edgekit.convert.selection import spread
from edgekit.runner.interpreter import invoke, open_interpreter
from edgekit.runner.model import Model
from edgekit.runner.tensors import encoder

LAYER_SAMPLES = 32  # SQNR per layer has settled to 0.2 dB by then
_DOUBT_DB = 15.0  # found by position and this much worse than the answer made from it: hardly the same tensor
_INT8_DB = 40.0  # about the best that 8 bits do: what is better cannot be lost
_BRIDGES = ("QUANTIZE", "DEQUANTIZE")


@dataclass(frozen=True)
class Layer:
    """One operator's output in the int8 model beside the float model's tensor."""

    index: int  # of the operator in the int8 model; -1, -2, ... for what goes into the model
    operator: str
    name: str  # of the tensor in the int8 model
    float_name: str
    matched_by: str  # "name", "position" or "input"
    shape: tuple[int, ...]
    sqnr_db: float | None  # None: the float model's tensor is all zero
    lost_db: float | None  # against the worst of what the operator reads; None: nothing it reads was compared
    clipped: float  # share of the float values that int8 cannot represent
    used: float | None  # share of the int8 range that the float values span


@dataclass(frozen=True)
class LayerComparison:
    """Every operator that has a partner, in the order in which they run, and those that have none."""

    layers: tuple[Layer, ...]
    unmatched: tuple[str, ...]  # of the int8 model: "ADD 'name'", or why the partner is doubted
    float_unmatched: tuple[str, ...]
    count: int  # samples

    def losers(self, number: int = 3) -> tuple[Layer, ...]:
        """The layers that lose most, worst first: at least 3 dB between what they read and what they write."""
        lossy = [layer for layer in self.layers if layer.lost_db is not None and layer.lost_db >= 3.0]
        return tuple(sorted(lossy, key=lambda layer: (-(layer.lost_db or 0.0), layer.index))[:number])


def loser_text(layer: Layer) -> str:
    """`CONV_2D 'block/conv' (31 → 12 dB)`."""
    sqnr, lost = layer.sqnr_db or 0.0, layer.lost_db or 0.0
    return f"{layer.operator} '{short_name(layer.name)}' ({sqnr + lost:.0f} → {sqnr:.0f} dB)"


def short_name(name: str, width: int = 48) -> str:
    """A tensor's name as a person would say it: TensorFlow joins the names of all that was fused with `;`."""
    parts = [part for part in name.split(";") if part] or [name]
    said = max(parts, key=lambda part: ("Relu" in part or "BiasAdd" in part, -len(part)))
    while len(said) > width and "/" in said.removeprefix("…/"):
        said = "…/" + said.removeprefix("…/").partition("/")[2]
    return said if len(said) <= width else "…" + said[-width + 1 :]


def compare_layers(
    float_model: Model, float_path: Path, int8_model: Model, int8_path: Path, inputs: Sequence[np.ndarray],
    *, count: int = LAYER_SAMPLES,
) -> LayerComparison:  # fmt: skip
    """SQNR of each layer over `count` of the raw inputs, one array (n, ...) for each of the model's inputs in order."""
    files = read_model(float_path), read_model(int8_path)
    pairs = match_operators(*files)
    graphs = files[0].subgraphs[0], files[1].subgraphs[0]
    wanted = dict.fromkeys([*zip(graphs[0].inputs, graphs[1].inputs, strict=False), *((f, q) for f, q, _ in pairs)])
    chosen = spread(len(inputs[0]), count)

    def work(samples: np.ndarray) -> dict[tuple[int, int], _Sum]:
        sums = {(f, q): _Sum(graphs[1].tensors[q]) for f, q in wanted}
        lanes = [_KeepsAll(float_model, float_path), _KeepsAll(int8_model, int8_path)]
        for sample in samples:
            for lane in lanes:
                lane.run([array[sample] for array in inputs])
            for (f, q), found in sums.items():
                with contextlib.suppress(ValueError, TypeError):  # of no data, or of no numbers: strings, resources
                    found.add(lanes[0].tensor(f), lanes[1].tensor(q))
        return sums

    first, *others = shared_out(work, chosen)
    for sums in others:
        for pair, found in sums.items():
            first[pair].join(found)
    return _result(graphs, pairs, first, len(chosen))


def match_operators(float_file: File, int8_file: File) -> list[tuple[int, int, str]]:
    """(float tensor, int8 tensor, "name" or "position") of the outputs of operators that do the same.

    First by the output's name and shape. What is left is aligned in the order in which it runs, by operator and shape,
    between neighbours that are matched already; QUANTIZE and DEQUANTIZE stand for nothing in the float model.
    """
    left, right = (_outputs(file.subgraphs[0]) for file in (float_file, int8_file))
    named = {(tensor.name, tensor.shape): number for number, (_, tensor) in enumerate(left)}
    partner: dict[int, tuple[int, str]] = {}
    for number, (_, tensor) in enumerate(right):
        found = named.pop((tensor.name, tensor.shape), None)
        if found is not None:
            partner[number] = (found, "name")
    taken = {f for f, _ in partner.values()}
    start_l = start_r = 0
    for end_r in [*sorted(partner), len(right)]:
        end_l = partner[end_r][0] if end_r in partner else len(left)
        free_l = [i for i in range(start_l, end_l) if i not in taken]
        free_r = [i for i in range(start_r, end_r) if i not in partner]
        for i, j in _aligned([_kind(left[i]) for i in free_l], [_kind(right[j]) for j in free_r]):
            partner[free_r[j]] = (free_l[i], "position")
        start_l, start_r = max(start_l, end_l + 1), end_r + 1
    return [(left[f][1].index, right[q][1].index, how) for q, (f, how) in sorted(partner.items())]


def _aligned(left: list[Any], right: list[Any]) -> list[tuple[int, int]]:
    blocks = difflib.SequenceMatcher(None, left, right, autojunk=False).get_matching_blocks()
    return [(block.a + step, block.b + step) for block in blocks for step in range(block.size)]


def _outputs(graph: Subgraph) -> list[tuple[OperatorInfo, TensorInfo]]:
    """What the operators write, bridges between float and int8 left out."""
    return [
        (operator, graph.tensors[index])
        for operator in graph.operators
        if operator.name not in _BRIDGES
        for index in operator.outputs
        if index >= 0 and not graph.tensors[index].is_variable
    ]


def _kind(written: tuple[OperatorInfo, TensorInfo]) -> tuple[str, tuple[int, ...]]:
    return written[0].name, written[1].shape


class _KeepsAll:
    """An interpreter whose tensors can all be read after a run, as real numbers."""

    def __init__(self, model: Model, path: Path) -> None:
        with warnings.catch_warnings():  # the runtime warns of the very option that is asked for
            warnings.simplefilter("ignore")
            # without XNNPACK, which keeps what its operators wrote to itself
            self._interpreter = open_interpreter(path, 1, experimental_preserve_all_tensors=True)
        details = {item["name"]: item["index"] for item in self._interpreter.get_input_details()}
        self._inputs = [(details[t.tensor], t, encoder(t, model.specs[t.name])) for t in model.inputs]
        self._keeps_state = any(t.is_variable for t in read_model(path).subgraphs[0].tensors)
        self._scales = _scales(path)

    def run(self, samples: Sequence[np.ndarray]) -> None:
        if self._keeps_state:
            self._interpreter.reset_all_variables()
        for (index, tensor, encode), sample in zip(self._inputs, samples, strict=True):
            self._interpreter.set_tensor(index, encode(sample).reshape(tensor.shape))
        invoke(self._interpreter)

    def tensor(self, index: int) -> np.ndarray:
        """Valid until the next run: float tensors are not copied. float32 where that is exact enough, else float64."""
        values = np.asarray(self._interpreter.tensor(index)())
        if values.dtype.kind == "f":
            return values
        scale, zero_point = self._scales.get(index, (1.0, 0))
        real = values.astype(np.float32 if values.itemsize <= 2 else np.float64)
        real -= zero_point
        real *= scale
        return real


def _scales(path: Path) -> Mapping[int, tuple[float, int]]:
    tensors = read_model(path).subgraphs[0].tensors
    return {t.index: (t.scale[0], t.zero_point[0] if t.zero_point else 0) for t in tensors if len(t.scale) == 1}


class _Sum:
    """Signal, noise and range of one pair of tensors, over samples."""

    def __init__(self, tensor: TensorInfo) -> None:
        self.signal = self.noise = 0.0
        self.outside = self.values = 0
        self.low, self.high = np.inf, -np.inf
        self.range: tuple[float, float] | None = None
        if tensor.dtype in ("int8", "int16", "uint8") and len(tensor.scale) == 1:
            limits = np.iinfo(tensor.dtype)
            zero_point = tensor.zero_point[0] if tensor.zero_point else 0
            self.range = (tensor.scale[0] * (limits.min - zero_point), tensor.scale[0] * (limits.max - zero_point))
            self.slack = tensor.scale[0] * 1.01  # one step is rounding; softmax ends one step below 1 by definition

    def add(self, real: np.ndarray, quantized: np.ndarray) -> None:
        if real.shape != quantized.shape:  # a dimension that is only known while it runs
            return
        self.signal += _energy(real)
        self.noise += _energy(real - quantized)
        self.values += real.size
        if not real.size:
            return
        least, most = float(real.min()), float(real.max())
        self.low, self.high = min(self.low, least), max(self.high, most)
        if self.range is not None:
            low, high = self.range[0] - self.slack, self.range[1] + self.slack
            if least < low:
                self.outside += int(np.count_nonzero(real < low))
            if most > high:
                self.outside += int(np.count_nonzero(real > high))

    def join(self, other: _Sum) -> None:
        """Those of other samples too."""
        self.signal, self.noise = self.signal + other.signal, self.noise + other.noise
        self.values, self.outside = self.values + other.values, self.outside + other.outside
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)

    @property
    def sqnr_db(self) -> float | None:
        if not self.signal:
            return None
        return round(float(decibel(np.array(self.signal), np.array(self.noise))), 2)

    @property
    def used(self) -> float | None:
        if self.range is None or self.high < self.low:
            return None
        low, high = max(self.low, self.range[0]), min(self.high, self.range[1])
        return round(max(0.0, high - low) / (self.range[1] - self.range[0]), 4)


def _energy(values: np.ndarray) -> float:
    """The sum of squares; numpy sums float32 in pairs, which costs 1e-6 of it and half the time of float64."""
    with np.errstate(over="ignore"):
        found = float(np.square(values).sum())
    return found if np.isfinite(found) else float(np.square(values, dtype=np.float64).sum())


def _input_layers(graphs: tuple[Subgraph, Subgraph], sums: Mapping[tuple[int, int], _Sum]) -> list[Layer]:
    """What int8 makes of the inputs: if their range is too narrow, everything is lost before the first operator."""
    layers = []
    for number, (f, q) in enumerate(zip(graphs[0].inputs, graphs[1].inputs, strict=False), 1):
        found, tensor = sums[f, q], graphs[1].tensors[q]
        sqnr = found.sqnr_db
        if not found.values:
            continue
        lost = None if sqnr is None else round(_INT8_DB - min(sqnr, _INT8_DB), 2)
        clipped, name = round(found.outside / found.values, 6), graphs[0].tensors[f].name
        layers.append(
            Layer(-number, "input", tensor.name, name, "input", tensor.shape, sqnr, lost, clipped, found.used)
        )
    return layers


def _result(
    graphs: tuple[Subgraph, Subgraph],
    pairs: list[tuple[int, int, str]],
    sums: Mapping[tuple[int, int], _Sum],
    count: int,
) -> LayerComparison:
    found = {q: sums[f, q] for f, q in sums}
    partner = {q: (f, how) for f, q, how in pairs}
    last = [found[q].sqnr_db for q in graphs[1].outputs if q in found]
    answer_db = max((value for value in last if value is not None), default=None)
    layers, unmatched = _input_layers(graphs, sums), []
    bridged = {op.outputs[0]: op.inputs[0] for op in graphs[1].operators if op.name in _BRIDGES}

    def through(index: int) -> int:
        """What an operator reads, before it went from one type to another."""
        while index in bridged and index not in found:
            index = bridged[index]
        return index

    for operator, tensor in _outputs(graphs[1]):
        said = f"{operator.name} '{short_name(tensor.name)}'"
        if tensor.index not in partner:
            unmatched.append(f"{said}: no such tensor in the float model")
            continue
        f, how = partner[tensor.index]
        sums_here = found[tensor.index]
        sqnr = sums_here.sqnr_db
        if not sums_here.values:
            unmatched.append(f"{said}: its shape or type cannot be compared")
            continue
        if how == "position" and sqnr is not None and answer_db is not None and sqnr < min(0.0, answer_db - _DOUBT_DB):
            unmatched.append(f"{said}: {sqnr:g} dB although the answer has {answer_db:g} dB: not the same tensor")
            continue
        before = [found[i].sqnr_db for i in map(through, operator.inputs) if i in found]
        known = [value for value in before if value is not None]
        lost = None if sqnr is None or not known else round(min(*known, _INT8_DB) - min(sqnr, _INT8_DB), 2)
        clipped = round(sums_here.outside / sums_here.values, 6)
        name = graphs[0].tensors[f].name
        layers.append(
            Layer(
                operator.index, operator.name, tensor.name, name, how, tensor.shape, sqnr, lost, clipped, sums_here.used
            )
        )
    matched = {f for f, _ in partner.values()}
    missing = tuple(f"{o.name} '{short_name(t.name)}'" for o, t in _outputs(graphs[0]) if t.index not in matched)
    return LayerComparison(tuple(layers), tuple(unmatched), missing, count)
