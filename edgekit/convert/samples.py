"""Representative inputs and labelled ones, from .npz and .npy files: read, checked, and put through the preprocessing."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit import preprocess
from edgekit.errors import InputError, SamplesError

LABELS = "y"


@dataclass(frozen=True)
class Samples:
    """Raw inputs, as a device will meet them: array name -> (n, ...); `labels` where the file has `y`."""

    source: str  # the path as it was given
    arrays: Mapping[str, np.ndarray]
    labels: np.ndarray | None

    @property
    def name(self) -> str:
        """The file's name, which does not depend on where somebody stood."""
        return Path(self.source).name

    @property
    def count(self) -> int:
        """How many samples."""
        return len(next(iter(self.arrays.values())))

    def of_inputs(self, names: Sequence[str]) -> Mapping[str, np.ndarray]:
        """The arrays by the model's input names; a single array needs no particular name.

        Raises SamplesError if the file has other names.
        """
        if set(names) <= set(self.arrays):
            return {name: self.arrays[name] for name in names}
        if len(names) == 1 and len(self.arrays) == 1:
            return {names[0]: next(iter(self.arrays.values()))}
        raise SamplesError(
            f"{self.source} has the arrays {', '.join(self.arrays)}; the model's inputs are {', '.join(names)}",
            hint="save one array for each input, under the input's name: np.savez(file, name=array, ...)",
        )


def read_samples(path: Path, *, with_labels: bool) -> Samples:
    """The samples in a .npz (arrays by input name, labels as `y`) or a .npy file.

    Raises SamplesError for fewer than two samples, for values that are not finite numbers, for arrays of different
    lengths, and with `with_labels` for missing labels; InputError for a file that cannot be read.
    """
    arrays = _read_arrays(path)
    labels = arrays.pop(LABELS, None)
    if with_labels and labels is None:
        raise SamplesError(
            f"{path} has no labels, only {', '.join(arrays)}",
            hint="save them as y: np.savez(file, x=inputs, y=labels)",
        )
    if not arrays:
        raise SamplesError(f"{path} has no inputs", hint="save them: np.savez(file, x=inputs)")
    rows = {**arrays, **({LABELS: labels} if labels is not None else {})}
    for name, array in rows.items():
        if array.dtype.kind not in "fiub":
            raise SamplesError(f"{path}: {name} holds {array.dtype}, not numbers", hint="save float or integer arrays")
        if array.ndim == 0 or len(array) < 2:
            count = len(array) if array.ndim else 0
            raise SamplesError(
                f"{path}: {name} has {count} sample{'s' if count != 1 else ''}, at least 2 are needed",
                hint="give about 100 inputs as the device will meet them, stacked: shape (n, ...)",
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            bad = int(np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))[0])
            raise SamplesError(f"{path}: {name}[{bad}] is not finite", hint="remove NaN and infinite values")
    lengths = {name: len(array) for name, array in rows.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name}: {length}" for name, length in lengths.items())
        raise SamplesError(
            f"{path}: arrays of different lengths ({told})", hint="one row for each sample in each array"
        )
    return Samples(str(path), arrays, labels)


def preprocessed(raw: Mapping[str, np.ndarray], specs: Mapping[str, preprocess.Spec]) -> dict[str, np.ndarray]:
    """What the model gets to see: each raw sample through its input's spec, (n, ...); integers without a spec stay so."""
    out = {}
    for name, array in raw.items():
        if array.dtype.kind in "iub" and name not in specs:
            out[name] = array
        else:
            spec = specs.get(name, preprocess.Generic())
            out[name] = np.stack([preprocess.apply(spec, sample) for sample in array])
    return out


def spread(count: int, wanted: int) -> np.ndarray:
    """The indexes of `wanted` samples, evenly spread over `count`; all of them if there are no more."""
    return np.unique(np.linspace(0, count - 1, min(count, wanted)).round().astype(int))


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise InputError(f"{path} does not exist", hint="give a .npz or .npy file of input samples")
    try:
        loaded = np.load(path, allow_pickle=False)  # a pickle runs code: never
        if isinstance(loaded, np.ndarray):
            return {"x": loaded}
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except (ValueError, OSError, EOFError, KeyError, zlib.error, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path} is not a .npz or .npy file of plain numbers: {error}",
            hint="write it with np.savez(file, x=np.stack(inputs)); Python objects (pickles) are never loaded",
        ) from error
