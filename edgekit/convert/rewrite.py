"""Changes in a .tflite: ranges where quantizers look for them, and what makes a float graph fit to be quantized."""

from __future__ import annotations

from collections.abc import Mapping
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
    return bytes(builder.Output())


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


def without_ranges(model: Any) -> Any:
    """The unpacked int8 `model` without the minima and maxima beside its scales: up to a tenth of the file, read by nobody."""
    for quantization in (tensor.quantization for graph in model.subgraphs for tensor in graph.tensors):
        if quantization is not None and quantization.scale is not None and len(quantization.scale):
            quantization.min = quantization.max = None
    return model


def prepare(model: Any) -> bool:
    """Replaces what has no int8 form by what has one and the same answers to the bit; says whether there was any."""
    return any([_negations_as_products(model), _lookups_as_gathers(model)])


def _lookups_as_gathers(model: Any) -> bool:
    """PyTorch's embeddings come as EMBEDDING_LOOKUP, TensorFlow's as GATHER; only the latter is taken by a quantizer."""
    graph = model.subgraphs[0]
    lookups = [each for each in graph.operators if _code(model, each) == schema.BuiltinOperator.EMBEDDING_LOOKUP]
    if not all(graph.tensors[operator.inputs[1]].type == schema.TensorType.FLOAT32 for operator in lookups):
        return False
    for operator in lookups:
        code = model.operatorCodes[operator.opcodeIndex]
        code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.GATHER
        code.version = 1
    for operator in lookups:
        operator.inputs = np.array([operator.inputs[1], operator.inputs[0]], np.int32)
        operator.builtinOptionsType = schema.BuiltinOptions.GatherOptions
        operator.builtinOptions = schema.GatherOptionsT()
    return bool(lookups)


def _negations_as_products(model: Any) -> bool:
    """NEG becomes a product with -1: TensorFlow writes it for layer normalization, no quantizer takes it."""
    graph = model.subgraphs[0]
    negations = [operator for operator in graph.operators if _code(model, operator) == schema.BuiltinOperator.NEG]
    if not all(graph.tensors[operator.inputs[0]].type == schema.TensorType.FLOAT32 for operator in negations):
        return False
    for operator in negations:
        code = model.operatorCodes[operator.opcodeIndex]  # itself: LiteRT's quantizer stumbles over codes nobody uses
        code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.MUL
    minus_one = _add_constant(model, b"edgekit/minus_one", np.array([-1.0], np.float32)) if negations else None
    for operator in negations:
        operator.inputs = np.array([operator.inputs[0], minus_one], np.int32)
        operator.builtinOptionsType = schema.BuiltinOptions.MulOptions
        operator.builtinOptions = schema.MulOptionsT()
    return bool(negations)


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
    behind = last if last is not None and _code(model, last) in bridges else None
    softmax = by_output.get(behind.inputs[0]) if behind is not None else last
    if softmax is None or _code(model, softmax) != schema.BuiltinOperator.SOFTMAX or softmax.inputs[0] in graph.inputs:
        return False
    graph.operators = [operator for operator in graph.operators if operator is not softmax]
    if behind is not None and _code(model, behind) == schema.BuiltinOperator.DEQUANTIZE:
        behind.inputs = np.array([softmax.inputs[0]], np.int32)
        return True
    graph.operators = [operator for operator in graph.operators if operator is not behind]
    graph.outputs = np.array([softmax.inputs[0]], np.int32)
    for signature in model.signatureDefs or ():
        for entry in signature.outputs:
            entry.tensorIndex = int(softmax.inputs[0])
    return True


def _add_constant(model: Any, name: bytes, values: np.ndarray) -> int:
    buffer = schema.BufferT()
    buffer.data = values.view(np.uint8)
    model.buffers.append(buffer)
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.buffer = name, list(values.shape), len(model.buffers) - 1
    tensor.type, tensor.hasRank = schema.TensorType.FLOAT32, True
    model.subgraphs[0].tensors.append(tensor)
    return len(model.subgraphs[0].tensors) - 1


def _code(model: Any, operator: Any) -> int:
    """The number of an operator's kind; the old field is one byte, so newer kinds are only in the new one."""
    code = model.operatorCodes[operator.opcodeIndex]
    return int(max(code.builtinCode, code.deprecatedBuiltinCode))
