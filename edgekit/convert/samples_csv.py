"""Samples from a CSV file: a header, a row for each sample, the column `y` or `label` for its label."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgekit.convert.samples_folder import numbered
from edgekit.errors import InputError, SamplesError

LABEL_COLUMNS = ("y", "label")


def read_csv(path: Path, *, classes: Sequence[str]) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """The features as `x`, float32 (rows, columns), and the labels if there are any.

    Labels are class numbers, class names (places in `classes`, or among the sorted names), or other numbers: targets,
    float (rows, 1). Raises InputError or SamplesError naming row and column.
    """
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}", hint="give a CSV file in UTF-8") from error
    return parse_csv(text, str(path), classes)


def parse_csv(text: str, source: str, classes: Sequence[str] = ()) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """`read_csv` of the file's text."""
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    try:
        rows = [row for row in csv.reader(io.StringIO(text), delimiter=delimiter, strict=True) if row]
    except csv.Error as error:
        raise SamplesError(
            f"{source} is not a CSV file: {error}", hint="give a header and a row for each sample"
        ) from error
    if not rows:
        raise SamplesError(f"{source} is empty", hint="give a header and a row for each sample")
    header = [name.strip() for name in rows[0]]
    if all(_number(cell) is not None for cell in header):
        raise SamplesError(f"{source} has numbers where the names of the columns should be", hint="add a header")
    if len(set(header)) < len(header):
        raise SamplesError(f"{source} has two columns of the same name", hint="name every column differently")
    marked = [index for index, name in enumerate(header) if name.lower() in LABEL_COLUMNS]
    if len(marked) > 1:
        raise SamplesError(f"{source} has several label columns", hint="keep one: y or label")
    features = np.empty((len(rows) - 1, len(header) - len(marked)), np.float32)
    for number, row in enumerate(rows[1:]):
        if len(row) != len(header):
            raise SamplesError(
                f"{source}, row {number + 2}: {len(row)} values for {len(header)} columns",
                hint="complete the row or remove it",
            )
        values = [(name, row[i]) for i, name in enumerate(header) if i not in marked]
        for place, (name, cell) in enumerate(values):
            value = _number(cell)
            if value is None:
                raise SamplesError(
                    f"{source}, row {number + 2}, column {name!r}: {cell[:40]!r} is not a number",
                    hint="features are numbers; a column of labels is called y or label",
                )
            features[number, place] = value
    if not features.shape[1]:
        raise SamplesError(f"{source} has no features, only labels", hint="add the columns that the model sees")
    return {"x": features}, _labels([row[marked[0]].strip() for row in rows[1:]], classes, source) if marked else None


def _labels(cells: Sequence[str], classes: Sequence[str], source: str) -> np.ndarray:
    numbers = [_number(cell) for cell in cells]
    if any(number is None for number in numbers) or (classes and set(cells) <= set(classes)):
        return numbered(cells, classes, source)
    values = np.array(numbers, np.float64)
    if all(cell.lstrip("+-").isdigit() for cell in cells) and (np.abs(values) < 2**53).all():
        return values.astype(np.int64)
    return values.astype(np.float32)[:, None]


def _number(cell: str) -> float | None:
    """The cell's value, a float32; None if it is not a finite number."""
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if abs(value) <= float(np.finfo(np.float32).max) else None
