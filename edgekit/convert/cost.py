"""What one inference costs, by the file alone: multiply-accumulates, and the working memory that LiteRT will plan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from math import prod
from typing import TYPE_CHECKING

from edgekit.errors import NotAModel

if TYPE_CHECKING:
    from edgekit.convert.flatbuffer import Model, OperatorInfo, Subgraph, TensorInfo

CHEAP_MACS = 100_000_000
ALIGNMENT = 64  # bytes; kDefaultTensorAlignment in tflite/util.h

# Operators whose first output may take the memory of an input: `inplace_operator` in tflite/kernels/*.cc of LiteRT 2.x.
_SAME_DATA = {"RESHAPE", "EXPAND_DIMS", "SQUEEZE", "BITCAST"}  # the bytes stay as they are
_OVERWRITES = {"ADD": 2, "SUB": 2, "MUL": 2, "DIV": 2, "SOFTMAX": 1, "DYNAMIC_UPDATE_SLICE": 1}  # inputs that may go

_Request = tuple[int, int, "int | None", int]  # bytes, first operator, last operator (None: to the end), tensor


# --- multiply-accumulates -----------------------------------------------------------------------------------------


def macs(model: Model) -> int:
    """Multiply-accumulates of one inference of the primary subgraph; what a custom operator does inside is not seen.

    Bodies of WHILE and IF are other subgraphs and are not counted: how often they run is not in the file.
    """
    graph = model.subgraphs[0]
    return sum(operator_macs(graph, operator) for operator in graph.operators)


def is_cheap(model: Model) -> bool:
    """Whether an inference costs so little that what takes many of them is done as a matter of course."""
    return macs(model) < CHEAP_MACS


def operator_macs(subgraph: Subgraph, operator: OperatorInfo) -> int:
    """Multiply-accumulates of one operator (a multiply and an add are one), 0 for kinds that are not matrix products.

    Padding counts as if it were data, bias and activations do not count: the convention of the papers. A dimension
    that is only known at run time counts as 1.
    """
    count = _MACS.get(operator.name)
    if count is None:
        return 0
    try:
        return count(subgraph, operator)
    except (IndexError, ValueError, ZeroDivisionError) as error:
        raise NotAModel(
            f"operator {operator.index} ({operator.name}): its tensors do not have the shapes that it needs",
            hint="the file is damaged, or a tool wrote it that does not set shapes; convert it again",
        ) from error


def _shape(graph: Subgraph, indexes: tuple[int, ...], position: int) -> tuple[int, ...]:
    """The shape of an input or output, what is unknown as 1."""
    index = indexes[position]
    if index < 0:
        raise ValueError(f"operand {position} is left out")
    tensor = graph.tensors[index]
    signature = tensor.shape_signature or ()
    free = {place for place, size in enumerate(signature) if size < 0}
    return tuple(1 if place in free or size < 0 else size for place, size in enumerate(tensor.shape))


def _conv_2d(graph: Subgraph, operator: OperatorInfo) -> int:
    _, high, wide, channels = _shape(graph, operator.inputs, 1)  # channels of one group
    return prod(_shape(graph, operator.outputs, 0)) * high * wide * channels


def _depthwise_conv_2d(graph: Subgraph, operator: OperatorInfo) -> int:
    _, high, wide, _ = _shape(graph, operator.inputs, 1)
    return prod(_shape(graph, operator.outputs, 0)) * high * wide


def _transpose_conv(graph: Subgraph, operator: OperatorInfo) -> int:
    made, high, wide, _ = _shape(graph, operator.inputs, 1)  # every input value goes into a window of the output
    return prod(_shape(graph, operator.inputs, 2)) * high * wide * made


def _conv_3d(graph: Subgraph, operator: OperatorInfo) -> int:
    deep, high, wide, channels, _ = _shape(graph, operator.inputs, 1)
    return prod(_shape(graph, operator.outputs, 0)) * deep * high * wide * channels


def _fully_connected(graph: Subgraph, operator: OperatorInfo) -> int:
    _, channels = _shape(graph, operator.inputs, 1)
    return prod(_shape(graph, operator.outputs, 0)) * channels


def _batch_matmul(graph: Subgraph, operator: OperatorInfo) -> int:
    inner: int = _shape(graph, operator.inputs, 0)[-2 if operator.options.get("adj_x") else -1]
    return prod(_shape(graph, operator.outputs, 0)) * inner


def _lstm(graph: Subgraph, operator: OperatorInfo) -> int:
    """Every weight matrix once per time step; the element-wise peepholes and gates are left out."""
    data = _shape(graph, operator.inputs, 0)
    if operator.options.get("kernel_type") == 1:  # BASIC: input, activation, all weights in one matrix, bias, state
        return prod(_shape(graph, operator.inputs, 2)) * data[0]
    present = [operator.inputs[i] for i in (*range(1, 9), 16) if i < len(operator.inputs) and operator.inputs[i] >= 0]
    per_step: int = sum(prod(graph.tensors[i].shape) for i in present)
    return per_step * prod(data[:-1])


_MACS: dict[str, Callable[[Subgraph, OperatorInfo], int]] = {
    "CONV_2D": _conv_2d,
    "DEPTHWISE_CONV_2D": _depthwise_conv_2d,
    "TRANSPOSE_CONV": _transpose_conv,
    "CONV_3D": _conv_3d,
    "FULLY_CONNECTED": _fully_connected,
    "BATCH_MATMUL": _batch_matmul,
    "LSTM": _lstm,
    "UNIDIRECTIONAL_SEQUENCE_LSTM": _lstm,
}


# --- working memory -----------------------------------------------------------------------------------------------


def arena_bytes(model: Model, *, kernels: bool = True) -> int:
    """Bytes of working memory for one inference of the primary subgraph with LiteRT's own kernels, planned as it plans.

    `kernels=False` leaves out what kernels ask for beside the tensors of the file (unrolled convolutions, quantized
    copies): the least that any runtime with this planner needs. Left out in both: delegates (XNNPACK, on by default,
    keeps a workspace of its own), tensors whose size is known only while running, the bodies of WHILE
    and IF, scratch memory of rarer kernels. The weights stay in the mapped file; constants unpacked at start
    (float16 weights) and variables are counted, they are allocated once.

    Measured against the addresses that LiteRT 2.3 hands out (x86-64, no delegates): 0 bytes off on the five MLPerf Tiny
    models, three of Coral's (uint8, LSTM) and eight that TensorFlow 2.21 wrote (float, float16, dynamic range, int8;
    MobileNetV2 and a net with a transposed convolution). `kernels=False` was 26 % (int8 ResNet8) to 100 % of it.
    Planner: tflite/arena_planner.cc and simple_memory_arena.cc of LiteRT.
    """
    return sum(arena_parts(model, kernels=kernels))


def arena_parts(model: Model, *, kernels: bool = True) -> tuple[int, int]:
    """`arena_bytes` as LiteRT keeps it: (bytes that tensors take turns in, bytes that stay theirs from the start)."""
    graph = model.subgraphs[0]
    lasting = _lasting_tensors(graph)
    moving = [(graph.tensors[i].data_bytes, *life, i) for i, life in _lifetimes(graph, lasting).items()]
    fixed: list[_Request] = [(graph.tensors[i].data_bytes, 0, None, i) for i in lasting]
    if kernels:
        for size, node in _kernel_requests(graph):
            request = (size, node or 0, node, len(graph.tensors))
            (fixed if node is None else moving).append(request)
    return _place(moving, nodes=len(graph.operators)), _place(fixed, nodes=1)


def _lasting_tensors(graph: Subgraph) -> list[int]:
    """Tensors kept from one inference to the next: variables, and constants unpacked once (float16 weights)."""
    unpacked = {
        operator.outputs[0]
        for operator in graph.operators
        if operator.name in ("DEQUANTIZE", "DENSIFY")
        and operator.inputs
        and operator.outputs
        and operator.outputs[0] >= 0
        and operator.inputs[0] >= 0
        and graph.tensors[operator.inputs[0]].constant
    }
    return [tensor.index for tensor in graph.tensors if tensor.is_variable or tensor.index in unpacked]


def _lifetimes(graph: Subgraph, lasting: list[int]) -> dict[int, tuple[int, int | None]]:
    """Tensor -> first and last operator (None: to the end) that need its memory; as ArenaPlanner::PlanAllocations."""
    kept = set(lasting)
    movable = {tensor.index for tensor in graph.tensors if not tensor.constant and tensor.index not in kept}
    held = Counter(graph.inputs) + Counter(graph.outputs)  # never given back: the caller reads and writes them
    shared = _shared_memory(graph, movable, held)
    left = held + Counter(shared.get(i, i) for operator in graph.operators for i in operator.inputs)
    first = dict.fromkeys(graph.inputs, 0)
    last: dict[int, int] = {}
    for node, operator in enumerate(graph.operators):
        for index in operator.outputs:
            first.setdefault(index, node)
        for index in operator.inputs:
            owner = shared.get(index, index)
            left[owner] -= 1
            if left[owner] == 0:
                last[owner] = node
    return {index: (node, last.get(index)) for index, node in first.items() if index in movable and index not in shared}


def _shared_memory(graph: Subgraph, movable: set[int], held: Counter[int]) -> dict[int, int]:
    """Output -> the tensor whose memory it takes over; after ArenaPlanner::IdentifyInPlaceTensors."""
    uses = held + Counter(index for operator in graph.operators for index in operator.inputs)
    fixed_inputs, fixed_outputs = set(graph.inputs), set(graph.outputs)
    shared: dict[int, int] = {}
    for operator in graph.operators:
        same = operator.name in _SAME_DATA
        candidates = operator.inputs[: 1 if same else _OVERWRITES.get(operator.name, 0)]
        if not operator.outputs or operator.outputs[0] in fixed_outputs or operator.outputs[0] not in movable:
            continue
        size = graph.tensors[operator.outputs[0]].data_bytes
        for index in candidates:
            if index not in movable or index in fixed_inputs or graph.tensors[index].data_bytes != size:
                continue
            owner = shared.get(index, index)
            if same or (uses[index] <= 1 and size > 4):
                if same or uses[owner] <= 1:
                    shared[operator.outputs[0]] = owner
                break  # LiteRT looks at the first input that fits, and at no other
    return shared


def _kernel_requests(graph: Subgraph) -> Iterator[tuple[int, int | None]]:
    """(bytes, operator that needs them; None: from start to end) beyond the tensors of the file.

    After conv.cc, fully_connected.cc, transpose_conv.cc and unidirectional_sequence_lstm.cc in tflite/kernels.
    """
    for node, operator in enumerate(graph.operators):
        operands = [graph.tensors[i] if i >= 0 else None for i in operator.inputs[:5]]
        if len(operands) < 2 or operands[1] is None or not operator.outputs or operator.outputs[0] < 0:
            continue
        data, weights, output = operands[0], operands[1], graph.tensors[operator.outputs[0]]
        if operator.name == "TRANSPOSE_CONV":
            yield weights.data_bytes, None  # transposed once
            yield (0 if output.is_float else 4 * prod(output.shape)), None  # sums, int32
        elif operator.name == "UNIDIRECTIONAL_SEQUENCE_LSTM" and data and data.dtype == "int8" and operands[-1]:
            cells = prod(data.shape[:-2] or (1,)) * operands[-1].shape[0] if operands[-1].shape else 0
            yield from ((size * cells, node) for size in (2, 2, 2, 2, 1, 4))  # four gates int16, output, sums
        elif operator.name in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED") and data and data.shape:
            hybrid = data.is_float and weights.dtype == "int8"  # float input is quantized on the way in
            if operator.name == "CONV_2D" and _is_unrolled(operator, weights):
                item_bytes = 1 if hybrid else data.item_bits // 8
                yield prod(output.shape[:3]) * prod(weights.shape[1:]) * item_bytes, node
            if hybrid:
                rows = prod(data.shape[:-1]) * 4
                offsets = rows if len(weights.scale) > 1 else 0
                yield from ((size, node) for size in (prod(data.shape), rows, offsets))  # values, scales, zero points
                if operator.name != "DEPTHWISE_CONV_2D":
                    yield 4 * prod(output.shape), node  # sums, int32
                    yield (4 * output.shape[-1] if offsets and output.shape else 0), None  # sums of the weights


def _is_unrolled(operator: OperatorInfo, weights: TensorInfo) -> bool:
    """Whether the windows of a convolution are copied into one matrix (im2col) before the product."""
    steps = {
        operator.options.get(name, 1) for name in ("stride_h", "stride_w", "dilation_h_factor", "dilation_w_factor")
    }
    return len(weights.shape) == 4 and (weights.shape[1:3] != (1, 1) or steps != {1})


def _place(requests: list[_Request], *, nodes: int) -> int:
    """High-water mark in bytes when the requests are fitted as SimpleMemoryArena fits them.

    First what lives from beginning to end, then the largest first; each goes into the tightest gap between what lives
    at the same time, else on top.
    """
    live: list[list[tuple[int, int]]] = [[] for _ in range(max(nodes, 1))]  # per operator: (start, end) in bytes
    top = 0

    def order(request: _Request) -> tuple[int, int, int]:
        size, first, last, index = request
        return (0, index, 0) if first == 0 and last is None else (1, -size, first)

    for size, first, last, _ in sorted(requests, key=order):
        if size <= 0:
            continue
        span = live[first : len(live) if last is None else last + 1]
        start = _best_gap(sorted({extent for node in span for extent in node}), size)
        for node in span:
            node.append((start, start + size))
        top = max(top, start + size)
    return top


def _best_gap(extents: list[tuple[int, int]], size: int) -> int:
    """Where `size` bytes fit best between extents sorted by start, on a multiple of ALIGNMENT."""
    best, slack, offset = None, None, 0
    for start, end in extents:
        aligned = -(-offset // ALIGNMENT) * ALIGNMENT
        if aligned + size <= start and (slack is None or start - aligned < slack):
            best, slack = aligned, start - offset
        offset = max(offset, end)
    return best if best is not None else -(-offset // ALIGNMENT) * ALIGNMENT
