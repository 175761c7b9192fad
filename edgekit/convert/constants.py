"""The constant data of a .tflite, tensor by tensor: what a comparison of weights needs."""

from __future__ import annotations

from pathlib import Path

from edgekit.convert.flatbuffer import _schema, read_model


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
