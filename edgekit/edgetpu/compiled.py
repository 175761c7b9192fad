"""What a model that the Edge TPU compiler wrote says of itself; Google's code is not needed.

A compiled model holds an operator `edgetpu-custom-op`. Its options are a FlexBuffer map, entry "4" the package: a flatbuffer
`DWN1`. Its tables are those of libedgetpu's executable/executable.fbs; the numbers below are positions of fields there.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.convert.flatbuffer import _schema, read_model
from edgekit.errors import NotAModel

CUSTOM_CODE = "edgetpu-custom-op"

_KINDS = ("stand alone", "parameter caching", "execution only")
_DAMAGED = "the file is damaged or was not transferred completely; compile it again"
_MIN_RUNTIME, _EXECUTABLES, _COMPILER = 0, 1, 4  # of a Package
_SCRATCH, _INSTRUCTIONS, _PARAMETERS, _INPUTS, _OUTPUTS = 4, 5, 6, 8, 9  # of an Executable
_CYCLES, _KIND, _TOKEN, _CYCLES_64 = 11, 13, 14, 16
_NAME, _BYTES, _Y, _X, _Z = 0, 1, 2, 3, 4  # of a Layer


@dataclass(frozen=True)
class Layer:
    """An input or output of the Edge TPU's part; bytes with padding."""

    name: str
    shape: tuple[int, int, int]  # y, x, z
    bytes: int


@dataclass(frozen=True)
class Executable:
    """One program of the package; cycles None: the compiler did not say (16.0 never does)."""

    kind: str  # "stand alone", "parameter caching" or "execution only"
    parameter_bytes: int
    token: str  # hexadecimal; programs with the same one keep their weights on the chip together
    scratch_bytes: int
    instruction_bytes: int
    inputs: tuple[Layer, ...]
    outputs: tuple[Layer, ...]
    cycles: int | None


@dataclass(frozen=True)
class Package:
    """One Edge TPU operator of a compiled model."""

    operator: int
    min_runtime: int
    compiler: str
    cached_bytes: int  # weights that are sent once and stay on the chip
    streamed_bytes: int  # weights that are sent for every inference
    token: str | None  # hexadecimal; of the weights that stay on the chip, None when there are none
    executables: tuple[Executable, ...]


@dataclass(frozen=True)
class Compiled:
    """A model for the Edge TPU: its packages, and operators that were left to the CPU, (index, name)."""

    packages: tuple[Package, ...]
    on_cpu: tuple[tuple[int, str], ...]


def read_compiled(path: Path) -> Compiled | None:
    """What the compiler wrote, None when there is no Edge TPU operator in it. NotAModel when it cannot be read."""
    described = read_model(path).subgraphs[0]
    if not any(operator.name == CUSTOM_CODE for operator in described.operators):
        return None
    data = path.read_bytes()
    graph = _schema().Model.GetRootAs(data, 0).Subgraphs(0)
    packages = []
    for operator in described.operators:
        if operator.name == CUSTOM_CODE:
            try:
                packages.append(_package(operator.index, _options(graph.Operators(operator.index), data)))
            except (struct.error, IndexError, ValueError, TypeError, OverflowError, KeyError, AttributeError) as error:
                raise NotAModel(
                    f"{path}: operator {operator.index} is for the Edge TPU, but its program cannot be read",
                    hint=_DAMAGED,
                ) from error
    left = tuple((operator.index, operator.name) for operator in described.operators if operator.name != CUSTOM_CODE)
    return Compiled(tuple(packages), left)


def _options(operator: Any, data: bytes) -> bytes:
    inside = operator.CustomOptionsAsNumpy()
    if not isinstance(inside, int) and len(inside):
        return bytes(inside.tobytes())
    start = operator.LargeCustomOptionsOffset()
    return data[start : start + operator.LargeCustomOptionsSize()]


def _package(index: int, options: bytes) -> Package:
    from flatbuffers import flexbuffers

    entry = flexbuffers.GetRoot(options).AsMap["4"]
    if not entry.IsString and not entry.IsBlob:
        raise ValueError("no package")
    # a FlexBuffer string whose bytes are no text: taken as they are
    content = bytes(
        (flexbuffers.String if entry.IsString else flexbuffers.Blob)(entry._Indirect(), entry._byte_width).Bytes
    )
    if content[4:8] != b"DWN1":
        raise ValueError("no package")
    package = _Table.root(content)
    listed = _Table.root(package.content(_EXECUTABLES)).contents(0)
    programs = tuple(_executable(_Table.root(program)) for program in listed)
    caching = [program for program in programs if program.kind == _KINDS[1]]
    cached = sum(program.parameter_bytes for program in caching)
    return Package(
        operator=index,
        min_runtime=package.number(_MIN_RUNTIME, "<i"),
        compiler=package.content(_COMPILER).decode("utf-8", errors="replace"),
        cached_bytes=cached,
        streamed_bytes=sum(program.parameter_bytes for program in programs) - cached,
        token=caching[0].token if caching else None,
        executables=programs,
    )


def _executable(table: _Table) -> Executable:
    kind = table.number(_KIND, "<h")
    return Executable(
        kind=_KINDS[kind] if 0 <= kind < len(_KINDS) else f"kind {kind}",
        parameter_bytes=len(table.content(_PARAMETERS)),
        token=f"{table.number(_TOKEN, '<Q'):016x}",
        scratch_bytes=table.number(_SCRATCH, "<i"),
        instruction_bytes=sum(len(each.content(0)) for each in table.tables(_INSTRUCTIONS)),
        inputs=tuple(map(_layer, table.tables(_INPUTS))),
        outputs=tuple(map(_layer, table.tables(_OUTPUTS))),
        cycles=table.number(_CYCLES_64, "<q") or table.number(_CYCLES, "<i") or None,
    )


def _layer(table: _Table) -> Layer:
    name = table.content(_NAME).decode("utf-8", errors="replace")
    y, x, z = (table.number(field, "<i") for field in (_Y, _X, _Z))
    return Layer(name, (y, x, z), table.number(_BYTES, "<i"))


@dataclass(frozen=True)
class _Table:
    """A table of a flatbuffer whose generated classes we do not have; fields by position, 0 or empty when left out."""

    data: bytes
    at: int

    @classmethod
    def root(cls, data: bytes) -> _Table:
        return cls(data, _unpack("<I", data, 0))

    def content(self, field: int) -> bytes:
        start, count = self._vector(field)
        return self._slice(start, count)

    def contents(self, field: int) -> list[bytes]:
        start, count = self._vector(field)
        self._slice(start, 4 * count)
        places = [start + 4 * item for item in range(count)]
        starts = [place + _unpack("<I", self.data, place) for place in places]
        return [self._slice(each + 4, _unpack("<I", self.data, each)) for each in starts]

    def tables(self, field: int) -> list[_Table]:
        start, count = self._vector(field)
        self._slice(start, 4 * count)
        places = [start + 4 * item for item in range(count)]
        return [_Table(self.data, place + _unpack("<I", self.data, place)) for place in places]

    def number(self, field: int, layout: str) -> int:
        place = self._field(field)
        return _unpack(layout, self.data, place) if place else 0

    def _vector(self, field: int) -> tuple[int, int]:
        place = self._field(field)
        if not place:
            return 0, 0
        start = place + _unpack("<I", self.data, place)
        return start + 4, _unpack("<I", self.data, start)

    def _field(self, field: int) -> int:
        """Where a field lies, 0 when it was left out."""
        fields = self.at - _unpack("<i", self.data, self.at)
        if 4 + 2 * field >= _unpack("<H", self.data, fields):
            return 0
        offset = _unpack("<H", self.data, fields + 4 + 2 * field)
        return self.at + offset if offset else 0

    def _slice(self, start: int, count: int) -> bytes:
        if start + count > len(self.data):
            raise ValueError("a length leads out of the file")
        return self.data[start : start + count]


def _unpack(layout: str, data: bytes, place: int) -> int:
    if place < 0:
        raise ValueError("an offset leads out of the file")
    return int(struct.unpack_from(layout, data, place)[0])
