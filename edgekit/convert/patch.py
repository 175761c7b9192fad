"""Constants of a .tflite, to be changed where they lie: no table moves, the rest of the file stays as it is to the bit.

Unpacking and packing a file takes ten times as long as an inference, and whoever corrects layer by layer does it often.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from edgekit.convert.constants import stored
from edgekit.convert.flatbuffer import _schema, read_model

_DTYPES = ("int8", "int4", "int32", "int64", "float32")


def own_constants(content: bytearray) -> dict[int, np.ndarray]:
    """Tensor index -> its values, of the primary subgraph's constants; what is written to the array is written to the file.

    int4 as it is stored, two values in a byte; `pack` and `unpack` know how.
    Only those that one operator reads, by one tensor with a buffer of its own: the others cannot be changed for one layer
    alone. Raises NotAModel as read_model does.
    """
    described = read_model(bytes(content))  # has checked every offset that is followed here
    model = _schema().Model.GetRootAs(content, 0)
    graphs = [model.Subgraphs(i) for i in range(model.SubgraphsLength())]
    users = Counter(graph.Tensors(i).Buffer() for graph in graphs for i in range(graph.TensorsLength()))
    graph = described.subgraphs[0]
    readers = Counter(index for operator in graph.operators for index in operator.inputs)
    readers.update(graph.outputs)
    found = {}
    for tensor in graph.tensors:
        if not tensor.constant or tensor.dtype not in _DTYPES or readers[tensor.index] != 1:
            continue
        number = graphs[0].Tensors(tensor.index).Buffer()
        if users[number] != 1:
            continue
        values = stored(model.Buffers(number), content)
        if values.nbytes == tensor.data_bytes:
            found[tensor.index] = values if tensor.dtype == "int4" else values.view(tensor.dtype).reshape(tensor.shape)
    return found


def unpack(stored: np.ndarray, count: int) -> np.ndarray:
    """`count` int4 values, as int8, of bytes that hold two each, the first one in the lower half."""
    halves = np.stack([stored & 15, stored >> 4], axis=1).reshape(-1)[:count].astype(np.int8)
    return np.asarray((halves ^ 8) - 8)


def pack(values: np.ndarray) -> np.ndarray:
    """The other way round."""
    halves = np.zeros(values.size + values.size % 2, np.uint8)
    halves[: values.size] = values.reshape(-1).astype(np.int8).view(np.uint8) & 15
    return np.asarray(halves[::2] | halves[1::2] << 4)
