"""ONNX operators that move values and change none."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from edgekit.convert.onnx_node import Node


def reshape(node: Node) -> Any:
    """Reshape."""
    x, shape = node.tensor(0), node.integers("shape", 1)
    assert shape is not None
    if not node.attribute("allowzero", 0):
        shape = [x.shape[i] if size == 0 else size for i, size in enumerate(shape)]
    return x.reshape(shape)


def flatten(node: Node) -> Any:
    """Flatten."""
    x, axis = node.tensor(0), node.attribute("axis", 1)
    axis += x.ndim if axis < 0 else 0
    rows = int(np.prod(x.shape[:axis]))
    return x.reshape(rows, -1)


def squeeze(node: Node) -> Any:
    """Squeeze."""
    axes = node.integers("axes", 1)
    return node.tensor(0).squeeze() if axes is None else node.tensor(0).squeeze(tuple(axes))


def unsqueeze(node: Node) -> Any:
    """Unsqueeze."""
    x, axes = node.tensor(0), node.integers("axes", 1) or []
    for axis in sorted(a % (x.ndim + len(axes)) for a in axes):
        x = x.unsqueeze(axis)
    return x


def sliced(node: Node) -> Any:
    """Slice."""
    x = node.tensor(0)
    starts, ends = node.integers("starts", 1) or [], node.integers("ends", 2) or []
    axes = node.integers("axes", 3)
    axes, steps = list(range(len(starts))) if axes is None else axes, node.integers("steps", 4) or [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step > 0:
            size = x.shape[axis]
            low, high, _ = slice(start, end).indices(size)
            x = x.narrow(axis, low, max(high - low, 0))
            x = x if step == 1 else x.index_select(axis, torch.arange(0, x.shape[axis], step))
        else:
            x = x.index_select(axis, torch.tensor(list(range(*_backwards(start, end, step, x.shape[axis])))))
    return x


def _backwards(start: int, end: int, step: int, size: int) -> tuple[int, int, int]:
    low = start + size if start < 0 else start
    high = end + size if end < 0 else end
    return min(max(low, -1), size - 1), min(max(high, -1), size - 1), step


def split(node: Node) -> Any:
    """Split."""
    x, axis, sizes = node.tensor(0), node.attribute("axis", 0), node.integers("split", 1)
    if sizes is None:
        count = node.attribute("num_outputs", len(node.proto.output))
        each = -(-x.shape[axis] // count)  # all alike, the last one smaller
        sizes = [min(each, x.shape[axis] - i * each) for i in range(count)]
    return torch.split(x, sizes, axis)


def gather(node: Node) -> Any:
    """Gather."""
    x, indexes, axis = node.tensor(0), node.tensor(1), node.attribute("axis", 0) % node.tensor(0).ndim
    constant = node.values[1] if not torch.is_tensor(node.values[1]) else None
    if constant is not None and constant.ndim == 0:
        return x.select(axis, int(constant) % x.shape[axis])
    if constant is not None:
        indexes = torch.from_numpy(np.where(constant < 0, constant + x.shape[axis], constant).astype(np.int64))
    if axis == 0 and x.ndim == 2:
        return F.embedding(indexes.long(), x)
    picked = x.index_select(axis, indexes.reshape(-1).long())
    return picked.reshape(*x.shape[:axis], *indexes.shape, *x.shape[axis + 1 :])


def gather_elements(node: Node) -> Any:
    """GatherElements."""
    x, indexes, axis = node.tensor(0), node.tensor(1).long(), node.attribute("axis", 0)
    return torch.gather(x, axis, torch.where(indexes < 0, indexes + x.shape[axis], indexes))


def expand(node: Node) -> Any:
    """Expand."""
    x, shape = node.tensor(0), node.integers("shape", 1)
    return x.expand(torch.broadcast_shapes(tuple(x.shape), tuple(shape or ())))


def depth_to_space(node: Node) -> Any:
    """DepthToSpace."""
    x, size = node.tensor(0), node.attribute("blocksize", 1)
    n, c, h, w = x.shape
    if node.attribute("mode", "DCR") == "CRD":
        return F.pixel_shuffle(x, size)
    x = x.reshape(n, size, size, c // size**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return x.reshape(n, c // size**2, h * size, w * size)


def space_to_depth(node: Node) -> Any:
    """SpaceToDepth."""
    x, size = node.tensor(0), node.attribute("blocksize", 1)
    if node.attribute("mode", "DCR") == "CRD":
        return F.pixel_unshuffle(x, size)
    n, c, h, w = x.shape
    x = x.reshape(n, c, h // size, size, w // size, size).permute(0, 3, 5, 1, 2, 4)
    return x.reshape(n, c * size**2, h // size, w // size)
