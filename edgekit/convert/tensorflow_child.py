"""The child process that converts: the only file that imports tensorflow. Writes .tflite files and result.json.

Whatever comes in becomes a SavedModel first (a Keras model exports itself), and that one is saved again with every
size of its inputs fixed, a batch of 1: with a free batch TensorFlow leaves SHAPE, STRIDED_SLICE, PACK and RESHAPE in
the graph, which cost time and which delegates refuse.
"""

from __future__ import annotations

import ctypes
import json
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.convert.keras_file import check_custom_objects
from edgekit.errors import ConversionError, EdgekitError, NotAModel, SamplesError

COMPARED = 16  # samples on which the float .tflite is compared with the source model
SIGNATURE = "serving_default"

Source = Callable[[Mapping[str, np.ndarray]], Mapping[str, Any]]  # inputs by name -> outputs by name


def main(kind: str, path: Path, folder: Path) -> None:
    """Converts and leaves the result, or the error, in `folder`."""
    if sys.platform == "linux":  # ends with its parent, however that one ends
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    warnings.filterwarnings("ignore", message=".*tf.lite.Interpreter is deprecated", category=UserWarning)
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

    source, exported = _load(tf, keras, kind, path, folder)
    loaded = _signatures(tf, exported)
    signature = loaded.signatures[SIGNATURE]
    with np.load(folder / "samples.npz") as arrays:
        samples = _fitting({name: arrays[name] for name in arrays.files}, signature.structured_input_signature[1])
    fixed = _with_fixed_sizes(tf, loaded, samples, folder / "fixed")
    float_model = None
    if fixed is not None:
        try:
            float_model = _converted(_converter(tf, fixed), "to float")
        except ConversionError:
            fixed = None
    converted_from = fixed or exported
    float_model = float_model or _converted(_converter(tf, converted_from), "to float")
    difference = _difference(tf, source or _call(tf, signature), float_model, samples)

    converter = _converter(tf, converted_from)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: _one_by_one(samples)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = tf.int8
    converter.inference_output_type = tf.int8
    int8_model = _converted(converter, "to int8")
    (folder / "float.tflite").write_bytes(float_model)
    (folder / "int8.tflite").write_bytes(int8_model)
    versions = {"tensorflow": tf.__version__, "keras": keras.__version__, "numpy": np.__version__}
    return {"float_difference": difference, "fixed_sizes": fixed is not None, "versions": versions}


# --- loading --------------------------------------------------------------------------------------------------------


def _load(tf: Any, keras: Any, kind: str, path: Path, folder: Path) -> tuple[Source | None, Path]:
    """A Keras model as a function (None: the signature is all there is), and the folder of a SavedModel of it."""
    exported = folder / "exported"
    if kind == "saved_model":
        return None, _without_optimizers(path, exported)
    try:
        model = keras.models.load_model(path, compile=False)
        names = [tensor.name for tensor in model.inputs]
    except Exception as error:
        raise NotAModel(f"it cannot be loaded: {_first_line(error)}", hint="save it again with this Keras") from error
    try:
        model.export(exported, format="tf_saved_model", verbose=False)
    except Exception as error:
        raise ConversionError(
            f"Keras cannot export it: {_first_line(error)}", hint="does model.export('folder') work where you made it?"
        ) from error

    def source(inputs: Mapping[str, np.ndarray]) -> Mapping[str, Any]:
        given = [tf.constant(inputs[name]) for name in names]
        outputs = model(given if len(given) > 1 else given[0])
        if isinstance(outputs, Mapping):
            return outputs
        return {f"output_{i}": tensor for i, tensor in enumerate(tf.nest.flatten(outputs))}  # as export() names them

    return source, exported


def _without_optimizers(path: Path, folder: Path) -> Path:
    """A copy of the SavedModel without what an optimizer remembers: TensorFlow 2.21 cannot load that of older ones.

    It fails with `'_UserObject' object has no attribute 'add_slot'`. The variables are linked to, not copied.
    """
    from tensorflow.core.protobuf import saved_model_pb2

    model = saved_model_pb2.SavedModel()
    try:
        model.ParseFromString((path / "saved_model.pb").read_bytes())
    except Exception as error:  # protobuf's DecodeError
        raise NotAModel(f"saved_model.pb is damaged: {_first_line(error)}", hint="was it copied completely?") from error
    for graph in model.meta_graphs:
        for node in graph.object_graph_def.nodes:
            del node.slot_variables[:]
    folder.mkdir()
    (folder / "saved_model.pb").write_bytes(model.SerializeToString())
    for part in ("variables", "assets"):
        if (path / part).is_dir():
            (folder / part).symlink_to((path / part).absolute(), target_is_directory=True)
    return folder


def _signatures(tf: Any, exported: Path) -> Any:
    """The loaded SavedModel, which has a signature serving_default whose inputs have names."""
    try:
        loaded = tf.saved_model.load(str(exported))
    except Exception as error:
        raise NotAModel(f"it cannot be loaded: {_first_line(error)}", hint="was it copied completely?") from error
    if SIGNATURE not in loaded.signatures:
        raise NotAModel(
            f"it has no signature {SIGNATURE}, only {sorted(loaded.signatures)}",
            hint="save it with model.export('folder')",
        )
    return loaded


def _call(tf: Any, signature: Any) -> Source:
    return lambda inputs: signature(**{name: tf.constant(array) for name, array in inputs.items()})


# --- samples --------------------------------------------------------------------------------------------------------


def _fitting(samples: Mapping[str, np.ndarray], inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The samples by input name, each as the model takes it: (n, *shape of the input, batch of 1 included).

    `inputs` are TensorSpecs by name. An input whose first size is a number other than 1 has no batch dimension.
    Raises SamplesError where samples and model do not fit.
    """
    if len(inputs) == 1 and len(samples) == 1:
        samples = {next(iter(inputs)): next(iter(samples.values()))}
    if set(samples) != set(inputs):
        raise SamplesError(
            f"the samples are for {', '.join(samples)}, the model's inputs are {', '.join(inputs)}",
            hint="save one array for each input, under the input's name",
        )
    out = {}
    for name, spec in inputs.items():
        array = samples[name]
        dtype = np.dtype(spec.dtype.as_numpy_dtype)
        if dtype.kind not in "fiub":
            raise NotAModel(f"input {name!r} takes {dtype}, not numbers", hint="edgekit runs models of numbers")
        if dtype.kind != "f" and array.dtype.kind == "f":
            raise SamplesError(f"input {name!r} takes {dtype}, the samples are float", hint="give integers")
        wanted = None if spec.shape.rank is None else tuple(spec.shape.as_list())
        got = array.shape[1:]
        if wanted is None or (wanted and wanted[0] in (None, 1) and _fits(got, wanted[1:])):
            array = array[:, np.newaxis]
        elif not _fits(got, wanted) or got[:1] == (1,):  # the runner takes a first size of 1 for the batch
            without_batch = wanted[1:] if wanted[:1] in ((None,), (1,)) else wanted
            raise SamplesError(
                f"samples of shape {_shape_text(got)} do not fit input {name!r}, which is {_shape_text(without_batch)}",
                hint="give samples as the model sees them, or a --preprocess spec that makes them so",
            )
        out[name] = array.astype(dtype)
    return out


def _fits(got: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(got) == len(wanted) and all(w in (None, g) for g, w in zip(got, wanted, strict=True))


def _shape_text(shape: tuple[int | None, ...]) -> str:
    return "(" + ", ".join(["n", *("any" if size is None else str(size) for size in shape)]) + ")"


def _one_by_one(samples: Mapping[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
    for i in range(len(next(iter(samples.values())))):
        yield {name: array[i] for name, array in samples.items()}


# --- converting -----------------------------------------------------------------------------------------------------


def _with_fixed_sizes(tf: Any, loaded: Any, samples: Mapping[str, np.ndarray], folder: Path) -> Path | None:
    """The SavedModel again, every input the size of a sample; None if the graph does not allow it."""
    signature = loaded.signatures[SIGNATURE]
    specs = {
        name: tf.TensorSpec(samples[name].shape[1:], spec.dtype, name=name)
        for name, spec in signature.structured_input_signature[1].items()
    }
    try:
        module = tf.Module()
        module.inner = loaded  # its variables are to be saved
        function = tf.function(lambda **inputs: signature(**inputs)).get_concrete_function(**specs)
        tf.saved_model.save(module, str(folder), signatures={SIGNATURE: function})
    except Exception as error:  # a graph may insist on sizes of its own; the free batch is what is left
        print(f"sizes stay free: {_first_line(error)}", file=sys.stderr)
        return None
    return folder


def _converter(tf: Any, folder: Path) -> Any:
    return tf.lite.TFLiteConverter.from_saved_model(str(folder), signature_keys=[SIGNATURE])


def _converted(converter: Any, what: str) -> bytes:
    try:
        return bytes(converter.convert())
    except Exception as error:
        raise ConversionError(
            f"TensorFlow cannot convert it {what}: {_first_line(error)}",
            hint="an operator without a TFLite version, or one that has no int8 form: replace that layer",
        ) from error


def _difference(tf: Any, source: Source, float_model: bytes, samples: Mapping[str, np.ndarray]) -> float:
    """Largest |float .tflite - source model| over some samples, relative to the source's largest output."""
    runner = tf.lite.Interpreter(model_content=float_model).get_signature_runner(SIGNATURE)
    largest = scale = 0.0
    for index, sample in zip(range(COMPARED), _one_by_one(samples), strict=False):
        wanted = {name: np.asarray(tensor, np.float64) for name, tensor in source(sample).items()}
        got = runner(**sample)
        if {name: array.shape for name, array in wanted.items()} != {name: got[name].shape for name in got}:
            raise ConversionError("the float .tflite has other outputs than the model", hint="report it with the model")
        for name, array in wanted.items():
            if not np.isfinite(array).all() or not np.isfinite(got[name]).all():
                raise ConversionError(
                    f"output {name!r} of the float model is not finite on sample {index}",
                    hint="do the samples look as the model wants them (range, --preprocess)? were its weights finite?",
                )
            largest = max(largest, float(np.abs(array - got[name]).max(initial=0.0)))
            scale = max(scale, float(np.abs(array).max(initial=0.0)))
    return largest / scale if scale else largest


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = next((line for line in lines if "error:" in line), lines[0] if lines else "")
    return f"{type(error).__name__}: {told[:300]}"


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
