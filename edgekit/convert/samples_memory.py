"""Samples that a Python program has in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgekit.convert.samples import LABELS, Samples
from edgekit.convert.samples_folder import stacked
from edgekit.convert.samples_function import as_array, rows_of
from edgekit.errors import EdgekitError, SamplesError


def samples_of(given: Any, name: str, *, most: int | None) -> Samples:
    """Samples of an array (n, ...), a pair (inputs, labels), a mapping of arrays by input name with the labels as "y",
    or of what gives one sample, or one pair, after the other: the first `most` of them.

    `name` is what messages and the manifest call them. Raises SamplesError for what gives no samples, and for what is
    raised while it is asked for them.
    """
    if isinstance(given, Samples):
        return given
    labels = None
    if isinstance(given, tuple) and len(given) == 2:
        given, labels = given[0], _column(given[1], f"the labels of {name}")
    if isinstance(given, Mapping):
        arrays = {str(key): _column(value, f"{name}: {key}") for key, value in given.items()}
        labels = arrays.pop(LABELS, None) if labels is None else labels
        return Samples(name, arrays, labels)
    if hasattr(given, "shape"):
        return Samples(name, {"x": _column(given, name)}, labels)
    try:
        rows, found = rows_of(given, name, most)
    except (EdgekitError, MemoryError):
        raise
    except Exception as error:  # a program's own generator: anything
        raise SamplesError(
            f"{name} raised {type(error).__name__}: {error}", hint="ask it for its samples by itself"
        ) from error
    arrays = {key: stacked(column) for key, column in rows.items()}
    return Samples(name, arrays, stacked(found) if found else labels)


def _column(values: Any, what: str) -> np.ndarray:
    """An array (n, ...); of a list of things that differ in shape an array of arrays."""
    if isinstance(values, list):
        return stacked([as_array(value) for value in values])
    array = as_array(values)
    if array.ndim == 0:
        raise SamplesError(
            f"{what} is a single {type(values).__name__}", hint="give an array (n, ...), one row a sample"
        )
    return array
