"""A .tflite whose batch is free, with a batch of 1: what computes shapes while it runs becomes constants.

TFLiteConverter leaves SHAPE, STRIDED_SLICE and PACK around each RESHAPE of a model with a free batch; delegates refuse them,
and Edge TPUs all that comes behind.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.errors import BundleError
from edgekit.runner.interpreter import invoke, open_interpreter

SAME = 1e-5  # of the largest answer: XNNPACK takes more operators of the changed file, and sums in another order
# operator -> which of its inputs decide about the sizes of what it gives; of those not here none does
_SIZES: Mapping[str, tuple[int, ...]] = {
    "RESHAPE": (1,), "SLICE": (1, 2), "STRIDED_SLICE": (1, 2, 3), "FILL": (0,), "TILE": (1,), "PAD": (1,), "PADV2": (1,),
    "MIRROR_PAD": (1,), "BROADCAST_TO": (1,), "RESIZE_BILINEAR": (1,), "RESIZE_NEAREST_NEIGHBOR": (1,),
    "TRANSPOSE_CONV": (0,), "RANGE": (0, 1, 2), "TOPK_V2": (1,), "ONE_HOT": (1,), "SPLIT_V": (1,), "EXPAND_DIMS": (1,),
    "TRANSPOSE": (1,), "MEAN": (1,), "SUM": (1,), "REDUCE_MAX": (1,), "REDUCE_MIN": (1,), "REDUCE_PROD": (1,),
}  # fmt: skip
# what gives as much as it finds, and what nobody can look into
_BY_VALUE = (
    "WHERE",
    "UNIQUE",
    "NON_MAX_SUPPRESSION_V4",
    "NON_MAX_SUPPRESSION_V5",
    "SEGMENT_SUM",
    "DYNAMIC_UPDATE_SLICE",
)
_OPAQUE = ("CUSTOM", "IF", "WHILE", "CALL", "CALL_ONCE", "VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE")


def fix_sizes(path: Path) -> bool:
    """Rewrites the float model in that file for a batch of 1; says whether it could.

    Not where sizes depend on values, nor where the file then answers random inputs differently by more than SAME.
    """
    from edgekit.convert.prune import drop_unread
    from edgekit.convert.rewrite import add_buffer, packed, unpacked

    content = path.read_bytes()
    model = unpacked(content)
    folded = _folded(model)
    if folded is None:
        return False
    try:
        answers, values, shapes = _ran(path, folded)
    except BundleError:
        return False
    graph = model.subgraphs[0]
    for index, array in values.items():
        graph.tensors[index].buffer = add_buffer(model, np.frombuffer(array.tobytes(), np.uint8))
    for index, tensor in enumerate(graph.tensors):
        tensor.shapeSignature = None
        if index in shapes and index not in graph.inputs:
            tensor.shape = np.array(shapes[index], np.int32)
    graph.operators = [op for op in graph.operators if not {int(i) for i in op.outputs} <= folded]
    drop_unread(model)
    try:
        path.write_bytes(packed(model))
        now, _, _ = _ran(path, set())
    except BundleError:
        now = []
    if len(now) == len(answers) and all(map(_same, answers, now)):
        return True
    path.write_bytes(content)
    return False


def _same(before: np.ndarray, after: np.ndarray) -> bool:
    if before.shape != after.shape:
        return False
    if before.dtype.kind != "f":
        return bool((before == after).all())
    return bool(np.allclose(before, after, rtol=0, atol=SAME * float(np.abs(before).max(initial=0.0)), equal_nan=True))


def _folded(model: Any) -> set[int] | None:
    """The tensors that only hold sizes, or what is computed of them; None where sizes depend on values."""
    from edgekit.convert.rewrite import code_of, has_data

    if len(model.subgraphs) != 1:
        return None
    graph = model.subgraphs[0]
    known = {index for index, tensor in enumerate(graph.tensors) if has_data(model, tensor)}
    folded: set[int] = set()
    for operator in graph.operators:  # in the order in which they run
        name, inputs = _name(code_of(model, operator)), [int(index) for index in operator.inputs]
        if name in _BY_VALUE or name in _OPAQUE:
            return None
        given = [inputs[place] for place in _SIZES.get(name, ()) if place < len(inputs) and inputs[place] >= 0]
        if any(index not in known | folded for index in given):
            return None
        if name == "SHAPE" or (inputs and all(index in known | folded for index in inputs) and folded & {*inputs}):
            folded |= {int(index) for index in operator.outputs}
    return folded - {int(index) for index in graph.outputs}


def _name(number: int) -> str:
    from ai_edge_litert import schema_py_generated as schema

    return next((name for name, value in vars(schema.BuiltinOperator).items() if value == number), "CUSTOM")


def _ran(path: Path, wanted: set[int]) -> tuple[list[np.ndarray], dict[int, np.ndarray], dict[int, tuple[int, ...]]]:
    """Answers to random inputs, the values of the wanted tensors, and the sizes of all that there was."""
    interpreter = open_interpreter(path, 1, experimental_preserve_all_tensors=True)
    random = np.random.default_rng(0)
    for details in interpreter.get_input_details():
        values = random.random(details["shape"]) if details["dtype"] == np.float32 else np.zeros(details["shape"])
        interpreter.set_tensor(details["index"], values.astype(details["dtype"]))
    invoke(interpreter)
    found: dict[int, np.ndarray] = {}
    shapes: dict[int, tuple[int, ...]] = {}
    for details in interpreter.get_tensor_details():
        try:
            values = np.asarray(interpreter.get_tensor(details["index"]))
        except (ValueError, RuntimeError):  # nothing was computed there
            continue
        shapes[details["index"]] = values.shape
        if details["index"] in wanted:
            found[details["index"]] = values
    answers = [np.array(interpreter.get_tensor(details["index"])) for details in interpreter.get_output_details()]
    return answers, found, shapes
