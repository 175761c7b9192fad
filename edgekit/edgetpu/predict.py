"""What the Edge TPU compiler would do with a .tflite, said without it. All of it is predicted, nothing is measured.

prediction = predict(read_model("model.tflite"))
prediction.operators[0].unit         # "tpu", "cpu" or "removed"
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgekit.convert.constants import read_constants, real_values
from edgekit.convert.flatbuffer import Model, Subgraph, read_model
from edgekit.edgetpu.compiled import CUSTOM_CODE
from edgekit.edgetpu.limits import DOCUMENTED, OBSERVED, operator_of
from edgekit.edgetpu.parameters import Parameters, predict_parameters
from edgekit.edgetpu.partition import boundary, first_partition, live_operators
from edgekit.edgetpu.payoff import Payoff, predict_payoff
from edgekit.edgetpu.rules import Support, support
from edgekit.edgetpu.versions import COMPILER, Refusal, refusals
from edgekit.errors import InputError

MOST_VALUES = 4096  # constants with more are weights, whose values no rule asks for


@dataclass(frozen=True)
class Unit:
    """Where one operator of the primary subgraph runs, and why."""

    index: int
    name: str
    version: int
    unit: str  # "tpu", "cpu", or "removed": nothing needs its result, the compiler drops it
    status: str  # the words of the compiler's log
    reason: str  # "" on the Edge TPU
    rule: str  # that decided, "" when none was broken
    evidence: str  # "observed" or "documented, unobserved"


@dataclass(frozen=True)
class Boundary:
    """A tensor that goes to the Edge TPU or comes back from it, for every inference."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int


@dataclass(frozen=True)
class Prediction:
    """All that is predicted of a model. `refused`: the compiler writes no file until these operators are gone."""

    compiler: str
    on_tpu: int  # operators
    on_cpu: int
    removed: int
    operators: tuple[Unit, ...]
    refused: tuple[Refusal, ...]
    inputs: tuple[Boundary, ...]
    outputs: tuple[Boundary, ...]
    parameters: Parameters
    payoff: Payoff


def predict_file(path: Path) -> Prediction:
    """Of a .tflite file; NotAModel when it is none, InputError when it is compiled for the Edge TPU already."""
    model = read_model(path)
    graph = model.subgraphs[0]
    values = {}
    for index, content in read_constants(path).items():
        if len(content) <= MOST_VALUES:
            real = real_values(graph.tensors[index], content)
            if real is not None:
                values[index] = tuple(real.ravel().tolist())
    return predict(model, values)


def predict(model: Model, values: Mapping[int, tuple[float, ...]] | None = None) -> Prediction:
    """Of the primary subgraph; `values`: real values of its constants by tensor, for limits on axes and strides.

    Limits on constants whose values are not given count as kept.
    """
    graph = model.subgraphs[0]
    if any(operator.name == CUSTOM_CODE for operator in graph.operators):
        raise InputError(
            "the model is compiled for the Edge TPU already",
            hint="inspect it without --edgetpu, or give the .tflite it was compiled from",
        )
    refused = refusals(operator for each in model.subgraphs for operator in each.operators)
    operators = [operator_of(graph, info, values or {}) for info in graph.operators]
    alone = [support(operator) for operator in operators]
    on_tpu = first_partition(graph, [each.supported for each in alone])
    if refused or len(model.subgraphs) > 1:
        on_tpu = frozenset()
    goes, comes = boundary(graph, on_tpu)
    inputs, outputs = ([Boundary(t.name, t.shape, t.dtype, t.data_bytes) for t in side] for side in (goes, comes))
    parameters = predict_parameters(operators[position] for position in on_tpu)
    moved = sum(tensor.bytes for tensor in (*inputs, *outputs))
    units = _units(model, graph, alone, on_tpu, refused)
    counts = Counter(unit.unit for unit in units)
    return Prediction(
        compiler=COMPILER,
        on_tpu=counts["tpu"],
        on_cpu=counts["cpu"],
        removed=counts["removed"],
        operators=tuple(units),
        refused=tuple(refused),
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        parameters=parameters,
        payoff=predict_payoff(graph, on_tpu, moved + parameters.streamed_bytes),
    )


def _units(
    model: Model, graph: Subgraph, alone: list[Support], on_tpu: frozenset[int], refused: list[Refusal]
) -> list[Unit]:
    live = live_operators(graph)
    found = []
    for position, (operator, own) in enumerate(zip(graph.operators, alone, strict=True)):
        if position not in live:
            words = ("removed", "", "nothing needs its result", "dead operator", OBSERVED)
        elif position in on_tpu:
            words = ("tpu", own.status, "", "", own.evidence)
        elif not own.supported:
            words = ("cpu", own.status, own.reason, own.rule, own.evidence)
        elif refused:
            first = refused[0]
            reason = f"the compiler refuses the file: {first.name} version {first.version}"
            words = ("cpu", "Operation version not supported", reason, "operator version", OBSERVED)
        elif len(model.subgraphs) > 1:
            reason = f"the model has {len(model.subgraphs)} graphs, the compiler takes one"
            words = ("cpu", "More than one subgraph is not supported", reason, "one graph", DOCUMENTED)
        else:
            reason = "supported, but behind an operator that runs on the CPU"
            words = ("cpu", "More than one subgraph is not supported", reason, "first partition", OBSERVED)
        found.append(Unit(operator.index, operator.name, operator.version, *words))
    return found
