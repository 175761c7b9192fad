"""uint8 instead of int8 at the ends of a model: what cameras give and older programs want, with the same answers.

As TFLiteConverter's inference_input_type = tf.uint8 has it: a QUANTIZE between them, the same scale, a zero point 128
higher. So the two forms of a value differ in their highest bit, and nothing is rounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgekit.convert.describe import full_int8_findings
from edgekit.convert.flatbuffer import read_model
from edgekit.convert.modes import END_TYPES, MIXED
from edgekit.convert.quantize import check_runs
from edgekit.convert.variants import Made
from edgekit.errors import ConversionError, InputError

OF_MODES = ("int8", MIXED)  # whose ends have a choice: the others promise float or int16


def check_ends(input_type: str, output_type: str, modes: Sequence[str]) -> None:
    """InputError for a type that there is not, or for uint8 where no variant has int8 ends."""
    for option, asked in (("--input-type", input_type), ("--output-type", output_type)):
        if asked not in END_TYPES:
            raise InputError(f"{option} {asked} is not there", hint=f"there are: {', '.join(END_TYPES)}")
        if asked != "int8" and not set(OF_MODES) & set(modes):
            raise InputError(f"{option} {asked} is for mode int8", hint=f"add --mode int8, or leave {option} out")


def with_ends(made: Made, folder: Path, *, input_type: str, output_type: str, timeout_s: float = 600.0) -> Made:
    """The variant with such inputs and outputs, in `folder`; one of other modes, and with int8 for both, as it is.

    Raises ConversionError where there is no int8 input, or output, that could be changed, such as tokens.
    """
    if made.mode not in OF_MODES or (input_type, output_type) == ("int8", "int8"):
        return made
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{made.mode}.tflite"
    path.write_bytes(changed_ends(made.path.read_bytes(), input_type, output_type))
    _check(path, made.mode, input_type, output_type)
    check_runs(path, folder / "check", timeout_s=timeout_s)
    return replace(made, path=path)


def changed_ends(content: bytes, input_type: str, output_type: str) -> bytes:
    """A .tflite whose int8 inputs and outputs are of these types."""
    from ai_edge_litert import schema_py_generated as schema

    from edgekit.convert.rewrite import add_operator, packed, unpacked

    model = unpacked(content)
    graph = model.subgraphs[0]
    quantize = schema.BuiltinOperator.QUANTIZE
    first: list[Any] = []
    last: list[Any] = []
    for side, wanted in (("inputs", input_type), ("outputs", output_type)):
        ends = [int(index) for index in getattr(graph, side)]
        moved = {}
        for index in dict.fromkeys(ends):
            if wanted != "int8" and graph.tensors[index].type == schema.TensorType.INT8:
                moved[index] = len(graph.tensors)
                graph.tensors.append(_as_uint8(graph.tensors[index], schema))
        into, out = (moved.values(), moved.keys()) if side == "inputs" else (moved.keys(), moved.values())
        bridges = [add_operator(model, quantize, [a], b) for a, b in zip(into, out, strict=True)]
        (first if side == "inputs" else last).extend(bridges)
        setattr(graph, side, [moved.get(index, index) for index in ends])
        for signature in model.signatureDefs or ():
            for entry in getattr(signature, side) or ():
                entry.tensorIndex = moved.get(int(entry.tensorIndex), int(entry.tensorIndex))
    graph.operators = [*first, *graph.operators, *last]
    return packed(model)


def _as_uint8(tensor: Any, schema: Any) -> Any:
    end = deepcopy(tensor)
    end.name = tensor.name + b"_uint8"
    end.type, end.buffer = schema.TensorType.UINT8, 0
    end.quantization.zeroPoint = [int(zero) + 128 for zero in tensor.quantization.zeroPoint]
    return end


def _check(path: Path, mode: str, input_type: str, output_type: str) -> None:
    """ConversionError unless the file keeps what was asked for: such ends, and int8 between them."""
    model = read_model(path)
    graph = model.subgraphs[0]
    findings = full_int8_findings(model) if mode == "int8" else []
    for side, indexes, wanted in (("input", graph.inputs, input_type), ("output", graph.outputs, output_type)):
        if wanted != "int8" and wanted not in [graph.tensors[index].dtype for index in indexes]:
            told = ", ".join(f"'{graph.tensors[index].name}' is {graph.tensors[index].dtype}" for index in indexes)
            findings.insert(0, f"no {side} is {wanted}: {told}")
    if findings:
        raise ConversionError(
            findings[0], hint="leave --input-type and --output-type out: whole numbers stay as they are"
        )
