"""What each ONNX operator is in PyTorch (opset 7 to 24); https://onnx.ai/onnx/operators says what they mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from edgekit.convert.onnx_node import Node
from edgekit.convert.onnx_recurrent import gru, lstm, rnn
from edgekit.convert.onnx_shapes import (
    depth_to_space,
    expand,
    flatten,
    gather,
    gather_elements,
    reshape,
    sliced,
    space_to_depth,
    split,
    squeeze,
    unsqueeze,
)
from edgekit.convert.onnx_windows import average_pool, conv, conv_transpose, max_pool, pad, resize
from edgekit.errors import ConversionError


def _unary(function: Callable[[Any], Any]) -> Callable[[Node], Any]:
    return lambda node: function(node.tensor(0))


def _binary(function: Callable[[Any, Any], Any]) -> Callable[[Node], Any]:
    return lambda node: function(node.tensor(0), node.tensor(1))


def _of_all(function: Callable[[Any, Any], Any]) -> Callable[[Node], Any]:
    return lambda node: reduce(function, node.tensors)


def _reduced(function: Callable[[Any, list[int], bool], Any]) -> Callable[[Node], Any]:
    def run(node: Node) -> Any:
        x, axes, keep = node.tensor(0), node.integers("axes", 1), bool(node.attribute("keepdims", 1))
        if not axes:
            if node.attribute("noop_with_empty_axes", 0):
                return x
            axes = list(range(x.ndim))
        return function(x, axes, keep)

    return run


def _divided(a: Any, b: Any) -> Any:
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def _product(x: Any, axes: list[int], keep: bool) -> Any:
    for axis in sorted((a % x.ndim for a in axes), reverse=True):
        x = torch.prod(x, axis, keepdim=keep)
    return x


def _clip(node: Node) -> Any:
    low = node.attributes["min"] if "min" in node.attributes else node.constant(1)
    high = node.attributes["max"] if "max" in node.attributes else node.constant(2)
    bounds = [None if b is None or np.size(b) == 0 else np.asarray(b).item() for b in (low, high)]
    return node.tensor(0) if bounds == [None, None] else torch.clamp(node.tensor(0), *bounds)


def _arg(function: Callable[..., Any]) -> Callable[[Node], Any]:
    def run(node: Node) -> Any:
        x, axis = node.tensor(0), node.attribute("axis", 0)
        if node.attribute("select_last_index", 0):
            found = x.shape[axis] - 1 - function(x.flip(axis), dim=axis, keepdim=True)
        else:
            found = function(x, dim=axis, keepdim=True)
        return found if node.attribute("keepdims", 1) else found.squeeze(axis)

    return run


def _soft(function: Callable[..., Any]) -> Callable[[Node], Any]:
    def run(node: Node) -> Any:
        x = node.tensor(0)
        if node.opset >= 13:
            return function(x, dim=node.attribute("axis", -1))
        axis = node.attribute("axis", 1) % max(x.ndim, 1)  # all dimensions from there on are one
        return function(x.flatten(axis), dim=axis).reshape(x.shape)

    return run


def _gemm(node: Node) -> Any:
    a, b, c = node.tensor(0), node.tensor(1), node.tensor(2)
    a = a.t() if node.attribute("transA", 0) else a
    alpha, beta = node.attribute("alpha", 1.0), node.attribute("beta", 1.0)
    if node.attribute("transB", 0) and alpha == 1 and beta == 1 and c is not None and c.ndim == 1:
        return F.linear(a, b, c)
    y = a @ (b.t() if node.attribute("transB", 0) else b)
    y = y if alpha == 1 else y * alpha
    return y if c is None else y + (c if beta == 1 else c * beta)


def _cast(node: Node) -> Any:
    from onnx import helper

    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(node.attribute("to", 1)))
    return node.tensor(0).to(getattr(torch, "bool" if dtype.kind == "b" else dtype.name))


def _pow(node: Node) -> Any:
    x, y = node.tensor(0), node.tensor(1)
    exponent = node.values[1]
    if not torch.is_tensor(exponent) and np.size(exponent) == 1 and float(np.ravel(exponent)[0]) == 2:
        return x * x
    return torch.pow(x, y).to(x.dtype)


def _batch_norm(node: Node) -> Any:
    if node.attribute("training_mode", 0):
        raise ConversionError(
            f"BatchNormalization {node.proto.name!r} is in training mode", hint="export for inference"
        )
    x, scale, bias, mean, variance = (node.tensor(i) for i in range(5))
    return F.batch_norm(x, mean, variance, scale, bias, eps=node.attribute("epsilon", 1e-5))


def _layer_norm(node: Node) -> Any:
    x, axis = node.tensor(0), node.attribute("axis", -1)
    shape = tuple(x.shape[axis % x.ndim :])
    weight, bias = node.tensor(1).expand(shape), node.tensor(2)
    bias = None if bias is None else bias.expand(shape)
    return F.layer_norm(x, shape, weight, bias, eps=node.attribute("epsilon", 1e-5))


def _group_norm(node: Node) -> Any:
    x, scale, bias, groups = node.tensor(0), node.tensor(1), node.tensor(2), node.attribute("num_groups", 1)
    if scale.numel() == groups != x.shape[1]:  # opset 18 has one for each group
        scale, bias = (each.repeat_interleave(x.shape[1] // groups) for each in (scale, bias))
    return F.group_norm(x, groups, scale, bias, eps=node.attribute("epsilon", 1e-5))


def _cumulated(node: Node) -> Any:
    x, axis = node.tensor(0), int(np.ravel(node.constant(1))[0])
    x = x.flip(axis) if node.attribute("reverse", 0) else x
    y = torch.cumsum(x, axis)
    y = y - x if node.attribute("exclusive", 0) else y
    return y.flip(axis) if node.attribute("reverse", 0) else y


def _top(node: Node) -> Any:
    count = node.integers("k", 1)
    assert count is not None
    options = {"largest": bool(node.attribute("largest", 1)), "sorted": bool(node.attribute("sorted", 1))}
    return tuple(torch.topk(node.tensor(0), count[0], node.attribute("axis", -1), **options))


def _triangle(node: Node) -> Any:
    k = 0 if node.constant(1) is None else int(node.constant(1))
    return (torch.triu if node.attribute("upper", 1) else torch.tril)(node.tensor(0), k)


def _prelu(x: Any, slope: Any) -> Any:
    return torch.where(x < 0, x * slope, x)


OPERATORS: Mapping[str, Callable[[Node], Any]] = {
    **{
        name: _unary(getattr(torch, name.lower()))
        for name in ("Abs", "Acos", "Asin", "Atan", "Ceil", "Cos", "Cosh", "Erf")
    },
    **{
        name: _unary(getattr(torch, name.lower()))
        for name in ("Exp", "Floor", "Log", "Neg", "Reciprocal", "Relu", "Round")
    },
    **{
        name: _unary(getattr(torch, name.lower())) for name in ("Sigmoid", "Sign", "Sin", "Sinh", "Sqrt", "Tan", "Tanh")
    },
    "Identity": _unary(lambda x: x),
    "Dropout": _unary(lambda x: x),
    "Not": _unary(torch.logical_not),
    "IsNaN": _unary(torch.isnan),
    "Softplus": _unary(F.softplus),
    "Softsign": _unary(F.softsign),
    "Mish": _unary(F.mish),
    "HardSwish": _unary(F.hardswish),
    "LeakyRelu": lambda node: F.leaky_relu(node.tensor(0), node.attribute("alpha", 0.01)),
    "Elu": lambda node: F.elu(node.tensor(0), node.attribute("alpha", 1.0)),
    "Celu": lambda node: F.celu(node.tensor(0), node.attribute("alpha", 1.0)),
    "Selu": lambda node: (
        node.attribute("gamma", 1.0507009873554805) * F.elu(node.tensor(0), node.attribute("alpha", 1.6732632423543772))
    ),
    "Gelu": lambda node: F.gelu(node.tensor(0), approximate=node.attribute("approximate", "none")),
    "HardSigmoid": lambda node: torch.clamp(
        node.tensor(0) * node.attribute("alpha", 0.2) + node.attribute("beta", 0.5), 0, 1
    ),
    "PRelu": _binary(_prelu),
    "Clip": _clip,
    "Add": _binary(torch.add),
    "Sub": _binary(torch.sub),
    "Mul": _binary(torch.mul),
    "Div": _binary(_divided),
    "Pow": _pow,
    "Mod": lambda node: (torch.fmod if node.attribute("fmod", 0) else torch.remainder)(node.tensor(0), node.tensor(1)),
    "Equal": _binary(torch.eq),
    "Greater": _binary(torch.gt),
    "GreaterOrEqual": _binary(torch.ge),
    "Less": _binary(torch.lt),
    "LessOrEqual": _binary(torch.le),
    "And": _binary(torch.logical_and),
    "Or": _binary(torch.logical_or),
    "Xor": _binary(torch.logical_xor),
    "Max": _of_all(torch.maximum),
    "Min": _of_all(torch.minimum),
    "Sum": _of_all(torch.add),
    "Mean": lambda node: reduce(torch.add, node.tensors) / len(node.tensors),
    "Where": lambda node: torch.where(*node.tensors),
    "MatMul": _binary(torch.matmul),
    "Gemm": _gemm,
    "Einsum": lambda node: torch.einsum(node.attribute("equation", ""), *node.tensors),
    "ReduceMean": _reduced(lambda x, axes, keep: torch.mean(x, axes, keepdim=keep)),
    "ReduceSum": _reduced(lambda x, axes, keep: torch.sum(x, axes, keepdim=keep)),
    "ReduceMax": _reduced(lambda x, axes, keep: torch.amax(x, axes, keepdim=keep)),
    "ReduceMin": _reduced(lambda x, axes, keep: torch.amin(x, axes, keepdim=keep)),
    "ReduceProd": _reduced(_product),
    "ReduceL1": _reduced(lambda x, axes, keep: torch.sum(torch.abs(x), axes, keepdim=keep)),
    "ReduceL2": _reduced(lambda x, axes, keep: torch.sqrt(torch.sum(x * x, axes, keepdim=keep))),
    "ReduceSumSquare": _reduced(lambda x, axes, keep: torch.sum(x * x, axes, keepdim=keep)),
    "ReduceLogSum": _reduced(lambda x, axes, keep: torch.log(torch.sum(x, axes, keepdim=keep))),
    "ReduceLogSumExp": _reduced(lambda x, axes, keep: torch.logsumexp(x, axes, keepdim=keep)),
    "ArgMax": _arg(torch.argmax),
    "ArgMin": _arg(torch.argmin),
    "Softmax": _soft(torch.softmax),
    "LogSoftmax": _soft(torch.log_softmax),
    "BatchNormalization": _batch_norm,
    "InstanceNormalization": lambda node: F.instance_norm(
        node.tensor(0), weight=node.tensor(1), bias=node.tensor(2), eps=node.attribute("epsilon", 1e-5)
    ),
    "LayerNormalization": _layer_norm,
    "GroupNormalization": _group_norm,
    "LpNormalization": lambda node: F.normalize(
        node.tensor(0), node.attribute("p", 2), node.attribute("axis", -1), 1e-12
    ),
    "LRN": lambda node: F.local_response_norm(
        node.tensor(0),
        node.attribute("size", 1),
        *(node.attribute(name, value) for name, value in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0))),
    ),
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "MaxPool": max_pool,
    "AveragePool": average_pool,
    "GlobalAveragePool": _unary(lambda x: torch.mean(x, list(range(2, x.ndim)), keepdim=True)),
    "GlobalMaxPool": _unary(lambda x: torch.amax(x, list(range(2, x.ndim)), keepdim=True)),
    "Pad": pad,
    "Resize": resize,
    "Upsample": resize,
    "Reshape": reshape,
    "Flatten": flatten,
    "Squeeze": squeeze,
    "Unsqueeze": unsqueeze,
    "Transpose": lambda node: node.tensor(0).permute(node.attribute("perm", list(range(node.tensor(0).ndim))[::-1])),
    "Concat": lambda node: torch.cat(node.tensors, node.attribute("axis", 1)),
    "Split": split,
    "Slice": sliced,
    "Gather": gather,
    "GatherElements": gather_elements,
    "Expand": expand,
    "Tile": lambda node: node.tensor(0).repeat(*(node.integers("repeats", 1) or [])),
    "DepthToSpace": depth_to_space,
    "SpaceToDepth": space_to_depth,
    "Cast": _cast,
    "CastLike": lambda node: node.tensor(0).to(node.tensor(1).dtype),
    "CumSum": _cumulated,
    "TopK": _top,
    "Trilu": _triangle,
    "LSTM": lstm,
    "GRU": gru,
    "RNN": rnn,
}
