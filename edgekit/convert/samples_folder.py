"""Samples from a folder of images, WAV files or arrays, one in each file; its class is the sub-folder that it lies in."""

from __future__ import annotations

import wave
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.convert.damaged import ARCHIVE_ERRORS
from edgekit.convert.selection import balanced
from edgekit.errors import InputError, MissingLibrary, SamplesError, first_line

IMAGES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
SOUNDS = {".wav"}
ARRAYS = {".npz", ".npy"}  # such as a device records
SAMPLE_MOST = 256 << 20  # bytes of one sample: a device may send a few kilobytes that unpack to all the memory there is
_KINDS = {"images": IMAGES, "WAV files": SOUNDS, "arrays": ARRAYS}
_GREY = {"1", "L", "LA"}  # Pillow's modes
_WIDE = {"I", "F", "I;16", "I;16B", "I;16L", "I;16N"}

Read = tuple[dict[str, np.ndarray], "np.ndarray | None", list[str], "int | None"]  # arrays, labels, names, sample rate


def read_folder(folder: Path, *, classes: Sequence[str], with_labels: bool, most: int | None) -> Read:
    """At most `most` images, recordings or arrays, of every class alike, in the order of their paths.

    Labels are places in `classes`; without them numbers as the sub-folders are called, or the places of their sorted names.
    Raises SamplesError for a folder without either, for a file that cannot be read, for classes that nobody knows.
    """
    kind_of = {suffix: kind for kind, suffixes in _KINDS.items() for suffix in suffixes}
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in kind_of and _is_visible(p, folder))
    kinds = {kind_of[path.suffix.lower()] for path in files if path.is_file()}
    if len(kinds) != 1:
        raise SamplesError(
            f"{folder} has {' and '.join(sorted(kinds)) or 'no images, no WAV files and no arrays'}",
            hint=f"put one sample in each file: {', '.join(sorted(IMAGES))}, .wav, .npz; classes are sub-folders",
        )
    files = [path for path in files if path.is_file()]
    names = [path.relative_to(folder).parts[0] if path.parent != folder else "" for path in files]
    labels = _labels(folder, names, classes, with_labels)
    if most is not None and len(files) > most:
        chosen = balanced(names, most)
        files = [files[i] for i in chosen]
        labels = labels[chosen] if labels is not None else None
    told = [path.relative_to(folder).as_posix() for path in files]
    if kinds == {"arrays"}:
        return _arrays(files), labels, told, None
    if kinds == {"WAV files"}:
        rows, rate = _recordings(files)
        return {"x": stacked(rows)}, labels, told, rate
    return {"x": stacked(_images(files))}, labels, told, None


def stacked(rows: Sequence[np.ndarray]) -> np.ndarray:
    """One array of them all; of samples that differ in shape an array of arrays, for a preprocessing that evens them out."""
    if len({row.shape for row in rows}) == 1:
        return np.stack(rows)
    array = np.empty(len(rows), object)
    for index, row in enumerate(rows):
        array[index] = row
    return array


def numbered(names: Sequence[str], classes: Sequence[str], source: object) -> np.ndarray:
    """The class number of each name: its place in `classes`, or the number it is, or its place among the sorted names.

    Raises SamplesError for a name that `classes` does not have.
    """
    unknown = sorted(set(names) - set(classes))
    if classes and unknown and not all(name.isascii() and name.isdigit() for name in set(names)):
        raise SamplesError(
            f"{source}: class {unknown[0]!r} is not among the labels"
            + (f" (nor {len(unknown) - 1} more)" if unknown[1:] else ""),
            hint=f"the labels are {', '.join(classes[:8])}{', ...' if classes[8:] else ''}: name classes as --labels does",
        )
    if unknown and all(name.isascii() and name.isdigit() for name in set(names)):
        return np.array([int(name) for name in names], np.int64)
    place = {name: index for index, name in reversed(list(enumerate(classes or sorted(set(names)))))}
    return np.array([place[name] for name in names], np.int64)


def decode_image(stream: Any, name: object) -> tuple[np.ndarray, bool]:
    """The levels, uint8 [h, w, 3], and whether it is a grey image. Raises SamplesError naming the file.

    A camera's note on how it was held (EXIF) is not heeded: neither do TensorFlow's and Keras' readers heed it.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingLibrary("reading images needs Pillow", hint="pip install 'edgekit[convert]'") from error
    try:
        with Image.open(stream) as image:
            if image.mode in _WIDE:
                raise SamplesError(
                    f"{name} has more than 8 bits a level", hint="save it with 8 bits, or give a .npz file"
                )
            return np.asarray(image.convert("RGB")), image.mode in _GREY
    except SamplesError:
        raise
    except Exception as error:  # Pillow raises a dozen kinds for files that are damaged, or bombs
        raise SamplesError(
            f"{name} cannot be read as an image: {first_line(error)}", hint="remove the file or copy it again"
        ) from error


def _is_visible(path: Path, folder: Path) -> bool:
    return not any(part.startswith(".") for part in path.relative_to(folder).parts)


def _labels(folder: Path, names: Sequence[str], classes: Sequence[str], with_labels: bool) -> np.ndarray | None:
    if not all(names):
        if with_labels:
            raise SamplesError(
                f"{folder} has files outside of class folders",
                hint="put each file in a sub-folder with its class's name",
            )
        return None
    return numbered(names, classes if with_labels else (), folder)


def _images(files: Sequence[Path]) -> list[np.ndarray]:
    read = [decode_image(path, path) for path in files]
    if all(is_grey for _, is_grey in read):  # all three planes are the same
        return [levels[..., :1] for levels, _ in read]
    return [levels for levels, _ in read]


def read_arrays(path: Path, *, most_bytes: int) -> dict[str, np.ndarray]:
    """The arrays of a .npz by name, or that of a .npy as `x`; unpacked no larger than `most_bytes`.

    Raises InputError; a pickle, which would run code, is no array.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"x": loaded}
        with loaded:
            unpacked = sum(member.file_size for member in loaded.zip.infolist())
            if unpacked > most_bytes:  # a bomb
                raise ValueError(
                    f"{unpacked / 2**30:.1f} GiB of arrays, {most_bytes / 2**30:.1f} GiB can be worked with"
                )
            return {name: _plain(loaded[name]) for name in loaded.files}
    except _DAMAGED as error:
        told = str(error) or type(error).__name__
        if "allow_pickle" in told:  # numpy says that of text too, and how to run the code that a pickle has
            told = "it has neither their first bytes nor anything else that is read"
        raise InputError(
            f"{path} is not a .npz or .npy file of plain numbers: {told}",
            hint="write it with np.savez(file, x=np.stack(inputs)); Python objects (pickles) are never loaded",
        ) from error


# what numpy, zipfile, zlib and lzma raise for files that are cut off, changed, or claim to hold more than there is memory
_DAMAGED: tuple[type[Exception], ...] = (
    *ARCHIVE_ERRORS,
    MemoryError,
    SyntaxError,
    AttributeError,
)  # the last three: what a .npy says it holds


def _plain(member: object) -> np.ndarray:
    if not isinstance(member, np.ndarray):  # numpy gives what is no array as bytes
        raise ValueError("it holds something else")
    return member


def _arrays(files: Sequence[Path]) -> dict[str, np.ndarray]:
    """A column for each input, of files that hold a sample each."""
    columns: dict[str, list[np.ndarray]] = {}
    for number, path in enumerate(files):
        sample = read_arrays(path, most_bytes=SAMPLE_MOST)
        if number and set(sample) != set(columns):
            raise SamplesError(
                f"{path} has the arrays {', '.join(sample)}, {files[0]} has {', '.join(columns)}",
                hint="one sample in each file, with the same inputs",
            )
        for name, array in sample.items():
            columns.setdefault(name, []).append(array)
    return {name: stacked(column) for name, column in columns.items()}


def _recordings(files: Sequence[Path]) -> tuple[list[np.ndarray], int]:
    rows: list[np.ndarray] = []
    rates: list[int] = []
    for path in files:
        try:
            with wave.open(str(path), "rb") as sound:
                width, channels, rate = sound.getsampwidth(), sound.getnchannels(), sound.getframerate()
                content = sound.readframes(sound.getnframes())
        except (wave.Error, EOFError, OSError, ValueError) as error:
            reason = str(error) or "it ends too early"
            raise SamplesError(
                f"{path} cannot be read as a WAV file: {reason}", hint="save it as 16-bit PCM"
            ) from error
        if rates and rate != rates[0]:
            raise SamplesError(
                f"{path} has {rate} samples a second, {files[0]} has {rates[0]}",
                hint="resample them: nothing is resampled here",
            )
        rates.append(rate)
        values = _PCM[width](content[: len(content) // (width * channels) * width * channels])
        if not len(values):
            raise SamplesError(f"{path} is a recording of no samples", hint="remove the file")
        rows.append(values.reshape(-1, channels) if channels > 1 else values)
    return rows, rates[0]


# Bytes of a sample -> the 16 upper bits of each, as the runner takes them.
_PCM: dict[int, Callable[[bytes], np.ndarray]] = {
    1: lambda raw: (np.frombuffer(raw, np.uint8).astype(np.int16) - 128) << 8,
    2: lambda raw: np.frombuffer(raw, "<i2").astype(np.int16),
    3: lambda raw: (
        np.ascontiguousarray(np.frombuffer(raw, np.uint8).reshape(-1, 3)[:, 1:]).view("<i2")[:, 0].astype(np.int16)
    ),
    4: lambda raw: (np.frombuffer(raw, "<i4") >> 16).astype(np.int16),
}
