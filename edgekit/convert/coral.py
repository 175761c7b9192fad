"""What a model for an Edge TPU needs that others do not: dense weights with one scale, and to be told what will not map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.convert.finding import Finding
from edgekit.manifest import Delegate

if TYPE_CHECKING:
    from edgekit.target import Target

DENSE_VERSION = 4  # of FULLY_CONNECTED with int8 weights of one scale; 12 has one for each channel, and is refused
# operator -> what to do instead, where the reason alone does not say it
_FIXES = {
    "TRANSPOSE": "give the model NHWC samples: edgekit convert then takes the transposes out",
    "RESIZE_BILINEAR": "resize by 2 at most, several times, or end the model before it",
    "RESIZE_NEAREST_NEIGHBOR": "resize by 2 at most, several times, or end the model before it",
    "HARD_SWISH": "use ReLU or ReLU6 and train again",
    "LEAKY_RELU": "use ReLU or ReLU6 and train again (PReLU maps from runtime 13 on)",
    "QUANTIZE": "leave --mode int8-float-io out: int8 or uint8 inputs",
    "DEQUANTIZE": "leave --mode int8-float-io out: int8 or uint8 outputs",
    "GATHER_ND": "a detector's decoder: cut the model before it and decode in the program",
    "NON_MAX_SUPPRESSION_V4": "a detector's decoder: cut the model before it and decode in the program",
    "NON_MAX_SUPPRESSION_V5": "a detector's decoder: cut the model before it and decode in the program",
}


def wants_edgetpu(board: Target | None, delegates: Sequence[Delegate]) -> bool:
    """Whether it is to run on an Edge TPU: a delegate that was named, or else the target's."""
    listed: Sequence[Any] = delegates or (board.delegates if board is not None else ())
    return any(delegate.name == "edgetpu" for delegate in listed)


def units_of(delegates: Sequence[Delegate], threads: int | None) -> tuple[Delegate, ...]:
    """The delegates as the manifest has them: the CPU's with the threads that the target or the network wants.

    An Edge TPU is left out until there is a file that was compiled for it (edgetpu/compile.py puts it in).
    """
    found = []
    for delegate in delegates:
        if delegate.name == "cpu" and threads is not None:
            found.append(Delegate("cpu", {"threads": threads, **delegate.options}))
        elif delegate.name != "edgetpu" or "file" in delegate.options:
            found.append(Delegate(delegate.name, dict(delegate.options)))
    return tuple(found) or (Delegate("cpu", {} if threads is None else {"threads": threads}),)


def for_edgetpu(made: Any, board: Target | None, delegates: Sequence[Delegate], folder: Path) -> Any:
    """The variant with dense weights of one scale; itself where that is so, or where no Edge TPU is meant."""
    if made.mode != "int8" or not wants_edgetpu(board, delegates):
        return made
    content = made.path.read_bytes()
    changed = with_dense_per_tensor(content)
    if changed is None:
        return made
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{made.mode}.tflite"
    path.write_bytes(changed)
    return replace(made, path=path, made_by=f"{made.made_by}, dense weights per tensor by edgekit")


def with_dense_per_tensor(content: bytes) -> bytes | None:
    """The file with int8 weights of dense layers in one scale each; None where they are that already.

    The compiler knows no other dense layer. A channel whose scale was s of the largest, S, loses log2(S / s) bits.
    """
    from ai_edge_litert import schema_py_generated as schema

    from edgekit.convert.rewrite import add_buffer, code_of, packed, unpacked

    model = unpacked(content)
    graph = model.subgraphs[0]
    changed = False
    for operator in graph.operators:
        if code_of(model, operator) != schema.BuiltinOperator.FULLY_CONNECTED:
            continue
        x, weights = (graph.tensors[int(index)] for index in operator.inputs[:2])
        scales = None if weights.quantization is None else weights.quantization.scale
        if weights.type != schema.TensorType.INT8 or scales is None or len(scales) < 2:
            continue
        stored = np.frombuffer(bytes(model.buffers[weights.buffer].data), np.int8).reshape(weights.shape)
        real = stored.astype(np.float64) * np.asarray(scales, np.float64)[:, None]
        scale = np.float32(np.abs(real).max(initial=0.0) / 127 or 1.0)
        tensors = [weights]
        values = [np.clip(np.rint(real / scale), -127, 127).astype(np.int8)]
        if len(operator.inputs) > 2 and operator.inputs[2] >= 0:
            bias = graph.tensors[int(operator.inputs[2])]
            old = np.frombuffer(bytes(model.buffers[bias.buffer].data), np.int32).astype(np.float64)
            ratio = np.asarray(bias.quantization.scale, np.float64) / (float(x.quantization.scale[0]) * float(scale))
            tensors.append(bias)
            values.append(np.clip(np.rint(old * ratio), -(2**31), 2**31 - 1).astype(np.int32))
        for number, (tensor, array) in enumerate(zip(tensors, values, strict=True)):
            step = float(scale) if number == 0 else float(x.quantization.scale[0]) * float(scale)
            tensor.buffer = add_buffer(model, np.frombuffer(array.tobytes(), np.uint8))
            tensor.quantization.scale, tensor.quantization.zeroPoint = [step], [0]
            tensor.quantization.quantizedDimension = 0
        changed = True
    if not changed:
        return None
    for code in model.operatorCodes:
        if code.builtinCode == schema.BuiltinOperator.FULLY_CONNECTED:
            code.version = DENSE_VERSION
    from edgekit.convert.prune import drop_unread

    drop_unread(model)
    return packed(model)


def edgetpu_findings(made: Any, board: Target | None, delegates: Sequence[Delegate]) -> list[Finding]:
    """What of an int8 variant will not run on the Edge TPU, by its predicted reason, with the change that helps."""
    if not wants_edgetpu(board, delegates):
        return []
    if made.mode != "int8":
        fix = "add --mode int8, or leave the Edge TPU out"
        return [Finding("edgetpu", f"variant {made.mode}", "only full int8 runs on an Edge TPU", fix, "info")]
    from edgekit.edgetpu.predict import predict_file  # on top of this package's readers

    prediction = predict_file(made.path)
    found = [
        Finding(
            "edgetpu-refused",
            f"{each.name} {each.index}",
            f"version {each.version}: the compiler ({prediction.compiler}) refuses the whole file (predicted)",
            each.fix,
        )
        for each in prediction.refused
    ]
    groups: dict[tuple[str, str], list[int]] = {}
    for unit in prediction.operators:
        if unit.unit == "cpu" and unit.rule not in ("first partition", "operator version"):
            groups.setdefault((unit.name, unit.reason), []).append(unit.index)
    behind = sum(unit.rule == "first partition" for unit in prediction.operators)
    for (name, reason), indexes in groups.items():
        more = f" and {len(indexes) - 1} more" if indexes[1:] else ""
        fix = _FIXES.get(name, "see docs/edgetpu.md; end the model before it, or write it with other operators")
        found.append(
            Finding("edgetpu-cpu", f"{name} {indexes[0]}{more}", f"stays on the CPU: {reason} (predicted)", fix)
        )
    if behind and groups:
        found.append(
            Finding(
                "edgetpu-behind",
                f"{behind} operators",
                "stay on the CPU because they come after one that does (predicted)",
                "change what edgekit inspect --edgetpu shows first",
                "info",
            )
        )
    return found
