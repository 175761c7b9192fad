"""Samples from a function of the user's own, `file.py:function`: the only place that runs code named on the command line."""

from __future__ import annotations

import importlib.util
import re
import sys
import traceback
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.convert.samples_folder import stacked
from edgekit.errors import InputError, SamplesError

ENDLESS = 100_000  # samples after which a function without a maximum counts as one that does not end
_HINT = "it takes no arguments and gives, or yields, inputs, pairs (inputs, label), or dicts of inputs by name"


def split_function(path: Path) -> tuple[Path, str] | None:
    """(file, function) of `file.py:function`, None for any other path."""
    match = re.fullmatch(r"(.+\.py):([A-Za-z_]\w*)", str(path))
    return (Path(match[1]), match[2]) if match else None


def source_file(path: Path) -> Path:
    """The file whose content says what the samples are: of `file.py:function` the file."""
    found = split_function(path)
    return found[0] if found else path


def read_function(path: Path, *, most: int | None) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """The first `most` samples that the function gives: arrays, tensors with .numpy(), or numbers; a tf.data.Dataset too.

    The file's folder is importable while it runs. Raises InputError if there is no such function, SamplesError for what it
    raises (with the line) and for things that are no samples.
    """
    split = split_function(path)
    assert split is not None
    file, name = split
    if not file.is_file():
        raise InputError(f"{file} does not exist", hint="give file.py:function")
    sys.path.insert(0, str(file.absolute().parent))
    try:
        function = getattr(_loaded(file), name, None)
        if not callable(function):
            raise InputError(f"{file} has no function {name}", hint=_HINT)
        rows, labels = rows_of(function(), f"{file}:{name}", most)
    except (InputError, MemoryError):
        raise
    except (Exception, SystemExit) as error:  # the user's own code: anything
        lines = [
            frame.lineno
            for frame in traceback.extract_tb(error.__traceback__)
            if Path(frame.filename) == file.absolute()
        ]
        where = f", line {lines[-1]}" if lines else ""
        raise SamplesError(f"{file}:{name} raised {type(error).__name__}{where}: {error}", hint=_HINT) from error
    finally:
        sys.path.remove(str(file.absolute().parent))
    arrays = {key: stacked(column) for key, column in rows.items()}
    return arrays, stacked(labels) if labels else None


def _loaded(file: Path) -> Any:
    spec = importlib.util.spec_from_file_location(file.stem, file.absolute())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows_of(given: Any, source: str, most: int | None) -> tuple[dict[str, list[np.ndarray]], list[np.ndarray]]:
    """Columns of inputs by name, and labels."""
    if isinstance(given, Mapping):  # whole arrays by name: read as one sample after the other
        arrays = {str(name): as_array(value) for name, value in given.items()}
        count = min((len(array) for array in arrays.values() if array.ndim), default=0)
        given = [{name: array[i] for name, array in arrays.items()} for i in range(count)]
    if not isinstance(given, Iterable) or isinstance(given, str | bytes):
        raise SamplesError(f"{source} gave {type(given).__name__}, not samples", hint=_HINT)
    columns: dict[str, list[np.ndarray]] = {}
    labels: list[np.ndarray] = []
    for number, item in enumerate(given):
        if number == (ENDLESS if most is None else most):
            if most is None:
                raise SamplesError(
                    f"{source} gives more than {ENDLESS:,} samples: does it end?", hint="end it, or use take()"
                )
            break
        inputs, label = item if isinstance(item, tuple) and len(item) == 2 else (item, None)
        by_name = inputs if isinstance(inputs, Mapping) else {"x": inputs}
        if number and (set(by_name) != set(columns) or (label is None) != (not labels)):
            raise SamplesError(f"{source}: sample {number} is made of other parts than sample 0", hint=_HINT)
        for name, value in by_name.items():
            columns.setdefault(str(name), []).append(as_array(value))
        if label is not None:
            labels.append(as_array(label))
    if not columns:
        raise SamplesError(f"{source} gave no samples", hint=_HINT)
    return columns, labels


def as_array(value: Any) -> np.ndarray:
    """A numpy array of anything: tensors know how themselves."""
    return np.asarray(value.numpy() if hasattr(value, "numpy") else value)
