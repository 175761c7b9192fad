"""LiteRT's CompiledModel behind the few methods of an Interpreter that a lane uses; the only place that imports it.

It is the way to a GPU (WebGPU on Vulkan), and on a processor the only one with XNNPACK's weight cache. Its runs keep Python's
lock: two lanes are no faster than one, so that the processor is otherwise left to `Interpreter`.
"""

from __future__ import annotations

import atexit
import functools
import os
import re
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.errors import BundleError, MissingLibrary
from edgekit.runner.interpreter import reading_native_lines

if TYPE_CHECKING:
    from edgekit.manifest import Tensor, Variant

_ADAPTER = re.compile(r"Selected adapter: ([^,]+),.*adapterType=(.+)")
_SHARE = re.compile(r"(\d+) operations? will run on the GPU, and the remaining (\d+) operations?")
GPU_HINT = (
    "it needs a Vulkan driver and its loader (Debian: libvulkan1 and mesa-vulkan-drivers, or the vendor's driver)"
)


class Compiled:
    """A compiled model that is used like an Interpreter by one thread at a time."""

    def __init__(self, model: Any, variant: Variant) -> None:
        self._model = model
        self.is_whole = bool(model.is_fully_accelerated())
        self.device, self.software = "", False
        self.share: tuple[int, int] | None = None  # operators on the GPU and not; None: not told
        self.refused: list[str] = []
        signature = model.get_signature_by_index(0)
        self._inputs = _in_order(variant.inputs, signature["inputs"], model.create_input_buffers(0))
        self._outputs = _in_order(variant.outputs, signature["outputs"], model.create_output_buffers(0))
        self._into = [buffer for _, buffer, _ in sorted(self._inputs, key=lambda each: each[2])]
        self._out = [buffer for _, buffer, _ in sorted(self._outputs, key=lambda each: each[2])]

    def __del__(self) -> None:
        if sys is None or sys.is_finalizing():  # then _be_quiet_at_the_end has seen to it
            return
        with reading_native_lines():  # LiteRT says good-bye to each of its parts
            self.__dict__.clear()

    def get_input_details(self) -> list[dict[str, Any]]:
        return [_details(i, tensor) for i, (tensor, _, _) in enumerate(self._inputs)]

    def get_output_details(self) -> list[dict[str, Any]]:
        return [_details(i, tensor) for i, (tensor, _, _) in enumerate(self._outputs)]

    def set_tensor(self, index: int, content: Any) -> None:
        self._inputs[index][1].write(content)

    def get_tensor(self, index: int) -> Any:
        tensor, buffer, _ = self._outputs[index]
        size = int(np.prod(tensor.shape, dtype=np.int64))
        return buffer.read(size, np.dtype(tensor.dtype)).reshape(tensor.shape)

    def warm_up(self) -> None:
        """An inference on zeros: drivers compile at the first one, and LiteRT prints about its buffers."""
        for index, (tensor, _, _) in enumerate(self._inputs):
            self.set_tensor(index, np.zeros(tensor.shape, tensor.dtype))
        self.invoke()
        for index in range(len(self._outputs)):
            self.get_tensor(index)

    def invoke(self) -> None:
        self._model.run_by_index(0, self._into, self._out)


def open_compiled(
    path: str,
    variant: Variant,
    *,
    gpu: bool,
    precision: str = "f32",
    partial: bool = False,
    threads: int = 1,
    weight_cache: str = "",
) -> Compiled:
    """`variant`'s file on the GPU (all of it, unless `partial`), or on the processor with a weight cache in that file.

    Raises MissingLibrary where this runtime has no CompiledModel, BundleError where it refuses the model.
    """
    litert = _litert()
    kind = litert.HardwareAccelerator
    units = (kind.GPU | kind.CPU if partial else kind.GPU) if gpu else kind.CPU
    options = litert.Options(
        hardware_accelerators=units,
        cpu_options=litert.CpuOptions(num_threads=threads, xnnpack_weight_cache_path=weight_cache),
        gpu_options=litert.GpuOptions(enforce_f32=precision == "f32"),
    )
    _be_quiet_at_the_end()
    refused: Exception | None = None
    with reading_native_lines() as lines:  # they are there when the block has ended
        try:
            model = litert.CompiledModel.from_file(str(path), options=options)
            signature = model.get_signature_by_index(0)
            is_ours = len(signature["inputs"]) == len(variant.inputs) and len(signature["outputs"]) == len(
                variant.outputs
            )
            made = Compiled(model, variant) if is_ours else None
            if made is not None:
                made.warm_up()
        except (RuntimeError, ValueError) as error:
            refused = error
    if refused is not None:
        name = os.path.basename(path)
        raise BundleError(
            f"CompiledModel refuses {name}: {_why(lines, refused)}", hint=GPU_HINT if gpu else ""
        ) from refused
    if made is None:
        raise BundleError(
            f"CompiledModel finds other tensors in {os.path.basename(path)}", hint="make the bundle again"
        )
    adapter = next((found for found in map(_ADAPTER.search, lines) if found), None)
    if adapter is not None:
        made.device, made.software = adapter[1].strip(), "software" in adapter[2].lower()
    made.share, made.refused = share_of(lines), refused_operators(lines)
    if gpu and not partial and not made.is_whole:
        raise BundleError(
            "the GPU does not take all of its operators", hint="gpu:partial=true leaves the rest to the CPU"
        )
    return made


@functools.cache
def _litert() -> Any:
    """The module; its library starts an environment, which prints, when it is imported."""
    missing: ImportError | None = None
    with reading_native_lines():
        try:
            from ai_edge_litert import compiled_model

            if hasattr(compiled_model, "Options"):  # 2.1 has another interface
                return compiled_model
            missing = ImportError("it is older than 2.3, without options for each model")
        except ImportError as error:
            missing = error
    raise MissingLibrary(
        f"this runtime has no CompiledModel: {str(missing).splitlines()[0]}",
        hint="it comes with ai-edge-litert 2.3 or newer and ml_dtypes; deploy sends both where a bundle has a gpu delegate",
    ) from missing


@functools.cache
def _be_quiet_at_the_end() -> None:
    """LiteRT prints INFO lines when its objects go, after the last of our own code: to nobody."""
    atexit.register(lambda: os.dup2(os.open(os.devnull, os.O_WRONLY), 2))


def _why(lines: list[str], error: Exception) -> str:
    """What says most: the operators that the GPU refuses, else the first of the accelerator's own errors, else the exception."""
    refused = refused_operators(lines)
    if refused:
        return f"the GPU does not take {'; '.join(refused)}"
    said = [line for line in lines if re.match(r"(ERROR: |E0000 )", line) and "plugin" not in line]
    text = said[0] if said else str(error).strip() or repr(error)
    return re.sub(r"^(ERROR: |E0000 \S+ +\d+ )(\[?\S+:\d+\]? )?", "", text.splitlines()[0]).strip()


def refused_operators(lines: list[str]) -> list[str]:
    """`RANK: Operation is not supported.`, as the accelerator prints it, each once."""
    start = next((i for i, line in enumerate(lines) if "not supported by GPU delegate" in line), None)
    found: list[str] = []
    for line in lines[start + 1 :] if start is not None else ():
        if _SHARE.search(line) or not re.match(r"[A-Z][A-Z0-9_]+: ", line):
            break
        found.append(line.rstrip("."))
    return list(dict.fromkeys(found))


def share_of(lines: list[str]) -> tuple[int, int] | None:
    """(operators on the GPU, on the processor), as the accelerator prints it where it does not take all."""
    found = next((found for found in map(_SHARE.search, lines) if found), None)
    return (int(found[1]), int(found[2])) if found else None


def _in_order(tensors: Any, names: list[str], buffers: list[Any]) -> list[tuple[Tensor, Any, int]]:
    """Each tensor of the manifest with its buffer and its place: by its signature's name, or the file's; else by place."""
    places = {name: place for place, name in enumerate(names)}
    found = []
    for place, tensor in enumerate(tensors):
        at = places.get(tensor.name, places.get(tensor.tensor, place))
        found.append((tensor, buffers[at], at))
    return found


def _details(index: int, tensor: Tensor) -> dict[str, Any]:
    return {"index": index, "name": tensor.tensor, "shape": tensor.shape, "dtype": np.dtype(tensor.dtype)}
