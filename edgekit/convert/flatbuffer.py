"""What is inside a .tflite: tensors, operators, signatures; the only place that reads the file's structure."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import Any

from edgekit.errors import MissingLibrary, NotAModel

Options = dict[str, "int | float | bool | str"]

_TABLE_BYTES = 8  # the least that one more tensor, operator or buffer adds to a file: its offset, and its vtable's
_DAMAGED = "the file is damaged or was not transferred completely; copy it again or convert it again"
_BITS = {"int4": 4, "int2": 2, "int8": 8, "uint8": 8, "bool": 8, "int16": 16, "uint16": 16, "float16": 16}
_BITS |= {"bfloat16": 16, "int32": 32, "uint32": 32, "float32": 32, "int64": 64, "uint64": 64, "float64": 64}
_BITS |= {"complex64": 64, "complex128": 128}


@dataclass(frozen=True)
class TensorInfo:
    """One tensor. `shape_signature` has -1 where the size is free (None: nothing is free)."""

    index: int
    name: str
    shape: tuple[int, ...]
    shape_signature: tuple[int, ...] | None
    dtype: str  # numpy's name where there is one: "int8", "float32", "bool"; else "bfloat16", "int4", "string", ...
    constant: bool
    bytes: int  # of constant data, in the file or beside it; 0 for what is computed
    scale: tuple[float, ...]  # empty: not quantized; more than one: per channel along quantized_dimension
    zero_point: tuple[int, ...]
    quantized_dimension: int
    is_variable: bool

    @property
    def item_bits(self) -> int:
        """Bits of one element; 0 for strings and resources, whose size is not in the file."""
        return _BITS.get(self.dtype, 0)

    @property
    def data_bytes(self) -> int:
        """Bytes in memory, a free dimension counted as 1."""
        return (prod(1 if size < 0 else size for size in self.shape) * self.item_bits + 7) // 8

    @property
    def is_float(self) -> bool:
        return self.dtype.startswith(("float", "bfloat", "complex"))


@dataclass(frozen=True)
class OperatorInfo:
    """One operator. Tensors are indexes into its subgraph, -1 an optional one that is left out."""

    index: int
    name: str  # "CONV_2D", or the code of a custom operator such as "edgetpu-custom-op"
    version: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    custom: bool = False
    options: Options = field(default_factory=dict)  # names as in schema.fbs: stride_h, padding ("SAME"), ...


@dataclass(frozen=True)
class Subgraph:
    """One graph of operators in the order in which they run."""

    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    tensors: tuple[TensorInfo, ...]
    operators: tuple[OperatorInfo, ...]


@dataclass(frozen=True)
class Signature:
    """A named way into the model: name -> tensor index, in the file's order."""

    subgraph: int
    inputs: dict[str, int]
    outputs: dict[str, int]


@dataclass(frozen=True)
class Model:
    """All that a .tflite says about itself; subgraphs[0] is the one that runs, others are called by it or by name."""

    description: str
    version: int  # of the schema, always 3 so far
    file_bytes: int
    constant_bytes: int  # data of every buffer that a tensor uses, once
    signatures: dict[str, Signature]
    subgraphs: tuple[Subgraph, ...]


_READ: dict[bytes, Model] = {}  # by the SHA-256 of the file, the oldest first
_READ_MOST = 32


def read_model(source: Path | str | bytes) -> Model:
    """The description of a .tflite file, or of its bytes; NotAModel when it cannot be one."""
    name, data = ("the model", source) if isinstance(source, bytes) else (str(source), _read(Path(source)))
    if len(data) < 16 or data[4:8] != b"TFL3":
        raise NotAModel(f"{name} is not a .tflite file", hint="'TFL3' is missing at byte 4; give a .tflite file")
    key = sha256(data).digest()  # a hash takes a tenth of the time that reading takes, and stages ask again and again
    try:
        found = _READ.get(key)
        if found is None:
            found = _READ[key] = _Reader(_schema(), data).model()
            for oldest in list(_READ)[:-_READ_MOST]:
                _READ.pop(oldest, None)
        return found
    except NotAModel as error:
        raise NotAModel(f"{name}: {error}", hint=error.hint) from error
    # what struct, numpy and flatbuffers raise when an offset or a length leads out of the file
    except (struct.error, IndexError, ValueError, TypeError, OverflowError, AttributeError) as error:
        raise NotAModel(f"{name} is a damaged .tflite file", hint=_DAMAGED) from error


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            head = file.read(8)
            if head[4:] != b"TFL3":  # never load a disk image to say no
                return head
            file.seek(0)
            return file.read()
    except OSError as error:
        raise NotAModel(f"cannot read {path}: {error.strerror}", hint="give a .tflite file") from error


@cache
def _schema() -> Any:
    try:
        # 23 ms; loads libLiteRt.so (2 ms) with its package but neither the interpreter nor its log lines
        from ai_edge_litert import schema_py_generated
    except ImportError as error:
        raise MissingLibrary("reading a .tflite needs ai-edge-litert", hint="pip install 'edgekit[convert]'") from error
    return schema_py_generated


class _Reader:
    """Walks one file through the lazy accessors; the work is bounded by the file's size, whatever it claims to hold."""

    def __init__(self, schema: Any, data: bytes) -> None:
        self.schema, self.data = schema, data
        self.budget = 2 * len(data)  # bytes still to be visited; twice, because writers may share equal strings
        self.dtypes = {code: name.lower() for name, code in vars(schema.TensorType).items() if isinstance(code, int)}
        self.builtins = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}

    def model(self) -> Model:
        root = self.schema.Model.GetRootAs(self.data, 0)
        if root.Version() != 3:
            raise NotAModel(f"schema version {root.Version()}, edgekit reads 3", hint=_DAMAGED)
        self.codes = [self.code(code) for code in self.tables(root.OperatorCodes, root.OperatorCodesLength())]
        self.buffers = [self.buffer_bytes(item) for item in self.tables(root.Buffers, root.BuffersLength())]
        outside = self.tables(root.ExternalBuffers, root.ExternalBuffersLength())
        self.external = {item.Id(): item.Length() for item in outside}
        self.used: dict[tuple[int, int], int] = {}  # (buffer, external buffer) -> bytes
        graphs = tuple(self.subgraph(graph) for graph in self.tables(root.Subgraphs, root.SubgraphsLength()))
        if not graphs:
            raise NotAModel("there is no graph in it", hint=_DAMAGED)
        signatures = {
            self.text(item.SignatureKey()): self.signature(item, graphs)
            for item in self.tables(root.SignatureDefs, root.SignatureDefsLength())
        }
        return Model(
            description=self.text(root.Description()),
            version=3,
            file_bytes=len(self.data),
            constant_bytes=sum(self.used.values()),
            signatures=signatures,
            subgraphs=graphs,
        )

    def spend(self, size: int) -> None:
        self.budget -= size
        if self.budget < 0:
            raise NotAModel("it claims to hold more than fits into its bytes", hint=_DAMAGED)

    def tables(self, get: Callable[[int], Any], length: int) -> Iterator[Any]:
        self.spend(length * _TABLE_BYTES)
        return map(get, range(length))

    def numbers(self, vector: Any) -> tuple[Any, ...]:
        """A vector of numbers; flatbuffers says 0 where there is none."""
        if isinstance(vector, int):
            return ()
        self.spend(vector.nbytes)
        return tuple(vector.tolist())

    def text(self, raw: bytes | None) -> str:
        self.spend(len(raw or b""))
        return (raw or b"").decode("utf-8", errors="replace")

    def code(self, code: Any) -> tuple[str, int, bool]:
        """(name, version, custom?); the old field is one byte, so newer operators are only in the new one."""
        number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        if number == self.schema.BuiltinOperator.CUSTOM:
            return self.text(code.CustomCode()) or "CUSTOM", code.Version(), True
        return self.builtins.get(number, f"BUILTIN_{number}"), code.Version(), False

    def buffer_bytes(self, buffer: Any) -> int:
        """Bytes of constant data; models over 2 GB keep it behind the flatbuffer, at `offset` of the same file."""
        inside = buffer.DataAsNumpy()
        if not isinstance(inside, int) and len(inside):
            return len(inside)
        offset, size = int(buffer.Offset()), int(buffer.Size())
        if offset <= 1 or size <= 1:  # 0 and 1 are placeholders
            return 0
        if offset + size > len(self.data):
            raise NotAModel(f"constant data ends at byte {offset + size} of {len(self.data)}", hint=_DAMAGED)
        return size

    def subgraph(self, graph: Any) -> Subgraph:
        tensors = tuple(
            self.tensor(index, item) for index, item in enumerate(self.tables(graph.Tensors, graph.TensorsLength()))
        )
        listed = enumerate(self.tables(graph.Operators, graph.OperatorsLength()))
        return Subgraph(
            name=self.text(graph.Name()),
            inputs=self.indexes(graph.InputsAsNumpy(), len(tensors), lowest=0),
            outputs=self.indexes(graph.OutputsAsNumpy(), len(tensors), lowest=0),
            tensors=tensors,
            operators=tuple(self.operator(index, item, len(tensors)) for index, item in listed),
        )

    def indexes(self, vector: Any, count: int, *, lowest: int) -> tuple[int, ...]:
        numbers = self.numbers(vector)
        if numbers and not (lowest <= min(numbers) and max(numbers) < count):
            raise NotAModel(f"tensor {min(numbers)} or {max(numbers)} is used but there are {count}", hint=_DAMAGED)
        return numbers

    def tensor(self, index: int, tensor: Any) -> TensorInfo:
        dtype = self.dtypes.get(tensor.Type())
        if dtype is None:
            raise NotAModel(
                f"tensor {index} has the unknown type {tensor.Type()}",
                hint="the file is damaged, or newer than the installed ai-edge-litert",
            )
        key = (tensor.Buffer(), tensor.ExternalBuffer())
        size = self.external.get(key[1], 0) if key[1] else self.buffers[key[0]]
        if size:
            self.used[key] = size
        quantization = tensor.Quantization()
        return TensorInfo(
            index=index,
            name=self.text(tensor.Name()),
            shape=self.numbers(tensor.ShapeAsNumpy()),
            shape_signature=self.numbers(tensor.ShapeSignatureAsNumpy()) or None,
            dtype=dtype,
            constant=size > 0,
            bytes=size,
            scale=self.numbers(quantization.ScaleAsNumpy()) if quantization else (),
            zero_point=self.numbers(quantization.ZeroPointAsNumpy()) if quantization else (),
            quantized_dimension=quantization.QuantizedDimension() if quantization else 0,
            is_variable=bool(tensor.IsVariable()),
        )

    def operator(self, index: int, operator: Any, tensors: int) -> OperatorInfo:
        name, version, custom = self.codes[operator.OpcodeIndex()]
        return OperatorInfo(
            index=index,
            name=name,
            version=version,
            inputs=self.indexes(operator.InputsAsNumpy(), tensors, lowest=-1),
            outputs=self.indexes(operator.OutputsAsNumpy(), tensors, lowest=-1),
            custom=custom,
            options={
                **self.options("BuiltinOptions", operator.BuiltinOptionsType(), operator.BuiltinOptions()),
                **self.options("BuiltinOptions2", operator.BuiltinOptions2Type(), operator.BuiltinOptions2()),
            },
        )

    def options(self, union: str, kind: int, table: Any) -> Options:
        if kind == 0 or table is None:
            return {}
        make, fields = _option_fields(union, kind)
        if make is None:
            return {}  # an operator newer than the schema: its name and tensors are still of use
        options = make()
        options.Init(table.Bytes, table.Pos)
        values = {name: (getattr(options, get)(), words) for name, get, words in fields}
        return {name: words.get(value, value) for name, (value, words) in values.items()}

    def signature(self, item: Any, graphs: tuple[Subgraph, ...]) -> Signature:
        graph = item.SubgraphIndex()
        count = len(graphs[graph].tensors)
        sides = []
        for get, length in ((item.Inputs, item.InputsLength()), (item.Outputs, item.OutputsLength())):
            named = {self.text(entry.Name()): entry.TensorIndex() for entry in self.tables(get, length)}
            if any(index >= count for index in named.values()):
                raise NotAModel(f"a signature names tensor {max(named.values())} of {count}", hint=_DAMAGED)
            sides.append(named)
        return Signature(graph, *sides)


@cache
def _option_fields(union: str, kind: int) -> tuple[Any, tuple[tuple[str, str, dict[int, str]], ...]]:
    """The class of an operator's options and (name, accessor, words for numbers) of every plain value in it."""
    schema = _schema()
    words = {"padding": schema.Padding, "fusedActivationFunction": schema.ActivationFunctionType}
    words |= {"inDataType": schema.TensorType, "outDataType": schema.TensorType}
    class_name = next((name for name, code in vars(getattr(schema, union)).items() if code == kind), "")
    if not hasattr(schema, class_name + "T"):
        return None, ()
    fields = []
    for attribute, default in vars(getattr(schema, class_name + "T")()).items():
        if isinstance(default, int | float):  # vectors and nested tables default to None
            snake = re.sub(r"(?<!^)(?=[A-Z])", "_", attribute).lower()
            listed = {code: name for name, code in vars(words.get(attribute, object)).items() if isinstance(code, int)}
            fields.append((snake, attribute[0].upper() + attribute[1:], listed))
    return getattr(schema, class_name), tuple(fields)
