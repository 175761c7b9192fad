"""From a model as it comes to a float .tflite: as it is, or by a front end, each in a process of its own.

TensorFlow takes Keras files and SavedModels (tensorflow_child.py), PyTorch exported programs, modules and ONNX graphs
(torch_child.py).
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.convert.child import Child, child
from edgekit.convert.loading import Loading
from edgekit.convert.samples_function import source_file, split_function
from edgekit.convert.tflite_file import take_tflite
from edgekit.errors import EdgekitError, MissingLibrary, NotAModel

TAKEN = ".keras, .h5, SavedModel, .pt2, .onnx, file.py:function and float .tflite"
# what the first bytes of a file are, by its suffix: (kind, whether they are)
_HEADS: Mapping[str, tuple[str, Callable[[bytes], bool]]] = {
    ".keras": ("keras", lambda head: head[:4] == b"PK\x03\x04"),
    ".h5": ("keras", lambda head: head == b"\x89HDF\r\n\x1a\n"),
    ".hdf5": ("keras", lambda head: head == b"\x89HDF\r\n\x1a\n"),
    ".tflite": ("tflite", lambda head: head[4:] == b"TFL3"),
    ".pt2": ("pt2", lambda head: head[:4] == b"PK\x03\x04"),
    ".onnx": ("onnx", lambda head: head[:1] in (b"\x08", b"\x12", b"\x3a")),  # ir_version, producer or graph: protobuf
}
_MAKE_PT2 = "load it where its code is: torch.export.save(torch.export.export(model.eval(), (sample,)), 'model.pt2')"
_TO_ONNX = "export it as ONNX where it comes from, and convert that"
# what people have and edgekit does not take: suffix -> (what it is, what to do)
_OTHERS = {
    **dict.fromkeys(
        (".pt", ".pth", ".ckpt", ".bin"), ("a pickle of PyTorch, which runs code when it is loaded", _MAKE_PT2)
    ),
    ".safetensors": ("weights without a model", _MAKE_PT2),
    ".py": ("Python code", "name the function that makes the model: file.py:function"),
    ".pb": (
        "a frozen graph of TensorFlow 1",
        "make a SavedModel of it: tf.compat.v1.wrap_function of tf.compat.v1.import_graph_def, pruned to inputs and outputs, "
        "then tf.saved_model.save(...)",
    ),
    **dict.fromkeys((".pkl", ".pickle", ".joblib"), ("a pickle, which runs code when it is loaded", _TO_ONNX)),
    **dict.fromkeys(
        (".caffemodel", ".prototxt", ".mlmodel", ".pdmodel", ".params"), ("of another framework", _TO_ONNX)
    ),
    **dict.fromkeys((".weights", ".engine", ".trt", ".xml"), ("of another framework", _TO_ONNX)),
    ".json": ("a model's architecture without weights", "save the whole model: model.save('model.keras')"),
}


@dataclass(frozen=True)
class Converted:
    """What the front end made."""

    float_model: Path  # .tflite
    float_difference: float  # largest |float .tflite - source model|, relative to the largest output
    fixed_sizes: bool  # every tensor has its final size, the batch is 1; False: the batch is free, shapes are computed
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Converting:
    """A float .tflite that is there, while its front end still compares it with the model."""

    float_model: Path
    finish: Callable[[], Converted]  # waits for that


@dataclass(frozen=True)
class FrontEnd:
    """A child process that makes float.tflite of one kind of model."""

    name: str  # for people
    module: str
    imports: tuple[str, ...]
    extra: str  # of edgekit, that brings them
    crash: str  # the hint when the process dies
    environment: Mapping[str, str]


_NO_GPU = {"CUDA_VISIBLE_DEVICES": "-1"}  # converting needs no GPU, and one that is busy would fail it
TENSORFLOW = FrontEnd(
    "TensorFlow",
    "edgekit.convert.tensorflow_child",
    ("tensorflow",),
    "convert",
    "known for rolled LSTM and GRU layers: build them with unroll=True; SIGKILL: too little memory",
    {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0", "KERAS_BACKEND": "tensorflow", **_NO_GPU},
)
PYTORCH = FrontEnd(
    "PyTorch",
    "edgekit.convert.torch_child",
    ("torch", "litert_torch"),
    "torch",
    "SIGKILL: too little memory; else report it with the model",
    _NO_GPU,
)
ONNX = FrontEnd(
    "ONNX", PYTORCH.module, (*PYTORCH.imports, "onnx", "onnxruntime"), "onnx", PYTORCH.crash, PYTORCH.environment
)
FRONT_ENDS: Mapping[str, FrontEnd] = {
    "keras": TENSORFLOW,
    "saved_model": TENSORFLOW,
    "pt2": PYTORCH,
    "function": PYTORCH,
    "onnx": ONNX,
}


def model_kind(path: Path) -> str:
    """`tflite` or a key of FRONT_ENDS, from what lies there. Raises NotAModel for anything else."""
    if split_function(path) is not None and source_file(path).is_file():
        return "function"
    if path.is_dir():
        if (path / "saved_model.pb").is_file():
            return "saved_model"
        raise NotAModel(f"{path} is a folder without saved_model.pb", hint="give a SavedModel, a .keras or a .h5 file")
    if not path.is_file():
        what = "is not a file" if path.exists() else "does not exist"  # a pipe, a device: nothing to wait for
        raise NotAModel(f"{source_file(path)} {what}", hint=f"edgekit converts {TAKEN}")
    suffix = path.suffix.lower()
    if suffix in _HEADS:
        kind, fits = _HEADS[suffix]
        with path.open("rb") as stream:
            if fits(stream.read(8)):
                return kind
        raise NotAModel(f"{path} is not a {suffix} file, whatever its name says", hint="was it copied completely?")
    if path.name == "saved_model.pb":
        raise NotAModel(f"{path} is a part of a SavedModel", hint=f"give the folder: {path.parent}")
    if suffix in _OTHERS:
        what, hint = _OTHERS[suffix]
        raise NotAModel(f"{path} is {what}; edgekit converts {TAKEN}", hint=hint)
    raise NotAModel(f"{path}: edgekit converts {TAKEN}", hint="save the model with model.save('model.keras')")


@contextlib.contextmanager
def converting(
    path: Path,
    samples: Mapping[str, np.ndarray],
    folder: Path,
    *,
    timeout_s: float,
    progress: Callable[[str], None] = lambda stage: None,
    loading: Loading = Loading(),  # noqa: B008  # frozen
) -> Iterator[Converting]:
    """`path`, of whatever kind, as a float .tflite for inputs like `samples` (what the model sees, (n, ...) for each input).

    `folder` takes it, and what the two processes tell each other. Raises NotAModel, SamplesError, ConversionError or
    MissingLibrary; so does `finish`, where the front end only finds out when it has both run.
    """
    kind = model_kind(path)
    if kind == "tflite":
        float_model, fixed_sizes = take_tflite(path, folder, timeout_s=timeout_s)
        done = Converted(float_model, 0.0, fixed_sizes, {"numpy": np.__version__})
        yield Converting(float_model, lambda: done)
        return
    front_end = FRONT_ENDS[kind]
    progress(f"convert with {front_end.name}")
    check_installed(front_end)
    np.savez(folder / "samples.npz", **samples)  # type: ignore[arg-type]  # numpy's stub takes the names for options
    (folder / "loading.json").write_text(json.dumps(asdict(loading)), "utf-8")
    float_model, arguments = folder / "float.tflite", [kind, str(path.absolute()), str(folder)]
    with _at_work(front_end, arguments, folder, timeout_s=timeout_s, doing=f"converting {path}") as process:

        def finish() -> Converted:
            with _naming(path):
                return Converted(float_model, **process.result())

        with _naming(path):
            process.wait_for(float_model)
        yield Converting(float_model, finish)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """An error that passes through names the model."""
    try:
        yield
    except EdgekitError as error:
        if str(path) in str(error):
            raise
        raise type(error)(f"{path}: {error}", hint=error.hint) from None


def check_installed(front_end: FrontEnd) -> None:
    """MissingLibrary naming the extra unless everything that the front end imports is there."""
    missing = [name for name in front_end.imports if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingLibrary(
            f"converting with {front_end.name} needs {', '.join(missing)}",
            hint=f"pip install 'edgekit[{front_end.extra}]'",
        )


def run_tensorflow_child(arguments: Sequence[str], folder: Path, *, timeout_s: float, doing: str) -> dict[str, Any]:
    """What the child process with TensorFlow leaves in `folder` as its result; `doing` what, for messages."""
    with _at_work(TENSORFLOW, arguments, folder, timeout_s=timeout_s, doing=doing) as process:
        return process.result()


def _at_work(
    front_end: FrontEnd, arguments: Sequence[str], folder: Path, *, timeout_s: float, doing: str
) -> contextlib.AbstractContextManager[Child]:
    return child(
        front_end.module,
        arguments,
        folder,
        timeout_s=timeout_s,
        who=front_end.name,
        doing=doing,
        hint=front_end.crash,
        environment=front_end.environment,
    )
