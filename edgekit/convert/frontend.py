"""Runs the TensorFlow front end in a process of its own: TensorFlow may crash, hang or print, we must not."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit import errors
from edgekit.errors import ConversionError, EdgekitError, MissingLibrary, NotAModel

KERAS_SUFFIXES = (".keras", ".h5", ".hdf5")


@dataclass(frozen=True)
class Converted:
    """What the front end made."""

    float_model: bytes  # .tflite
    int8_model: bytes  # .tflite
    float_difference: float  # largest |float .tflite - source model|, relative to the largest output
    fixed_sizes: bool  # every tensor has its final size, the batch is 1; False: the model only works with a free batch
    versions: Mapping[str, str]


def model_kind(path: Path) -> str:
    """`keras` or `saved_model`, from what lies there. Raises NotAModel for anything else."""
    if path.is_dir():
        if (path / "saved_model.pb").is_file():
            return "saved_model"
        raise NotAModel(f"{path} is a folder without saved_model.pb", hint="give a SavedModel, a .keras or a .h5 file")
    if not path.is_file():
        raise NotAModel(f"{path} does not exist", hint="give a .keras file, a .h5 file or a SavedModel folder")
    with path.open("rb") as stream:
        head = stream.read(8)
    suffix = path.suffix.lower()
    if suffix == ".keras" and head[:4] == b"PK\x03\x04":
        return "keras"
    if suffix in (".h5", ".hdf5") and head == b"\x89HDF\r\n\x1a\n":
        return "keras"
    if suffix in KERAS_SUFFIXES:
        raise NotAModel(f"{path} is not a {suffix} file, whatever its name says", hint="was it copied completely?")
    raise NotAModel(
        f"{path}: edgekit converts .keras, .h5 and SavedModel", hint="save the model with model.save('model.keras')"
    )


def run_tensorflow(
    path: Path, kind: str, samples: Mapping[str, np.ndarray], folder: Path, *, timeout_s: float
) -> Converted:
    """The model as float and as int8 .tflite, calibrated on `samples` (what the model sees, (n, ...) for each input).

    `folder` takes what the two processes tell each other. Raises NotAModel, SamplesError or ConversionError.
    """
    if importlib.util.find_spec("tensorflow") is None:
        raise MissingLibrary("converting needs TensorFlow", hint="pip install 'edgekit[convert]'")
    np.savez(folder / "samples.npz", **samples)  # type: ignore[arg-type]  # numpy's stub takes the names for options
    command = [sys.executable, "-m", "edgekit.convert.tensorflow_child", kind, str(path.absolute()), str(folder)]
    environment = {
        **os.environ,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TF_ENABLE_ONEDNN_OPTS": "0",
        "KERAS_BACKEND": "tensorflow",
    }
    environment["CUDA_VISIBLE_DEVICES"] = "-1"  # converting needs no GPU, and one that is busy would fail it
    environment["TMPDIR"] = str(folder)  # what a killed TensorFlow leaves behind goes with the folder
    package = str(Path(errors.__file__).parents[1])
    environment["PYTHONPATH"] = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
    log = folder / "log.txt"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, start_new_session=True
        )
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise ConversionError(
                f"TensorFlow did not finish with {path} in {timeout_s:g} s", hint="give it longer with --timeout"
            ) from None
        finally:  # also on Ctrl-C: nothing keeps running, nor what it may have started
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return _read_result(path, folder, code, log)


def _read_result(path: Path, folder: Path, code: int, log: Path) -> Converted:
    try:
        result: dict[str, Any] = json.loads((folder / "result.json").read_text("utf-8"))
    except (OSError, ValueError):
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        last = (log.read_text("utf-8", "replace").strip().splitlines() or ["no output"])[-1]
        raise ConversionError(
            f"TensorFlow {how} while converting {path}: {last[:200]}",
            hint="known for rolled LSTM and GRU layers: build them with unroll=True; SIGKILL: too little memory",
        ) from None
    if "error" in result:
        kind = getattr(errors, result["error"], ConversionError)
        assert issubclass(kind, EdgekitError)
        raise kind(f"{path}: {result['message']}", hint=result["hint"])
    return Converted(
        float_model=(folder / "float.tflite").read_bytes(),
        int8_model=(folder / "int8.tflite").read_bytes(),
        float_difference=result["float_difference"],
        fixed_sizes=result["fixed_sizes"],
        versions=result["versions"],
    )
