"""Samples as PNG files: 8-bit grey or RGB, written with zlib alone, so that the same pixels are the same bytes."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence

import numpy as np

MOST_PIXELS = 128  # of a side; larger images are averaged down, smaller ones are enlarged by the browser
_LEAST_PIXELS = 6  # of a side: below, an array of three dimensions is no picture


def png(pixels: np.ndarray) -> bytes:
    """The PNG file of uint8 pixels (h, w) or (h, w, 3)."""
    height, width = pixels.shape[:2]
    colour = 2 if pixels.ndim == 3 else 0
    rows = np.ascontiguousarray(pixels, np.uint8).reshape(height, -1)
    unfiltered = np.hstack([np.zeros((height, 1), np.uint8), rows])
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(unfiltered.tobytes(), 9)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, content) for kind, content in chunks)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def data_url(pixels: np.ndarray) -> str:
    """The same as the source of an <img>."""
    return "data:image/png;base64," + base64.b64encode(png(pixels)).decode()


def as_pictures(samples: Sequence[np.ndarray]) -> list[np.ndarray] | None:
    """uint8 pixels of raw samples of one shape, on one scale of brightness; None if they do not look like pictures.

    Pictures are (h, w), (h, w, 1|3|4) or (1|3, h, w), at least 6 each side: photographs, digits, spectrograms.
    """
    arrays = [_channels_last(sample) for sample in samples]
    shapes = {array.shape for array in arrays if array is not None}
    known = [array for array in arrays if array is not None]
    if len(known) != len(samples) or len(shapes) != 1:
        return None
    low, high = float(min(a.min() for a in known)), float(max(a.max() for a in known))
    if known[0].dtype == np.uint8 and high > 127:
        low, high = 0.0, 255.0
    elif known[0].dtype.kind == "f":  # one loud value would leave the rest of a spectrogram in one grey
        low, high = (float(value) for value in np.percentile(np.stack(known), [1, 99]))
    scale = 255.0 / (high - low) if high > low else 0.0
    return [np.clip((_shrunk(a.astype(np.float64)) - low) * scale + 0.5, 0, 255).astype(np.uint8) for a in known]


def _channels_last(sample: np.ndarray) -> np.ndarray | None:
    array = sample[0] if sample.ndim == 4 and sample.shape[0] == 1 else sample
    if array.ndim == 3 and array.shape[0] in (1, 3) and array.shape[2] not in (1, 3, 4):
        array = np.moveaxis(array, 0, 2)
    if array.ndim == 3 and array.shape[2] in (1, 3, 4):
        array = array[:, :, 0] if array.shape[2] == 1 else array[:, :, :3]
    elif array.ndim != 2:
        return None
    if min(array.shape[:2]) < _LEAST_PIXELS or array.dtype.kind not in "uif" or array.shape[0] * array.shape[1] < 64:
        return None
    if max(array.shape[:2]) > 20 * min(array.shape[:2]):  # a few long signals, not a picture
        return None
    return array


def _shrunk(array: np.ndarray) -> np.ndarray:
    """Blocks of pixels averaged until no side is longer than MOST_PIXELS."""
    by = -(-max(array.shape[:2]) // MOST_PIXELS)
    if by == 1:
        return array
    height, width = array.shape[0] // by, array.shape[1] // by
    if not height or not width:
        return array[::by, ::by]
    blocks = array[: height * by, : width * by].reshape(height, by, width, by, *array.shape[2:])
    return np.asarray(blocks.mean(axis=(1, 3)))
