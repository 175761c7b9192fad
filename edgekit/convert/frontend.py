"""From a model as it comes to a float .tflite: as it is, or by TensorFlow in a process of its own."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.convert.child import run_child
from edgekit.convert.loading import Loading
from edgekit.convert.tflite_file import take_tflite
from edgekit.errors import EdgekitError, MissingLibrary, NotAModel

KERAS_SUFFIXES = (".keras", ".h5", ".hdf5")
TAKEN = ".keras, .h5, SavedModel and float .tflite"


@dataclass(frozen=True)
class Converted:
    """What the front end made."""

    float_model: Path  # .tflite
    float_difference: float  # largest |float .tflite - source model|, relative to the largest output
    fixed_sizes: bool  # every tensor has its final size, the batch is 1; False: the model only works with a free batch
    versions: Mapping[str, str]


def model_kind(path: Path) -> str:
    """`keras`, `saved_model` or `tflite`, from what lies there. Raises NotAModel for anything else."""
    if path.is_dir():
        if (path / "saved_model.pb").is_file():
            return "saved_model"
        raise NotAModel(f"{path} is a folder without saved_model.pb", hint="give a SavedModel, a .keras or a .h5 file")
    if not path.is_file():
        what = "is not a file" if path.exists() else "does not exist"  # a pipe, a device: nothing to wait for
        raise NotAModel(f"{path} {what}", hint="give a .keras file, a .h5 file or a SavedModel folder")
    with path.open("rb") as stream:
        head = stream.read(8)
    suffix = path.suffix.lower()
    if suffix == ".pb":
        whole = path.name == "saved_model.pb"
        raise NotAModel(
            f"{path} is {'a part of a SavedModel' if whole else 'a frozen graph of TensorFlow 1'}",
            hint=f"give the folder: {path.parent}"
            if whole
            else "make a SavedModel of it: tf.compat.v1.wrap_function of "
            "tf.compat.v1.import_graph_def, pruned to inputs and outputs, then tf.saved_model.save(...)",
        )
    if suffix == ".keras" and head[:4] == b"PK\x03\x04":
        return "keras"
    if suffix in (".h5", ".hdf5") and head == b"\x89HDF\r\n\x1a\n":
        return "keras"
    if suffix == ".tflite" and head[4:] == b"TFL3":
        return "tflite"
    if suffix in (*KERAS_SUFFIXES, ".tflite"):
        raise NotAModel(f"{path} is not a {suffix} file, whatever its name says", hint="was it copied completely?")
    raise NotAModel(f"{path}: edgekit converts {TAKEN}", hint="save the model with model.save('model.keras')")


def to_float_tflite(
    path: Path,
    samples: Mapping[str, np.ndarray],
    folder: Path,
    *,
    timeout_s: float,
    progress: Callable[[str], None],
    loading: Loading = Loading(),  # noqa: B008  # frozen
) -> Converted:
    """`path`, of whatever kind, as a float .tflite; as `run_tensorflow`, which a .tflite does not need."""
    kind = model_kind(path)
    if kind != "tflite":
        progress("convert with TensorFlow")
        return run_tensorflow(path, kind, samples, folder, timeout_s=timeout_s, loading=loading)
    float_model, fixed_sizes = take_tflite(path, folder, timeout_s=timeout_s)
    return Converted(float_model, 0.0, fixed_sizes, {"numpy": np.__version__})


def run_tensorflow(
    path: Path,
    kind: str,
    samples: Mapping[str, np.ndarray],
    folder: Path,
    *,
    timeout_s: float,
    loading: Loading = Loading(),  # noqa: B008  # frozen
) -> Converted:
    """The model as a float .tflite for inputs like `samples` (what the model sees, (n, ...) for each input).

    `folder` takes it, and what the two processes tell each other. Raises NotAModel, SamplesError or ConversionError.
    """
    if importlib.util.find_spec("tensorflow") is None:
        raise MissingLibrary("converting needs TensorFlow", hint="pip install 'edgekit[convert]'")
    (folder / "loading.json").write_text(json.dumps(asdict(loading)), "utf-8")
    np.savez(folder / "samples.npz", **samples)  # type: ignore[arg-type]  # numpy's stub takes the names for options
    try:
        result = run_tensorflow_child(
            [kind, str(path.absolute()), str(folder)], folder, timeout_s=timeout_s, doing=f"converting {path}"
        )
    except EdgekitError as error:
        if str(path) in str(error):
            raise
        raise type(error)(f"{path}: {error}", hint=error.hint) from None
    return Converted(
        float_model=folder / "float.tflite",
        float_difference=result["float_difference"],
        fixed_sizes=result["fixed_sizes"],
        versions=result["versions"],
    )


def run_tensorflow_child(arguments: Sequence[str], folder: Path, *, timeout_s: float, doing: str) -> dict[str, Any]:
    """What the child process with TensorFlow leaves in `folder` as its result; `doing` what, for messages."""
    return run_child(
        "edgekit.convert.tensorflow_child",
        arguments,
        folder,
        timeout_s=timeout_s,
        who="TensorFlow",
        doing=doing,
        hint="known for rolled LSTM and GRU layers: build them with unroll=True; SIGKILL: too little memory",
        environment={
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "TF_ENABLE_ONEDNN_OPTS": "0",
            "KERAS_BACKEND": "tensorflow",
            "CUDA_VISIBLE_DEVICES": "-1",  # converting needs no GPU, and one that is busy would fail it
        },
    )
