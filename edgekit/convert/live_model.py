"""A Keras model, tf.function, concrete function or tf.Module of the calling process becomes a folder, the way files come.

Imports nothing heavy: who has such an object has its library loaded already.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgekit.convert.spelling import known_to_tflite
from edgekit.errors import ConversionError, NotAModel, summary


@contextmanager
def on_disk(model: Any) -> Iterator[Path]:
    """The path that was given, or that of a SavedModel (.keras: of a Keras model on another backend) made of the object.

    Raises NotAModel for what is no model, ConversionError where its own library cannot save it.
    """
    if isinstance(model, str | os.PathLike):
        yield Path(model)
        return
    tf, keras = sys.modules.get("tensorflow"), sys.modules.get("keras")
    with tempfile.TemporaryDirectory(prefix="edgekit-model-") as scratch:
        path = Path(scratch) / _name(model)
        try:
            if keras is not None and isinstance(model, keras.Model):
                saved = _save_keras(keras, model, path)
            elif tf is not None and (isinstance(model, tf.Module) or (callable(model) and hasattr(model, "graph"))):
                saved = _save_functions(tf, model, path)
            elif tf is not None and hasattr(model, "get_concrete_function"):
                saved = _save_functions(tf, _concrete(model), path)
            else:
                raise NotAModel(
                    f"{type(model).__name__} is no model",
                    hint="give a path, a Keras model, a tf.function, a concrete function or a tf.Module",
                )
        except (NotAModel, MemoryError):
            raise
        except Exception as error:  # the model's own code runs here, and TensorFlow's
            raise ConversionError(
                f"{path.name} cannot be saved: {summary(error)}",
                hint="does model.export('folder') or tf.saved_model.save(...) work with it?",
            ) from error
        yield saved


def _name(model: Any) -> str:
    """What the bundle is called unless somebody says otherwise."""
    name = getattr(model, "name", None) or getattr(model, "__name__", None) or type(model).__name__
    name = name.decode() if isinstance(name, bytes) else str(name)
    of_function = re.fullmatch(r"__inference_(.+)_\d+", name)  # what TensorFlow calls a concrete function
    name = of_function[1] if of_function else name
    return "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in name).strip("_") or "model"


def _save_keras(keras: Any, model: Any, path: Path) -> Path:
    if keras.backend.backend() != "tensorflow":
        path = path.with_name(f"{path.name}.keras")
        model.save(path)
        return path
    if not model.built:
        raise NotAModel("the Keras model has no weights yet", hint="call it once on a sample, or build() it")
    with known_to_tflite(sys.modules["tensorflow"]):
        model.export(path, format="tf_saved_model", verbose=False)
    return path


def _concrete(function: Any) -> Any:
    if function.input_signature is None:
        raise NotAModel(
            "the tf.function does not say what it takes",
            hint="give function.get_concrete_function(tf.TensorSpec(...)), or write @tf.function(input_signature=[...])",
        )
    return function.get_concrete_function()


def _save_functions(tf: Any, model: Any, path: Path) -> Path:
    """A SavedModel of a tf.Module with its functions that say what they take, or of one concrete function."""
    if isinstance(model, tf.Module):
        names = [name for name in dir(type(model)) if not name.startswith("_") or name == "__call__"]
        found = {"serving_default" if name == "__call__" else name: getattr(model, name, None) for name in names}
        signatures = {n: f for n, f in found.items() if getattr(f, "input_signature", None) is not None}
        if not signatures:
            raise NotAModel(
                "the tf.Module has no function that says what it takes",
                hint="write @tf.function(input_signature=[...])",
            )
        tf.saved_model.save(model, str(path), signatures=signatures)
        return path
    module = tf.Module()
    module.kept = list(model.graph.variables)  # TensorFlow saves what hangs on an object only
    tf.saved_model.save(module, str(path), signatures={"serving_default": model})
    return path
