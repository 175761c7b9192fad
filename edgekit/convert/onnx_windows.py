"""ONNX operators that look at neighbours: convolutions, pooling, padding, resizing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from edgekit.convert.onnx_node import Node
from edgekit.errors import ConversionError

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_MAX_POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE_POOL = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def _refused(node: Node, what: str) -> ConversionError:
    return ConversionError(
        f"{node.proto.op_type} {node.proto.name!r}: edgekit does not know {what}", hint="export it in another way"
    )


def _window(node: Node, sizes: tuple[int, ...], kernel: list[int]) -> tuple[list[int], list[int], list[int], list[int]]:
    """(strides, dilations, padding before, padding after) along each of the spatial `sizes`."""
    count = len(sizes)
    strides, dilations = node.attribute("strides", [1] * count), node.attribute("dilations", [1] * count)
    given, automatic = node.attribute("pads", [0] * 2 * count), node.attribute("auto_pad", "NOTSET")
    if automatic in ("NOTSET", "VALID"):
        pads = [0] * 2 * count if automatic == "VALID" else given
        return strides, dilations, list(pads[:count]), list(pads[count:])
    before, after = [], []
    for size, width, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        whole = max((-(-size // stride) - 1) * stride + (width - 1) * dilation + 1 - size, 0)
        less = whole // 2
        before.append(less if automatic == "SAME_UPPER" else whole - less)
        after.append(whole - less if automatic == "SAME_UPPER" else less)
    return strides, dilations, before, after


def _padded(x: Any, before: list[int], after: list[int], value: float) -> Any:
    """F.pad lists the last dimension first."""
    flat = [width for pair in zip(reversed(before), reversed(after), strict=True) for width in pair]
    return F.pad(x, flat, value=value) if any(flat) else x


def conv(node: Node) -> Any:
    """Conv."""
    x, weight = node.tensor(0), node.tensor(1)
    strides, dilations, before, after = _window(node, tuple(x.shape[2:]), list(weight.shape[2:]))
    alike = before == after
    x = x if alike else _padded(x, before, after, 0.0)
    run = _CONV[weight.ndim - 2]
    padding = before if alike else [0] * len(before)
    return run(x, weight, node.tensor(2), strides, padding, dilations, node.attribute("group", 1))


def conv_transpose(node: Node) -> Any:
    """ConvTranspose. Padding that is not alike on both sides is cut off afterwards."""
    x, weight = node.tensor(0), node.tensor(1)
    count = weight.ndim - 2
    strides, dilations = node.attribute("strides", [1] * count), node.attribute("dilations", [1] * count)
    extra, pads = node.attribute("output_padding", [0] * count), node.attribute("pads", [0] * 2 * count)
    automatic = node.attribute("auto_pad", "NOTSET")
    if "output_shape" in node.attributes or automatic.startswith("SAME"):
        wanted = node.attribute("output_shape", [size * s for size, s in zip(x.shape[2:], strides, strict=True)])[
            -count:
        ]
        pads = [0] * 2 * count
        for i in range(count):
            whole = (
                (x.shape[2 + i] - 1) * strides[i] + extra[i] + (weight.shape[2 + i] - 1) * dilations[i] + 1 - wanted[i]
            )
            if whole < 0:
                extra, whole = [e - whole if j == i else e for j, e in enumerate(extra)], 0
            less = whole // 2
            first = less if automatic == "SAME_UPPER" else whole - less
            pads[i], pads[count + i] = first, whole - first
    before, after = list(pads[:count]), list(pads[count:])
    run, bias, groups = _CONV_TRANSPOSE[count], node.tensor(2), node.attribute("group", 1)
    if before == after and min(before) >= 0:
        return run(x, weight, bias, strides, before, extra, groups, dilations)
    y = run(x, weight, bias, strides, [0] * count, extra, groups, dilations)
    for i in range(count):
        y = y.narrow(2 + i, before[i], y.shape[2 + i] - before[i] - after[i])
    return y


def max_pool(node: Node) -> Any:
    """MaxPool, without the indexes."""
    if len(node.proto.output) > 1 and node.proto.output[1]:
        raise _refused(node, "pooling that says where the maxima were")
    x, kernel = node.tensor(0), node.attribute("kernel_shape", [])
    strides, dilations, before, after = _window(node, tuple(x.shape[2:]), kernel)
    run, ceil = _MAX_POOL[len(kernel)], bool(node.attribute("ceil_mode", 0))
    if before == after and all(2 * width <= size for width, size in zip(before, kernel, strict=True)):
        return run(x, kernel, strides, before, dilations, ceil)
    return run(_padded(x, before, after, float("-inf")), kernel, strides, 0, dilations, ceil)


def average_pool(node: Node) -> Any:
    """AveragePool."""
    x, kernel = node.tensor(0), node.attribute("kernel_shape", [])
    strides, dilations, before, after = _window(node, tuple(x.shape[2:]), kernel)
    if any(step != 1 for step in dilations):
        raise _refused(node, "average pooling with dilations")
    whole, ceil = bool(node.attribute("count_include_pad", 0)), bool(node.attribute("ceil_mode", 0))
    run = _AVERAGE_POOL[len(kernel)]
    if before == after and all(2 * width <= size for width, size in zip(before, kernel, strict=True)):
        return run(x, kernel, strides, before, ceil, whole)
    if ceil:
        raise _refused(node, "average pooling with ceil_mode and padding that differs between the sides")
    padded = run(_padded(x, before, after, 0.0), kernel, strides)
    if whole:
        return padded
    ones = torch.ones((1, 1, *x.shape[2:]), dtype=x.dtype)
    return padded / run(_padded(ones, before, after, 0.0), kernel, strides)  # a constant: how much of each window is x


def pad(node: Node) -> Any:
    """Pad."""
    x, pads, mode = node.tensor(0), node.integers("pads", 1), node.attribute("mode", "constant")
    assert pads is not None
    axes = node.integers("axes", 3) or list(range(x.ndim))
    before, after = [0] * x.ndim, [0] * x.ndim
    for i, axis in enumerate(axes):
        before[axis], after[axis] = pads[i], pads[len(axes) + i]
    if mode == "constant":
        value = node.attributes["value"] if "value" in node.attributes else node.constant(2)
        return _padded(x, before, after, 0.0 if value is None or np.size(value) == 0 else np.asarray(value).item())
    for axis in range(x.ndim):  # by picking: F.pad takes these modes for the last dimensions only
        if before[axis] or after[axis]:
            names = {"reflect": "reflect", "edge": "edge", "wrap": "wrap"}
            indexes = np.pad(np.arange(x.shape[axis]), (before[axis], after[axis]), mode=names[mode])  # type: ignore[call-overload]
            x = x.index_select(axis, torch.from_numpy(indexes))
    return x


def resize(node: Node) -> Any:
    """Resize and Upsample of the spatial dimensions; linear and cubic in the ways that PyTorch, Keras and TensorFlow export."""
    x, mode = node.tensor(0), node.attribute("mode", "nearest")
    sizes, scales = node.constant(3), node.attributes.get("scales", node.constant(1 if node.opset < 11 else 2))
    by_size = sizes is not None and np.size(sizes) > 0
    axes = node.attribute("axes", list(range(x.ndim)))
    wanted, factors = list(x.shape), [1.0] * x.ndim
    for i, axis in enumerate(axes):
        wanted[axis] = int(sizes[i]) if by_size else int(x.shape[axis] * float(scales[i]))
        factors[axis] = wanted[axis] / x.shape[axis] if by_size else float(scales[i])
    if wanted[:2] != list(x.shape[:2]) or node.attribute("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise _refused(node, "resizing of the batch or of channels, nor to an aspect ratio")
    where = node.attribute("coordinate_transformation_mode", "half_pixel" if node.opset >= 11 else "asymmetric")
    if mode == "nearest":
        rounding = node.attribute("nearest_mode", "round_prefer_floor" if node.opset >= 11 else "floor")
        return _nearest(node, wanted, factors, where, rounding)
    by_corners = where == "align_corners"
    known = by_corners or where == "half_pixel" or (where == "pytorch_half_pixel" and min(wanted[2:]) > 1)
    exact = all(factor * size == w for factor, size, w in zip(factors, x.shape, wanted, strict=True))
    if not known or not exact or node.attribute("antialias", 0) or node.attribute("exclude_outside", 0):
        raise _refused(node, f"{mode} with {where} from {list(x.shape)} to {wanted}")
    if mode == "linear" and x.ndim in (3, 4):
        return F.interpolate(x, wanted[2:], mode={3: "linear", 4: "bilinear"}[x.ndim], align_corners=by_corners)
    if mode == "cubic" and x.ndim == 4 and node.attribute("cubic_coeff_a", -0.75) == -0.75:
        return F.interpolate(x, wanted[2:], mode="bicubic", align_corners=by_corners)
    raise _refused(node, f"{mode} in {x.ndim - 2} dimensions")


_ROUNDED: Mapping[str, Callable[[Any], Any]] = {
    "floor": np.floor,
    "ceil": np.ceil,
    "round_prefer_floor": lambda place: np.ceil(place - 0.5),
    "round_prefer_ceil": lambda place: np.floor(place + 0.5),
}


def _nearest(node: Node, wanted: list[int], factors: list[float], where: str, rounding: str) -> Any:
    """By picking rows and columns, unless that is what F.interpolate does."""
    x, simple, picked = node.tensor(0), True, []
    for size, count, factor in zip(x.shape, wanted, factors, strict=True):
        out = np.arange(count, dtype=np.float64)
        if where == "asymmetric":
            place = out / factor
        elif where == "align_corners":
            place = out * (size - 1) / max(count - 1, 1)
        elif where in ("half_pixel", "pytorch_half_pixel"):
            place = (out + 0.5) / factor - 0.5
        else:
            raise _refused(node, f"nearest with {where}")
        indexes = np.clip(_ROUNDED[rounding](place), 0, size - 1).astype(np.int64)
        simple &= bool((indexes == np.arange(count) * size // count).all())
        picked.append(indexes)
    if simple and x.ndim in (3, 4, 5):
        return F.interpolate(x, wanted[2:], mode="nearest")
    for axis, indexes in enumerate(picked):
        if len(indexes) != x.shape[axis] or (indexes != np.arange(len(indexes))).any():
            x = x.index_select(axis, torch.from_numpy(indexes))
    return x
