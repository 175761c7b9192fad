"""One network through every converter: files, and how good each is on the same held-out samples."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.convert.cost import macs
from edgekit.convert.describe import float_operators
from edgekit.convert.flatbuffer import read_model
from edgekit.convert.rewrite import packed, unpacked, without_softmax
from suites import NETWORKS, ROOT, scores
from suites.sources import SOURCES

STOCK = ("TFLiteConverter", "litert-quantizer", "onnxruntime")
MODES = ("int8", "int16x8", "dynamic", "weights8", "float16")
LIMIT_S = 1800
INT16_MACS = 10_000_000  # larger networks are left out in int16x8: it has reference kernels only, a second a picture

Result = dict[str, Any]  # of one file: metric, sqnr_db, output_sqnr_db, float_operators, bytes; or error


class Failed(Exception):
    """A tool that did not do it, and the last that it said."""


def is_trained(folder: Path) -> bool:
    """Whether a network has been trained into the folder."""
    return (folder / "made.json").is_file()


def train(name: str, folder: Path, *, epochs: int | None) -> None:
    """Trains the network into `folder`, for so many epochs or its own number."""
    folder.mkdir(parents=True, exist_ok=True)
    _child(["-m", "suites.train", name, str(folder), *([str(epochs)] if epochs else [])], folder / "train.log")


def compared(name: str, folder: Path, modes: Sequence[str] = MODES) -> dict[str, Any]:
    """Every converter's file of the network in `folder`, measured; a tool that fails is a result, too."""
    _, labels = _evaluate(folder)
    judge = getattr(scores, NETWORKS[name].metric)
    files, failures = _files(name, folder, modes)
    wanted = _answers(files["float"], folder)
    inside = _answers(_cut(files["float"]), folder)
    found: dict[str, Result] = {}
    for tool, path in files.items():
        try:
            cut, got = _cut(path), _answers(path, folder)
            got_inside = got if cut == path else _answers(cut, folder)
        except Failed as failed:
            failures[tool] = str(failed)
            continue
        found[tool] = {
            "metric": round(judge(labels, got), 4),
            "sqnr_db": _sqnr_db(inside, got_inside),
            "output_sqnr_db": _sqnr_db(wanted, got),
            "float_operators": None if path.suffix == ".onnx" else len(float_operators(read_model(path))),
            "bytes": path.stat().st_size,
        }
    found |= {tool: {"error": told} for tool, told in failures.items()}
    return {"network": name, "metric": NETWORKS[name].metric, "held_out": len(labels), "results": found}


def by_front_end(name: str, folder: Path) -> dict[str, Any]:
    """edgekit's int8 of the same network from every file that people bring, beside Keras's float answers."""
    _, labels = _evaluate(folder)
    judge = getattr(scores, NETWORKS[name].metric)
    keras = _edgekit(name, folder / "model.keras", folder, "int8", "--mode", "float32")
    wanted = _answers(keras / "models" / "float32.tflite", folder)
    found: dict[str, Result] = {}
    for kind in ("keras", *SOURCES):
        try:
            bundle = keras if kind == "keras" else _edgekit(name, _source(kind, folder), folder, "int8")
            got = _answers(bundle / "models" / "int8.tflite", folder)
        except Failed as failed:
            found[kind] = {"error": str(failed)}
            continue
        found[kind] = {"metric": round(judge(labels, got), 4), "output_sqnr_db": _sqnr_db(wanted, got)}
    return {"network": name, "metric": NETWORKS[name].metric, "held_out": len(labels), "front_ends": found}


def _source(kind: str, folder: Path) -> Path:
    """The network in such a file, which is kept."""
    out = folder / SOURCES[kind][1]
    if not out.exists():
        words = ["-m", "suites.sources", kind, str(folder / "model.keras"), str(folder / "samples.npz"), str(out)]
        _child(words, folder / f"{out.name}.log")
    return out


def _files(name: str, folder: Path, modes: Sequence[str]) -> tuple[dict[str, Path], dict[str, str]]:
    """Tool -> its file, and tool -> why there is none. The first one is edgekit's float .tflite."""
    model, samples = folder / "model.keras", folder / "samples.npz"
    bundle = _edgekit(name, model, folder, "int8", "--mode", "float32")
    files = {"float": bundle / "models" / "float32.tflite", "edgekit": bundle / "models" / "int8.tflite"}
    failures: dict[str, str] = {}
    is_large = macs(read_model(files["float"])) > INT16_MACS
    for mode in modes:
        if mode != "int8" and not (mode == "int16x8" and is_large):
            try:
                made = _edgekit(name, files["float"], folder, mode)
                files[f"edgekit {mode}"] = made / "models" / f"{mode}.tflite"
            except Failed as failed:
                failures[f"edgekit {mode}"] = str(failed)
    for tool, function, source, suffix, needs in (
        ("TFLiteConverter", "tflite_converter", model, ".tflite", ()),
        ("litert-quantizer", "litert_quantizer", files["float"], ".tflite", ()),
        ("onnxruntime", "onnxruntime", model, ".onnx", ("onnxruntime", "tf2onnx")),
    ):
        if any(find_spec(module) is None for module in needs):
            continue
        out = folder / f"{function}{suffix}"
        out.unlink(missing_ok=True)
        try:
            words = ["-m", "suites.stock", function, str(source), str(samples), str(out)]
            _child(words, folder / f"{function}.log")
            files[tool] = out
        except Failed as failed:
            failures[tool] = str(failed)
    return files, failures


def _edgekit(name: str, model: Path, folder: Path, mode: str, *more: str) -> Path:
    """The bundle that `edgekit convert` makes; its gate is open, because what it would refuse belongs in the table."""
    bundle = folder / f"edgekit-{mode}"
    shutil.rmtree(bundle, ignore_errors=True)
    metric = NETWORKS[name].metric
    words = ["convert", str(model), "-o", str(bundle), "--mode", mode, "--max-drop", "100", "--no-report"]
    words += ["--samples", str(folder / "samples.npz"), *more]
    if metric != "ap50":  # the gate calls a metric hundreds of times, and this one takes a second
        words += ["--evaluate", str(folder / "evaluate.npz")]
        words += ["--metric", f"{Path(scores.__file__)}:iou"] if metric == "iou" else []
    _child(["-m", "edgekit.cli.main", *words], folder / f"edgekit-{mode}.log")
    return bundle


def _cut(path: Path) -> Path:
    """The model without its last softmax, beside it; itself if it has none."""
    if path.suffix == ".onnx":
        return _cut_onnx(path)
    model = unpacked(path.read_bytes())
    if not without_softmax(model):
        return path
    cut = path.parent / f"{path.stem}.cut.tflite"
    cut.write_bytes(packed(model))
    return cut


def _cut_onnx(path: Path) -> Path:
    import onnx

    model = onnx.load(path)
    writer = {output: node for node in model.graph.node for output in node.output}
    last = writer[model.graph.output[0].name]
    while last.op_type in ("QuantizeLinear", "DequantizeLinear", "Identity"):
        last = writer[last.input[0]]
    if last.op_type != "Softmax":
        return path
    model.graph.output[0].name = last.input[0]
    cut = path.with_name(f"{path.stem}.cut.onnx")
    onnx.save(model, cut)
    return cut


def _answers(path: Path, folder: Path) -> np.ndarray:
    out = folder / "answers.npy"
    _child(["-m", "suites.answer", str(path), str(folder / "evaluate.npz"), str(out)], folder / "answer.log")
    return np.load(out)


def _evaluate(folder: Path) -> tuple[Mapping[str, np.ndarray], np.ndarray]:
    with np.load(folder / "evaluate.npz") as arrays:
        return {name: arrays[name] for name in arrays.files if name != "y"}, arrays["y"]


def _sqnr_db(wanted: np.ndarray, got: np.ndarray) -> float:
    """10 log10(sum f^2 / sum (f - q)^2)."""
    noise = float(np.square(wanted.astype(np.float64) - got).sum())
    return round(float(10 * np.log10(np.square(wanted, dtype=np.float64).sum() / max(noise, 1e-30))), 2)


def _child(arguments: Sequence[str], log: Path) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT / "scripts"), str(ROOT), *sys.path]),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "-1",
        "KERAS_BACKEND": "tensorflow",
    }
    with log.open("wb") as output:
        try:
            done = subprocess.run(
                [sys.executable, *arguments], stdout=output, stderr=output, env=environment, timeout=LIMIT_S
            )
        except subprocess.TimeoutExpired as error:
            raise Failed(f"not done in {LIMIT_S} s") from error
    if done.returncode != 0:
        lines = [line for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
        told = next((line for line in lines if line.startswith("edgekit: ")), lines[-1] if lines else "")
        raise Failed(f"exit code {done.returncode}: {told[:300]}")
