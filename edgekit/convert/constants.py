"""The constant data of a .tflite, tensor by tensor: what a comparison of weights needs."""

from __future__ import annotations

from pathlib import Path

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
        buffer = model.Buffers(graph.Tensors(tensor.index).Buffer())
        inside = buffer.DataAsNumpy()
        if not isinstance(inside, int) and len(inside):
            found[tensor.index] = inside.tobytes()
        elif buffer.Offset() > 1:  # behind the flatbuffer, as in files over 2 GB
            found[tensor.index] = data[buffer.Offset() : buffer.Offset() + buffer.Size()]
    return found


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
