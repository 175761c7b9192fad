"""Writes measured ranges into a float .tflite, where the quantizers of LiteRT and TensorFlow look for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flatbuffers
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
