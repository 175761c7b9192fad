"""The child process with PyTorch: the only file that imports it by itself. A float .tflite by litert-torch, and result.json.

It takes exported programs (.pt2), modules that a function makes, and ONNX graphs as modules (onnx_graph.py). A model is
traced with a batch of 1. Its images may be NCHW while the samples are NHWC, as folders of images and devices have them:
then the .tflite takes NHWC, and litert-torch leaves every convolution without a TRANSPOSE around it.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch

from edgekit.convert.child import hand_over, run_to_end
from edgekit.convert.fitting import Fitted, Input, Source, fit, narrowed
from edgekit.convert.float_check import float_difference
from edgekit.convert.pt2_file import WEIGHTS_ONLY, check_pt2
from edgekit.convert.samples_function import split_function
from edgekit.convert.tflite_file import of_litert_torch
from edgekit.errors import ConversionError, EdgekitError, InputError, NotAModel, SamplesError, summary

_FACTORY = "it takes no arguments and gives a torch.nn.Module"


class Traced(torch.nn.Module):  # type: ignore[misc]  # mypy does not look into torch
    """The source with what .tflite files have: images as the samples have them, outputs in a row."""

    def __init__(self, source: Source, fitted: Sequence[Fitted]) -> None:
        super().__init__()
        self.model = source.module
        self._call, self._fitted = source.call, tuple(fitted)
        self.training = False  # not by eval(), which exported programs refuse: they are what they were exported as
        self.names: tuple[str, ...] = source.outputs or ()

    def forward(self, *given: Any) -> tuple[Any, ...]:
        """Tensors in the order of the inputs, in and out."""
        tensors = [
            x.permute(0, x.ndim - 1, *range(1, x.ndim - 1)) if one.channels_last else x
            for x, one in zip(given, self._fitted, strict=True)
        ]
        named = _named(self._call(tensors))
        self.names = self.names or tuple(named)
        return tuple(named.values())


def main(kind: str, path: Path, folder: Path) -> NoReturn:
    """Converts, and leaves the result, or the error, in `folder`."""
    warnings.simplefilter("ignore")
    trust = json.loads((folder / "loading.json").read_text("utf-8"))["trust"]
    run_to_end(folder, lambda: convert(kind, path, folder, trust=trust))


def convert(kind: str, path: Path, folder: Path, *, trust: bool) -> dict[str, Any]:
    """float.tflite in `folder`, and what is to be said about it."""
    with np.load(folder / "samples.npz") as arrays:
        samples = {name: arrays[name] for name in arrays.files}
    torch.manual_seed(0)
    with torch.no_grad():
        if kind == "onnx":
            from edgekit.convert.onnx_graph import load_onnx

            source = load_onnx(path)
            fitted = fit(source.inputs, samples)
        elif kind == "pt2":
            source = _load_pt2(path, trust=trust)
            fitted = fit(source.inputs, samples)
        else:
            source = _load_function(path, tuple(samples))
            fitted = _tried(source, samples)
        traced = Traced(source, fitted)
        first = tuple(torch.from_numpy(one.array[0]) for one in fitted)
        _checked(lambda: traced(*first), "run")
        import litert_torch  # takes seconds: nothing that is refused waits for it

        content = _checked(lambda: litert_torch.convert(traced, first).model_content(), "convert")
        names = [one.name for one in fitted]
        float_model = folder / "float.tflite"
        hand_over(float_model, of_litert_torch(content, names, traced.names))

        def answer(given: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
            if source.answer is not None:
                return source.answer({one.name: one.as_source(given[one.name]) for one in fitted})
            tensors = traced(*(torch.from_numpy(given[one.name].astype(one.array.dtype)) for one in fitted))
            return {name: x.numpy() for name, x in zip(traced.names, tensors, strict=True)}

        difference = float_difference(answer, float_model, {one.name: narrowed(one.array) for one in fitted})
    versions = {library: metadata.version(library) for library in ("torch", "litert-torch", "numpy", *source.libraries)}
    return {"float_difference": difference, "fixed_sizes": True, "versions": versions}


# --- loading --------------------------------------------------------------------------------------------------------


def _load_pt2(path: Path, *, trust: bool) -> Source:
    if not trust:
        check_pt2(path)
        os.environ.update(WEIGHTS_ONLY)
    try:
        program = torch.export.load(path)
        module = program.module(check_guards=False)
    except Exception as error:
        raise NotAModel(f"it cannot be loaded: {summary(error)}", hint="save it again with this PyTorch") from error
    wanted = set(program.graph_signature.user_inputs)
    inputs = []
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in wanted:
            value = node.meta.get("val")
            if not isinstance(value, torch.Tensor):
                raise NotAModel(
                    f"input {node.name!r} is not a tensor", hint="export it with tensors as its only arguments"
                )
            shape = tuple(size if isinstance(size, int) else None for size in value.shape)
            inputs.append(Input(node.name, shape, _numpy_dtype(value.dtype)))

    def call(tensors: Sequence[Any]) -> Any:
        arguments, named = torch.utils._pytree.tree_unflatten(list(tensors), program.call_spec.in_spec)
        return module(*arguments, **named)

    return Source(call, module, tuple(inputs), ())


def _load_function(path: Path, names: Sequence[str]) -> Source:
    """The module that `file.py:function` makes; of its inputs only the names are known, from its `forward`."""
    split = split_function(path)
    assert split is not None
    file, name = split
    sys.path.insert(0, str(file.parent))
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    code = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = code
    try:
        spec.loader.exec_module(code)
        function = getattr(code, name, None)
        if not callable(function):
            raise InputError(f"{file} has no function {name}", hint=_FACTORY)
        module = function()
    except EdgekitError:
        raise
    except (Exception, SystemExit) as error:  # the user's own code: anything
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
        where = f", line {lines[-1]}" if lines else ""
        raise NotAModel(f"{name} raised {summary(error)}{where}", hint=_FACTORY) from error
    if not isinstance(module, torch.nn.Module):
        raise NotAModel(f"{name} gave {type(module).__name__}, not a torch.nn.Module", hint=_FACTORY)
    module.to("cpu").eval()
    parameters = inspect.signature(module.forward).parameters.values()
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        taken = list(names)
    else:
        taken = [parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD]
        needed = [parameter.name for parameter in parameters if parameter.default is parameter.empty]
        taken = taken[:1] if len(names) == 1 else [name for name in taken if name in names or name in needed]
    return Source(lambda tensors: module(*tensors), module, tuple(Input(name, None, None) for name in taken), ())


def _tried(source: Source, samples: Mapping[str, np.ndarray]) -> list[Fitted]:
    """The samples as the module takes them, which only trying tells: as they are, or with the channels first."""
    said = None
    for channels_last in (False, True):
        for whole in (np.int64, np.float32):  # whole numbers are tokens, or pixels
            fitted = fit(source.inputs, samples, channels_last=channels_last, whole=whole)
            try:
                Traced(source, fitted)(*(torch.from_numpy(one.array[0]) for one in fitted))
            except Exception as error:
                said = said or error
            else:
                return fitted
    told = ", ".join(f"{name} (n, {', '.join(map(str, array.shape[1:]))})" for name, array in samples.items())
    raise SamplesError(
        f"the model does not take samples of shape {told}: {summary(said)}",
        hint="give samples as the model sees them (NCHW or NHWC), or a --preprocess spec that makes them so",
    )


# --- converting -----------------------------------------------------------------------------------------------------


def _named(answers: Any) -> dict[str, Any]:
    """The tensors of an answer: by the names of a dict, else output_0, output_1, ..."""
    leaves = [
        (path, leaf) for path, leaf in torch.utils._pytree.tree_flatten_with_path(answers)[0] if torch.is_tensor(leaf)
    ]
    if not leaves:
        raise NotAModel("it gives no tensors", hint="give a tensor, a tuple of tensors or a dict of them")
    keys = [getattr(path[0], "key", getattr(path[0], "name", None)) if len(path) == 1 else None for path, _ in leaves]
    if all(isinstance(key, str) for key in keys):
        return {str(key): leaf for key, (_, leaf) in zip(keys, leaves, strict=True)}
    return {f"output_{i}": leaf for i, (_, leaf) in enumerate(leaves)}


def _checked(work: Callable[[], Any], what: str) -> Any:
    try:
        return work()
    except EdgekitError:
        raise
    except Exception as error:
        raise ConversionError(
            f"PyTorch cannot {what} it: {summary(error)}",
            hint="does torch.export.export(model, (sample,)) work with it, with a batch of 1?",
        ) from error


def _numpy_dtype(dtype: Any) -> np.dtype[Any]:
    try:
        return np.dtype(str(dtype).removeprefix("torch."))
    except TypeError:
        raise NotAModel(f"an input is {dtype}", hint="export it with float32 or integer inputs") from None


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
