"""What each limit of the Edge TPU asks of an operator: a sentence that says what is wrong, None when the limit is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite, prod

from edgekit.convert.flatbuffer import OperatorInfo, Subgraph, TensorInfo

OBSERVED, DOCUMENTED = "observed", "documented, unobserved"

SOFTMAX_MOST = 16_384  # values that sum up to 1; the table says 16,000, 16,384 was mapped, nothing larger was seen
TRANSPOSE_MOST = 100_000  # values; 57,600 was mapped, 104,000 (NHWC to NCHW) was not
RESIZE_MOST = 8  # times as high or wide; 2 was mapped, 15.5 was not: where in between is not known
RESIZE_VALUES = 2_000_000  # made by it; 0.8 million was mapped, 3.1 million (twice 512 x 512 x 3) was reported as not

# Constants of these types come as weights (int8, uint8), biases, axes and sizes (int32).
_CONSTANT_TYPES = ("int8", "uint8", "int32")
WEIGHTS_AT = {"CONV_2D": 1, "DEPTHWISE_CONV_2D": 1, "FULLY_CONNECTED": 1, "TRANSPOSE_CONV": 1}

# Operator -> whether a real compiler was seen to map it.
OPERATORS = dict.fromkeys(
    (
        *("ADD", "AVERAGE_POOL_2D", "CONCATENATION", "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "LOGISTIC"),
        *("MAX_POOL_2D", "MEAN", "MUL", "PAD", "QUANTIZE", "RESHAPE", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"),
        *("SOFTMAX", "SPLIT", "STRIDED_SLICE", "SUB", "TILE", "TRANSPOSE", "UNIDIRECTIONAL_SEQUENCE_LSTM"),
        *("MAXIMUM", "MINIMUM", "REDUCE_MAX", "TRANSPOSE_CONV"),  # in published logs of the compiler
    ),
    OBSERVED,
) | dict.fromkeys(
    (
        *("EXPAND_DIMS", "L2_NORMALIZATION", "PACK", "PRELU", "REDUCE_MIN", "RELU", "RELU6", "RELU_N1_TO_1", "RSQRT"),
        *("SLICE", "SPACE_TO_DEPTH", "SQUARED_DIFFERENCE", "SQUEEZE", "SUM", "TANH"),
    ),
    DOCUMENTED,
)

# What to use instead of what people most often bring along.
INSTEAD = {
    "LEAKY_RELU": "use ReLU or ReLU6",
    "HARD_SWISH": "use ReLU or ReLU6",
    "ELU": "use ReLU or ReLU6",
    "GELU": "use ReLU or ReLU6",
    "ARG_MAX": "end the model before it and take the maximum in the program",
    "CAST": "give the model uint8 or int8 inputs and outputs",
    "DEQUANTIZE": "give the model int8 or uint8 outputs (no float outputs)",
    "BATCH_MATMUL": "use fully connected layers or 1x1 convolutions with constant weights",
    "TFLite_Detection_PostProcess": "expected: it runs on the CPU, at the end",
}


@dataclass(frozen=True)
class Operator:
    """What a limit looks at: an operator with its tensors (None: left out) and the values of its constants if known."""

    info: OperatorInfo
    inputs: tuple[TensorInfo | None, ...]
    outputs: tuple[TensorInfo | None, ...]
    values: Mapping[int, tuple[float, ...]]  # tensor index -> real values of a constant

    @property
    def tensors(self) -> tuple[TensorInfo, ...]:
        return tuple(tensor for tensor in (*self.inputs, *self.outputs) if tensor is not None)

    @property
    def computed(self) -> tuple[TensorInfo, ...]:
        return tuple(tensor for tensor in self.tensors if not tensor.constant)

    def input(self, position: int) -> TensorInfo | None:
        return self.inputs[position] if position < len(self.inputs) else None

    def output(self) -> TensorInfo | None:
        return self.outputs[0] if self.outputs else None

    def whole_numbers(self, position: int) -> tuple[int, ...] | None:
        """A constant input's values, None when it is no constant or its values were not given."""
        tensor = self.input(position)
        found = self.values.get(tensor.index) if tensor is not None else None
        if found is None or not all(map(isfinite, found)):  # a damaged scale makes anything of a constant
            return None
        return tuple(int(value) for value in found)


def operator_of(graph: Subgraph, info: OperatorInfo, values: Mapping[int, tuple[float, ...]]) -> Operator:
    """The operator with its tensors looked up."""
    inputs, outputs = (
        tuple(graph.tensors[index] if index >= 0 else None for index in indexes)
        for indexes in (info.inputs, info.outputs)
    )
    return Operator(info, inputs, outputs, values)


# --- limits of every operator ---------------------------------------------------------------------------------------


def unknown(operator: Operator) -> str | None:
    name = operator.info.name
    if not operator.info.custom and name in OPERATORS:
        return None
    instead = f"; {INSTEAD[name]}" if name in INSTEAD else ""
    return f"{'custom operators are' if operator.info.custom else f'{name} is'} not in the table{instead}"


def data_type(operator: Operator) -> str | None:
    for tensor in operator.computed:
        state = tensor.is_variable or (operator.info.name == "UNIDIRECTIONAL_SEQUENCE_LSTM" and tensor.dtype == "int16")
        if tensor.dtype not in ("int8", "uint8") and not state:
            fix = "; give the model int8 or uint8 inputs and outputs" if operator.info.name == "QUANTIZE" else ""
            return f"'{tensor.name}' is {tensor.dtype}, not int8 or uint8{fix}"
    for tensor in operator.tensors:
        if tensor.constant and tensor.dtype not in _CONSTANT_TYPES:
            return f"constant '{tensor.name}' is {tensor.dtype}"
    return None


def rank(operator: Operator) -> str | None:
    for tensor in operator.computed:
        if prod(tensor.shape[:-3]) > 1:
            return f"'{tensor.name}' is {list(tensor.shape)}: only the last three sizes may be above 1"
    return None


def static(operator: Operator) -> str | None:
    for tensor in operator.computed:
        free = sum(size < 0 for size in tensor.shape_signature or ())  # one is the batch, which TRANSPOSE may move
        if free > 1 or any(size < 0 for size in tensor.shape[1:]):
            return f"'{tensor.name}' has a size that is known only while running"
    return None


def constant_weights(operator: Operator) -> str | None:
    weights = operator.input(WEIGHTS_AT[operator.info.name])
    return None if weights is not None and weights.constant else "its weights are computed, not constants"


# --- limits of one operator -----------------------------------------------------------------------------------------


def dilation(operator: Operator) -> str | None:
    options, weights = operator.info.options, operator.input(1)
    high, wide = options.get("dilation_h_factor", 1), options.get("dilation_w_factor", 1)
    sizes = weights.shape[1:3] if weights is not None and len(weights.shape) == 4 else (2, 2)
    if high == wide or 1 in sizes:  # along a kernel of size 1 a dilation means nothing
        return None
    return f"its dilations differ: {high} and {wide}"


def no_fused(operator: Operator) -> str | None:
    fused = operator.info.options.get("fused_activation_function", "NONE")
    return None if fused in ("NONE", 0) else f"{fused} is fused into it"


def concatenated_constant(operator: Operator) -> str | None:
    constants = [tensor for tensor in operator.inputs if tensor is not None and tensor.constant]
    if not constants:
        return None
    if len(operator.inputs) != 2:
        return f"a constant is one of its {len(operator.inputs)} inputs; with one there may be only two"
    return "its constant input is not zero everywhere" if any(operator.values.get(constants[0].index, ())) else None


def dense_format(operator: Operator) -> str | None:
    return "its weights are shuffled" if operator.info.options.get("weights_format") else None


def wide_softmax(operator: Operator) -> str | None:
    output = operator.output()
    if output is None or not output.shape or output.shape[-1] <= SOFTMAX_MOST:
        return None
    return f"over {output.shape[-1]:,} values"


def large_transpose(operator: Operator) -> str | None:
    output = operator.output()
    if output is None or prod(output.shape) <= TRANSPOSE_MOST:
        return None
    return f"it moves {prod(output.shape):,} values, too many; keep the model NHWC, or end it before this operator"


def large_resize(operator: Operator) -> str | None:
    data, output = operator.input(0), operator.output()
    if data is None or output is None or len(data.shape) != 4 or len(output.shape) != 4:
        return "it is no picture"
    factor = max(new / max(old, 1) for old, new in zip(data.shape[1:3], output.shape[1:3], strict=True))
    if factor > RESIZE_MOST:
        return f"{factor:.3g} times as large, too imprecise; resize by 2, several times"
    values = prod(output.shape)
    return None if values <= RESIZE_VALUES else f"it makes {values:,} values, too many; give the model smaller inputs"


def over_batch(operator: Operator) -> str | None:
    data, axes = operator.input(0), operator.whole_numbers(1)
    if data is None or axes is None:
        return None
    return "it reduces the batch" if {0, -len(data.shape)} & set(axes) else None


def mean_depth(operator: Operator) -> str | None:
    data, axes = operator.input(0), operator.whole_numbers(1)
    if data is None or axes is None or not data.shape or not {-1, len(data.shape) - 1} & set(axes):
        return None
    return f"it averages over {data.shape[-1]} channels, no multiple of 4" if data.shape[-1] % 4 else None


def pad_batch(operator: Operator) -> str | None:
    data, output = operator.input(0), operator.output()
    if data is None or output is None or not data.shape or data.shape[:1] == output.shape[:1]:
        return None
    return "it pads the batch"


def pack_batch(operator: Operator) -> str | None:
    output, axis = operator.output(), operator.info.options.get("axis", 0)
    return "it packs along the batch" if output is not None and axis in (0, -len(output.shape)) else None


def split_batch(operator: Operator) -> str | None:
    data, axis = operator.input(1), operator.whole_numbers(0)
    if data is None or axis is None:
        return None
    return "it splits the batch" if {0, -len(data.shape)} & set(axis) else None


def slope(operator: Operator) -> str | None:
    alpha = operator.input(1)
    if alpha is not None and alpha.constant and prod(alpha.shape[:-1]) <= 1:
        return None
    return "its alpha is not one number per channel; with Keras: shared_axes=[1, 2]"


def strides(operator: Operator) -> str | None:
    options, strides = operator.info.options, operator.whole_numbers(3)
    if options.get("ellipsis_mask") or options.get("new_axis_mask"):
        return "it has an ellipsis or a new axis"
    return f"its strides are {list(strides)}, not 1" if strides is not None and set(strides) - {1} else None
