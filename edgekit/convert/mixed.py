"""Operators of an int8 model that stay float: cut out of it, and the float model's put in their place.

Works on the files of any quantizer, because tensors keep their names: what an operator writes is called the same in the
float model. Between two float operators nothing is converted; where int8 meets float a QUANTIZE or DEQUANTIZE is put.
An output of the model that a float operator writes is float: an int8 one would lose there what was saved before.
"""

from __future__ import annotations

import copy
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgekit.convert.prune import drop_unread
from edgekit.convert.rewrite import add_buffer, add_code, add_operator, code_of, has_data, packed, unpacked

_CODES = schema.BuiltinOperator
# They run other subgraphs, keep state, or are only there for int8.
_STAY = {_CODES.WHILE, _CODES.IF, _CODES.CALL, _CODES.CALL_ONCE, _CODES.VAR_HANDLE, _CODES.READ_VARIABLE}
_STAY |= {_CODES.ASSIGN_VARIABLE, _CODES.QUANTIZE, _CODES.DEQUANTIZE, _CODES.UNIDIRECTIONAL_SEQUENCE_LSTM}
_STAY |= {_CODES.LSTM, _CODES.SVDF, _CODES.UNIDIRECTIONAL_SEQUENCE_RNN, _CODES.RNN}


def can_be_float(float_model: Path, int8_model: Path) -> dict[str, str]:
    """The operators of the int8 file that the float file has too: name of the first output -> kind, as they run."""
    source, quantized = unpacked(float_model.read_bytes()), unpacked(int8_model.read_bytes())
    return {
        name: kind_name(kind)
        for name, kind in _shared_operators(source, quantized).items()
    }  # fmt: skip


def leave_float(float_model: Path, int8_model: Path, names: Collection[str], output: Path) -> None:
    """Writes `int8_model` with the operators whose first output is one of `names` (see can_be_float) left in float."""
    output.write_bytes(mixed(float_model.read_bytes(), int8_model.read_bytes(), names))


def mixed(float_model: bytes, int8_model: bytes, names: Collection[str]) -> bytes:
    """As `leave_float`, of bytes."""
    source, quantized = unpacked(float_model), unpacked(int8_model)
    chosen = set(names) & _shared_operators(source, quantized).keys()
    _Surgery(source, quantized, chosen).operate()
    drop_unread(quantized)
    return packed(quantized)


def kind_name(code: int) -> str:
    """`CONV_2D` of its number."""
    return str(next(name for name, number in vars(_CODES).items() if number == code))


def _shared_operators(source: Any, quantized: Any) -> dict[str, int]:
    """First output's name -> kind, of the float operators that have a partner of the same kind and name in int8."""
    partners = {_first(quantized, op): op for op in quantized.subgraphs[0].operators if _any(op.outputs)}
    known = {_name(tensor) for tensor in quantized.subgraphs[0].tensors}
    found = {}
    for operator in source.subgraphs[0].operators:
        if not _any(operator.outputs) or code_of(source, operator) in _STAY:
            continue
        partner = partners.get(_first(source, operator))
        if partner is None or code_of(source, operator) != code_of(quantized, partner):
            continue
        tensors = [source.subgraphs[0].tensors[i] for i in (*operator.inputs, *operator.outputs) if i >= 0]
        computed = [t for t in tensors if not has_data(source, t)]
        is_float = any(t.type == schema.TensorType.FLOAT32 for t in computed)
        if is_float and not any(t.isVariable for t in tensors) and all(_name(t) in known for t in computed):
            found[_first(source, operator)] = code_of(source, operator)
    return found


class _Surgery:
    """One operation on the unpacked int8 model, in place."""

    def __init__(self, source: Any, quantized: Any, chosen: set[str]) -> None:
        self.source, self.quantized = source, quantized
        self.before, self.graph = source.subgraphs[0], quantized.subgraphs[0]
        self.place = {_name(tensor): index for index, tensor in enumerate(self.graph.tensors)}
        self.chosen = {_first(source, op): op for op in self.before.operators if _first(source, op) in chosen}
        self.forms: dict[int, int] = {}  # tensor of the float model -> its float form here
        self.ends: dict[int, int] = {}  # output in int8 -> in float
        self.operators: list[Any] = []

    def operate(self) -> None:
        for operator in self.graph.operators:
            partner = self.chosen.get(_first(self.quantized, operator))
            if partner is None:
                self.operators.append(operator)
            else:
                self.put(partner)
        self.graph.operators = self.operators
        self.graph.outputs = np.array([self.ends.get(int(i), int(i)) for i in self.graph.outputs], np.int32)
        for signature in self.quantized.signatureDefs or ():
            for entry in signature.outputs:
                entry.tensorIndex = self.ends.get(entry.tensorIndex, entry.tensorIndex)

    def put(self, operator: Any) -> None:
        """A float operator with all that it reads, and its results in int8 for those who read that."""
        new = copy.copy(operator)
        new.opcodeIndex = add_code(self.quantized, self.source.operatorCodes[operator.opcodeIndex])
        new.inputs = np.array([self.form(index) for index in operator.inputs], np.int32)
        new.outputs = np.array([self.result(index) for index in operator.outputs], np.int32)
        self.operators.append(new)
        for index, made in zip(operator.outputs, new.outputs, strict=True):
            old = self.place[_name(self.before.tensors[index])]
            if old != made:
                self.convert(_CODES.QUANTIZE, int(made), old)  # goes again if nobody reads it
                if old in self.graph.outputs:
                    self.ends[old] = int(made)

    def form(self, index: int) -> int:
        """The tensor here that holds what tensor `index` of the float model holds."""
        if index < 0:
            return -1
        tensor = self.before.tensors[index]
        if index not in self.forms:
            if has_data(self.source, tensor):
                self.forms[index] = self.copied(tensor, _name(tensor) + "_float")
            else:
                here = self.place[_name(tensor)]
                is_float = tensor.type == schema.TensorType.FLOAT32
                if is_float and self.graph.tensors[here].type != schema.TensorType.FLOAT32:
                    self.forms[index] = self.copied(tensor, _name(tensor) + "_float")
                    self.convert(_CODES.DEQUANTIZE, here, self.forms[index])
                else:
                    self.forms[index] = here
        return self.forms[index]

    def result(self, index: int) -> int:
        tensor = self.before.tensors[index]
        here = self.place[_name(tensor)]
        if tensor.type != schema.TensorType.FLOAT32 or self.graph.tensors[here].type == schema.TensorType.FLOAT32:
            self.forms[index] = here
        else:
            self.forms[index] = self.copied(tensor, _name(tensor))
            self.graph.tensors[here].name = (_name(tensor) + "_int8").encode()
        return self.forms[index]

    def convert(self, kind: int, given: int, made: int) -> None:
        version = 2 if kind == _CODES.DEQUANTIZE else 1  # the first one knows no int8
        self.operators.append(add_operator(self.quantized, kind, [given], made, version=version))

    def copied(self, tensor: Any, name: str) -> int:
        new = copy.copy(tensor)
        new.name, new.quantization = name.encode(), None
        is_constant = has_data(self.source, tensor)
        new.buffer = add_buffer(self.quantized, self.source.buffers[tensor.buffer].data) if is_constant else 0
        self.graph.tensors.append(new)
        return len(self.graph.tensors) - 1


def _any(vector: Any) -> bool:
    return vector is not None and len(vector) > 0


def _name(tensor: Any) -> str:
    return str(tensor.name.decode("utf-8", "replace"))


def _first(model: Any, operator: Any) -> str:
    return _name(model.subgraphs[0].tensors[operator.outputs[0]]) if _any(operator.outputs) else ""
