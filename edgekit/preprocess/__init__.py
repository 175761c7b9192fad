"""The input contract of a model: one spec, and the only code that turns a raw sample into the model's input.

Calibration, evaluation and the runner on the device all call `apply`. numpy and the standard library only: this package
also runs on the device (Python >= 3.9, numpy >= 1.20).
"""

from __future__ import annotations

import numpy as np

from edgekit.preprocess.spec import Audio, Generic, Image, Spec, misfit, parse_spec, spec_digest, spec_fields

__all__ = [
    "Audio",
    "Generic",
    "Image",
    "Spec",
    "affine",
    "apply",
    "output_shape",
    "parse_spec",
    "spec_digest",
    "spec_fields",
]


def affine(spec: Spec) -> tuple[float, float] | None:
    """(scale, offset) if that is all that the spec does; None for images and audio."""
    return (spec.scale, spec.offset) if isinstance(spec, Generic) else None


def output_shape(spec: Spec, raw_shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape, without batch, that `apply` makes of a raw sample of `raw_shape`."""
    if isinstance(spec, Image):
        from edgekit.preprocess import image

        return image.output_shape(spec, raw_shape)
    if isinstance(spec, Audio):
        from edgekit.preprocess import audio

        return audio.output_shape(spec, raw_shape)
    return tuple(raw_shape)


def apply(spec: Spec, raw: np.ndarray) -> np.ndarray:
    """The model's input, float32, without batch, of one raw sample; not checked for NaN. A new array, never `raw`."""
    if isinstance(spec, Image):  # image and audio are imported when they are needed: a runner starts without them
        from edgekit.preprocess import image

        return image.apply(spec, raw)
    if isinstance(spec, Audio):
        from edgekit.preprocess import audio

        return audio.apply(spec, raw)
    if raw.dtype.kind not in "buif":
        raise misfit(raw.dtype, "numbers")
    values = raw.astype(np.float32)
    if spec.scale != 1.0:
        values *= np.float32(spec.scale)
    if spec.offset != 0.0:
        values += np.float32(spec.offset)
    return values
