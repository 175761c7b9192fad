"""The child process with TensorFlow: the only file that imports it. Writes .tflite files and result.json.

Whatever comes in is traced again with every size of its inputs fixed, a batch of 1: with a free batch TensorFlow leaves
SHAPE, STRIDED_SLICE, PACK and RESHAPE in the graph, which cost time and which delegates refuse.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from edgekit.convert.child import hand_over, run_to_end
from edgekit.convert.custom_code import load_custom
from edgekit.convert.fitting import by_input, check_numbers, fits, shape_text
from edgekit.convert.float_check import Answers, float_difference
from edgekit.convert.keras_file import check_code, read_configuration
from edgekit.convert.loading import Loading
from edgekit.convert.saved_model_file import check_folder, check_operators, choose_signature, fill, without_optimizers
from edgekit.convert.spelling import known_to_tflite
from edgekit.convert.tflite_file import with_signature
from edgekit.errors import ConversionError, NotAModel, SamplesError, summary

SIGNATURE = "serving_default"


@dataclass(frozen=True)
class Source:
    """The model as it came."""

    answer: Callable[[Mapping[str, Any]], Mapping[str, Any]]  # inputs by name -> outputs by name
    inputs: Mapping[str, Any]  # TensorSpecs by name
    kept: Any  # what holds its variables
    recurrent: Sequence[Any] = ()  # Keras layers that are a loop unless they are unrolled
    channels_first: str | None = None  # a layer that wants its channels before height and width (NCHW)


def main(kind: str, path: Path, folder: Path) -> NoReturn:
    """Converts, or quantizes, and leaves the result, or the error, in `folder`."""
    run_to_end(folder, lambda: quantize(folder) if kind == "quantize" else convert(kind, path, folder))


def convert(kind: str, path: Path, folder: Path) -> dict[str, Any]:
    """float.tflite in `folder`, and what is to be said about it."""
    loading = Loading(**json.loads((folder / "loading.json").read_text("utf-8")))
    if kind == "keras":  # before TensorFlow takes its seconds
        configuration = read_configuration(path)
    else:
        check_folder(path)
    with _unseen("sklearn", "jax"):  # which they import for wrappers that nobody asks for: 0.7 and 0.5 s
        import keras
        import tensorflow as tf

    custom = load_custom(loading.custom)
    if kind == "keras":
        custom = check_code(configuration, trust=loading.trust, custom=custom)
        source = _load_keras(tf, keras, path, custom, loading.trust)
    else:
        source = _load_saved_model(tf, path, folder / "plain", loading)
    with np.load(folder / "samples.npz") as arrays:
        samples = _fitting({name: arrays[name] for name in arrays.files}, source.inputs)
    fixed = {name: tf.TensorSpec(samples[name].shape[1:], spec.dtype, name) for name, spec in source.inputs.items()}
    try:
        with _unrolled(source.recurrent):
            float_model = _to_tflite(tf, source, fixed, folder / "fixed", directly=kind == "keras")
    except ConversionError as error:  # a graph may insist on a free batch
        print(error, file=sys.stderr)
        fixed = {}
        float_model = _to_tflite(tf, source, source.inputs, folder / "free", directly=False)
    written = folder / "float.tflite"
    hand_over(written, float_model)
    answer = _runnable(tf, source, {name: array[0] for name, array in samples.items()})
    difference = float_difference(answer, written, samples)
    versions = {"tensorflow": tf.__version__, "keras": keras.__version__, "numpy": np.__version__}
    return {"float_difference": difference, "fixed_sizes": bool(fixed), "versions": versions}


@contextlib.contextmanager
def _unseen(*libraries: str) -> Iterator[None]:
    """While open, these cannot be imported: who can do without them does."""
    hidden = [name for name in libraries if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None is how Python says so
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


# --- loading --------------------------------------------------------------------------------------------------------


def _load_keras(tf: Any, keras: Any, path: Path, custom: Mapping[str, Any], trust: bool) -> Source:
    try:
        model = keras.models.load_model(path, custom_objects=custom, compile=False, safe_mode=not trust)
        inputs = {tensor.name: tf.TensorSpec(tensor.shape, tensor.dtype, tensor.name) for tensor in model.inputs}
    except Exception as error:
        raise NotAModel(f"it cannot be loaded: {summary(error)}", hint="save it again with this Keras") from error

    def answer(given: Mapping[str, Any]) -> Mapping[str, Any]:
        tensors = [tf.convert_to_tensor(given[name]) for name in inputs]
        outputs = model(tensors if len(tensors) > 1 else tensors[0], training=False)
        if isinstance(outputs, Mapping):
            return outputs
        return {f"output_{i}": tensor for i, tensor in enumerate(tf.nest.flatten(outputs))}  # as Keras exports them

    recurrent = [layer for layer in model._flatten_layers() if hasattr(layer, "unroll")]
    layers = [layer for layer in model._flatten_layers() if getattr(layer, "data_format", None) == "channels_first"]
    kept = [variable.value for variable in model.variables]
    return Source(answer, inputs, kept, recurrent, layers[0].name if layers else None)


def _load_saved_model(tf: Any, path: Path, folder: Path, loading: Loading) -> Source:
    from tensorflow.core.protobuf import saved_model_pb2

    model = saved_model_pb2.SavedModel()
    fill(model, path)
    name = choose_signature(model, loading.signature)
    check_operators(model, name, trust=loading.trust)
    try:
        loaded = tf.saved_model.load(str(without_optimizers(path, model, folder)))
        signature = loaded.signatures[name]
    except Exception as error:
        raise NotAModel(f"it cannot be loaded: {summary(error)}", hint="was it copied completely?") from error

    def answer(given: Mapping[str, Any]) -> Mapping[str, Any]:
        outputs: Mapping[str, Any] = signature(**{name: tf.convert_to_tensor(array) for name, array in given.items()})
        return outputs

    return Source(answer, signature.structured_input_signature[1], loaded)


# --- samples --------------------------------------------------------------------------------------------------------


def _fitting(samples: Mapping[str, np.ndarray], inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The samples by input name, each as the model takes it: (n, *shape of the input, batch of 1 included).

    `inputs` are TensorSpecs by name. An input whose first size is a number other than 1 has no batch dimension.
    Raises SamplesError where samples and model do not fit.
    """
    samples = by_input(samples, list(inputs))
    out = {}
    for name, spec in inputs.items():
        array = samples[name]
        dtype = np.dtype(spec.dtype.as_numpy_dtype)
        check_numbers(name, dtype, array)
        wanted = None if spec.shape.rank is None else tuple(spec.shape.as_list())
        got = array.shape[1:]
        if wanted is None or (wanted and wanted[0] in (None, 1) and fits(got, wanted[1:])):
            array = array[:, np.newaxis]
        elif not fits(got, wanted) or got[:1] == (1,):  # the runner takes a first size of 1 for the batch
            without_batch = wanted[1:] if wanted[:1] in ((None,), (1,)) else wanted
            raise SamplesError(
                f"samples of shape {shape_text(got)} do not fit input {name!r}, which is {shape_text(without_batch)}",
                hint="give samples as the model sees them, or a --preprocess spec that makes them so",
            )
        out[name] = array.astype(dtype)
    return out


# --- converting -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _unrolled(layers: Sequence[Any]) -> Iterator[None]:
    """While open, recurrent layers are traced step by step: no quantizer takes a loop. The answers are the same."""
    before = [layer.unroll for layer in layers]
    for layer in layers:
        layer.unroll = True
    try:
        yield
    finally:
        for layer, unroll in zip(layers, before, strict=True):
            layer.unroll = unroll


def _to_tflite(tf: Any, source: Source, inputs: Mapping[str, Any], folder: Path, *, directly: bool) -> bytes:
    """The .tflite of the source for inputs of these sizes. ConversionError if the graph does not allow them.

    `directly`: without a SavedModel in `folder` on the way, which takes 2.5 of 5 s (MobileNetV2-224). What a SavedModel has
    traced itself may need one: composite operators are recognized there only.
    """
    try:
        with known_to_tflite(tf):
            function = tf.function(lambda **given: source.answer(given)).get_concrete_function(**inputs)
    except Exception as error:
        raise ConversionError(
            f"TensorFlow cannot trace it: {summary(error)}", hint="does model.export('folder') work with it?"
        ) from error
    module = tf.Module()
    module.kept = source.kept
    if directly:
        converter = tf.lite.TFLiteConverter.from_concrete_functions([function], module)
        converter.experimental_lower_to_saved_model = False
        try:
            content = _converted(converter.convert, "convert it directly")
            return with_signature(
                content, sorted(inputs), sorted(function.structured_outputs)
            )  # as tf.nest orders them
        except (ConversionError, ValueError) as error:
            print(error, file=sys.stderr)
    try:
        tf.saved_model.save(module, str(folder), signatures={SIGNATURE: function})
    except Exception as error:
        raise ConversionError(
            f"TensorFlow cannot save it: {summary(error)}", hint="does model.export('folder') work with it?"
        ) from error
    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder), signature_keys=[SIGNATURE])
    return _converted(converter.convert, "convert it to float")


def _converted(work: Callable[[], Any], what: str) -> bytes:
    try:
        return bytes(work())
    except Exception as error:
        raise ConversionError(
            f"TensorFlow cannot {what}: {summary(error)}",
            hint="an operator without a TFLite version or int8 form: replace that layer; LSTM and GRU: unroll=True",
        ) from error


def quantize(folder: Path) -> dict[str, str]:
    """What quantize_child.py does, by the quantizer in TFLiteConverter (MLIR), which takes ranges stamped into a file."""
    import tensorflow as tf
    from tensorflow.lite.python.convert import mlir_quantize

    from edgekit.convert.rewrite import packed, stamp, unpacked

    job = json.loads((folder / "job.json").read_text("utf-8"))
    outside = {"int8": tf.int8, "int8-float-io": tf.float32}[job["mode"]]
    model = unpacked(Path(job["model"]).read_bytes())
    for number, ranges in enumerate(job["ranges"]):
        stamp(model, ranges)
        stamped = packed(model)
        made = _converted(
            lambda stamped=stamped: mlir_quantize(  # type: ignore[misc]  # bound now, called now
                stamped,
                fully_quantize=outside != tf.float32,
                input_data_type=outside,
                output_data_type=outside,
            ),
            "quantize it",
        )
        (folder / f"{number}.tflite").write_bytes(made)
    return {"made_by": f"tensorflow {tf.__version__}"}


def _runnable(tf: Any, source: Source, sample: Mapping[str, np.ndarray]) -> Answers:
    """The source's `answer`; compiled by XLA, where TensorFlow has no kernel for this processor (NCHW convolutions).

    ConversionError if it runs in neither way.
    """
    compiled = tf.function(source.answer, jit_compile=True)

    def by_xla(given: Mapping[str, Any]) -> Mapping[str, Any]:
        answers: Mapping[str, Any] = compiled({name: tf.convert_to_tensor(array) for name, array in given.items()})
        return answers

    first = None
    for answer in (source.answer, by_xla):
        try:
            answer(sample)
        except Exception as error:
            first = first or error
        else:
            return partial(_as_arrays, answer)
    if source.channels_first is not None:
        raise ConversionError(
            f"layer {source.channels_first!r} is channels_first, for which TensorFlow has no kernels on a CPU",
            hint="build it with data_format='channels_last'; a Permute((2, 3, 1)) layer turns the images",
        ) from first
    assert first is not None
    raise ConversionError(
        f"TensorFlow cannot run it on the first sample: {summary(first)}",
        hint="does it work there, with inputs like the samples?",
    ) from first


def _as_arrays(answer: Callable[..., Mapping[str, Any]], given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.asarray(tensor) for name, tensor in answer(given).items()}


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[-1]))
