"""Who writes and who reads each tensor of a graph, for those who look for patterns in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from edgekit.convert.flatbuffer import OperatorInfo, Subgraph, TensorInfo

# Operators that hand on values as they are, of one input or of several.
MOVES = {"RESHAPE", "SQUEEZE", "EXPAND_DIMS", "TRANSPOSE", "QUANTIZE", "DEQUANTIZE", "CAST", "PACK", "CONCATENATION"}
MOVES |= {
    "SLICE",
    "STRIDED_SLICE",
    "SPLIT",
    "SPLIT_V",
    "UNPACK",
    "GATHER",
    "GATHER_ND",
    "TOPK_V2",
    "ARG_MAX",
    "REDUCE_MAX",
}


@dataclass(frozen=True)
class Wiring:
    """A graph with its edges: `writer[tensor]`, `readers[tensor]`, by tensor index."""

    graph: Subgraph
    writer: dict[int, OperatorInfo] = field(default_factory=dict)
    readers: dict[int, list[OperatorInfo]] = field(default_factory=dict)

    @classmethod
    def of(cls, graph: Subgraph) -> Wiring:
        wiring = cls(graph)
        for operator in graph.operators:
            for index in operator.outputs:
                wiring.writer.setdefault(index, operator)
            for index in dict.fromkeys(operator.inputs):
                wiring.readers.setdefault(index, []).append(operator)
        return wiring

    def tensors(self, indexes: tuple[int, ...]) -> list[TensorInfo]:
        """The tensors, without those that are left out."""
        return [self.graph.tensors[index] for index in indexes if index >= 0]

    def activations(self, operator: OperatorInfo) -> list[TensorInfo]:
        """What an operator reads that is computed: no weights."""
        return [tensor for tensor in self.tensors(operator.inputs) if not tensor.constant]

    def reaches_output(self, index: int) -> bool:
        """Whether a tensor, moved about at most, is an output of the graph."""
        seen, waiting = {index}, [index]
        while waiting:
            current = waiting.pop()
            if current in self.graph.outputs:
                return True
            after = {i for op in self.readers.get(current, ()) if op.name in MOVES for i in op.outputs}
            waiting += after - seen
            seen |= after
        return False

    def origin(self, index: int) -> int:
        """The tensor before any QUANTIZE, DEQUANTIZE or RESHAPE that led to this one."""
        for _ in range(len(self.graph.operators)):
            operator = self.writer.get(index)
            if (
                operator is None
                or operator.name not in ("QUANTIZE", "DEQUANTIZE", "RESHAPE")
                or operator.inputs[:1] < (0,)
            ):
                break
            index = operator.inputs[0]
        return index

    def layer(self, operator: OperatorInfo) -> str:
        """`CONV_2D 7 (model/conv/Relu)`."""
        outputs = self.tensors(operator.outputs)
        return f"{operator.name} {operator.index}" + (f" ({short(outputs[0].name)})" if outputs else "")


def short(name: str) -> str:
    """What a person needs of a tensor's name: TensorFlow joins those of everything that went into it with `;`."""
    name = name.split(";")[0]
    return name if len(name) <= 60 else "…" + name[-59:]


def shaped_by_channel(wiring: Wiring, operator: OperatorInfo) -> Iterator[TensorInfo]:
    """The operator's constants that have one value for each channel of its result, more than one."""
    outputs = wiring.tensors(operator.outputs)
    channels = outputs[0].shape[-1] if outputs and outputs[0].shape else 1
    for tensor in wiring.tensors(operator.inputs):
        by_channel = tensor.shape[-1:] == (channels,) and all(size == 1 for size in tensor.shape[:-1])
        if tensor.constant and channels > 1 and by_channel:
            yield tensor
