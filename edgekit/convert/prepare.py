"""A float graph as quantizers take it, with the same answers: what they refuse, or quietly get wrong, is written otherwise."""

from __future__ import annotations

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgekit.convert.decompose import decompose
from edgekit.convert.rewrite import add_constant, code_of, constant, kind_of

_PRODUCTS = {schema.BuiltinOperator.NEG, schema.BuiltinOperator.SQUARE}
_WITH_BIAS = {  # its index in their inputs is 2
    schema.BuiltinOperator.CONV_2D,
    schema.BuiltinOperator.DEPTHWISE_CONV_2D,
    schema.BuiltinOperator.FULLY_CONNECTED,
}


def prepare(model: Any, mode: str = "int8") -> bool:
    """Makes of the unpacked float `model` what quantizers take for that mode, with the same answers; says if it changed."""
    return any([decompose(model, int16=mode == "int16x8"), _as_products(model), _as_gathers(model), _own_biases(model)])


def _as_products(model: Any) -> bool:
    """NEG becomes a product with -1, SQUARE one with itself: layer normalization and YOLO's boxes have them."""
    graph = model.subgraphs[0]
    found = [operator for operator in graph.operators if code_of(model, operator) in _PRODUCTS]
    if not all(graph.tensors[operator.inputs[0]].type == schema.TensorType.FLOAT32 for operator in found):
        return False
    minus_one = -1
    for operator in found:
        other = operator.inputs[0]
        if code_of(model, operator) == schema.BuiltinOperator.NEG:
            if minus_one < 0:
                minus_one = add_constant(model, b"edgekit/minus_one", np.array([-1.0], np.float32))
            other = minus_one
        operator.inputs = np.array([operator.inputs[0], other], np.int32)
        operator.builtinOptionsType = schema.BuiltinOptions.MulOptions
        operator.builtinOptions = schema.MulOptionsT()
    for code in model.operatorCodes:  # themselves: LiteRT's quantizer stumbles over codes nobody uses
        if kind_of(code) in _PRODUCTS:
            code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.MUL
            code.version = 1
    return bool(found)


def _as_gathers(model: Any) -> bool:
    """PyTorch's embeddings come as EMBEDDING_LOOKUP, TensorFlow's as GATHER; only the latter is taken by a quantizer."""
    graph = model.subgraphs[0]
    lookups = [each for each in graph.operators if code_of(model, each) == schema.BuiltinOperator.EMBEDDING_LOOKUP]
    if not all(graph.tensors[operator.inputs[1]].type == schema.TensorType.FLOAT32 for operator in lookups):
        return False
    for code in {id(code): code for code in (model.operatorCodes[each.opcodeIndex] for each in lookups)}.values():
        code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.GATHER
        code.version = 1
    for operator in lookups:
        operator.inputs = np.array([operator.inputs[1], operator.inputs[0]], np.int32)
        operator.builtinOptionsType = schema.BuiltinOptions.GatherOptions
        operator.builtinOptions = schema.GatherOptionsT()
    return bool(lookups)


def _own_biases(model: Any) -> bool:
    """A copy of a bias for each layer but the first that has it: the steps of an unrolled GRU, the sides of a twin network.

    An int8 bias has the scale of its layer's input times that of its weights. LiteRT's quantizer makes one for the
    first layer and leaves the others with it: biases 1.4 times too small, 28 dB where 34.6 are possible (GRU of 8 steps).
    """
    graph = model.subgraphs[0]
    seen: set[int] = set()
    copies = 0
    for operator in graph.operators:
        if code_of(model, operator) not in _WITH_BIAS or len(operator.inputs) < 3 or operator.inputs[2] < 0:
            continue
        bias = int(operator.inputs[2])
        values = constant(model, bias) if bias in seen else None
        if values is not None and values.dtype == np.float32:
            copies += 1
            bias = add_constant(model, graph.tensors[bias].name + f"/edgekit_{copies}".encode(), values)
            operator.inputs = np.array([*operator.inputs[:2], bias, *operator.inputs[3:]], np.int32)
        seen.add(bias)
    return copies > 0
