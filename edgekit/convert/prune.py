"""Takes out of an unpacked .tflite what a change left without a reader: quantizers stumble over it, and files carry it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def drop_unread(model: Any) -> None:
    """Operators whose results nobody reads, tensors that nobody has, their data, and operator codes nobody is of; in place.

    An operator without outputs is there for what it does: it stays. Buffers keep their numbers, by which others know them.
    """
    for number, graph in enumerate(model.subgraphs):
        _drop_operators(graph)
        new = _drop_tensors(graph)
        for signature in model.signatureDefs or ():
            if signature.subgraphIndex == number:
                for entry in (*signature.inputs, *signature.outputs):
                    entry.tensorIndex = new[int(entry.tensorIndex)]
    _drop_data(model)
    _drop_codes(model)


def _drop_operators(graph: Any) -> None:
    read = set(_numbers(graph.outputs))
    kept = []
    for operator in reversed(graph.operators):  # they run in this order: readers come later
        outputs = _numbers(operator.outputs)
        if not outputs or read & set(outputs):
            kept.append(operator)
            read.update(_numbers(operator.inputs))
    graph.operators = kept[::-1]


def _drop_tensors(graph: Any) -> dict[int, int]:
    """The tensors' new places by their old ones."""
    used = {i for op in graph.operators for side in (op.inputs, op.outputs, op.intermediates) for i in _numbers(side)}
    used |= {*_numbers(graph.inputs), *_numbers(graph.outputs)}
    new = {old: place for place, old in enumerate(sorted(used - {-1}))}
    graph.tensors = [graph.tensors[index] for index in new]
    for holder in (graph, *graph.operators):
        for side in ("inputs", "outputs", "intermediates"):
            _renumber(holder, side, new)
    return new


def _renumber(holder: Any, side: str, new: Mapping[int, int]) -> None:
    if getattr(holder, side, None) is not None:
        setattr(holder, side, np.array([new.get(index, -1) for index in _numbers(getattr(holder, side))], np.int32))


def _drop_data(model: Any) -> None:
    held = {tensor.buffer for graph in model.subgraphs for tensor in graph.tensors}
    held |= {entry.buffer for entry in model.metadata or ()}
    for index, buffer in enumerate(model.buffers):
        if index not in held:
            buffer.data = None


def _drop_codes(model: Any) -> None:
    operators = [operator for graph in model.subgraphs for operator in graph.operators]
    new = {old: place for place, old in enumerate(sorted({operator.opcodeIndex for operator in operators}))}
    model.operatorCodes = [model.operatorCodes[index] for index in new]
    for operator in operators:
        operator.opcodeIndex = new[operator.opcodeIndex]


def _numbers(indexes: Any) -> list[int]:
    """A side that is not there is None, one that was read is an array."""
    return [] if indexes is None else [int(index) for index in indexes]
