"""Reads input files for the command line: .npy, .npz and .wav without further libraries, pictures with Pillow."""

from __future__ import annotations

import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit import preprocess
from edgekit.errors import InputError, MissingLibrary
from edgekit.runner.model import Model

PICTURES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff"}


def read_input(path: Path, model: Model) -> Any:
    """What to call `model` with: an array (a sample or a batch), or a mapping by input name for several inputs.

    Raises InputError for a file that is missing, not readable as what its name says, or not finite.
    """
    suffix = path.suffix.lower()
    if not path.is_file():
        raise InputError(f"{path} does not exist", hint="give .npy, .npz, .wav or picture files")
    try:
        if suffix == ".npy":
            return _finite(np.load(path, allow_pickle=False), path)
        if suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return _from_npz({name: _finite(arrays[name], path) for name in arrays.files}, path, model)
        if suffix == ".wav":
            return _read_wav(path, model)
    except (ValueError, OSError, EOFError, KeyError) as error:
        raise InputError(f"{path} cannot be read: {error}", hint="is it complete?") from error
    if suffix in PICTURES:
        return _read_picture(path)
    raise InputError(
        f"{path}: no reader for {suffix or 'a file without a suffix'}", hint="give .npy, .npz, .wav or a picture"
    )


def _from_npz(arrays: dict[str, Any], path: Path, model: Model) -> Any:
    names = [tensor.name for tensor in model.inputs]
    if set(names) <= set(arrays):
        return {name: arrays[name] for name in names} if len(names) > 1 else arrays[names[0]]
    if len(names) == 1 and ("x" in arrays or len(arrays) == 1):
        return arrays["x"] if "x" in arrays else next(iter(arrays.values()))
    raise InputError(f"{path} has the arrays {', '.join(arrays)}", hint=f"the model wants: {', '.join(names)}")


def _finite(array: Any, path: Path) -> Any:
    if array.dtype.kind not in "fiub":
        raise InputError(f"{path} holds {array.dtype}, not numbers", hint="save float or integer arrays")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InputError(f"{path} holds NaN or infinite values", hint="look at where the input was made")
    return array


def _read_wav(path: Path, model: Model) -> Any:
    try:
        with wave.open(str(path), "rb") as stream:
            rate, channels, width = stream.getframerate(), stream.getnchannels(), stream.getsampwidth()
            raw = stream.readframes(stream.getnframes())
    except wave.Error as error:
        raise InputError(f"{path} cannot be read: {error}", hint="give an uncompressed 16-bit WAV file") from error
    if width != 2:
        raise InputError(f"{path} has {8 * width}-bit samples", hint="give an uncompressed 16-bit WAV file")
    wanted = [spec.sample_rate for spec in model.specs.values() if isinstance(spec, preprocess.Audio)]
    if wanted and rate != wanted[0]:
        raise InputError(f"{path} has {rate} samples a second, the model wants {wanted[0]}", hint="resample it first")
    sound = np.frombuffer(raw, "<i2")
    return sound.reshape(-1, channels) if channels > 1 else sound


def _read_picture(path: Path) -> Any:
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise MissingLibrary(
            "reading pictures needs Pillow, which is not on this board",
            hint="deploy again with --with-pillow, or give .npy arrays",
        ) from None
    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("L" if picture.mode in ("1", "L", "I;16") else "RGB"))
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} is not a picture: {error}", hint="is it complete?") from error


def describe_answer(model: Model, answer: Any, *, top: int) -> Sequence[dict[str, Any]]:
    """The best `top` classes of one answer, best first, with their labels; an answer that is no vector: its values."""
    values = np.asarray(answer).reshape(-1)
    if np.asarray(answer).ndim != 1 or values.size < 2:
        return [{"value": float(value)} for value in values[:top]]
    order = np.argsort(-values.astype(np.float64), kind="stable")[:top]
    labels = model.labels
    return [
        {"class": int(i), "label": labels[i] if i < len(labels) else str(i), "score": round(float(values[i]), 6)}
        for i in order
    ]
