"""The lowest and the highest value of every tensor, by its name: what the lint looks at."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

<<<<<<< HEAD
from edgekit.convert.calibrate import measure_extremes
from edgekit.convert.tflite_file import fed
from edgekit.runner.interpreter import open_interpreter
from edgekit.runner.model import describe_variant
=======
from edgekit.errors import MissingLibrary, SamplesError
from edgekit.runner.interpreter import without_info_lines
>>>>>>> i3-lint

# Tensor name -> (lowest, highest): of all samples a number each, or of each sample an array (n,) each.
Extremes = Mapping[str, tuple[Any, Any]]


def extremes_by_name(path: Path, samples: Mapping[str, np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Tensor name -> (lowest, highest) on each sample, of the float .tflite `path`.

<<<<<<< HEAD
    `samples` are what the model sees, by input name, (n, ...) without batch. Raises SamplesError where they do not fit.
    """
    described = describe_variant(open_interpreter(path, threads=1), "", quantization="float32")
    found = measure_extremes(path, fed(samples, described.inputs))
    return {name: (found.low[:, i], found.high[:, i]) for i, name in enumerate(found.names)}
=======
    `samples` are what the model sees, by input name, (n, ...) without batch. Tensors of control-flow bodies and
    constants are not in it. The call is private to ai-edge-litert 2.3: MissingLibrary if another version lacks it.
    Raises SamplesError for samples that do not fit the model.
    """
    interpreter = _interpreter(path)
    inputs = _inputs(interpreter)
    lows: dict[str, list[float]] = {}
    highs: dict[str, list[float]] = {}
    for sample in _each(samples, list(inputs)):
        for name, content in sample.items():
            _set_input(interpreter, inputs[name], content)
        for name, found in _calibration().InvokeWithCalibration(interpreter._native_handle(), 0).items():
            lows.setdefault(name, []).append(float(found.min))
            highs.setdefault(name, []).append(float(found.max))
    return {name: (np.array(lows[name]), np.array(highs[name])) for name in lows}


def _interpreter(path: Path) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    with without_info_lines():
        interpreter = Interpreter(
            model_path=str(path),
            num_threads=2,
            experimental_disable_delegate_node_fusion=True,  # else tensors inside a fused pair are not seen
            experimental_force_delegate_node_profiling=True,
        )
        interpreter.allocate_tensors()
    return interpreter


def _inputs(interpreter: Any) -> dict[str, Any]:
    """Input details by the name in the model's only signature, or by the tensor's own name."""
    details = {found["index"]: found for found in interpreter.get_input_details()}
    signatures = interpreter.get_signature_list()
    if len(signatures) == 1:
        runner = interpreter.get_signature_runner(next(iter(signatures)))
        return {name: found for name, found in runner.get_input_details().items() if found["index"] in details}
    return {found["name"]: found for found in details.values()}


def _each(samples: Mapping[str, np.ndarray], names: list[str]) -> Iterator[dict[str, np.ndarray]]:
    arrays = {names[0]: next(iter(samples.values()))} if len(samples) == len(names) == 1 else samples
    if set(arrays) != set(names):
        raise SamplesError(
            f"the samples are for {', '.join(samples)}, the model's inputs are {', '.join(names)}",
            hint="save one array for each input, under the input's name",
        )
    for i in range(len(next(iter(arrays.values())))):
        yield {name: arrays[name][i] for name in names}


def _set_input(interpreter: Any, details: dict[str, Any], content: np.ndarray) -> None:
    """Sets one sample, with or without batch; a free size becomes the sample's."""
    shape = tuple(int(size) for size in details["shape"])
    if content.size != np.prod(shape):
        wanted = content.shape if content.ndim == len(shape) else (1, *content.shape)
        free = tuple(int(size) for size in details["shape_signature"])
        if len(wanted) != len(free) or any(size not in (-1, got) for size, got in zip(free, wanted, strict=True)):
            raise SamplesError(
                f"samples of shape {content.shape} do not fit the model's input {shape}",
                hint="give samples as the model sees them, or a --preprocess spec that makes them so",
            )
        interpreter.resize_tensor_input(details["index"], wanted)
        interpreter.allocate_tensors()
        details["shape"] = shape = wanted
    interpreter.set_tensor(details["index"], content.reshape(shape).astype(details["dtype"]))


def _calibration() -> Any:
    try:
        from ai_edge_litert import _pywrap_tfl_calibration
    except ImportError as error:
        raise MissingLibrary("this ai-edge-litert measures no ranges", hint="pip install 'edgekit[convert]'") from error
    return cast(Any, _pywrap_tfl_calibration)
>>>>>>> i3-lint
