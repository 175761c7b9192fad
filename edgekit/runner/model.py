"""A loaded model: raw input -> preprocessing -> quantization -> interpreter -> answer in the model's own units."""

from __future__ import annotations

import os
import queue
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Union

import numpy as np

from edgekit import preprocess
from edgekit.bundle import Manifest, Tensor, Variant, read_bundle, sha256_file
from edgekit.errors import BundleError, InputError
from edgekit.runner.interpreter import open_interpreter

Array = Any  # np.ndarray; numpy's own generic alias does not exist in the numpy of older boards
Inputs = Union[Array, Sequence[Array], Mapping[str, Any]]


class Model:
    """A model that answers. Safe to call from several threads; `lanes` of them run at the same time, the others wait.

    `model(x)` takes what the preprocessing contract describes (an image, a waveform, numbers) and returns floats.
    One sample gives one answer without a batch dimension; a batch (one more dimension in front, or a list of samples)
    gives a batch. Several inputs are given as a mapping by name; several outputs come back as a dict by name.
    """

    def __init__(
        self,
        variant: Variant,
        interpreters: Sequence[Any],
        specs: Mapping[str, preprocess.Spec],
        labels: Sequence[str] = (),
        manifest: Manifest | None = None,
    ) -> None:
        self.variant = variant
        self.inputs = variant.inputs
        self.outputs = variant.outputs
        self.labels = tuple(labels)
        self.manifest = manifest
        self.specs = {tensor.name: specs.get(tensor.name, preprocess.Generic()) for tensor in variant.inputs}
        self._lanes: queue.SimpleQueue[_Lane] = queue.SimpleQueue()
        for interpreter in interpreters:
            self._lanes.put(_Lane(interpreter, variant, self.specs))

    def __call__(self, inputs: Inputs, *, raw_in: bool = False, raw_out: bool = False) -> Any:
        """The answer to one sample or to a batch.

        `raw_in`: the samples are already in the tensor's own dtype (int8 for an int8 model), nothing is done to them.
        `raw_out`: the answer stays in the tensor's own dtype. Raises InputError for a shape that does not fit, an
        unknown name, or (with `raw_in`) another dtype.
        """
        if len(self.inputs) == 1 and not isinstance(inputs, Mapping):
            tensor = self.inputs[0]
            samples, batched = self._samples(tensor, inputs, raw_in)
            rows = [(sample,) for sample in samples]
        else:
            rows, batched = self._rows(inputs, raw_in)
        lane = self._lanes.get()
        try:
            if not batched:
                answers = lane.run(rows[0], raw_in, raw_out)
            else:
                each = [lane.run(row, raw_in, raw_out) for row in rows]
                answers = [np.stack(column) for column in zip(*each)] if each else self._no_answers(raw_out)
        finally:
            self._lanes.put(lane)
        if len(answers) == 1:
            return answers[0]
        return {tensor.name: answer for tensor, answer in zip(self.outputs, answers)}

    def _samples(self, tensor: Tensor, given: Any, raw: bool) -> tuple[Any, bool]:
        """What was given for one input, as a sequence of samples, and whether that was a batch."""
        if isinstance(given, (list, tuple)) and given and hasattr(given[0], "shape"):
            return given, True
        array = given if isinstance(given, np.ndarray) else np.asarray(given)
        wanted = tensor.shape[1:] if tensor.shape[:1] == (1,) else tensor.shape
        spec = self.specs[tensor.name]
        if raw or isinstance(spec, preprocess.Generic):
            if array.shape == wanted:
                return (array,), False
            if array.shape[1:] == wanted:
                return array, True
            raise InputError(
                f"input {tensor.name!r} wants shape {wanted} or a batch (n, {str(wanted)[1:]}, got {array.shape}",
                hint="edgekit inspect shows what the model takes",
            )
        if isinstance(spec, preprocess.Image) and array.ndim == 4:
            return array, True
        return (array,), False  # the preprocessing itself says what does not fit

    def _rows(self, inputs: Inputs, raw: bool) -> tuple[list[tuple[Array, ...]], bool]:
        names = [tensor.name for tensor in self.inputs]
        if not isinstance(inputs, Mapping) or set(inputs) != set(names):
            raise InputError(f"the model takes the inputs {', '.join(names)}", hint="give them as a mapping by name")
        columns, batched = zip(*(self._samples(tensor, inputs[tensor.name], raw) for tensor in self.inputs))
        if len({len(column) for column in columns}) != 1 or len(set(batched)) != 1:
            raise InputError("the inputs are batches of different lengths", hint="give the same number of samples")
        return list(zip(*columns)), batched[0]

    def _no_answers(self, raw: bool) -> list[Array]:
        return [np.zeros((0, *t.shape[1:]), t.dtype if raw or t.scale is None else np.float32) for t in self.outputs]


class _Lane:
    """One interpreter, used by one thread at a time."""

    def __init__(self, interpreter: Any, variant: Variant, specs: Mapping[str, preprocess.Spec]) -> None:
        self._interpreter = interpreter
        inputs = {details["name"]: details["index"] for details in interpreter.get_input_details()}
        outputs = {details["name"]: details["index"] for details in interpreter.get_output_details()}
        self._inputs: list[tuple[int, Tensor, Callable[[Array], Array]]] = []
        self._outputs: list[tuple[int, Callable[[Array], Array], bool]] = []
        try:
            for tensor in variant.inputs:
                self._inputs.append((inputs[tensor.tensor], tensor, _encoder(tensor, specs[tensor.name])))
            for tensor in variant.outputs:
                self._outputs.append((outputs[tensor.tensor], _decoder(tensor), tensor.shape[:1] == (1,)))
        except KeyError as error:
            raise BundleError(f"{variant.file} has no tensor {error}", hint="make the bundle again") from error

    def run(self, row: Sequence[Array], raw_in: bool, raw_out: bool) -> list[Array]:
        """One inference: a sample for each input in, an answer for each output out."""
        interpreter = self._interpreter
        for (index, tensor, encode), sample in zip(self._inputs, row):
            interpreter.set_tensor(index, _as_is(tensor, sample) if raw_in else encode(sample))
        interpreter.invoke()
        answers = []
        for index, decode, has_batch in self._outputs:
            answer = interpreter.get_tensor(index)
            if has_batch:
                answer = answer[0]
            answers.append(answer if raw_out else decode(answer))
        return answers


def load(path: Path | str, *, variant: str | None = None, threads: int | None = None, lanes: int = 1) -> Model:
    """The model in `path`: a release on a board, a bundle, or a bare .tflite (then without any preprocessing).

    `threads`: CPU threads of one inference; None takes the bundle's own setting, at most the cores that are here.
    `lanes`: how many inferences may run at the same time, each with an interpreter of its own.
    Raises BundleError for a damaged file (its hash is checked against the manifest), MissingLibrary without a runtime.
    """
    path = Path(path)
    if path.is_file():
        file, bare = path, open_interpreter(path, threads or _cores())
        described = describe_variant(bare, path.name, quantization="unknown")
        return Model(described, [bare, *(open_interpreter(path, threads or _cores()) for _ in range(lanes - 1))], {})
    bundle = read_bundle(path)
    chosen = bundle.manifest.variant(variant)
    file = bundle.file(chosen.file)
    if sha256_file(file) != bundle.manifest.files[chosen.file].sha256:
        raise BundleError(f"{file} is damaged: its hash is not the manifest's", hint="deploy it again")
    wanted = next((d.options.get("threads") for d in chosen.delegates if d.name == "cpu"), None)
    count = threads or min(int(wanted or _cores()), _cores())
    manifest = bundle.manifest
    specs = {name: preprocess.parse_spec(fields) for name, fields in manifest.preprocess.items()}
    labels = bundle.file(manifest.labels).read_text("utf-8").splitlines() if manifest.labels else []
    return Model(chosen, [open_interpreter(file, count) for _ in range(lanes)], specs, labels, manifest)


def describe_variant(interpreter: Any, file: str, *, quantization: str) -> Variant:
    """A Variant from what the interpreter says of the file: names, shapes, dtypes, scales; nothing about quality."""
    names = _signature_names(interpreter)
    inputs = [_tensor(details, names) for details in interpreter.get_input_details()]
    outputs = [_tensor(details, names) for details in interpreter.get_output_details()]
    return Variant(quantization, file, quantization, tuple(inputs), tuple(outputs), {}, (), (), 0.0)


def _signature_names(interpreter: Any) -> dict[str, str]:
    """Tensor name -> the name that the model's author gave it, where the file has exactly one signature."""
    signatures = interpreter.get_signature_list()
    if len(signatures) != 1:
        return {}
    (key,) = signatures
    runner = interpreter.get_signature_runner(key)
    details = {**runner.get_input_details(), **runner.get_output_details()}
    return {tensor["name"]: name for name, tensor in details.items()}


def _tensor(details: Mapping[str, Any], names: Mapping[str, str]) -> Tensor:
    scale, zero_point = details["quantization"]
    quantized = scale != 0.0
    return Tensor(
        name=names.get(details["name"], details["name"]),
        tensor=details["name"],
        shape=tuple(int(size) for size in details["shape"]),
        dtype=np.dtype(details["dtype"]).name,
        scale=float(scale) if quantized else None,
        zero_point=int(zero_point) if quantized else None,
    )


def _encoder(tensor: Tensor, spec: preprocess.Spec) -> Callable[[Array], Array]:
    """A function from one raw sample to the tensor's content, (1, ...) where the tensor has a batch dimension.

    TFLite's affine quantization: q = round(x / scale) + zero point, clamped (https://arxiv.org/abs/1712.05877).
    """
    dtype = np.dtype(tensor.dtype)
    shape = tensor.shape

    if tensor.scale is None or tensor.zero_point is None:

        def encode_plain(raw: Array) -> Array:
            if dtype.kind != "f":  # tokens and the like: integers go in as they are
                return np.asarray(raw).astype(dtype, copy=False).reshape(shape)
            return _shaped(preprocess.apply(spec, np.asarray(raw)), tensor).astype(dtype, copy=False)

        return encode_plain

    inverse = np.float32(1.0 / tensor.scale)
    zero_point = np.float32(tensor.zero_point)
    lowest, highest = np.float32(np.iinfo(dtype).min), np.float32(np.iinfo(dtype).max)

    def quantize(values: Array) -> Array:
        scaled = values * inverse
        np.rint(scaled, out=scaled)
        scaled += zero_point
        np.fmax(scaled, lowest, out=scaled)  # fmax, not maximum: a NaN becomes the lowest value on every CPU
        np.fmin(scaled, highest, out=scaled)
        return scaled.astype(dtype)

    # 8-bit raw values under an affine spec can only become 256 different numbers: look them up
    table = None
    if preprocess.affine(spec) is not None:
        table = quantize(preprocess.apply(spec, np.arange(256, dtype=np.uint8)))

    def encode(raw: Array) -> Array:
        if table is not None and raw.dtype == np.uint8:
            return table[raw].reshape(shape)
        return _shaped(quantize(preprocess.apply(spec, raw)), tensor)

    return encode


def _decoder(tensor: Tensor) -> Callable[[Array], Array]:
    """A function from the tensor's content to float32: scale * (q - zero point); other tensors stay as they are."""
    if tensor.scale is None or tensor.zero_point is None:
        return lambda answer: answer
    scale, zero_point = np.float32(tensor.scale), tensor.zero_point
    if tensor.dtype == "int8":
        # indexed by the byte's unsigned value, so that one look-up does it
        table = (np.arange(256, dtype=np.uint8).view(np.int8).astype(np.float32) - zero_point) * scale
        return lambda answer: table[answer.view(np.uint8)]
    return lambda answer: (answer.astype(np.float32) - zero_point) * scale


def _shaped(values: Array, tensor: Tensor) -> Array:
    try:
        return values.reshape(tensor.shape)
    except ValueError:
        raise InputError(
            f"input {tensor.name!r} wants shape {tensor.shape}, preprocessing made {values.shape}",
            hint="edgekit inspect shows what the model takes",
        ) from None


def _as_is(tensor: Tensor, sample: Array) -> Array:
    if sample.dtype != tensor.dtype:
        raise InputError(
            f"raw input {tensor.name!r} must be {tensor.dtype}, got {sample.dtype}",
            hint="leave raw_in out to let the runner quantize",
        )
    return sample.reshape(tensor.shape)


def _cores() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
