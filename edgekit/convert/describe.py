"""What is to be said about a .tflite: operators, what keeps it from full int8, and tables for people and for --json."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from edgekit.convert.cost import arena_bytes, macs, operator_macs
from edgekit.convert.flatbuffer import Model, OperatorInfo, Subgraph, TensorInfo

# The weights (second input) whose output channels may each have a scale, and the dimension of these channels.
_CHANNEL_AXIS = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 0, "TRANSPOSE_CONV": 0}


def operator_counts(model: Model) -> dict[str, tuple[int, int]]:
    """Operator name -> (how many, highest version), over all subgraphs, by name."""
    counts: dict[str, tuple[int, int]] = {}
    for _, operator in _every_operator(model):
        count, version = counts.get(operator.name, (0, 0))
        counts[operator.name] = (count + 1, max(version, operator.version))
    return dict(sorted(counts.items()))


def float_operators(model: Model) -> list[tuple[Subgraph, OperatorInfo]]:
    """Every operator of every subgraph that reads or writes a float tensor, constants included."""
    return [(graph, operator) for graph, operator in _every_operator(model) if _float_tensors(graph, operator)]


def full_int8_findings(model: Model) -> list[str]:
    """What keeps the model from being full int8, a sentence each; empty: int8 in, int8 out, no float in between.

    Whole numbers that are no quantized values (int32 token ids in, an int64 class number out) are fine, and so is uint8
    that a QUANTIZE makes int8, or of int8, at the end.
    """
    graph = model.subgraphs[0]
    findings = []
    for side, indexes in (("input", graph.inputs), ("output", graph.outputs)):
        for tensor in (graph.tensors[index] for index in indexes):
            if tensor.dtype in ("int32", "int64") and not tensor.scale:
                continue
            if tensor.dtype == "uint8" and tensor.scale and _is_bridged(graph, tensor.index):
                continue
            if tensor.dtype != "int8":
                findings.append(f"{side} '{tensor.name}' is {tensor.dtype}, not int8")
            elif not tensor.scale:
                findings.append(f"{side} '{tensor.name}' is int8 but has no scale, so its values mean nothing yet")
    found = float_operators(model)  # first what has no int8 form, then what is only there to go to it and back
    for where, operator in sorted(found, key=lambda pair: pair[1].name in ("QUANTIZE", "DEQUANTIZE")):
        tensor = _float_tensors(where, operator)[0]
        verb = "writes" if tensor.index in operator.outputs else "reads"
        place = "" if where is graph else f" of subgraph '{where.name}'"
        findings.append(f"operator {operator.index}{place}, {operator.name}, {verb} {tensor.dtype} '{tensor.name}'")
    return findings


def _is_bridged(graph: Subgraph, index: int) -> bool:
    """Whether nothing but QUANTIZE reads or writes the tensor, and int8 is on its other side."""
    touching = [operator for operator in graph.operators if index in (*operator.inputs, *operator.outputs)]
    others = [i for operator in touching for i in (*operator.inputs, *operator.outputs) if i != index]
    names = {operator.name for operator in touching}
    return names == {"QUANTIZE"} and all(graph.tensors[other].dtype == "int8" for other in others)


def quantization(model: Model) -> str:
    """`full int8`, `none` (no tensor has a scale), or `partly` (see full_int8_findings)."""
    if not full_int8_findings(model):
        return "full int8"
    return "partly" if any(tensor.scale for graph in model.subgraphs for tensor in graph.tensors) else "none"


def per_channel_weights(model: Model) -> tuple[int, int]:
    """(weights quantized per channel, all weights) of convolutions and fully connected layers, a shared one once.

    One scale for a layer with one output channel is per channel too.
    """
    per_channel = {}
    for graph, operator in _every_operator(model):
        axis = _CHANNEL_AXIS.get(operator.name)
        if axis is None or len(operator.inputs) < 2 or operator.inputs[1] < 0:
            continue
        weights = graph.tensors[operator.inputs[1]]
        if weights.constant and len(weights.shape) > axis:
            key = (id(graph), weights.index)
            per_channel[key] = weights.item_bits <= 8 and len(weights.scale) == weights.shape[axis]
    return sum(per_channel.values()), len(per_channel)


def _every_operator(model: Model) -> Iterator[tuple[Subgraph, OperatorInfo]]:
    return ((graph, operator) for graph in model.subgraphs for operator in graph.operators)


def _float_tensors(graph: Subgraph, operator: OperatorInfo) -> list[TensorInfo]:
    """What is float among an operator's tensors, outputs first."""
    return [graph.tensors[i] for i in (*operator.outputs, *operator.inputs) if i >= 0 and graph.tensors[i].is_float]


def model_summary(model: Model) -> dict[str, Any]:
    """What `edgekit inspect --json` prints: plain values only, sizes in bytes."""
    graph = model.subgraphs[0]
    per_channel, weights = per_channel_weights(model)
    names_in, names_out = _signature_names(model)
    return {
        "description": model.description,
        "file_bytes": model.file_bytes,
        "weight_bytes": model.constant_bytes,
        "subgraphs": len(model.subgraphs),
        "signatures": sorted(model.signatures),
        "quantization": quantization(model),
        "tensors": sum(len(each.tensors) for each in model.subgraphs),
        "operators": [
            {"name": name, "version": version, "count": count}
            for name, (count, version) in operator_counts(model).items()
        ],
        "inputs": [_tensor_row(graph.tensors[index], names_in) for index in graph.inputs],
        "outputs": [_tensor_row(graph.tensors[index], names_out) for index in graph.outputs],
        "macs": macs(model),
        "arena_bytes": arena_bytes(model),
        "per_channel_weights": [per_channel, weights],
        "findings": full_int8_findings(model),
    }


def operator_table(model: Model) -> list[dict[str, Any]]:
    """One row per operator of the primary subgraph, as they run; weight_bytes counts a shared constant each time."""
    graph = model.subgraphs[0]
    rows = []
    for operator in graph.operators:
        inputs, outputs = (
            [graph.tensors[index] for index in indexes if index >= 0] for indexes in (operator.inputs, operator.outputs)
        )
        rows.append(
            {
                "index": operator.index,
                "name": operator.name,
                "version": operator.version,
                "input_shapes": [list(tensor.shape) for tensor in inputs],
                "input_dtypes": [tensor.dtype for tensor in inputs],
                "output_shapes": [list(tensor.shape) for tensor in outputs],
                "output_dtypes": [tensor.dtype for tensor in outputs],
                "output_scales": [list(tensor.scale) for tensor in outputs],
                "weight_bytes": sum(tensor.bytes for tensor in inputs),
                "macs": operator_macs(graph, operator),
            }
        )
    return rows


def _signature_names(model: Model) -> tuple[dict[int, str], dict[int, str]]:
    """Tensor index -> the name its author gave it, of inputs and of outputs; empty unless there is one signature."""
    if len(model.signatures) != 1:
        return {}, {}
    (signature,) = model.signatures.values()
    if signature.subgraph != 0:
        return {}, {}
    inputs, outputs = ({index: name for name, index in side.items()} for side in (signature.inputs, signature.outputs))
    return inputs, outputs


def _tensor_row(tensor: TensorInfo, names: dict[int, str]) -> dict[str, Any]:
    return {
        "name": names.get(tensor.index, tensor.name),
        "tensor": tensor.name,
        "shape": list(tensor.shape_signature or tensor.shape),
        "dtype": tensor.dtype,
        "scale": list(tensor.scale),
        "zero_point": list(tensor.zero_point),
    }
