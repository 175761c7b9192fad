"""The lowest and the highest value of every tensor on every sample, measured by LiteRT itself while it runs the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np

from edgekit.errors import MissingLibrary
from edgekit.runner.interpreter import without_info_lines

# Tensor name -> (lowest, highest): of all samples a number each, or of each sample an array (n,) each.
Extremes = Mapping[str, tuple[Any, Any]]


def measure_extremes(path: Path, samples: Mapping[str, np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Tensor name -> (lowest, highest) on each sample, of the float .tflite `path`.

    `samples` are what the model sees, by input name, (n, ...) without batch. Tensors of control-flow bodies and
    constants are not in it. The call is private to ai-edge-litert 2.3: MissingLibrary if another version lacks it.
    """
    interpreter = _interpreter(path)
    runner = _inputs(interpreter)
    lows: dict[str, list[float]] = {}
    highs: dict[str, list[float]] = {}
    for sample in _each(samples, list(runner)):
        for name, content in sample.items():
            details = runner[name]
            interpreter.set_tensor(details["index"], content.reshape(details["shape"]).astype(details["dtype"]))
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
    for i in range(len(next(iter(arrays.values())))):
        yield {name: arrays[name][i] for name in names}


def _calibration() -> Any:
    try:
        from ai_edge_litert import _pywrap_tfl_calibration
    except ImportError as error:
        raise MissingLibrary("this ai-edge-litert measures no ranges", hint="pip install 'edgekit[convert]'") from error
    return cast(Any, _pywrap_tfl_calibration)
