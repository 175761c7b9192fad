"""A float .tflite becomes a quantized one: three quantizers behind one function, each in a child process.

All three make the same model of the same ranges (SQNR equal to 0.01 dB), so which one did it matters little; that one of
them can does: LiteRT's own crashes on some networks, litert-quantizer leaves some operators in float, TensorFlow's is slow
to start. An output counts only when the runner's interpreter has run it and it is what the mode promises.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from edgekit.convert.child import Child, child
from edgekit.convert.describe import float_operators, full_int8_findings
from edgekit.convert.flatbuffer import Model, read_model
from edgekit.convert.modes import BACK_ENDS, WITH_RANGES
from edgekit.errors import ConversionError

Ranges = Mapping[str, "tuple[float, float]"]  # tensor name -> (lowest, highest) value

RNN_HINT = "LSTM and GRU: build them with unroll=True; else replace the layer, or try --mode dynamic"


@dataclass(frozen=True)
class Quantized:
    """What a quantizer made."""

    paths: tuple[Path, ...]  # one file for each set of ranges
    made_by: str  # "ai-edge-litert 2.3.0"


def quantize(
    float_model: Path,
    mode: str,
    ranges: Sequence[Ranges],
    folder: Path,
    *,
    timeout_s: float = 1800.0,
    back_ends: Sequence[str] | None = None,
    trial: bool = False,
    ready: Ready | None = None,
) -> Quantized:
    """`float_model` in that mode, once for each of `ranges` (none: for modes that need none), in `folder`.

    `trial`: to be judged, not shipped; the first file is checked like any other, the others are the same graph.
    `ready`: a quantizer that is there already, and is taken where it is its turn.
    Raises ConversionError with what each quantizer said if none of them can.
    """
    if mode == "float32":
        return Quantized((float_model,), "")
    folder.mkdir(parents=True, exist_ok=True)
    job = {"model": str(float_model.absolute()), "mode": mode, "ranges": list(ranges), "trial": trial}
    (folder / "job.json").write_text(json.dumps(job), "utf-8")
    paths = tuple(folder / f"{number}.tflite" for number in range(max(len(ranges), 1)))
    said = []
    for back_end in back_ends or BACK_ENDS[mode]:
        try:
            made_by = _run(back_end, folder, timeout_s, ready)
            for path in paths[:1] if trial else paths:
                check_mode(path, mode)
            return Quantized(paths, made_by)
        except ConversionError as error:
            said.append((back_end, error))
    reasons = "; ".join(f"{back_end}: {error}" for back_end, error in said)
    raise ConversionError(f"no quantizer can make {mode} of it ({reasons})", hint=RNN_HINT)


@dataclass(frozen=True)
class Ready:
    """A quantizer's process, started before there is work for it: a third of a second earlier than one that is asked for."""

    back_end: str
    process: Child


@contextlib.contextmanager
def ready(folder: Path, *, timeout_s: float) -> Iterator[Ready]:
    """LiteRT's own quantizer, which is asked first for int8, at hand for `quantize`. `folder` takes its log."""
    folder.mkdir(parents=True, exist_ok=True)
    with _child("litert", [], folder, timeout_s, listens=True) as process:
        yield Ready("litert", process)


def check_runs(model: Path, folder: Path, *, timeout_s: float = 600.0) -> None:
    """ConversionError unless LiteRT runs the file; tried in a child process, so that a hostile one crashes nobody else."""
    folder.mkdir(parents=True, exist_ok=True)
    job = {"model": str(model.absolute()), "mode": "", "ranges": [], "trial": False}
    (folder / "job.json").write_text(json.dumps(job), "utf-8")
    _run("none", folder, timeout_s)


def check_mode(path: Path, mode: str) -> None:
    """ConversionError unless the file is what the mode promises, operator by operator."""
    model = read_model(path)
    findings = _findings(model, mode)
    if findings:
        more = f" (and {len(findings) - 1} more)" if findings[1:] else ""
        raise ConversionError(f"the result is not {_PROMISES[mode]}: {findings[0]}{more}", hint=RNN_HINT)


# glibc: what takes 1 MiB or more goes back to the system when it is freed. Measured for six int8 files of MobileNetV2-224:
# 127 MiB at the most become 101, in the same time.
_FRUGAL = {"MALLOC_MMAP_THRESHOLD_": str(1 << 20)}
_PROMISES = {
    "int8": "full int8",
    "int8-float-io": "int8 between a float input and a float output",
    "int16x8": "int16 with int8 weights",
    "dynamic": "quantized",
    "weights8": "quantized",
    "weights4": "quantized",
    "float16": "float16",
}


def _findings(model: Model, mode: str) -> list[str]:
    """What keeps the file from being what the mode promises; whole numbers in or out (tokens, classes) always may."""
    if mode == "int8":
        return full_int8_findings(model)
    graph = model.subgraphs[0]
    if mode in WITH_RANGES:
        outside = "int16" if mode == "int16x8" else "float32"
        ends = [graph.tensors[index] for index in (*graph.inputs, *graph.outputs)]
        allowed = {outside, "int32", "int64", "bool"}
        found = [f"'{end.name}' is {end.dtype}, not {outside}" for end in ends if end.dtype not in allowed]
        border = set() if mode == "int16x8" else {end.index for end in ends}
        return found + [
            f"operator {operator.index}, {operator.name}, is float"
            for _, operator in float_operators(model)
            if operator.name not in ("QUANTIZE", "DEQUANTIZE") or not border & {*operator.inputs, *operator.outputs}
        ]
    wanted = {"weights4": {"int4"}, "float16": {"float16"}}.get(mode, {"int8"})
    if any(tensor.constant and tensor.dtype in wanted for each in model.subgraphs for tensor in each.tensors):
        return []
    return ["no layer has weights that could be made smaller"]


def _run(back_end: str, folder: Path, timeout_s: float, ready: Ready | None = None) -> str:
    """Name and version of the quantizer that did the job in `folder`."""
    if back_end == "tensorflow":
        if importlib.util.find_spec("tensorflow") is None:
            raise ConversionError("not installed", hint="pip install 'edgekit[convert]'")
        from edgekit.convert.frontend import run_tensorflow_child

        result = run_tensorflow_child(["quantize", str(folder)], folder, timeout_s=timeout_s, doing="quantizing")
        check_runs(folder / "0.tflite", folder / "check", timeout_s=timeout_s)
        return str(result["made_by"])
    if ready is not None and ready.back_end == back_end and ready.process.works:
        return str(ready.process.do(folder)["made_by"])
    with _child(back_end, [str(folder)], folder, timeout_s) as process:
        return str(process.result()["made_by"])


def _child(
    back_end: str, more: Sequence[str], folder: Path, timeout_s: float, *, listens: bool = False
) -> AbstractContextManager[Child]:
    return child(
        *("edgekit.convert.quantize_child", [back_end, *more], folder),
        timeout_s=timeout_s,
        who=back_end,
        doing="quantizing",
        hint=RNN_HINT,
        environment=_FRUGAL,
        listens=listens,
    )
