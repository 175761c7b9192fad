"""The constant data of a .tflite, tensor by tensor: what a comparison of weights needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgekit.convert.flatbuffer import TensorInfo, _schema, read_model


def read_constants(path: Path) -> dict[int, bytes]:
    """Tensor index -> bytes, of the primary subgraph's constants inside the file. Raises NotAModel as read_model does."""
    data = path.read_bytes()
    described = read_model(data).subgraphs[0]  # has checked every offset that is followed here
    model = _schema().Model.GetRootAs(data, 0)
    graph = model.Subgraphs(0)
    found = {}
    for tensor in described.tensors:
        if not tensor.constant:
            continue
        content = stored(model.Buffers(graph.Tensors(tensor.index).Buffer()), data)
        if len(content):
            found[tensor.index] = content.tobytes()
    return found


def stored(buffer: Any, data: bytes | bytearray) -> np.ndarray:
    """The bytes of a buffer of the file `data`, where they lie: also behind the flatbuffer, as in files over 2 GB."""
    inside = buffer.DataAsNumpy()
    if not isinstance(inside, int) and len(inside):
        return np.asarray(inside)
    end = buffer.Offset() + buffer.Size() if buffer.Offset() > 1 else 0  # 0 and 1 are placeholders
    return np.frombuffer(data, np.uint8)[buffer.Offset() : end]


def real_values(tensor: TensorInfo, content: bytes) -> np.ndarray | None:
    """What a constant's bytes mean, float64 in its shape; None for types of less than a byte and for no numbers."""
    try:
        values = np.frombuffer(content, tensor.dtype).reshape(tensor.shape).astype(np.float64)
    except (TypeError, ValueError):
        return None
    if not tensor.scale:
        return values
    axis = [1] * values.ndim
    if len(tensor.scale) > 1:
        axis[tensor.quantized_dimension] = len(tensor.scale)
    scale, zero = np.reshape(tensor.scale, axis), np.reshape(tensor.zero_point or [0] * len(tensor.scale), axis)
    return np.asarray((values - zero) * scale)
