"""Changes in a .tflite: ranges where quantizers look for them, the end of a classifier, and what such changes need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

_TYPES: dict[Any, int] = {
    np.dtype(np.float32): schema.TensorType.FLOAT32,
    np.dtype(np.int32): schema.TensorType.INT32,
    np.dtype(np.int64): schema.TensorType.INT64,
}


def unpacked(model: bytes) -> Any:
    """The file as Python objects (schema.ModelT) with all constant data inside, also what lay behind the flatbuffer.

    litert-quantizer writes weights there (Buffer.offset), which not every reader of .tflite files knows.
    """
    objects = schema.ModelT.InitFromObj(schema.Model.GetRootAs(model, 0))
    for buffer in objects.buffers:
        if buffer.offset > 1:  # 0 and 1 are placeholders
            buffer.data = model[buffer.offset : buffer.offset + buffer.size]
        buffer.offset = buffer.size = 0
    return objects


def packed(model: Any) -> bytes:
    """The file of such objects."""
    size = sum(len(buffer.data) for buffer in model.buffers if buffer.data is not None)
    builder = flatbuffers.Builder(size + (1 << 16))  # roughly enough: growing copies everything
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(memoryview(builder.Bytes)[builder.Head() :])  # Output() is a copy, of which bytes() would make another


def stamp(model: Any, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Gives every computed float tensor of the unpacked `model` its range and takes away whatever was there.

    What was there would win: TensorFlow leaves empty quantization tables, and what LiteRT's quantizer makes of a tensor
    that has one is not what the range says (measured with LiteRT 2.3).
    """
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            tensor.quantization = None
            found = ranges.get(tensor.name.decode("utf-8", "replace"))
            if found is None or tensor.type != schema.TensorType.FLOAT32 or has_data(model, tensor):
                continue
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.min, tensor.quantization.max = [float(found[0])], [float(found[1])]


def restamp(file: bytearray, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Other ranges for the same tensors, written into the bytes of a model that `stamp` has been at: nothing is packed anew."""
    root = schema.Model.GetRootAs(file, 0)
    for graph in map(root.Subgraphs, range(root.SubgraphsLength())):
        for tensor in map(graph.Tensors, range(graph.TensorsLength())):
            quantization = tensor.Quantization()
            if quantization is not None and quantization.MinLength():
                low, high = ranges[tensor.Name().decode("utf-8", "replace")]
                quantization.MinAsNumpy()[0], quantization.MaxAsNumpy()[0] = low, high  # views of `file`


def without_ranges(model: Any) -> Any:
    """The unpacked int8 `model` without the minima and maxima beside its scales: up to a tenth of the file, read by nobody."""
    for quantization in (tensor.quantization for graph in model.subgraphs for tensor in graph.tensors):
        if quantization is not None and quantization.scale is not None and len(quantization.scale):
            quantization.min = quantization.max = None
    return model


def without_softmax(model: Any) -> bool:
    """Takes the SOFTMAX off whose answer is the model's only one, and says whether there was one.

    A DEQUANTIZE behind it, for a float output of an int8 model, stays and gets what the SOFTMAX got. A QUANTIZE behind it,
    for an int8 output of a float SOFTMAX, goes with it: its scale is that of probabilities.
    """
    graph = model.subgraphs[0]
    if len(graph.outputs) != 1:
        return False
    by_output = {operator.outputs[0]: operator for operator in graph.operators if len(operator.outputs) == 1}
    last = by_output.get(graph.outputs[0])
    bridges = (schema.BuiltinOperator.DEQUANTIZE, schema.BuiltinOperator.QUANTIZE)
    behind = last if last is not None and code_of(model, last) in bridges else None
    softmax = by_output.get(behind.inputs[0]) if behind is not None else last
    if (
        softmax is None
        or code_of(model, softmax) != schema.BuiltinOperator.SOFTMAX
        or softmax.inputs[0] in graph.inputs
    ):
        return False
    graph.operators = [operator for operator in graph.operators if operator is not softmax]
    if behind is not None and code_of(model, behind) == schema.BuiltinOperator.DEQUANTIZE:
        behind.inputs = np.array([softmax.inputs[0]], np.int32)
        return True
    graph.operators = [operator for operator in graph.operators if operator is not behind]
    graph.outputs = np.array([softmax.inputs[0]], np.int32)
    for signature in model.signatureDefs or ():
        for entry in signature.outputs:
            entry.tensorIndex = int(softmax.inputs[0])
    return True


def has_data(model: Any, tensor: Any) -> bool:
    """Whether the tensor is a constant of the unpacked `model`."""
    data = model.buffers[tensor.buffer].data
    return data is not None and len(data) > 0


def constant(model: Any, index: int) -> np.ndarray | None:
    """The values of a constant float32, int32 or int64 tensor, in its shape; None for anything else."""
    tensor = model.subgraphs[0].tensors[index]
    if tensor.type not in _TYPES.values() or not has_data(model, tensor):
        return None
    dtype = next(dtype for dtype, number in _TYPES.items() if number == tensor.type)
    shape = [] if tensor.shape is None else [int(size) for size in tensor.shape]  # a scalar has none
    values: np.ndarray = np.asarray(model.buffers[tensor.buffer].data, np.uint8).view(dtype).reshape(shape)
    return values


def add_constant(model: Any, name: bytes, values: np.ndarray) -> int:
    """The index of a new constant of those values, float32, int32 or int64 as they are."""
    index = add_tensor(model, name, values.shape, values.dtype)
    model.subgraphs[0].tensors[index].buffer = add_buffer(
        model, np.ascontiguousarray(values).reshape(-1).view(np.uint8)
    )
    return index


def add_buffer(model: Any, data: Any) -> int:
    """The number of a new buffer."""
    buffer = schema.BufferT()
    buffer.data = data
    model.buffers.append(buffer)
    return len(model.buffers) - 1


def add_tensor(model: Any, name: bytes, shape: Sequence[int], dtype: Any = np.float32) -> int:
    """The index of a new tensor that an operator is to compute."""
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.buffer = name, [int(size) for size in shape], 0  # buffer 0 is the empty one
    tensor.type, tensor.hasRank = _TYPES[np.dtype(dtype)], True
    model.subgraphs[0].tensors.append(tensor)
    return len(model.subgraphs[0].tensors) - 1


def add_operator(
    model: Any, code: int, inputs: Sequence[int], output: int, options: Any = None, *, version: int = 1
) -> Any:
    """A new operator of that kind, which belongs to no graph yet; `options` are its schema.…OptionsT."""
    wanted = schema.OperatorCodeT()
    wanted.builtinCode, wanted.deprecatedBuiltinCode, wanted.version = code, min(code, 127), version
    operator = schema.OperatorT()
    operator.opcodeIndex, operator.inputs = add_code(model, wanted), np.array(inputs, np.int32)
    operator.outputs = np.array([output], np.int32)
    if options is not None:
        operator.builtinOptions = options
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__[:-1])
    return operator


def add_code(model: Any, wanted: Any) -> int:
    """The index of an operator code; it is added where there is none like it."""
    codes = model.operatorCodes
    for index, code in enumerate(codes):
        if (kind_of(code), code.customCode, code.version) == (kind_of(wanted), wanted.customCode, wanted.version):
            return index
    codes.append(copy(wanted))
    return len(codes) - 1


def kind_of(code: Any) -> int:
    """The number of an operator code's kind; the old field is one byte, so newer kinds are only in the new one."""
    return int(max(code.builtinCode, code.deprecatedBuiltinCode))


def code_of(model: Any, operator: Any) -> int:
    """The number of an operator's kind."""
    return kind_of(model.operatorCodes[operator.opcodeIndex])
