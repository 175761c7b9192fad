"""The Open Inference Protocol (KServe v2) in JSON: health, metadata and inference of one model.

A client sends raw samples, as `infer` takes them; preprocessing, scales and zero points are the model's business. Shapes
may have the batch dimension or not, and the answers have it or not likewise. Numbers are exact: a float32 comes back to
the bit. What JSON has no number for, NaN and infinities, is null in an answer and refused in a request.
https://github.com/kserve/open-inference-protocol
"""

from __future__ import annotations

import json
import math
import re
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit import __version__
from edgekit.errors import BundleError, InputError
from edgekit.preprocess import Audio, Image
from edgekit.runner.model import Model
from edgekit.runner.serve.figures import Figures
from edgekit.runner.serve.wire import Answer, Refusal, Request

if TYPE_CHECKING:
    from edgekit.runner.serve.governed import Governed

DTYPES = {
    "BOOL": "bool",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
    **{f"{u}INT{n}": f"{u.lower()}int{n}" for u in ("", "U") for n in (8, 16, 32, 64)},
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_DEEPEST = 8  # dimensions
_LONG_NUMBER = re.compile(rb"[0-9]{400}")  # older Pythons take minutes to read an integer of a megabyte


class Inference:
    """Answers requests for one model called `name`. `about` is what the server's metadata say of edgekit's own."""

    def __init__(self, model: Model | Governed, name: str, figures: Figures, about: Mapping[str, Any]) -> None:
        self._model, self._name, self._figures, self._about = model, name, figures, about
        self._decoding = threading.Lock()  # one at a time: JSON takes ten times its size while it is read

    def __call__(self, request: Request) -> Answer:
        """Raises Refusal for what cannot be answered otherwise."""
        path = request.path
        if path[:1] != ("v2",):
            raise Refusal(404, "there is only /v2 here")
        routes: dict[tuple[str, ...], tuple[str, Callable[[Request], Answer]]] = {
            (): ("GET", self._server),
            ("health", "live"): ("GET", lambda _: Answer(200, {"live": True})),
            ("health", "ready"): ("GET", lambda _: self._ready()),
        }
        if path[1:2] == ("models",) and len(path) > 2:
            if path[2] != self._name:
                raise Refusal(404, f"the model here is {self._name!r}")
            routes[("models", self._name)] = ("GET", lambda _: Answer(200, self.metadata()))
            routes[("models", self._name, "ready")] = ("GET", lambda _: self._ready())
            routes[("models", self._name, "infer")] = ("POST", self._infer)
        if path[1:] not in routes:
            raise Refusal(404, "no such resource")
        method, answer = routes[path[1:]]
        if request.method != method:
            raise Refusal(405, f"only {method} here", ("Allow", method))
        return answer(request)

    def _server(self, request: Request) -> Answer:
        about = {**self._about, "model": self._name, **self._figures.fields()}
        return Answer(200, {"name": "edgekit", "version": __version__, "extensions": ["edgekit"], "edgekit": about})

    def _ready(self) -> Answer:
        ready = self._figures.is_healthy
        return Answer(200 if ready else 503, {"name": self._name, "ready": ready})

    def metadata(self) -> dict[str, Any]:
        """What goes in and what comes out; -1 is any size, of a batch the first."""
        inputs = [
            {"name": t.name, **_taken(self._model.specs[t.name], t.shape, t.dtype, t.scale)} for t in self._model.inputs
        ]
        outputs = [
            {
                "name": t.name,
                "datatype": "FP32" if t.scale is not None else _NAMES.get(t.dtype, t.dtype),
                "shape": _free_batch(t.shape),
            }
            for t in self._model.outputs
        ]
        return {"name": self._name, "platform": "tensorflow_lite", "inputs": inputs, "outputs": outputs}

    def _infer(self, request: Request) -> Answer:
        if "inference-header-content-length" in request.headers:
            raise Refusal(400, "binary tensors are not taken: send JSON (tritonclient: binary_data=False)")
        with self._decoding:
            fields = read_json(request.body)
            given = read_inputs(fields)
        wanted = _wanted(fields, [t.name for t in self._model.outputs])
        try:
            answers = self._answers(given)
        except InputError as error:
            raise Refusal(400, str(error)) from error
        except BundleError as error:  # the model does not run on it
            raise Refusal(500, str(error)) from error
        content: dict[str, Any] = {"model_name": self._name}
        if isinstance(fields.get("id"), str):
            content["id"] = fields["id"]
        content["outputs"] = [{"name": name, **written(answers[name])} for name in wanted]
        return Answer(200, content)

    def _answers(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """One sample after the other, so that a large batch keeps neither the watchdog nor other clients waiting."""
        rows = self._model.samples(given)
        first = self._model.inputs[0].name
        batched = not rows or rows[0][first].shape != given[first].shape
        found: dict[str, list[Any]] = {tensor.name: [] for tensor in self._model.outputs}
        for row in rows:
            started = time.perf_counter()
            answer = self._model(row)
            self._figures.answered(time.perf_counter() - started)
            for name, values in (answer if isinstance(answer, dict) else {next(iter(found)): answer}).items():
                found[name].append(values)
        return {name: np.stack(values) if batched else values[0] for name, values in found.items()}


def read_json(body: bytes) -> dict[str, Any]:
    """The object that a request is. Raises Refusal."""

    def refuse(name: str) -> Any:
        raise Refusal(400, f"{name} is not a JSON number")

    if _LONG_NUMBER.search(body):
        raise Refusal(400, "a number of hundreds of digits")
    try:
        fields = json.loads(body, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"not JSON: {str(error)[:100]}") from None
    if not isinstance(fields, dict):
        raise Refusal(400, "a request is a JSON object")
    return fields


def read_inputs(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays of a request, by name. Raises Refusal for anything that is not what it says."""
    inputs = fields.get("inputs")
    if not isinstance(inputs, list) or not inputs:
        raise Refusal(400, "a request has a list of inputs")
    arrays: dict[str, Any] = {}
    for tensor in inputs:
        if not isinstance(tensor, dict) or not isinstance(tensor.get("name"), str):
            raise Refusal(400, "an input is an object with a name")
        name = tensor["name"]
        if name in arrays:
            raise Refusal(400, f"two inputs {name!r}")
        arrays[name] = read_tensor(name, tensor)
    return arrays


def read_tensor(name: str, tensor: Mapping[str, Any]) -> Any:
    """The array of one input. Its numbers must fit its datatype: nothing is rounded or wrapped."""
    shape: Any = tensor.get("shape")
    datatype, data, parameters = tensor.get("datatype"), tensor.get("data"), tensor.get("parameters")
    if isinstance(parameters, dict) and "binary_data_size" in parameters:
        raise Refusal(400, f"input {name!r}: binary data is not taken: send JSON (tritonclient: binary_data=False)")
    if not isinstance(datatype, str) or datatype not in DTYPES:
        raise Refusal(400, f"input {name!r}: datatype is one of {', '.join(sorted(DTYPES))}")
    if not _is_shape(shape):
        raise Refusal(400, f"input {name!r}: shape is a list of at most {_DEEPEST} sizes of at least 1")
    if not isinstance(data, list):
        raise Refusal(400, f"input {name!r}: data is a list")
    try:
        with np.errstate(all="ignore"):
            array = np.array(data)
    except (ValueError, OverflowError, RecursionError):
        array = np.array(None)
    if array.dtype.kind not in "biuf":
        raise Refusal(400, f"input {name!r}: data are numbers, in one list or in lists of equal lengths")
    if array.size != math.prod(shape) or (array.ndim > 1 and list(array.shape) != shape):
        raise Refusal(400, f"input {name!r}: data has the shape {list(array.shape)}, not {shape}")
    cast = _cast(array, np.dtype(DTYPES[datatype]))
    if cast is None:
        raise Refusal(400, f"input {name!r}: data has values that are not {datatype}")
    return cast.reshape(shape)


def _cast(array: Any, dtype: Any) -> Any:
    """The same numbers in another dtype; None if one of them does not fit."""
    with np.errstate(all="ignore"):
        cast = array.astype(dtype)
    if dtype.kind == "f":
        return cast if np.isfinite(cast).all() else None
    # a wrap-around may compare equal after promotion to float64, but not have the same sign
    fits = np.array_equal(cast, array) and (dtype.kind == "b" or np.array_equal(cast < 0, array < 0))
    return cast if fits else None


def _is_shape(shape: Any) -> bool:
    if not isinstance(shape, list) or len(shape) > _DEEPEST:
        return False
    return all(type(size) is int and 0 < size < 1 << 31 for size in shape)


def _wanted(fields: Mapping[str, Any], names: list[str]) -> list[str]:
    """The outputs that were asked for; all, if none were."""
    outputs = fields.get("outputs")
    if outputs is None or outputs == []:
        return names
    if not isinstance(outputs, list) or not all(isinstance(output, dict) for output in outputs):
        raise Refusal(400, "outputs is a list of objects")
    wanted = [output.get("name") for output in outputs]
    unknown = [name for name in wanted if name not in names]
    if unknown or len(set(wanted)) != len(wanted):
        raise Refusal(400, f"the outputs are {', '.join(names)}, each at most once")
    return wanted


def written(array: Any) -> dict[str, Any]:
    """Shape, datatype and data of an output."""
    values = array.reshape(-1)
    data = values.tolist()
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        data = [value if math.isfinite(value) else None for value in data]
    return {"datatype": _NAMES[values.dtype.name], "shape": list(array.shape), "data": data}


def _taken(spec: Any, shape: tuple[int, ...], dtype: str, scale: float | None) -> dict[str, Any]:
    """Datatype and shape of the raw samples of an input."""
    if isinstance(spec, Image):
        return {"datatype": "UINT8", "shape": [-1, -1, -1, 3 if spec.channels == 3 else -1]}
    if isinstance(spec, Audio):
        return {"datatype": "FP32", "shape": [-1, -1, -1]}
    is_float = scale is not None or dtype.startswith("float")
    return {"datatype": "FP32" if is_float else _NAMES.get(dtype, dtype), "shape": _free_batch(shape)}


def _free_batch(shape: tuple[int, ...]) -> list[int]:
    return [-1, *shape[1:]] if shape[:1] == (1,) else list(shape)
