"""One interpreter with what goes in and comes out of it: used by one thread at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.errors import BundleError, InputError
from edgekit.runner.interpreter import invoke, refusal

if TYPE_CHECKING:
    from edgekit import preprocess
    from edgekit.manifest import Tensor, Variant

Array = Any  # np.ndarray; numpy's own generic alias does not exist in the numpy of older boards
_CHUNK = 64  # samples of a batch that are quantized at once: many enough to be fast, few enough for a small memory


class Lane:
    """One interpreter, used by one thread at a time."""

    def __init__(self, interpreter: Any, variant: Variant, specs: Mapping[str, preprocess.Spec]) -> None:
        from edgekit.preprocess import affine
        from edgekit.runner.tensors import decoder, encoder

        self._interpreter = interpreter
        inputs = {details["name"]: details for details in interpreter.get_input_details()}
        outputs = {details["name"]: details for details in interpreter.get_output_details()}
        self._inputs = [
            (_index(t, inputs, variant), t, encoder(t, specs[t.name]), affine(specs[t.name]) is not None)
            for t in variant.inputs
        ]
        self._outputs = [(_index(t, outputs, variant), decoder(t), has_batch(t)) for t in variant.outputs]

        first = variant.inputs[0]
        self._only = self._inputs[0], np.dtype(first.dtype), first.shape[1:] if has_batch(first) else None

    def run_one(self, sample: Array, raw_in: bool, raw_out: bool) -> Array:
        """As `run`, of a model with one input and one output.

        In one piece: the network has pushed Python's own code out of the caches, each further call costs a microsecond.
        """
        (index, tensor, encode, _), dtype, shape = self._only
        from_, decode, has_batch = self._outputs[0]
        if not raw_in:
            content = encode(sample)
        elif sample.dtype == dtype:
            content = sample
        else:
            content = _as_is(tensor, sample)
        interpreter = self._interpreter
        interpreter.set_tensor(index, content[None] if content.shape == shape else _shaped(content, tensor))
        try:
            interpreter.invoke()
        except (RuntimeError, ValueError) as error:
            raise refusal(error) from error
        answer = interpreter.get_tensor(from_)
        if has_batch:
            answer = answer[0]
        return answer if raw_out else decode(answer)

    def run(self, samples: Sequence[Array], raw_in: bool, raw_out: bool) -> list[Array]:
        """One inference: a sample for each input in, an answer for each output out."""
        interpreter = self._interpreter
        for (index, tensor, encode, _), sample in zip(self._inputs, samples):
            content = _as_is(tensor, sample) if raw_in else encode(sample)
            interpreter.set_tensor(index, _shaped(content, tensor))
        invoke(interpreter)
        answers = []
        for index, decode, has_batch in self._outputs:
            answer = interpreter.get_tensor(index)
            if has_batch:
                answer = answer[0]
            answers.append(answer if raw_out else decode(answer))
        return answers

    def run_batch(self, columns: Sequence[Any], raw_in: bool, raw_out: bool) -> list[Array]:
        """An inference for each sample: a sequence of samples for each input in, an array for each output out."""
        interpreter = self._interpreter
        count = len(columns[0])
        found: list[list[Array]] = [[] for _ in self._outputs]
        for start in range(0, count, _CHUNK):
            chunks = [column[start : start + _CHUNK] for column in columns]
            contents = [self._encode_chunk(i, chunk, raw_in) for i, chunk in enumerate(chunks)]
            for content in zip(*contents):
                for (index, tensor, _, _), value in zip(self._inputs, content):
                    interpreter.set_tensor(index, _shaped(value, tensor))
                invoke(interpreter)
                for answers, (index, _, _) in zip(found, self._outputs):
                    answers.append(interpreter.get_tensor(index))
        batches = []
        for answers, (index, decode, has_batch) in zip(found, self._outputs):
            if not answers:  # of no samples: take shape and dtype from the tensor
                tensor = interpreter.get_tensor(index)
                batch = np.zeros((0, *tensor.shape[has_batch:]), tensor.dtype)
            else:
                batch = np.concatenate(answers) if has_batch else np.stack(answers)
            batches.append(batch if raw_out else decode(batch))
        return batches

    def _encode_chunk(self, number: int, samples: Any, raw_in: bool) -> Any:
        _, tensor, encode, is_elementwise = self._inputs[number]
        if raw_in:
            return [_as_is(tensor, sample) for sample in samples]
        if is_elementwise and isinstance(samples, np.ndarray):
            return encode(samples)
        return [encode(sample) for sample in samples]


def _index(tensor: Tensor, found: Mapping[str, Any], variant: Variant) -> int:
    """Where the interpreter keeps a tensor of the manifest, which must look as the manifest says."""
    details = found.get(tensor.tensor)
    if details is None or (tuple(details["shape"]), np.dtype(details["dtype"]).name) != (tensor.shape, tensor.dtype):
        raise BundleError(
            f"{variant.file} has no tensor {tensor.tensor!r} of {tensor.dtype} {tensor.shape}",
            hint="make the bundle again",
        )
    return int(details["index"])


def has_batch(tensor: Tensor) -> bool:
    return tensor.shape[:1] == (1,)


def _as_is(tensor: Tensor, sample: Array) -> Array:
    if sample.dtype != tensor.dtype:
        raise InputError(
            f"raw input {tensor.name!r} must be {tensor.dtype}, got {sample.dtype}",
            hint="leave raw_in out to let the runner quantize",
        )
    return sample


def _shaped(values: Array, tensor: Tensor) -> Array:
    try:
        return values.reshape(tensor.shape)
    except ValueError:
        raise InputError(
            f"input {tensor.name!r} wants shape {tensor.shape}, preprocessing made {values.shape}",
            hint="edgekit inspect shows what the model takes",
        ) from None
