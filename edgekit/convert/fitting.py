"""A model, and the samples as it takes them: a batch of 1, its dtype, of PyTorch and ONNX its order of the channels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekit.convert.float_check import Answers
from edgekit.errors import NotAModel, SamplesError


@dataclass(frozen=True)
class Input:
    """An input as the source says it is; None: it does not say. A size of None is free."""

    name: str
    shape: tuple[int | None, ...] | None
    dtype: np.dtype[Any] | None


@dataclass(frozen=True)
class Source:
    """The model as it came."""

    call: Callable[[Sequence[Any]], Any]  # tensors in the order of `inputs` -> tensors, in whatever structure
    module: Any  # torch.nn.Module that holds its weights
    inputs: tuple[Input, ...]
    libraries: tuple[str, ...]
    outputs: tuple[str, ...] | None = None  # None: named by what `call` gives
    answer: Answers | None = (
        None  # arrays by input name (a batch of 1, NCHW) -> the true answers; None: what `call` gives
    )


@dataclass(frozen=True)
class Fitted:
    """The samples for one input: (n, *shape of the input of the .tflite, batch of 1 included)."""

    name: str
    array: np.ndarray
    channels_last: bool  # the samples have the channels last, the source wants them first

    def as_source(self, one: np.ndarray) -> np.ndarray:
        """One of them (batch of 1), or one like it, as the source takes it."""
        one = one.astype(self.array.dtype, copy=False)
        return np.ascontiguousarray(np.moveaxis(one, -1, 1)) if self.channels_last else one


def fit(
    inputs: Sequence[Input],
    samples: Mapping[str, np.ndarray],
    *,
    channels_last: bool = False,
    whole: type[np.generic] = np.int64,
) -> list[Fitted]:
    """The samples for each input. Where an input says nothing of its shape, `channels_last` does, `whole` of integers.

    A sample that fits as it is stays so; one that fits with its last size first has its channels last. Raises
    SamplesError where samples and model do not fit.
    """
    samples = by_input(samples, [each.name for each in inputs])
    return [_fitted(each, samples[each.name], channels_last, whole) for each in inputs]


def _fitted(wanted: Input, array: np.ndarray, channels_last: bool, whole: type[np.generic]) -> Fitted:
    if wanted.dtype is None:
        dtype = np.dtype(np.float32 if array.dtype.kind == "f" else np.bool_ if array.dtype.kind == "b" else whole)
    else:
        dtype = wanted.dtype
        check_numbers(wanted.name, dtype, array)
    array, got = array.astype(dtype, copy=False), array.shape[1:]
    if wanted.shape is None:
        return Fitted(wanted.name, array[:, np.newaxis], channels_last and len(got) > 1)
    if wanted.shape and wanted.shape[0] in (None, 1):
        without_batch = wanted.shape[1:]
        if fits(got, without_batch):
            return Fitted(wanted.name, array[:, np.newaxis], False)
        if len(got) > 1 and fits((got[-1], *got[:-1]), without_batch):
            return Fitted(wanted.name, array[:, np.newaxis], True)
    elif fits(got, wanted.shape):
        return Fitted(wanted.name, array, False)
    else:
        without_batch = wanted.shape
    raise SamplesError(
        f"samples of shape {shape_text(got)} do not fit input {wanted.name!r}, which is {shape_text(without_batch)}",
        hint="give samples as the model sees them (images also NHWC), or a --preprocess spec that makes them so",
    )


def by_input(samples: Mapping[str, np.ndarray], inputs: Sequence[str]) -> Mapping[str, np.ndarray]:
    """The samples by input: of one input they may be called as they like. SamplesError where an input has none."""
    if len(inputs) == len(samples) == 1:
        return {inputs[0]: next(iter(samples.values()))}
    if set(samples) != set(inputs):
        raise SamplesError(
            f"the samples are for {', '.join(samples)}, the model's inputs are {', '.join(inputs)}",
            hint="save one array for each input, under the input's name",
        )
    return samples


def check_numbers(name: str, dtype: np.dtype[Any], array: np.ndarray) -> None:
    """NotAModel for an input that takes no numbers, SamplesError for fractions where it takes whole ones."""
    if dtype.kind not in "fiub":
        raise NotAModel(f"input {name!r} takes {dtype}, not numbers", hint="edgekit runs models of numbers")
    if dtype.kind != "f" and array.dtype.kind == "f":
        raise SamplesError(f"input {name!r} takes {dtype}, the samples are float", hint="give integers")


def narrowed(array: np.ndarray) -> np.ndarray:
    """The array in a dtype that .tflite inputs have: 64 bits become 32."""
    narrow = {"float64": np.float32, "float16": np.float32, "int64": np.int32, "uint64": np.uint32}.get(
        array.dtype.name
    )
    return array if narrow is None else array.astype(narrow)


def fits(got: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    """Whether a shape is one of those wanted; a size of None is free."""
    return len(got) == len(wanted) and all(w in (None, g) for g, w in zip(got, wanted, strict=True))


def shape_text(shape: tuple[int | None, ...]) -> str:
    """`(n, 49, any)`: so many samples of that shape."""
    return "(" + ", ".join(["n", *("any" if size is None else str(size) for size in shape)]) + ")"
