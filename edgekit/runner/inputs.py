"""Reads input files for the command line: .npy, .npz and .wav without further libraries, pictures with Pillow."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from edgekit.errors import InputError, MissingLibrary
from edgekit.runner.model import Model

PICTURES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff"}


def read_input(path: str, model: Model) -> Any:
    """What to call `model` with: an array (a sample or a batch), or a mapping by input name for several inputs.

    Raises InputError for a file that is missing, not readable as what its name says, or not finite.
    """
    suffix = os.path.splitext(path)[1].lower()
    if not os.path.isfile(path):
        raise InputError(f"{path} does not exist", hint="give .npy, .npz, .wav or picture files")
    if suffix in (".npy", ".npz"):
        return _from_arrays(read_arrays(path), path, model)
    if suffix == ".wav":
        return _read_wav(path, model)
    if suffix in PICTURES:
        return _read_picture(path)
    raise InputError(
        f"{path}: no reader for {suffix or 'a file without a suffix'}", hint="give .npy, .npz, .wav or a picture"
    )


def read_arrays(path: Any) -> dict[str, Any]:
    """The arrays of a .npz, or that of a .npy under the name ""; InputError if they are not finite numbers."""
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            arrays = {"": loaded}
        else:
            with loaded:
                arrays = {name: loaded[name] for name in loaded.files}
    except (MemoryError, Exception) as error:  # zipfile, zlib and numpy have a dozen classes for "damaged"
        raise InputError(f"{path} cannot be read: {error or type(error).__name__}", hint="is it complete?") from error
    for array in arrays.values():
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub":
            held = getattr(array, "dtype", "something else")
            raise InputError(f"{path} holds {held}, not numbers", hint="save float or integer arrays")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise InputError(f"{path} holds NaN or infinite values", hint="look at where the input was made")
    return arrays


def _from_arrays(arrays: dict[str, Any], path: str, model: Model) -> Any:
    names = [tensor.name for tensor in model.inputs]
    if set(names) <= set(arrays):
        return {name: arrays[name] for name in names} if len(names) > 1 else arrays[names[0]]
    if len(names) == 1 and ("x" in arrays or len(arrays) == 1):
        return arrays["x"] if "x" in arrays else next(iter(arrays.values()))
    held = "one array without a name" if set(arrays) == {""} else f"the arrays {', '.join(arrays) or '(none)'}"
    raise InputError(f"{path} has {held}", hint=f"give a .npz with the model's inputs: {', '.join(names)}")


def _read_wav(path: str, model: Model) -> Any:
    import wave

    from edgekit.preprocess import Audio

    hint = "give an uncompressed 16-bit WAV file"
    try:
        with wave.open(path, "rb") as stream:
            rate, channels, width = stream.getframerate(), stream.getnchannels(), stream.getsampwidth()
            raw = stream.readframes(stream.getnframes())
    except (wave.Error, OSError, EOFError, ValueError, MemoryError) as error:
        raise InputError(f"{path} cannot be read: {error or 'it ends too early'}", hint=hint) from error
    if width != 2:
        raise InputError(f"{path} has {8 * width}-bit samples", hint=hint)
    wanted = [spec.sample_rate for spec in model.specs.values() if isinstance(spec, Audio)]
    if wanted and rate != wanted[0]:
        raise InputError(f"{path} has {rate} samples a second, the model wants {wanted[0]}", hint="resample it first")
    sound = np.frombuffer(raw[: len(raw) // (2 * channels) * 2 * channels], "<i2")
    return sound.reshape(-1, channels) if channels > 1 else sound


def _read_picture(path: str) -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise MissingLibrary(
            "reading pictures needs Pillow, which is not on this board",
            hint="deploy again with --with-pillow, or give .npy arrays",
        ) from None
    try:
        with Image.open(path) as picture:
            if picture.mode.startswith("I;16"):  # Pillow's own conversion clips at 255
                return (np.asarray(picture) >> 8).astype(np.uint8)
            if picture.mode in ("I", "F"):
                raise InputError(f"{path} has 32-bit pixels", hint="save it with 8 bits, or give a .npy array")
            return np.asarray(picture.convert("L" if picture.mode in ("1", "L", "LA") else "RGB"))
    except InputError:
        raise
    except Exception as error:  # Pillow's decoders raise what they like: SyntaxError, struct.error, OSError, ...
        raise InputError(f"{path} is not a picture: {error}", hint="is it complete?") from error
