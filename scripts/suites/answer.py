"""A child process: a model's answers to the held-out samples, by LiteRT (or onnxruntime) itself, without edgekit's runner.

Files of other tools crash interpreters now and then, so each is run in a process of its own.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np


def answers(model: Path, samples: dict[str, np.ndarray]) -> np.ndarray:
    """Float, whatever comes out: the model's single output for each sample, (n, ...)."""
    return _onnx(model, samples) if model.suffix == ".onnx" else _tflite(model, samples)


def _tflite(model: Path, samples: dict[str, np.ndarray]) -> np.ndarray:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(model), num_threads=1)
    interpreter.allocate_tensors()
    signature = interpreter._get_full_signature_list()["serving_default"]
    details = {d["index"]: d for d in interpreter.get_input_details()}
    fed = {name: details[index] for name, index in signature["inputs"].items()}
    if len(fed) == 1:
        samples = {next(iter(fed)): next(iter(samples.values()))}
    (into,) = interpreter.get_output_details()
    out = []
    for i in range(len(next(iter(samples.values())))):
        for name, detail in fed.items():
            interpreter.set_tensor(detail["index"], _encoded(samples[name][i : i + 1], detail))
        interpreter.invoke()
        out.append(interpreter.get_tensor(into["index"])[0])
    return _decoded(np.stack(out), into)


def _encoded(values: np.ndarray, detail: dict) -> np.ndarray:
    scale, zero = detail["quantization"]
    if detail["dtype"] in (np.float32, np.int32, np.int64) or not scale:
        return values.astype(detail["dtype"])
    limits = np.iinfo(detail["dtype"])
    return np.clip(np.rint(values / scale) + zero, limits.min, limits.max).astype(detail["dtype"])


def _decoded(values: np.ndarray, detail: dict) -> np.ndarray:
    scale, zero = detail["quantization"]
    return ((values.astype(np.float32) - zero) * scale).astype(np.float32) if scale else values.astype(np.float32)


def _onnx(model: Path, samples: dict[str, np.ndarray]) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    if len(names) == 1:
        samples = {names[0]: next(iter(samples.values()))}
    rows = range(len(next(iter(samples.values()))))
    return np.stack([session.run(None, {n: samples[n][i : i + 1] for n in names})[0][0] for i in rows])


if __name__ == "__main__":
    with np.load(sys.argv[2]) as arrays:
        held_out = {name: arrays[name] for name in arrays.files if name != "y"}
    np.save(sys.argv[3], answers(Path(sys.argv[1]), held_out))
