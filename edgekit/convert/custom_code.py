"""Runs the Python that --custom names, to have what a Keras file only names; imported only by the child process."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgekit.errors import InputError


def load_custom(given: Sequence[str]) -> dict[str, Any]:
    """The classes and functions that these files (.py) and modules define or register with Keras, by name.

    A file may import what lies beside it. Raises InputError naming the line of what a file raises.
    """
    import keras

    found: dict[str, Any] = {}
    for name in given:
        module = _run(name)
        found |= {
            key: value
            for key, value in vars(module).items()
            if (inspect.isclass(value) or inspect.isfunction(value)) and value.__module__ == module.__name__
        }
    return found | dict(keras.saving.get_custom_objects())


def _run(name: str) -> Any:
    file = Path(name)
    try:
        if not name.endswith(".py"):
            return importlib.import_module(name)
        sys.path.insert(0, str(file.parent))
        spec = importlib.util.spec_from_file_location(file.stem, file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules.setdefault(file.stem, module)
        spec.loader.exec_module(module)
        return module
    except (Exception, SystemExit) as error:  # somebody's own code: anything
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(file)]
        where = f", line {lines[-1]}" if lines else ""
        raise InputError(
            f"{name}{where}: {type(error).__name__}: {error}",
            hint="--custom takes a Python file, or the name of an installed module, that defines layers",
        ) from error
