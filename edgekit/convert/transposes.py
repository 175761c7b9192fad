"""Takes a TRANSPOSE out of a float .tflite where what follows can do without: PyTorch flattens NCHW, convolutions are NHWC.

litert-torch puts none around convolutions, but one between the last of them and what takes the image apart. Edge TPUs and
GPU delegates dislike it, and its work is for nothing: a mean is over other axes, a dense layer's weights are in another order.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

_OP = schema.BuiltinOperator
_REDUCERS = (_OP.MEAN, _OP.SUM, _OP.REDUCE_MAX, _OP.REDUCE_MIN)


def without_transposes(model: Any) -> int:
    """How many were taken out of the unpacked `model`; the answers stay the same, to the order of a float sum."""
    graph = model.subgraphs[0]
    taken = 0
    for operator in list(graph.operators):
        if _code(model, operator) == _OP.TRANSPOSE:
            users = _users(graph, operator.outputs[0])
            if len(users) == 1 and users[0].inputs[0] == operator.outputs[0] and _absorb(model, operator, users[0]):
                _take(users[0], 0, operator.inputs[0])
                graph.operators.remove(operator)
                taken += 1
    if taken:
        _prune(model)
    return taken


def _absorb(model: Any, transpose: Any, user: Any) -> bool:
    """Whether the `user` can take the transposition's input instead; it is changed so that it does."""
    graph = model.subgraphs[0]
    order = _constant(model, transpose.inputs[1])
    shape = [int(size) for size in graph.tensors[transpose.inputs[0]].shape]
    if order is None:
        return False
    perm = [int(axis) for axis in order]
    if _code(model, user) in _REDUCERS:
        axes = _constant(model, user.inputs[1])
        if axes is None or user.builtinOptions.keepDims:
            return False
        reduced = {int(axis) % len(perm) for axis in axes}
        kept = [perm[i] for i in range(len(perm)) if i not in reduced]
        if kept != sorted(kept):
            return False
        _take(user, 1, _new_constant(model, user.inputs[1], np.array(sorted(perm[i] for i in reduced), np.int32)))
        return True
    if _code(model, user) != _OP.RESHAPE:
        return False
    moved = [axis for axis in perm if shape[axis] != 1]
    if moved == sorted(moved):  # the values do not move at all
        return True
    dense = _users(graph, user.outputs[0])
    if len(dense) != 1 or _code(model, dense[0]) != _OP.FULLY_CONNECTED or dense[0].inputs[0] != user.outputs[0]:
        return False
    weights = _constant(model, dense[0].inputs[1])
    flat = [int(size) for size in graph.tensors[user.outputs[0]].shape]
    if weights is None or perm[0] != 0 or shape[0] != 1 or flat != [1, weights.shape[1]]:
        return False
    transposed = [shape[axis] for axis in perm]
    in_order = weights.reshape(len(weights), *transposed[1:]).transpose(0, *np.argsort(perm)[1:])
    _take(dense[0], 1, _new_constant(model, dense[0].inputs[1], in_order.reshape(weights.shape)))
    return True


def _take(operator: Any, place: int, tensor: int) -> None:
    operator.inputs = [*operator.inputs[:place], tensor, *operator.inputs[place + 1 :]]


def _code(model: Any, operator: Any) -> int:
    code = model.operatorCodes[operator.opcodeIndex]
    return int(max(code.builtinCode, code.deprecatedBuiltinCode))


def _users(graph: Any, tensor: int) -> list[Any]:
    """The operators that take a tensor; none of them counts for one that the graph gives."""
    return [] if tensor in graph.outputs else [each for each in graph.operators if tensor in each.inputs]


def _constant(model: Any, index: int) -> np.ndarray | None:
    """A constant float32 or int32 tensor; None for anything else."""
    tensor = model.subgraphs[0].tensors[index]
    data = model.buffers[tensor.buffer].data
    dtypes = {schema.TensorType.FLOAT32: np.float32, schema.TensorType.INT32: np.int32}
    if data is None or len(data) == 0 or tensor.type not in dtypes:
        return None
    values = np.frombuffer(bytes(bytearray(data)), dtypes[tensor.type])
    return values.reshape([int(size) for size in tensor.shape])


def _new_constant(model: Any, like: int, values: np.ndarray) -> int:
    """The index of a constant of its own: what it is made from may have other users."""
    graph, tensor, buffer = model.subgraphs[0], schema.TensorT(), schema.BufferT()
    buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
    model.buffers.append(buffer)
    old = graph.tensors[like]
    tensor.name, tensor.type, tensor.shape = old.name + b"/in_order", old.type, np.array(values.shape, np.int32)
    tensor.buffer = len(model.buffers) - 1
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def _prune(model: Any) -> None:
    """Leaves out the tensors and operator codes that nobody uses any more: quantizers stumble over them."""
    graph = model.subgraphs[0]
    used = Counter(int(i) for each in graph.operators for i in (*each.inputs, *each.outputs) if i >= 0)
    used.update(int(i) for i in (*graph.inputs, *graph.outputs))
    place = {old: new for new, old in enumerate(sorted(used))} | {-1: -1}
    graph.tensors = [tensor for index, tensor in enumerate(graph.tensors) if index in used]
    for each in graph.operators:
        each.inputs, each.outputs = ([place[int(i)] for i in side] for side in (each.inputs, each.outputs))
    graph.inputs, graph.outputs = ([place[int(i)] for i in side] for side in (graph.inputs, graph.outputs))
    for signature in model.signatureDefs or ():
        for entry in (*signature.inputs, *signature.outputs):
            entry.tensorIndex = place[int(entry.tensorIndex)]
    codes = sorted({each.opcodeIndex for each in graph.operators})
    model.operatorCodes = [model.operatorCodes[index] for index in codes]
    for each in graph.operators:
        each.opcodeIndex = codes.index(each.opcodeIndex)
