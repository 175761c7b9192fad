"""What an int8 model for LiteRT's GPU accelerator needs that others do not: no pointwise convolution with a stride.

Of an int8 CONV_2D with a kernel of 1 x 1 and strides, LiteRT 2.3's accelerator ignores the strides and answers with the upper
left corner: 97.9 % of that layer's values are wrong in MLPerf Tiny's ResNet8, the answers up to 228 steps (measured with
SwiftShader; on an NVIDIA H200 up to 99). Float models are right.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.manifest import Delegate

if TYPE_CHECKING:
    from edgekit.target import Target


def for_gpu(made: Any, board: Target | None, delegates: Sequence[Delegate], folder: Path) -> Any:
    """The variant as the accelerator computes it right; itself where it is, or where no GPU is meant."""
    listed: Sequence[Any] = delegates or (board.delegates if board is not None else ())
    if not any(delegate.name == "gpu" for delegate in listed):
        return made
    changed = without_strided_pointwise(made.path.read_bytes())
    if changed is None:
        return made
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{made.mode}.tflite"
    path.write_bytes(changed)
    return replace(made, path=path, made_by=f"{made.made_by}, strided 1 x 1 convolutions as 2 x 2 by edgekit")


def without_strided_pointwise(content: bytes) -> bytes | None:
    """The file with int8 CONV_2D of 1 x 1 and a stride as 2 x 2, zeros beside the weights; None where there is none.

    The answers are the same to the bit: with padding SAME the first of the two taps falls on what the stride picks, and the
    second is multiplied by zero. It costs the processor four times that layer's work.
    """
    from ai_edge_litert import schema_py_generated as schema

    from edgekit.convert.prune import drop_unread
    from edgekit.convert.rewrite import add_buffer, code_of, packed, unpacked

    model = unpacked(content)
    graph = model.subgraphs[0]
    changed = False
    for operator in graph.operators:
        if code_of(model, operator) != schema.BuiltinOperator.CONV_2D:
            continue
        options, weights = operator.builtinOptions, graph.tensors[int(operator.inputs[1])]
        strided = options.strideH > 1 or options.strideW > 1
        if not strided or weights.type != schema.TensorType.INT8 or tuple(weights.shape[1:3]) != (1, 1):
            continue
        count, _, _, depth = (int(size) for size in weights.shape)
        wide = np.zeros((count, 2, 2, depth), np.int8)
        wide[:, 0, 0] = np.frombuffer(bytes(model.buffers[weights.buffer].data), np.int8).reshape(count, depth)
        made = deepcopy(weights)  # another operator may read the same ones
        made.shape, made.shapeSignature = list(wide.shape), None
        made.buffer = add_buffer(model, np.frombuffer(wide.tobytes(), np.uint8))
        graph.tensors.append(made)
        inputs = np.array(operator.inputs, np.int32)
        inputs[1] = len(graph.tensors) - 1
        operator.inputs, options.padding = inputs, schema.Padding.SAME
        changed = True
    if not changed:
        return None
    drop_unread(model)
    return packed(model)
