"""Operators that int8 has no form of, or a bad one, written as several that it does well: the same function of real numbers.

Found by quantizing networks of one operator each and comparing them with float (30 dB and more is what int8 can do):
SUM 9 dB by LiteRT's quantizer, LOG(EXP(x) + 1) 11 dB, ELU refused by all.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgekit.convert.prune import drop_unread
from edgekit.convert.rewrite import add_constant, add_operator, add_tensor, code_of, constant

_OPS = schema.BuiltinOperator


def decompose(model: Any, *, int16: bool = False) -> bool:
    """Rewrites the unpacked float `model`; says whether anything changed. Float answers may differ by rounding.

    `int16`: also what only int16 has no kernel of.
    """
    graph = model.subgraphs[0]
    written: list[Any] = []
    for operator in graph.operators:
        written += _parts(model, operator, int16) or [operator]
    if len(written) == len(graph.operators):
        return False
    graph.operators = written
    drop_unread(model)
    return True


def _parts(model: Any, operator: Any, int16: bool) -> list[Any]:
    """What is to be there instead of the operator; empty: itself."""
    if model.subgraphs[0].tensors[operator.outputs[0]].type != schema.TensorType.FLOAT32:
        return []
    code = code_of(model, operator)
    if code == _OPS.SUM and constant(model, operator.inputs[1]) is not None:
        return _sum(model, operator)
    if code == _OPS.ELU:
        return _elu(model, operator)
    if code == _OPS.LOG and (x := _softplus_of(model, operator)) is not None:
        return _softplus(model, x, operator.outputs[0])
    if code == _OPS.SQUARED_DIFFERENCE and int16:
        return _squared_difference(model, operator)
    return []


def _squared_difference(model: Any, operator: Any) -> list[Any]:
    """(a - b) times itself: layer normalization has it."""
    out = model.subgraphs[0].tensors[operator.outputs[0]]
    difference = add_tensor(model, out.name + b"/difference", out.shape)
    return [
        add_operator(model, _OPS.SUB, operator.inputs, difference, schema.SubOptionsT()),
        add_operator(model, _OPS.MUL, [difference, difference], operator.outputs[0], schema.MulOptionsT()),
    ]


def _sum(model: Any, operator: Any) -> list[Any]:
    """The mean, times how many there were."""
    graph = model.subgraphs[0]
    into, out = (graph.tensors[index] for index in (operator.inputs[0], operator.outputs[0]))
    count = int(np.prod(into.shape)) // max(int(np.prod(out.shape)), 1)
    options = schema.ReducerOptionsT()
    options.keepDims = bool(getattr(operator.builtinOptions, "keepDims", False))
    mean = add_tensor(model, out.name + b"/mean", out.shape)
    number = add_constant(model, out.name + b"/count", np.array([count], np.float32))
    return [
        add_operator(model, _OPS.MEAN, operator.inputs, mean, options),
        add_operator(model, _OPS.MUL, [mean, number], operator.outputs[0], schema.MulOptionsT()),
    ]


def _elu(model: Any, operator: Any) -> list[Any]:
    """max(x, 0) + exp(min(x, 0)) - 1."""
    x, y = operator.inputs[0], operator.outputs[0]
    out = model.subgraphs[0].tensors[y]
    positive, negative, power, whole = (
        add_tensor(model, out.name + suffix, out.shape) for suffix in (b"/relu", b"/min", b"/exp", b"/sum")
    )
    zero = add_constant(model, out.name + b"/zero", np.zeros(1, np.float32))
    one = add_constant(model, out.name + b"/one", np.ones(1, np.float32))
    return [
        add_operator(model, _OPS.RELU, [x], positive),
        add_operator(model, _OPS.MINIMUM, [x, zero], negative, schema.MaximumMinimumOptionsT()),
        add_operator(model, _OPS.EXP, [negative], power, schema.ExpOptionsT()),
        add_operator(model, _OPS.ADD, [positive, power], whole, schema.AddOptionsT()),
        add_operator(model, _OPS.SUB, [whole, one], y, schema.SubOptionsT()),
    ]


def _softplus_of(model: Any, log: Any) -> int | None:
    """x, where `log` is that of LOG(EXP(x) + 1): its steps of e^x are too wide where x is small."""
    add = _writer(model, log.inputs[0], _OPS.ADD)
    if add is None or getattr(add.builtinOptions, "fusedActivationFunction", None):
        return None
    values = {index: constant(model, index) for index in add.inputs}
    ones = [index for index, value in values.items() if value is not None and (value == 1).all()]
    rest = [index for index in add.inputs if index not in ones]
    exp = _writer(model, rest[0], _OPS.EXP) if len(ones) == len(rest) == 1 else None
    return None if exp is None else int(exp.inputs[0])


def _softplus(model: Any, x: int, y: int) -> list[Any]:
    """max(x, 0) + log(1 + exp(-|x|)): https://en.wikipedia.org/wiki/Softplus; nothing in it is larger than |x|."""
    out = model.subgraphs[0].tensors[y]
    positive, size, negative, power, more, rest = (
        add_tensor(model, out.name + suffix, out.shape)
        for suffix in (b"/relu", b"/abs", b"/minus", b"/exp", b"/more", b"/log")
    )
    minus = add_constant(model, out.name + b"/minus_one", np.array([-1.0], np.float32))
    one = add_constant(model, out.name + b"/one", np.ones(1, np.float32))
    return [
        add_operator(model, _OPS.RELU, [x], positive),
        add_operator(model, _OPS.ABS, [x], size, schema.AbsOptionsT()),
        add_operator(model, _OPS.MUL, [size, minus], negative, schema.MulOptionsT()),
        add_operator(model, _OPS.EXP, [negative], power, schema.ExpOptionsT()),
        add_operator(model, _OPS.ADD, [power, one], more, schema.AddOptionsT()),
        add_operator(model, _OPS.LOG, [more], rest),
        add_operator(model, _OPS.ADD, [positive, rest], y, schema.AddOptionsT()),
    ]


def _writer(model: Any, tensor: int, code: int) -> Any:
    """The operator that computes a tensor, if it is of that kind."""
    for operator in model.subgraphs[0].operators:
        if tensor in operator.outputs and code_of(model, operator) == code:
            return operator
    return None
