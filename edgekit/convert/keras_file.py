"""What a .keras or .h5 file says about itself, read before anything in it runs; imported only by the child process."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edgekit.errors import NotAModel


def check_custom_objects(path: Path) -> None:
    """NotAModel if the file needs Python code that is not in it: custom classes, or Lambda layers with code inside."""
    foreign = sorted(set(_foreign_classes(_configuration(path))))
    if not foreign:
        return
    if foreign == ["Lambda"]:
        raise NotAModel(
            "it has Lambda layers, which carry Python code that edgekit does not run",
            hint="write the layer with keras.ops, or save a SavedModel with model.export(), which holds the graph itself",
        )
    raise NotAModel(
        f"it has custom layers whose code is not in the file: {', '.join(foreign)}",
        hint="save it as a SavedModel with model.export('folder') where the code is at hand, and convert that",
    )


def _configuration(path: Path) -> Any:
    try:
        if path.suffix.lower() == ".keras":
            with zipfile.ZipFile(path) as archive:
                return json.loads(archive.read("config.json"))
        import h5py

        with h5py.File(path, "r") as file:
            if "model_config" not in file.attrs:
                raise NotAModel("it holds weights without a model", hint="save the whole model: model.save(...)")
            return json.loads(file.attrs["model_config"])
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise NotAModel(
            f"it is damaged or not a Keras model ({error})", hint="save it again with model.save()"
        ) from error


def _foreign_classes(configuration: Any) -> Iterator[str]:
    """The names of classes and functions in a Keras configuration that Keras does not have, and Lambda."""
    if isinstance(configuration, list):
        for item in configuration:
            yield from _foreign_classes(item)
    if not isinstance(configuration, Mapping):
        return
    name, module = configuration.get("class_name"), configuration.get("module")
    if isinstance(name, str) and not name.startswith("__") and "config" in configuration:  # __x__: Keras's own markers
        if name == "function" and module == "builtins":
            yield str(configuration["config"])
        elif name == "Lambda" or not _is_of_keras(name, module):
            yield name
    for key, value in configuration.items():
        if key != "compile_config":  # losses and optimizers are not loaded, they may be anybody's
            yield from _foreign_classes(value)


def _is_of_keras(name: str, module: Any) -> bool:
    """Whether Keras has the class; .keras files say which module it is from, .h5 files do not."""
    import keras

    if isinstance(module, str) and module.startswith("keras.src."):
        return True  # Functional, and what else has no public place
    if isinstance(module, str) and module.split(".")[0] != "keras":
        return False
    places = [keras, keras.layers, keras.models, keras.initializers, keras.regularizers, keras.constraints]
    places += [keras.activations, keras.dtype_policies, keras.quantizers]
    return name in ("Functional", "Policy") or any(hasattr(place, name) for place in places)
