"""What was asked of `convert`, read and checked before anything takes its time."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from edgekit import preprocess
from edgekit.bundle import check_replaceable
from edgekit.convert.samples import Samples, check_fit, preprocessed
from edgekit.errors import InputError, SamplesError


def read_labels(path: Path | None) -> list[str]:
    """The class names in a text file; none without one."""
    if path is None:
        return []
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is not a file", hint="give a text file with one label a line")
    try:
        return path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}", hint="give a text file with one label a line") from error


def check_alike(raw: Samples, held_out: Samples, specs: Mapping[str, preprocess.Spec]) -> None:
    """SamplesError if the two do not hold the same kind of inputs."""
    names = list(raw.arrays)
    check_fit(held_out, specs)
    first = {name: array[:1] for name, array in held_out.of_inputs(names).items()}
    wanted = preprocessed({name: array[:1] for name, array in raw.arrays.items()}, specs)
    for name, array in preprocessed(first, specs).items():
        if array.shape != wanted[name].shape:
            raise SamplesError(
                f"{held_out.source}: inputs of shape {array.shape[1:]}, the samples are {wanted[name].shape[1:]}",
                hint="--samples and --evaluate are both raw inputs as the device will meet them",
            )


def check_output(path: Path) -> None:
    """InputError if nothing can be written there or something else lies there."""
    check_replaceable(path)
    _check_place(path, unwritable)


def check_report(path: Path) -> None:
    """InputError if nothing can be written there, or a folder lies there: before there is a bundle that has none."""
    if path.is_dir():
        raise report_unwritable(path, "it is a folder")
    _check_place(path, report_unwritable)


def _check_place(path: Path, unwritable: Callable[[Path, str], InputError]) -> None:
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir():
        raise unwritable(path, f"{folder} is not a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise unwritable(path, f"no permission in {folder}")


def unwritable(path: Path, why: str) -> InputError:
    """The error for a bundle's place that takes no bundle."""
    return InputError(f"{path} cannot be written: {why}", hint="choose another folder for -o")


def report_unwritable(path: Path, why: str) -> InputError:
    """The error for a report's place that takes no report."""
    return InputError(f"{path} cannot be written: {why}", hint="choose another place for the report")
