"""Takes a TRANSPOSE out of a float .tflite where what follows can do without: PyTorch flattens NCHW, convolutions are NHWC.

litert-torch puts none around convolutions, but one between the last of them and what takes the image apart. Edge TPUs and
GPU delegates dislike it, and its work is for nothing: a mean is over other axes, a dense layer's weights are in another order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgekit.convert.prune import drop_unread
from edgekit.convert.rewrite import add_constant, code_of, constant

_OP = schema.BuiltinOperator
_REDUCERS = (_OP.MEAN, _OP.SUM, _OP.REDUCE_MAX, _OP.REDUCE_MIN)


def without_transposes(model: Any) -> int:
    """How many were taken out of the unpacked `model`; the answers stay the same, to the order of a float sum."""
    graph = model.subgraphs[0]
    taken = 0
    for operator in list(graph.operators):
        if code_of(model, operator) == _OP.TRANSPOSE:
            users = _users(graph, operator.outputs[0])
            if len(users) == 1 and users[0].inputs[0] == operator.outputs[0] and _absorb(model, operator, users[0]):
                _take(users[0], 0, operator.inputs[0])
                graph.operators.remove(operator)
                taken += 1
    if taken:
        drop_unread(model)
    return taken


def _absorb(model: Any, transpose: Any, user: Any) -> bool:
    """Whether the `user` can take the transposition's input instead; it is changed so that it does."""
    graph = model.subgraphs[0]
    order = constant(model, transpose.inputs[1])
    shape = [int(size) for size in graph.tensors[transpose.inputs[0]].shape]
    if order is None:
        return False
    perm = [int(axis) for axis in order]
    if code_of(model, user) in _REDUCERS:
        axes = constant(model, user.inputs[1])
        if axes is None or user.builtinOptions.keepDims:
            return False
        reduced = {int(axis) % len(perm) for axis in axes}
        kept = [perm[i] for i in range(len(perm)) if i not in reduced]
        if kept != sorted(kept):
            return False
        _take(user, 1, _in_order(model, user.inputs[1], np.array(sorted(perm[i] for i in reduced), np.int32)))
        return True
    if code_of(model, user) != _OP.RESHAPE:
        return False
    moved = [axis for axis in perm if shape[axis] != 1]
    if moved == sorted(moved):  # the values do not move at all
        return True
    dense = _users(graph, user.outputs[0])
    if len(dense) != 1 or code_of(model, dense[0]) != _OP.FULLY_CONNECTED or dense[0].inputs[0] != user.outputs[0]:
        return False
    weights = constant(model, dense[0].inputs[1])
    flat = [int(size) for size in graph.tensors[user.outputs[0]].shape]
    if weights is None or perm[0] != 0 or shape[0] != 1 or flat != [1, weights.shape[1]]:
        return False
    transposed = [shape[axis] for axis in perm]
    in_order = weights.reshape(len(weights), *transposed[1:]).transpose(0, *np.argsort(perm)[1:])
    _take(dense[0], 1, _in_order(model, dense[0].inputs[1], in_order.reshape(weights.shape)))
    return True


def _take(operator: Any, place: int, tensor: int) -> None:
    operator.inputs = [*operator.inputs[:place], tensor, *operator.inputs[place + 1 :]]


def _users(graph: Any, tensor: int) -> list[Any]:
    """The operators that take a tensor; none of them counts for one that the graph gives."""
    return [] if tensor in graph.outputs else [each for each in graph.operators if tensor in each.inputs]


def _in_order(model: Any, like: int, values: np.ndarray) -> int:
    """A constant of its own: what it is made from may have other users."""
    return add_constant(model, model.subgraphs[0].tensors[like].name + b"/in_order", values)
