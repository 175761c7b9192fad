"""The child process that converts: the only file that imports tensorflow and keras. Writes .tflite files and result.json."""

from __future__ import annotations

import json
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.errors import ConversionError, EdgekitError, NotAModel, SamplesError

COMPARED = 16  # samples on which the float .tflite is compared with the source model


def main(kind: str, path: Path, folder: Path) -> None:
    """Converts and leaves the result, or the error, in `folder`."""
    try:
        result = convert(kind, path, folder)
    except EdgekitError as error:
        result = {"error": type(error).__name__, "message": str(error), "hint": error.hint}
    (folder / "result.json").write_text(json.dumps(result), "utf-8")


def convert(kind: str, path: Path, folder: Path) -> dict[str, Any]:
    """float.tflite and int8.tflite in `folder`, and what is to be said about them."""
    if kind == "keras":
        check_custom_objects(path)
    import keras
    import tensorflow as tf

    model, new_converter = _load(tf, keras, kind, path)
    float_model = _converted(new_converter(), "to float")
    runner = _signature_runner(tf, float_model)
    with np.load(folder / "samples.npz") as arrays:
        samples = _fitting({name: arrays[name] for name in arrays.files}, runner.get_input_details())
    difference = _difference(model, runner, samples)

    converter = new_converter()
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: _one_by_one(samples)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = tf.int8
    converter.inference_output_type = tf.int8
    int8_model = _converted(converter, "to int8")
    (folder / "float.tflite").write_bytes(float_model)
    (folder / "int8.tflite").write_bytes(int8_model)
    versions = {"tensorflow": tf.__version__, "keras": keras.__version__, "numpy": np.__version__}
    return {"float_difference": difference, "versions": versions}


def check_custom_objects(path: Path) -> None:
    """NotAModel if the file needs Python code that is not in it: custom classes, or Lambda layers with code inside."""
    foreign = sorted(set(_foreign_classes(_keras_config(path))))
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


def _keras_config(path: Path) -> Any:
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


def _foreign_classes(config: Any) -> Iterator[str]:
    """The names of layer classes in a Keras configuration that Keras does not have, and Lambda."""
    import keras

    if isinstance(config, list):
        for item in config:
            yield from _foreign_classes(item)
    if not isinstance(config, Mapping):
        return
    name = config.get("class_name")
    if isinstance(name, str) and not name.startswith("__") and "config" in config:  # __x__: Keras's own markers
        registered, module = config.get("registered_name"), config.get("module")
        is_layer = module is None or str(module).startswith("keras.layers") or not str(module).startswith("keras")
        known = any(hasattr(place, name) for place in (keras.layers, keras.models, keras.initializers, keras))
        if name == "Lambda" or (is_layer and not known and (registered or module is None)):
            yield name
    for value in config.values():
        yield from _foreign_classes(value)


def _load(tf: Any, keras: Any, kind: str, path: Path) -> tuple[Callable[..., Any], Callable[[], Any]]:
    """The model as a function of its inputs by name, and a maker of converters for it."""
    try:
        if kind == "keras":
            model = keras.models.load_model(path, compile=False)
            names = [tensor.name for tensor in model.inputs]
            return (
                lambda **inputs: model([inputs[name] for name in names] if len(names) > 1 else inputs[names[0]]),
                lambda: tf.lite.TFLiteConverter.from_keras_model(model),
            )
        loaded = tf.saved_model.load(str(path))
        if "serving_default" not in loaded.signatures:
            raise NotAModel(
                f"it has no signature serving_default, only {sorted(loaded.signatures)}",
                hint="save it with model.export('folder')",
            )
        return (
            loaded.signatures["serving_default"],
            lambda: tf.lite.TFLiteConverter.from_saved_model(str(path), signature_keys=["serving_default"]),
        )
    except EdgekitError:
        raise
    except Exception as error:
        raise NotAModel(f"it cannot be loaded: {_first_line(error)}", hint="save it again with this Keras") from error


def _converted(converter: Any, what: str) -> bytes:
    try:
        return bytes(converter.convert())
    except Exception as error:
        raise ConversionError(
            f"TensorFlow cannot convert it {what}: {_first_line(error)}",
            hint="an operator without a TFLite version, or one that has no int8 form: replace that layer",
        ) from error


def _signature_runner(tf: Any, model: bytes) -> Any:
    interpreter = tf.lite.Interpreter(model_content=model)
    return interpreter.get_signature_runner(next(iter(interpreter.get_signature_list())))


def _fitting(samples: Mapping[str, np.ndarray], inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The samples by input name, in the input's dtype. Raises SamplesError where they do not fit the model."""
    if len(inputs) == 1 and len(samples) == 1:
        samples = {next(iter(inputs)): next(iter(samples.values()))}
    if set(samples) != set(inputs):
        raise SamplesError(
            f"the samples are for {', '.join(samples)}, the model's inputs are {', '.join(inputs)}",
            hint="save one array for each input, under the input's name",
        )
    out = {}
    for name, details in inputs.items():
        wanted = tuple(int(size) for size in details["shape_signature"])[1:]
        got = samples[name].shape[1:]
        if len(wanted) != len(got) or any(w not in (-1, g) for w, g in zip(wanted, got, strict=True)):
            raise SamplesError(
                f"samples of shape {('n', *got)} do not fit input {name!r}, which is {('n', *wanted)}".replace(
                    "'n'", "n"
                ),
                hint="give samples as the model sees them, or a --preprocess spec that makes them so",
            )
        is_float = np.dtype(details["dtype"]).kind == "f"
        if not is_float and samples[name].dtype.kind == "f":
            raise SamplesError(
                f"input {name!r} takes {np.dtype(details['dtype'])}, the samples are float", hint="give integers"
            )
        out[name] = samples[name].astype(details["dtype"])
    return out


def _one_by_one(samples: Mapping[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
    for i in range(len(next(iter(samples.values())))):
        yield {name: array[i : i + 1] for name, array in samples.items()}


def _difference(model: Callable[..., Any], runner: Any, samples: Mapping[str, np.ndarray]) -> float:
    """Largest |float .tflite - source model| over some samples, relative to the source's largest output."""
    largest = scale = 0.0
    for i, sample in enumerate(_one_by_one(samples)):
        if i == COMPARED:
            break
        wanted = _flat(model(**_as_arguments(sample)))
        got = _flat(runner(**sample))
        if [a.shape for a in wanted] != [a.shape for a in got]:
            raise ConversionError(
                "the float .tflite has other outputs than the model", hint="report this with the model"
            )
        for a, b in zip(wanted, got, strict=True):
            largest = max(largest, float(np.abs(a - b).max(initial=0.0)))
            scale = max(scale, float(np.abs(a).max(initial=0.0)))
    return largest / scale if scale else largest


def _as_arguments(sample: Mapping[str, np.ndarray]) -> dict[str, Any]:
    import tensorflow as tf

    return {name: tf.constant(array) for name, array in sample.items()}


def _flat(outputs: Any) -> list[np.ndarray]:
    """Outputs as arrays, in an order that does not depend on how they are packed: by shape, then by content."""
    import tensorflow as tf

    arrays = [np.asarray(tensor) for tensor in tf.nest.flatten(outputs)]
    return sorted(arrays, key=lambda array: (array.shape, float(array.sum())))


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = next((line for line in lines if "error:" in line), lines[0] if lines else "")
    return f"{type(error).__name__}: {told[:300]}"


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
