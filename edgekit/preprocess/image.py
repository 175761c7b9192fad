"""Images: crop, resize, colour, mean and std, in a fixed order of summation: the same bits on the host and on the board.

No matrix library: the bits of its products depend on the machine.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np

from edgekit.preprocess.spec import Image, misfit

_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as Pillow's mode L and OpenCV


def output_shape(spec: Image, raw_shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that `apply` makes of pixels of `raw_shape`; PreprocessError if they do not fit."""
    if not (len(raw_shape) == 2 or (len(raw_shape) == 3 and raw_shape[2] in (1, 3, 4))) or 0 in raw_shape:
        raise misfit(raw_shape, "[h, w, 3] RGB, [h, w, 4] RGBA or [h, w] grey")
    kept = tuple(size - 2 * _crop_start(size, spec.crop) for size in raw_shape[:2])
    if spec.resize == "none" and kept != (spec.height, spec.width):
        crop = f" after crop {spec.crop:g}" if spec.crop < 1 else ""
        raise misfit(raw_shape, f"{spec.height} x {spec.width} pixels{crop}, as resize is 'none'")
    size = (spec.height, spec.width)
    return (*size, spec.channels) if spec.layout == "nhwc" else (spec.channels, *size)


def apply(spec: Image, raw: np.ndarray) -> np.ndarray:
    """The model's input, float32, of pixels 0..255."""
    shape = output_shape(spec, raw.shape)
    if raw.dtype != np.uint8:
        raise misfit(raw.dtype, "uint8", hint="levels 0..255; a float image would leave its range to be guessed")
    x = raw[:, :, None] if raw.ndim == 2 else raw
    top, left = (_crop_start(size, spec.crop) for size in x.shape[:2])
    x = x[top : x.shape[0] - top, left : x.shape[1] - left]

    resized = _resized_size(spec, x.shape[0], x.shape[1])
    taps, region = [], []
    for size, there, wanted in zip(x.shape, resized, (spec.height, spec.width)):
        count = min(there, wanted)
        taps.append(_taps(size, there, (there - count) // 2, count, spec.filter, bool(spec.antialias)))
        region.append(slice((wanted - count) // 2, (wanted - count) // 2 + count))
    same = resized == x.shape[:2] == (spec.height, spec.width)
    levels = x.transpose(2, 0, 1) if same else _resize(x, taps[0], taps[1], spec.filter)
    levels = _in_colour(levels[:3], spec.colour)  # alpha goes only now: leaving it out before would copy the image

    out = np.empty(shape, np.float32)
    planes = out if spec.layout == "nchw" else out.transpose(2, 0, 1)
    for channel, plane in enumerate(planes):
        mean, std = (np.float32(values[channel % len(values)]) for values in (spec.mean, spec.std))
        inner = plane[region[0], region[1]]
        if inner.shape != plane.shape:
            plane[...] = (np.float32(spec.pad) - mean) / std
        np.subtract(levels[channel % len(levels)], mean, out=inner, dtype=np.float32)
        np.divide(inner, std, out=inner)
    return out


class _Taps(NamedTuple):
    """One axis of a resize: of pixels lo..hi-1, result i is the sum over k of weight[k, i] * x[pixel[k, i]]."""

    lo: int
    hi: int
    pixel: np.ndarray  # [taps, results] int64, counted from lo
    weight: np.ndarray  # [taps, results, 1] float32


@functools.lru_cache(maxsize=64)
def _taps(size: int, resized: int, start: int, count: int, filter: str, antialias: bool) -> _Taps:
    """The taps that make results start..start+count-1 of an axis of `size` pixels resized to `resized`."""
    result = np.arange(start, start + count, dtype=np.int64)
    if filter == "nearest":
        pixel = ((2 * result + 1) * size // (2 * resized))[None]
        weight = np.ones(pixel.shape)
    else:
        reach = max(size / resized, 1.0) if antialias else 1.0
        centre = (result + 0.5) * (size / resized)
        pixel = np.floor(centre - reach - 0.5).astype(np.int64) + 1 + np.arange(math.ceil(2 * reach))[:, None]
        weight = np.maximum(0.0, 1.0 - np.abs(pixel + 0.5 - centre) / reach)
        weight[(pixel < 0) | (pixel >= size)] = 0.0
        used = weight.any(axis=1)
        pixel, weight = np.clip(pixel[used], 0, size - 1), weight[used] / weight.sum(axis=0)
    lo, hi = int(pixel.min()), int(pixel.max()) + 1
    return _Taps(lo, hi, pixel - lo, weight[:, :, None].astype(np.float32))


def _filter_rows(x: np.ndarray, taps: _Taps) -> np.ndarray:
    """[m, results] float32: [rows, m] resized along its rows, and transposed, ready for the other axis."""
    # A few gathers and not a matrix product: of hundreds of pixels 2 to 8 count, and the bits of a product depend on
    # the machine's BLAS. In blocks that stay in the cache: new memory costs more than the arithmetic (2.5 x, measured).
    results, m = taps.pixel.shape[1], x.shape[1]
    out = np.empty((m, results), np.float32)
    step = max(1, 65536 // m)
    total = np.empty((min(step, results), m), np.float32)
    term = np.empty_like(total)
    for start in range(0, results, step):
        pixel, weight = taps.pixel[:, start : start + step], taps.weight[:, start : start + step]
        count = pixel.shape[1]
        np.multiply(x[pixel[0]], weight[0], out=total[:count])
        for k in range(1, len(pixel)):
            np.multiply(x[pixel[k]], weight[k], out=term[:count])
            total[:count] += term[:count]
        out[:, start : start + step] = total[:count].T
    return out


def _resize(x: np.ndarray, rows: _Taps, columns: _Taps, filter: str) -> np.ndarray:
    """[channels, height, width] of [h, w, channels]: float32, or of x's dtype if the filter is "nearest"."""
    part: np.ndarray = x[rows.lo : rows.hi, columns.lo : columns.hi]
    if filter == "nearest":
        picked: np.ndarray = part.take(rows.pixel[0], axis=0).take(columns.pixel[0], axis=1).transpose(2, 0, 1)
        return picked
    height, width, channels = part.shape
    turned = _filter_rows(part.reshape(height, -1), rows)
    return _filter_rows(turned.reshape(width, -1), columns).reshape(channels, -1, columns.pixel.shape[1])


def _crop_start(size: int, fraction: float) -> int:
    """Pixels cut off at each end, as tf.image.central_crop; at least one pixel stays."""
    return min(int((size - size * fraction) / 2), (size - 1) // 2)


def _resized_size(spec: Image, h: int, w: int) -> tuple[int, int]:
    """Height and width to which [h, w] is scaled, before "fit" pads or "cover" cuts; half pixels up, at least 1."""
    if spec.resize in ("none", "stretch"):
        return spec.height, spec.width
    height_decides = (spec.height * w < spec.width * h) == (spec.resize == "fit")
    if height_decides:  # in integers, to be the same everywhere
        return spec.height, max(1, (2 * w * spec.height + h) // (2 * h))
    return max(1, (2 * h * spec.width + w) // (2 * w)), spec.width


def _in_colour(levels: np.ndarray, colour: str) -> np.ndarray:
    """[1 or 3, h, w] RGB or grey levels in the colours the model wants; 1 plane serves as every channel."""
    if len(levels) == 1 or colour == "rgb":
        return levels
    if colour == "bgr":
        return levels[::-1]
    red, green, blue = (np.multiply(levels[i], np.float32(_LUMA[i]), dtype=np.float32) for i in range(3))
    return np.asarray(red + green + blue)[None]
