"""Representative inputs and labelled ones, from .npz and .npy files: read, checked, and put through the preprocessing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgekit import preprocess
from edgekit.convert.memory import memory_bytes
from edgekit.convert.samples_csv import read_csv
from edgekit.convert.samples_folder import read_arrays, read_folder
from edgekit.convert.samples_function import read_function, split_function
from edgekit.convert.samples_tfrecord import read_tfrecord
from edgekit.errors import InputError, PreprocessError, SamplesError
from edgekit.toml import read_toml

LABELS = "y"
CSV = (".csv", ".tsv")
TFRECORD = r"\.tfrecords?(-\d+-of-\d+)?$"


@dataclass(frozen=True)
class Samples:
    """Raw inputs, as a device will meet them: array name -> (n, ...); `labels` where there are any.

    Samples that differ in shape, such as images of several sizes, are an array of arrays (dtype object): `check_fit` says
    whether the preprocessing makes one shape of them.
    """

    source: str  # the path as it was given
    arrays: Mapping[str, np.ndarray]
    labels: np.ndarray | None
    names: tuple[str, ...] = ()  # of the files, where each sample is one
    sample_rate: int | None = None  # Hz, of recordings

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


def read_samples(
    path: Path | Samples, *, with_labels: bool, classes: Sequence[str] = (), most: int | None = None
) -> Samples:
    """The samples in a .npz (arrays by input name, labels as `y`) or .npy file, a folder of images, WAV files or
    arrays (one sample each), a CSV or TFRecord file, or what `file.py:function` gives (which is run). Samples that are
    in memory already are only checked.

    `classes` are the names of the labels in their order. Of a folder, a TFRecord and a function at most `most` are read.
    Raises SamplesError for fewer than two samples, for values that are not finite numbers, for arrays of different
    lengths, and with `with_labels` for missing labels; InputError for a file that cannot be read.
    """
    if isinstance(path, Samples):
        found = replace(path, labels=padded(path.labels))
        _check(found.source, found.arrays, found.labels, with_labels)
        return found
    names: Sequence[str] = ()
    rate = None
    if split_function(path) is not None:
        arrays, labels = read_function(path, most=most)
    elif path.exists() and not (path.is_file() or path.is_dir()):  # a pipe, a device: there may be no end to it
        raise InputError(f"{path} is not a file", hint="give a file or a folder")
    elif path.is_dir():
        arrays, labels, names, rate = read_folder(path, classes=classes, with_labels=with_labels, most=most)
    elif path.suffix.lower() in CSV and path.exists():
        arrays, labels = read_csv(path, classes=classes)
    elif re.search(TFRECORD, path.name) and path.exists():
        arrays, labels = read_tfrecord(path, most=most)
    else:
        arrays = _read_arrays(path)
        labels = arrays.pop(LABELS, None)
    labels = padded(labels)
    _check(path, arrays, labels, with_labels)
    return Samples(str(path), arrays, labels, tuple(names), rate)


def padded(labels: np.ndarray | None) -> np.ndarray | None:
    """Labels that differ only in how many there are (objects in an image, tokens) as one array, filled up with -1."""
    if labels is None or labels.dtype != object:
        return labels
    rows = [np.asarray(row) for row in labels]
    if any(row.ndim == 0 or row.dtype.kind not in "fiub" for row in rows):
        return labels
    kinds = {row.shape[1:] for row in rows if row.size}
    if len(kinds) != 1:
        return labels
    most, rest = max(map(len, rows)), kinds.pop()
    full = np.full((len(rows), most, *rest), -1, np.result_type(*(row.dtype for row in rows if row.size), np.int8))
    for place, row in enumerate(rows):
        if row.size:
            full[place, : len(row)] = row
    return full


def _check(path: Path | str, arrays: Mapping[str, np.ndarray], labels: np.ndarray | None, with_labels: bool) -> None:
    if with_labels and labels is None:
        raise SamplesError(
            f"{path} has no labels, only {', '.join(arrays)}",
            hint="save them as y: np.savez(file, x=inputs, y=labels)",
        )
    if not arrays:
        raise SamplesError(f"{path} has no inputs", hint="save them: np.savez(file, x=inputs)")
    rows = {**arrays, **({LABELS: labels} if labels is not None else {})}
    for name, array in rows.items():
        odd = next((a.dtype for a in (array if array.dtype == object else [array]) if a.dtype.kind not in "fiub"), None)
        if odd is not None:
            raise SamplesError(f"{path}: {name} holds {odd}, not numbers", hint="save float or integer arrays")
        if array.ndim == 0 or len(array) < 2:
            count = len(array) if array.ndim else 0
            raise SamplesError(
                f"{path}: {name} has {count} sample{'s' if count != 1 else ''}, at least 2 are needed",
                hint="give about 100 inputs as the device will meet them, stacked: shape (n, ...)",
            )
        bad = next((i for i, sample in enumerate(array) if not np.isfinite(sample).all()), None)
        if bad is not None:
            raise SamplesError(f"{path}: {name}[{bad}] is not finite", hint="remove NaN and infinite values")
    if labels is not None and labels.dtype == object:
        raise SamplesError(
            f"{path}: labels of different shapes",
            hint="give labels of one kind; only how many of them a sample has may differ",
        )
    lengths = {name: len(array) for name, array in rows.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name}: {length}" for name, length in lengths.items())
        raise SamplesError(
            f"{path}: arrays of different lengths ({told})", hint="one row for each sample in each array"
        )


def read_specs(path: Path) -> dict[str, preprocess.Spec]:
    """The preprocessing in a TOML file: one spec (for every input, under the name ""), or a table [input name] for each.

    Raises PreprocessError naming the key that is wrong.
    """
    fields = read_toml(path)
    tables = fields if fields and all(isinstance(value, dict) for value in fields.values()) else {"": fields}
    return {name: preprocess.parse_spec(table) for name, table in tables.items()}


def specs_by_array(specs: Mapping[str, preprocess.Spec], raw: Samples) -> dict[str, preprocess.Spec]:
    """The specs by the name of the sample array they are for; a single array needs no particular name.

    Raises PreprocessError for a spec that is for no array.
    """
    if set(specs) == {""}:
        return dict.fromkeys(raw.arrays, specs[""])
    if len(specs) == len(raw.arrays) == 1:
        return dict.fromkeys(raw.arrays, next(iter(specs.values())))
    if unknown := sorted(set(specs) - set(raw.arrays)):
        raise PreprocessError(
            f"the preprocessing is for {', '.join(unknown)}; {raw.source} has the arrays {', '.join(raw.arrays)}",
            hint="name both after the model's inputs",
        )
    return dict(specs)


def check_fit(raw: Samples, specs: Mapping[str, preprocess.Spec]) -> None:
    """SamplesError unless the preprocessing makes inputs of one shape of all samples, and was made for their sample rate."""
    for name, array in raw.arrays.items():
        spec = specs.get(name, preprocess.Generic())
        if isinstance(spec, preprocess.Audio) and raw.sample_rate not in (None, spec.sample_rate):
            raise SamplesError(
                f"{raw.source} has {raw.sample_rate} samples a second, the preprocessing is for {spec.sample_rate}",
                hint="resample the recordings: nothing is resampled here",
            )
        if array.dtype != object:
            continue
        shapes = [preprocess.output_shape(spec, sample.shape) for sample in array]
        odd = next((i for i, shape in enumerate(shapes) if shape != shapes[0]), None)
        if odd is not None:
            first, other = (raw.names[i] if raw.names else f"{name}[{i}]" for i in (0, odd))
            raise SamplesError(
                f"{raw.source}: samples of different shapes, {first} {shapes[0]} and {other} {shapes[odd]}",
                hint="a --preprocess spec evens them out: kind image with a resize, or kind audio",
            )


def preprocessed(raw: Mapping[str, np.ndarray], specs: Mapping[str, preprocess.Spec]) -> dict[str, np.ndarray]:
    """What the model gets to see, (n, ...): each raw sample as `prepared` makes it."""
    return {name: np.stack([prepared(sample, specs.get(name)) for sample in array]) for name, array in raw.items()}


def prepared(sample: np.ndarray, spec: preprocess.Spec | None) -> np.ndarray:
    """A raw sample through its input's spec, float32; without one whole numbers stay what they are (tokens)."""
    if spec is None and sample.dtype.kind in "iub":
        return sample
    return preprocess.apply(spec or preprocess.Generic(), sample)


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise InputError(
            f"{path} does not exist",
            hint="give a .npz or .npy file of input samples, a folder of images, WAV files or arrays, ...",
        )
    return read_arrays(path, most_bytes=memory_bytes() // 2)  # more cannot be worked with: it is copied on the way
