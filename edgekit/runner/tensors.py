"""From raw samples to the content of a tensor and back: preprocessing, scale and zero point, for one input or output."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit import preprocess
from edgekit.errors import InputError

if TYPE_CHECKING:
    from edgekit.manifest import Tensor, Variant

Array = Any  # np.ndarray; numpy's own generic alias does not exist in the numpy of older boards


def describe_variant(interpreter: Any, file: str, *, quantization: str) -> Variant:
    """A Variant from what the interpreter says of the file: names, shapes, dtypes, scales; nothing about quality."""
    from edgekit.manifest import Variant

    names = _signature_names(interpreter)
    inputs = [_tensor(details, names) for details in interpreter.get_input_details()]
    outputs = [_tensor(details, names) for details in interpreter.get_output_details()]
    return Variant(quantization, file, quantization, None, tuple(inputs), tuple(outputs), {}, (), (), 0.0)


def _signature_names(interpreter: Any) -> dict[str, str]:
    """Tensor name -> the name that the model's author gave it, where the file has exactly one signature."""
    signatures = interpreter.get_signature_list()
    if len(signatures) != 1:
        return {}
    (key,) = signatures
    runner = interpreter.get_signature_runner(key)
    details = {**runner.get_input_details(), **runner.get_output_details()}
    return {tensor["name"]: name for name, tensor in details.items()}


def _tensor(details: Mapping[str, Any], names: Mapping[str, str]) -> Tensor:
    from edgekit.manifest import Tensor

    scale, zero_point = details["quantization"]
    quantized = scale != 0.0
    return Tensor(
        name=names.get(details["name"], details["name"]),
        tensor=details["name"],
        shape=tuple(int(size) for size in details["shape"]),
        dtype=np.dtype(details["dtype"]).name,
        scale=float(scale) if quantized else None,
        zero_point=int(zero_point) if quantized else None,
    )


def encoder(tensor: Tensor, spec: preprocess.Spec) -> Callable[[Array], Array]:
    """A function from one raw sample to the tensor's content, without its final shape.

    If the spec is affine the function goes element by element, so that a whole batch can be given at once.
    """
    dtype = np.dtype(tensor.dtype)
    if tensor.scale is not None and tensor.zero_point is not None:
        return _quantizer(spec, dtype, tensor.scale, tensor.zero_point)
    if dtype.kind == "f":
        return lambda raw: preprocess.apply(spec, raw).astype(dtype, copy=False)
    if spec == preprocess.Generic():  # tokens and the like: integers go in as they are
        return lambda raw: _integers(raw, tensor)

    lowest, highest = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)

    def encode_levels(raw: Array) -> Array:
        values = np.rint(preprocess.apply(spec, raw).astype(np.float64))
        return np.fmin(np.fmax(values, lowest), highest).astype(dtype)

    return encode_levels


def _quantizer(spec: preprocess.Spec, dtype: np.dtype[Any], scale: float, zero: int) -> Callable[[Array], Array]:
    """TFLite's affine quantization: q = round(x / scale) + zero point, clamped (https://arxiv.org/abs/1712.05877).

    Halves go to the even number, as in XNNPACK's kernels; a NaN becomes the lowest value, on every processor.
    """
    real = np.float32 if dtype.itemsize <= 2 else np.float64  # float32 cannot count to 2**31
    inverse, zero_point = real(1.0 / scale), real(zero)
    lowest, highest = real(np.iinfo(dtype).min), real(np.iinfo(dtype).max)

    def quantize(values: Array) -> Array:
        scaled = values * inverse
        np.rint(scaled, out=scaled)
        scaled += zero_point
        np.fmax(scaled, lowest, out=scaled)  # fmax, not maximum, for the NaN
        np.fmin(scaled, highest, out=scaled)
        return scaled.astype(dtype)

    if preprocess.affine(spec) is None:
        return lambda raw: quantize(preprocess.apply(spec, raw))

    # 8-bit raw values under an affine spec can only become 256 different numbers: look them up
    table = quantize(preprocess.apply(spec, np.arange(256, dtype=np.uint8)))

    def encode(raw: Array) -> Array:
        return table[raw] if raw.dtype == np.uint8 else quantize(preprocess.apply(spec, raw))

    return encode


def _integers(raw: Array, tensor: Tensor) -> Array:
    """`raw` in the dtype of an integer tensor without a scale; InputError if a value would not survive that."""
    if raw.dtype == tensor.dtype:
        return raw
    if raw.dtype.kind in "biuf":
        with np.errstate(invalid="ignore"):
            cast = raw.astype(tensor.dtype)
        # a wrap-around may compare equal after promotion to float64, but not have the same sign
        if np.array_equal(cast, raw) and np.array_equal(cast < 0, raw < 0):
            return cast
    raise InputError(
        f"input {tensor.name!r} wants {tensor.dtype}, got {raw.dtype} values that are not",
        hint="give whole numbers in that range",
    )


def decoder(tensor: Tensor) -> Callable[[Array], Array]:
    """A function from the tensor's content to float32: scale * (q - zero point); other tensors stay as they are."""
    if tensor.scale is None or tensor.zero_point is None:
        return lambda answer: answer
    scale, zero_point = np.float32(tensor.scale), np.float32(tensor.zero_point)
    if tensor.dtype == "int8":
        # indexed by the byte's unsigned value, so that one look-up does it
        table = (np.arange(256, dtype=np.uint8).view(np.int8).astype(np.float32) - zero_point) * scale
        return lambda answer: table[answer.view(np.uint8)]
    return lambda answer: (answer.astype(np.float32) - zero_point) * scale
