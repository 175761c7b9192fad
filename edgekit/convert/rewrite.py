"""Changes in a .tflite: ranges where quantizers look for them, the end of a classifier, and what such changes need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema


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
            data = model.buffers[tensor.buffer].data
            if found is None or tensor.type != schema.TensorType.FLOAT32 or (data is not None and len(data)):
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


def add_constant(model: Any, name: bytes, values: np.ndarray) -> int:
    """The index of a new float constant."""
    buffer = schema.BufferT()
    buffer.data = values.view(np.uint8).reshape(-1)
    model.buffers.append(buffer)
    index = add_tensor(model, name, values.shape)
    model.subgraphs[0].tensors[index].buffer = len(model.buffers) - 1
    return index


def add_tensor(model: Any, name: bytes, shape: Sequence[int]) -> int:
    """The index of a new float tensor that an operator is to compute."""
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.buffer = name, [int(size) for size in shape], 0  # buffer 0 is the empty one
    tensor.type, tensor.hasRank = schema.TensorType.FLOAT32, True
    model.subgraphs[0].tensors.append(tensor)
    return len(model.subgraphs[0].tensors) - 1


def add_operator(model: Any, code: int, inputs: Sequence[int], output: int, options: Any = None) -> Any:
    """A new operator of that kind, version 1, which belongs to no graph yet; `options` are its schema.…OptionsT."""
    codes = model.operatorCodes
    found = [i for i, c in enumerate(codes) if max(c.builtinCode, c.deprecatedBuiltinCode) == code and c.version == 1]
    if not found:
        made = schema.OperatorCodeT()
        made.builtinCode, made.deprecatedBuiltinCode, made.version = code, min(code, 127), 1
        codes.append(made)
        found = [len(codes) - 1]
    operator = schema.OperatorT()
    operator.opcodeIndex, operator.inputs, operator.outputs = found[0], np.array(inputs, np.int32), [int(output)]
    if options is not None:
        operator.builtinOptions = options
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__[:-1])
    return operator


def code_of(model: Any, operator: Any) -> int:
    """The number of an operator's kind; the old field is one byte, so newer kinds are only in the new one."""
    code = model.operatorCodes[operator.opcodeIndex]
    return int(max(code.builtinCode, code.deprecatedBuiltinCode))
