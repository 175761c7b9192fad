"""A loaded model: raw input -> preprocessing -> quantization -> interpreter -> answer in the model's own units."""

from __future__ import annotations

import os
from _queue import SimpleQueue  # what queue.SimpleQueue is; queue itself imports threading and more, 2 ms
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.errors import BundleError, InputError, PreprocessError
from edgekit.runner.interpreter import open_interpreter
from edgekit.runner.lane import Lane, has_batch

if TYPE_CHECKING:  # imported where they are used: a program that only imports the runner does not wait for them
    from pathlib import Path

    from edgekit import preprocess
    from edgekit.bundle import Bundle
    from edgekit.manifest import Delegate, Manifest, Tensor, Variant
    from edgekit.runner.placement import Placement

Array = Any  # np.ndarray; numpy's own generic alias does not exist in the numpy of older boards


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
        placement: Placement | None = None,
    ) -> None:
        from edgekit.preprocess import Audio, Generic, Image

        self.variant = variant
        self.inputs = variant.inputs
        self.outputs = variant.outputs
        self.labels = tuple(labels)
        self.manifest = manifest
        self._placement = placement
        self._first = interpreters[0]
        self.specs = {tensor.name: specs.get(tensor.name, Generic()) for tensor in variant.inputs}
        # dimensions that a batch has and a sample has not; None: the shape of a sample is known, and compared
        batch_dimensions = {Generic: None, Image: 4, Audio: 3}
        self._takes = {
            t.name: (t.shape[has_batch(t) :], batch_dimensions[type(self.specs[t.name])]) for t in variant.inputs
        }
        # the shape of a sample that needs no further look; None: there is none
        shape, dimensions = next(iter(self._takes.values()))
        is_plain = len(self.inputs) == len(self.outputs) == 1 and dimensions is None
        self._sample = shape if is_plain else None
        self._lanes: SimpleQueue[Lane] = SimpleQueue()
        for interpreter in interpreters:
            self._lanes.put(Lane(interpreter, variant, self.specs))

    def __call__(self, inputs: Any, *, raw_in: bool = False, raw_out: bool = False) -> Any:
        """The answer to one sample or to a batch.

        `raw_in`: the samples are already in the tensor's own dtype (int8 for an int8 model), nothing is done to them.
        `raw_out`: the answer stays in the tensor's own dtype. A NaN goes into a float model as it is and becomes the
        lowest value of an integer one. Raises InputError for a shape that does not fit, an unknown name, or (with
        `raw_in`) another dtype.
        """
        if type(inputs) is np.ndarray and inputs.shape == self._sample:
            lane = self._lanes.get()
            try:
                return lane.run_one(inputs, raw_in, raw_out)
            finally:
                self._lanes.put(lane)
        if len(self.inputs) == 1 and not isinstance(inputs, Mapping):
            samples, batched = self._samples(self.inputs[0], inputs, raw_in)
            columns = [samples]
        else:
            columns, batched = self._columns(inputs, raw_in)
        lane = self._lanes.get()
        try:
            run = lane.run_batch if batched else lane.run
            answers = run(columns, raw_in, raw_out)
        finally:
            self._lanes.put(lane)
        if len(answers) == 1:
            return answers[0]
        return {tensor.name: answer for tensor, answer in zip(self.outputs, answers)}

    @property
    def is_delegated(self) -> bool:
        """True where it was not simply opened on the processor."""
        return self._placement is not None

    @property
    def placement(self) -> Placement:
        """Which unit was asked for and which one serves, and how many operators each has."""
        if self._placement is None:  # a plain CPU: counting takes milliseconds, and few ask
            from edgekit.manifest import Delegate
            from edgekit.runner.choose import cpu_placement

            return cpu_placement(self._first, Delegate("cpu", {}))
        return self._placement

    def samples(self, inputs: Any) -> list[dict[str, Array]]:
        """The raw samples in what a call would take, one for a sample, n for a batch: each an array by input name."""
        given = inputs if isinstance(inputs, Mapping) or len(self.inputs) > 1 else {self.inputs[0].name: inputs}
        columns, batched = self._columns(given, False)
        rows = zip(*columns) if batched else [columns]
        return [{tensor.name: array for tensor, array in zip(self.inputs, row)} for row in rows]

    def _samples(self, tensor: Tensor, given: Any, raw: bool) -> tuple[Any, bool]:
        """What was given for one input, a sample or a sequence of samples, and whether it is the latter."""
        wanted, batch_dimensions = self._takes[tensor.name]
        if isinstance(given, (list, tuple)) and given and getattr(given[0], "shape", ()) != ():
            samples = [_as_array(sample, tensor) for sample in given]
            if raw or batch_dimensions is None:
                for sample in samples:
                    if sample.shape != wanted:
                        raise _misfit(tensor, wanted, sample.shape)
            return samples, True
        array = given if isinstance(given, np.ndarray) else _as_array(given, tensor)
        if raw or batch_dimensions is None:
            if array.shape == wanted:
                return array, False
            if array.shape[1:] == wanted and array.ndim:
                return array, True
            raise _misfit(tensor, wanted, array.shape)
        return array, array.ndim == batch_dimensions  # the preprocessing itself says what does not fit

    def _columns(self, inputs: Any, raw: bool) -> tuple[list[Any], bool]:
        names = [tensor.name for tensor in self.inputs]
        if not isinstance(inputs, Mapping) or set(inputs) != set(names):
            raise InputError(f"the model takes the inputs {', '.join(names)}", hint="give them as a mapping by name")
        columns, batched = zip(*(self._samples(tensor, inputs[tensor.name], raw) for tensor in self.inputs))
        if len(set(batched)) != 1 or (batched[0] and len({len(column) for column in columns}) != 1):
            raise InputError("the inputs are batches of different lengths", hint="give the same number of samples")
        return list(columns), batched[0]


def load(
    path: Path | str,
    *,
    variant: str | None = None,
    threads: int | None = None,
    lanes: int = 1,
    delegates: Sequence[str] = (),
    require: str | None = None,
    anew: bool = False,
) -> Model:
    """The model in `path`: a release on a board, a bundle, or a bare .tflite (then without any preprocessing).

    `threads`: CPU threads of one inference; None takes the bundle's own setting, at most the cores that are here.
    `lanes`: how many inferences may run at the same time, each with an interpreter of its own. `delegates`: what to try
    instead of the bundle's own list, as `delegates.parse_delegate` reads them; `require`: the unit that has to serve.
    `anew`: do not believe what earlier trials of a delegate found. `model.placement` says what serves; another one than the
    first of the list is also a warning (placement.FellBack).
    Raises BundleError for a damaged file (its hash is checked against the manifest), MissingLibrary without a runtime,
    DelegateUnavailable if nothing that is allowed can run it.
    """
    if lanes < 1 or (threads is not None and threads < 1):
        raise InputError("a model needs at least one thread and one lane", hint="leave them out for the default")
    if os.path.isfile(path):
        if delegates or require not in (None, "cpu"):
            raise InputError(
                "delegates are for bundles: they are proved by golden vectors", hint="edgekit convert makes one"
            )
        interpreters = [open_interpreter(path, threads or _cores()) for _ in range(lanes)]
        return Model(
            describe_variant(interpreters[0], os.path.basename(path), quantization="unknown"), interpreters, {}
        )
    from edgekit.bundle import read_bundle, verify_file
    from edgekit.fields import AGAIN

    bundle = read_bundle(path)
    manifest = bundle.manifest
    chosen = manifest.variant(variant)
    labels: list[str] = []
    if manifest.labels is not None:
        try:
            with open(verify_file(bundle, manifest.labels), encoding="utf-8") as stream:
                labels = stream.read().splitlines()
        except ValueError as error:
            raise BundleError(f"{manifest.labels} is not UTF-8 text", hint=AGAIN) from error
    count = threads or min(_bundled_threads(chosen) or _cores(), _cores())
    chosen, interpreters, placement = _open(bundle, chosen, count, threads, lanes, delegates, require, anew)
    return Model(chosen, interpreters, read_specs(manifest), labels, manifest, placement)


def _open(
    bundle: Bundle,
    variant: Variant,
    count: int,
    threads: int | None,
    lanes: int,
    delegates: Sequence[str],
    require: str | None,
    anew: bool,
) -> tuple[Variant, list[Any], Placement | None]:
    """The interpreters of a bundle's variant. A plain CPU, as most have it, is opened without a look at anything else."""
    wanted: Sequence[Delegate] = variant.delegates
    if (
        not delegates
        and require in (None, "cpu")
        and all(d.name == "cpu" and set(d.options) <= {"threads"} for d in wanted)
    ):
        from edgekit.bundle import verify_file

        file = verify_file(bundle, variant.file)
        return variant, [open_interpreter(file, count) for _ in range(lanes)], None
    from dataclasses import replace

    from edgekit.delegates import parse_delegate
    from edgekit.runner.choose import choose

    wanted = [parse_delegate(text) for text in delegates] or wanted
    if threads is not None:  # what is typed counts more than what the bundle says
        wanted = [replace(d, options={k: v for k, v in d.options.items() if k != "threads"}) for d in wanted]
    return choose(bundle, variant, wanted, threads=count, lanes=lanes, require=require, anew=anew)


def describe_variant(interpreter: Any, file: str, *, quantization: str) -> Variant:
    """A Variant from what the interpreter says of the file: names, shapes, dtypes, scales; nothing about quality."""
    from edgekit.runner import tensors

    return tensors.describe_variant(interpreter, file, quantization=quantization)


def read_specs(manifest: Manifest) -> dict[str, preprocess.Spec]:
    """The preprocessing of each input, after its hash was found to be the manifest's: the one that was measured."""
    from edgekit.preprocess import parse_spec, spec_digest

    specs = {}
    for name, fields in manifest.preprocess.items():
        try:
            specs[name] = parse_spec(fields)
        except PreprocessError as error:
            raise BundleError(f"input {name!r}: {error}", hint="make the bundle again") from error
        if spec_digest(specs[name]) != manifest.preprocess_sha256[name]:
            raise BundleError(f"the preprocessing of {name!r} is not the measured one", hint="make the bundle again")
    return specs


def _bundled_threads(variant: Variant) -> int | None:
    threads = next((d.options.get("threads") for d in variant.delegates if d.name == "cpu"), None)
    if threads is not None and (type(threads) is not int or threads < 1):
        raise BundleError(f"variant {variant.name} wants {threads!r} threads", hint="make the bundle again")
    return threads


def _as_array(given: Any, tensor: Tensor) -> Array:
    try:
        array = np.asarray(given)
    except ValueError as error:  # lists of different lengths
        raise InputError(f"input {tensor.name!r} is not an array of numbers", hint="give a numpy array") from error
    if array.dtype.kind not in "biuf":
        raise InputError(f"input {tensor.name!r} holds {array.dtype}, not numbers", hint="give a numpy array")
    return array


def _misfit(tensor: Tensor, wanted: tuple[int, ...], got: tuple[int, ...]) -> InputError:
    batch = ", ".join(["n", *map(str, wanted)])
    return InputError(
        f"input {tensor.name!r} wants shape {wanted} or a batch ({batch}), got {got}",
        hint="edgekit inspect shows what the model takes",
    )


def _cores() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
