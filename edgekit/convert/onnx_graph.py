"""An ONNX graph as a torch.nn.Module, for litert-torch; the only file that imports onnx. Its answers are onnxruntime's.

What depends on constants and on sizes alone is computed by ONNX's own reference evaluator and never reaches the .tflite:
sizes are fixed by the samples, so the arithmetic that exporters write around Reshape, Slice and Resize goes away.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnx.reference
import torch
from onnx import TensorProto, helper, numpy_helper

from edgekit.convert.fitting import Input, Source
from edgekit.convert.onnx_node import Node
from edgekit.convert.onnx_operators import OPERATORS
from edgekit.errors import ConversionError, NotAModel, first_line

_HINT = "export the model so that what it does depends on the sizes of its inputs alone"
_QUANTIZED = {"QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"}
_KNOWN = {
    *OPERATORS,
    "If",
    "Shape",
    "Size",
    "Constant",
    "ConstantOfShape",
    "Range",
    "DequantizeLinear",
    "OneHot",
    "EyeLike",
}


_COMPARISONS = ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")


class Graph(torch.nn.Module):  # type: ignore[misc]  # mypy does not look into torch
    """The graph: tensors in the order of its inputs -> tensors in the order of its outputs."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self._graph = model.graph
        self._opset = next(each.version for each in model.opset_import if each.domain in ("", "ai.onnx"))
        self._constants: dict[str, np.ndarray] = {}
        self._buffer_names: dict[str, str] = {}
        given = {tensor.name for tensor in model.graph.initializer}
        self.inputs = tuple(value for value in model.graph.input if value.name not in given)
        self.outputs = tuple(value.name for value in model.graph.output)

    def forward(self, *given: Any) -> tuple[Any, ...]:
        """The outputs, as tensors."""
        values = {value.name: tensor for value, tensor in zip(self.inputs, given, strict=True)}
        self._run(self._graph, values)
        return tuple(self._tensor(name, values[name]) for name in self.outputs)

    def _run(self, graph: Any, values: dict[str, Any]) -> None:
        """Adds everything that the graph computes to `values`: tensors, and arrays where they are constant."""
        for tensor in graph.initializer:
            if tensor.name not in self._constants:
                self._constants[tensor.name] = numpy_helper.to_array(tensor)
            values.setdefault(tensor.name, self._constants[tensor.name])
        for proto in graph.node:
            inputs = [_taken(values, name, proto) if name else None for name in proto.input]
            if proto.op_type == "If":
                made = self._branch(proto, inputs[0], values)
            elif proto.op_type in ("Shape", "Size") and torch.is_tensor(inputs[0]):
                shape: Any = tuple(inputs[0].shape)  # type: ignore[union-attr]  # a tensor
                made = self._folded(proto, [np.broadcast_to(False, shape)])
            elif not any(torch.is_tensor(value) for value in inputs):
                made = self._folded(proto, inputs)
            elif proto.op_type not in OPERATORS:
                raise ConversionError(f"{_place(proto)} depends on the input's values", hint=_HINT)
            else:
                node = Node(
                    proto, {a.name: helper.get_attribute_value(a) for a in proto.attribute}, self._opset, inputs
                )
                node.tensors = [
                    None if v is None else self._tensor(n, v) for n, v in zip(proto.input, inputs, strict=True)
                ]
                made = OPERATORS[proto.op_type](node)
            made = made if isinstance(made, tuple | list) else (made,)
            values.update((name, value) for name, value in zip(proto.output, made, strict=False) if name)

    def _branch(self, proto: Any, condition: Any, values: dict[str, Any]) -> tuple[Any, ...]:
        if torch.is_tensor(condition):
            raise ConversionError(f"{_place(proto)} depends on the input's values", hint=_HINT)
        branches = {a.name: a.g for a in proto.attribute}
        graph = branches["then_branch" if bool(np.all(condition)) else "else_branch"]
        inner = dict(values)
        self._run(graph, inner)
        return tuple(inner[value.name] for value in graph.output)

    def _folded(self, proto: Any, inputs: Sequence[Any]) -> tuple[np.ndarray, ...]:
        """What a node makes of constants."""
        names = tuple(proto.output)
        if names[0] not in self._constants:
            node = onnx.NodeProto()
            node.CopyFrom(proto)
            feeds = {name: value for name, value in zip(proto.input, inputs, strict=True) if name}
            evaluator = onnx.reference.ReferenceEvaluator(node, opsets={"": self._opset})
            for name, value in zip(names, evaluator.run(None, feeds), strict=True):
                self._constants[name] = np.asarray(value)
        return tuple(self._constants[name] for name in names)

    def _tensor(self, name: str, value: Any) -> Any:
        """A constant as a buffer of this module, which torch.export takes for a weight; anything else as it is."""
        if torch.is_tensor(value):
            return value
        if name not in self._buffer_names:
            self._buffer_names[name] = f"constant_{len(self._buffer_names)}"
            self.register_buffer(self._buffer_names[name], torch.from_numpy(np.array(value)))
        return self.get_buffer(self._buffer_names[name])


def load_onnx(path: Path) -> Source:
    """The graph in the file. Raises NotAModel for what is damaged or quantized, ConversionError for unknown operators."""
    import onnxruntime

    try:
        model = onnx.inliner.inline_local_functions(onnx.load(str(path)))
        onnx.checker.check_model(model)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise NotAModel(f"it is damaged or not an ONNX model ({first_line(error)})", hint="export it again") from error
    found = {node.op_type: node for node in _nodes(model.graph)}
    if quantized := _QUANTIZED & found.keys():
        raise NotAModel(
            f"it is quantized already ({min(quantized)})", hint="give the float model that it was made from"
        )
    if unknown := sorted(found.keys() - _KNOWN):
        raise ConversionError(
            f"edgekit does not know the ONNX operator{'s' if unknown[1:] else ''} {', '.join(unknown)}",
            hint="convert the model that it was exported from: PyTorch, Keras; or report it with the model",
        )
    _compare_as_integers(model.graph)
    graph = Graph(model)
    inputs = tuple(Input(value.name, _shape(value), _dtype(value)) for value in graph.inputs)

    def answer(given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return dict(zip(graph.outputs, session.run(list(graph.outputs), dict(given)), strict=True))

    return Source(lambda tensors: graph(*tensors), graph, inputs, ("onnx", "onnxruntime"), graph.outputs, answer)


def _compare_as_integers(graph: Any) -> None:
    """Integer inputs that are only cast to float to be compared with whole constants are compared as they are, in place.

    tf2onnx writes that for each embedding of Keras, whose Less takes no int32; no quantizer takes the CAST.
    """
    kinds = {value.name: value.type.tensor_type.elem_type for value in graph.input}
    whole = (TensorProto.INT32, TensorProto.INT64)
    casts = {
        node.output[0]: node.input[0]
        for node in graph.node
        if node.op_type == "Cast"
        and kinds.get(node.input[0]) in whole
        and any(a.name == "to" and a.i == TensorProto.FLOAT for a in node.attribute)
    }
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer if casts}
    for node in graph.node:
        if node.op_type not in _COMPARISONS or len({*node.input} & casts.keys()) != 1:
            continue
        side = 0 if node.input[0] in casts else 1
        other = constants.get(node.input[1 - side])
        if other is None or not (np.abs(other) < 1 << 24).all() or not (other == np.rint(other)).all():
            continue
        source = casts[node.input[side]]
        name = f"{node.input[1 - side]}/as/{source}"
        dtype = helper.tensor_dtype_to_np_dtype(kinds[source])
        graph.initializer.append(numpy_helper.from_array(other.astype(dtype), name))
        node.input[side], node.input[1 - side] = source, name
    read = {name for node in _nodes(graph) for name in node.input} | {value.name for value in graph.output}
    for node in [node for node in graph.node if node.output and node.output[0] in casts.keys() - read]:
        graph.node.remove(node)


def _nodes(graph: Any) -> list[Any]:
    """The nodes of a graph and of its branches."""
    inner = [a.g for node in graph.node for a in node.attribute if a.HasField("g")]
    return [*graph.node, *(node for each in inner for node in _nodes(each))]


def _shape(value: Any) -> tuple[int | None, ...] | None:
    if not value.type.tensor_type.HasField("shape"):
        raise NotAModel(f"input {value.name!r} has no shape", hint="export it with the sizes of its inputs")
    dimensions = value.type.tensor_type.shape.dim
    return tuple(d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in dimensions)


def _dtype(value: Any) -> np.dtype[Any]:
    kind = value.type.tensor_type.elem_type
    if kind in (TensorProto.UNDEFINED, TensorProto.STRING, TensorProto.BFLOAT16):
        raise NotAModel(f"input {value.name!r} is not a tensor of numbers", hint="edgekit runs models of numbers")
    dtype: np.dtype[Any] = np.dtype(helper.tensor_dtype_to_np_dtype(kind))
    return dtype


def _taken(values: Mapping[str, Any], name: str, proto: Any) -> Any:
    if name not in values:  # a second output of a layer: its mask, its mean
        raise ConversionError(
            f"{_place(proto)} takes {name!r}, which edgekit does not compute", hint="export for inference"
        )
    return values[name]


def _place(proto: Any) -> str:
    return f"operator {proto.op_type} {proto.name!r}"
