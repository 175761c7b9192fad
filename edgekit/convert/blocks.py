"""The smallest part of a network that has to stay float: which operators make the noise is measured, then how few are enough.

What int8 adds is nearly the sum of what each operator adds alone, so the noisiest ones are left in float until the result
is good enough, together with what lies between them where going to int8 and back would cost more. Each set is measured
as a whole; the sum only says in which order to try.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

from edgekit.convert.cost import operator_macs
from edgekit.convert.flatbuffer import OperatorInfo, read_model
from edgekit.convert.held_out import HeldOut
from edgekit.convert.mixed import can_be_float, mixed
from edgekit.convert.wiring import Wiring

MEASUREMENTS = 96  # models built to find the noisy operators, at most; a network of 254 operators has a few noisy runs
# What float costs more than int8: a multiply-accumulate of float, and a value brought to int8 or back. Measured on
# MobileNetV2-96, one x86-64 thread, XNNPACK: 16 ps for the one, 60 to 80 ps for the other.
FLOAT_MAC, CONVERSION = 1.0, 5.0
MOST = 0.75  # of what the whole model in float costs more than int8: beyond, float itself is the better answer


@dataclass(frozen=True)
class Run:
    """Operators that follow one another, and the noise that they add when all others are float (share of the signal)."""

    names: tuple[str, ...]
    noise: float


@dataclass(frozen=True)
class Blocks:
    """Operators that stay float."""

    names: tuple[str, ...]  # of their first outputs, as they run
    of: int  # operators that could
    mac_share: float  # of the multiply-accumulates that are float now
    path: Path


def measure_noise(
    float_model: Path, int8_model: Path, held_out: HeldOut, folder: Path, *, most: int = MEASUREMENTS
) -> list[Run]:
    """What each operator adds, the noisiest first: the noisiest run is halved again and again, down to single operators.

    Runs that add next to nothing stay long: they are not looked into. `folder` takes the models.
    """
    names = tuple(can_be_float(float_model, int8_model))
    files = float_model.read_bytes(), int8_model.read_bytes()

    def noise(inside: Collection[str]) -> float:
        path = folder / "noise.tflite"
        path.write_bytes(mixed(*files, set(names) - set(inside)))
        return held_out.noise(path)

    floor = noise(())  # of input and output: int8 whatever is inside
    runs = [Run(names, max(noise(names) - floor, 0.0))]
    count = 2
    while count + 2 <= most:
        whole = max((run for run in runs if len(run.names) > 1), key=lambda run: run.noise, default=None)
        if whole is None or whole.noise <= 0.01 * sum(run.noise for run in runs):
            break
        half = len(whole.names) // 2
        runs.remove(whole)
        for part in (whole.names[:half], whole.names[half:]):
            runs.append(Run(part, max(noise(part) - floor, 0.0)))
            count += 1
    return sorted(runs, key=lambda run: -run.noise)


def smallest(
    float_model: Path, int8_model: Path, runs: list[Run], folder: Path, good: Callable[[Path], bool]
) -> Blocks | None:
    """The fewest of the noisiest runs, and what lies between them, that have to be float for `good`.

    None if nothing would be won beside the whole model in float.
    """
    operators = can_be_float(float_model, int8_model)
    costs = _Costs(float_model, operators)
    files = float_model.read_bytes(), int8_model.read_bytes()
    path = folder / "mixed.tflite"

    sets = [costs.closed({name for run in runs[:count] for name in run.names}) for count in range(1, len(runs) + 1)]
    sets = [names for names in sets if costs.of(names) <= MOST * costs.of_float]

    def is_good(count: int) -> bool:
        path.write_bytes(mixed(*files, sets[count - 1]))
        return good(path)

    failed, count = 0, 1
    while count <= len(sets) and not is_good(count):
        failed, count = count, 2 * count if 2 * count <= len(sets) or count == len(sets) else len(sets)
    if count > len(sets):
        return None
    while count - failed > 1:
        middle = (failed + count) // 2
        failed, count = (failed, middle) if is_good(middle) else (middle, count)
    names = sets[count - 1]
    path.write_bytes(mixed(*files, names))  # other sets were written over it
    return Blocks(tuple(n for n in operators if n in names), len(operators), costs.mac_share(names), path)


class _Costs:
    """What a set of float operators costs beside int8, in multiply-accumulates of int8: estimated, to choose by."""

    def __init__(self, float_model: Path, operators: Mapping[str, str]) -> None:
        self.graph = read_model(float_model).subgraphs[0]
        self.wiring = Wiring.of(self.graph)
        self.by_name = {
            self.graph.tensors[op.outputs[0]].name: op
            for op in self.graph.operators
            if op.outputs and self.graph.tensors[op.outputs[0]].name in operators
        }
        self.macs = {name: operator_macs(self.graph, op) for name, op in self.by_name.items()}
        self.all_macs = sum(operator_macs(self.graph, op) for op in self.graph.operators)
        self.of_float = FLOAT_MAC * self.all_macs

    def mac_share(self, names: Collection[str]) -> float:
        return sum(self.macs[name] for name in names) / self.all_macs if self.all_macs else 0.0

    def of(self, names: Collection[str]) -> float:
        inside = {self.by_name[name].index for name in names}
        crossing = {
            index
            for name in names
            for index in self._activations(self.by_name[name])
            if self._crosses(index, inside)
        }  # fmt: skip
        values = sum(prod(self.graph.tensors[index].shape) for index in crossing)
        return FLOAT_MAC * sum(self.macs[name] for name in names) + CONVERSION * values

    def closed(self, names: set[str]) -> set[str]:
        """With the neighbours that make it cheaper: a small operator between two float ones, most of all."""
        names = set(names)
        while True:
            cost = self.of(names)
            better = next((n for n in self._neighbours(names) if self.of(names | {n}) < cost), None)
            if better is None:
                return names
            names.add(better)

    def _neighbours(self, names: set[str]) -> list[str]:
        touched = {index for name in names for index in self._activations(self.by_name[name])}
        return [n for n, op in self.by_name.items() if n not in names and touched & set(self._activations(op))]

    def _activations(self, operator: OperatorInfo) -> list[int]:
        indexes = (*operator.inputs, *operator.outputs)
        tensors = self.graph.tensors
        return [i for i in indexes if i >= 0 and not tensors[i].constant and tensors[i].dtype == "float32"]

    def _crosses(self, index: int, inside: set[int]) -> bool:
        ends = [self.wiring.writer.get(index), *self.wiring.readers.get(index, ())]
        sides = {end is not None and end.index in inside for end in ends}
        return len(sides) > 1 or index in self.graph.outputs
