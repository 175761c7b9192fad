"""Operator versions that the last Edge TPU compiler reads: a newer one makes it refuse the whole file.

Edge TPU compiler 16.0 (the last one) has the TensorFlow Lite of mid-2021 in it. Highest version of each operator in TensorFlow
2.6, from its lite/tools/versioning/runtime_version.cc; 2.7's QUANTIZE 3 is known to be refused (google-coral/edgetpu#879),
as are CONV_2D 6 (#631), TRANSPOSE_CONV 4 (#845) and EXP 2 (libedgetpu#71). That all of 2.6 is read is not confirmed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from edgekit.convert.flatbuffer import OperatorInfo

COMPILER = "16.0"

HIGHEST = {
    **dict.fromkeys(("CONV_2D", "SUB", "MUL", "TRANSPOSE", "GATHER", "SLICE"), 5),
    **dict.fromkeys(("DEPTHWISE_CONV_2D", "STRIDED_SLICE"), 6),
    **dict.fromkeys(("ADD", "PAD", "PADV2", "MAXIMUM", "MINIMUM", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"), 4),
    **dict.fromkeys(("SPLIT", "LSTM", "SVDF", "DEQUANTIZE", "UNPACK", "ABS", "BATCH_MATMUL"), 4),
    **dict.fromkeys(("AVERAGE_POOL_2D", "MAX_POOL_2D", "CONCATENATION", "SOFTMAX", "LOGISTIC", "TANH", "MEAN"), 3),
    **dict.fromkeys(("RELU", "RELU6", "REDUCE_MAX", "REDUCE_MIN", "TRANSPOSE_CONV", "PACK", "BROADCAST_TO"), 3),
    **dict.fromkeys(
        ("SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND", "UNIDIRECTIONAL_SEQUENCE_LSTM", "GATHER_ND", "EQUAL"), 3
    ),
    **dict.fromkeys(
        ("L2_NORMALIZATION", "SPACE_TO_DEPTH", "DEPTH_TO_SPACE", "SUM", "SQUEEZE", "SQUARED_DIFFERENCE"), 2
    ),
    **dict.fromkeys(
        ("QUANTIZE", "TILE", "DIV", "RSQRT", "LEAKY_RELU", "ARG_MAX", "ARG_MIN", "SPLIT_V", "MIRROR_PAD"), 2
    ),
    **dict.fromkeys(
        ("RESHAPE", "EXPAND_DIMS", "PRELU", "RELU_N1_TO_1", "CAST", "EXP", "ELU", "HARD_SWISH", "SHAPE"), 1
    ),
    **dict.fromkeys(("SQRT", "SQUARE", "NEG", "LOG", "SIN", "COS", "POW"), 1),
    "FULLY_CONNECTED": 9,
}

LATER = {  # operators that TensorFlow 2.6 does not have at all -> the release that brought them
    **dict.fromkeys(("RANDOM_STANDARD_NORMAL", "BUCKETIZE", "RANDOM_UNIFORM", "MULTINOMIAL"), "2.7 or later"),
    **dict.fromkeys(("GELU", "DYNAMIC_UPDATE_SLICE"), "2.8 or later"),
    **dict.fromkeys(
        ("RELU_0_TO_1", "UNSORTED_SEGMENT_PROD", "UNSORTED_SEGMENT_MAX", "UNSORTED_SEGMENT_SUM"), "2.9 or later"
    ),
    **dict.fromkeys(("UNSORTED_SEGMENT_MIN", "ATAN2", "SIGN", "BITCAST", "BITWISE_XOR", "RIGHT_SHIFT"), "2.9 or later"),
    **dict.fromkeys(("DILATE", "REDUCE_WINDOW", "SCATTER_ND_ADD"), "2.13 or later"),
}

# (operator, lowest version) -> what avoids it; what makes a version: TensorFlow's op_version.cc
_AVOIDED = (
    (
        *("FULLY_CONNECTED", 12),
        "dense weights per channel: TFLiteConverter with _experimental_disable_per_channel_quantization_for_dense_layers = True",
    ),
    ("FULLY_CONNECTED", 10, "4-bit weights or 16-bit activations: quantize to full int8"),
    ("CONV_2D", 7, "4-bit weights or 16-bit activations: quantize to full int8"),
    ("CONV_2D", 6, "a grouped convolution: use a depthwise one, or split, convolve and concatenate"),
    ("DEPTHWISE_CONV_2D", 7, "4-bit weights: quantize to full int8"),
    ("TRANSPOSE_CONV", 5, "16-bit activations: quantize to full int8"),
    ("TRANSPOSE_CONV", 4, "an activation fused into a transposed convolution: convert with TensorFlow before 2.13"),
    ("QUANTIZE", 4, "4-bit values: quantize to full int8"),
    ("QUANTIZE", 3, "values quantized per channel: quantize activations per tensor"),
    ("STRIDED_SLICE", 7, "slices with an offset, or of uint32: give begin and end as constants"),
    ("TILE", 3, "TILE of int8: tile by concatenating, or by a multiplication with ones"),
    ("ADD", 5, "16-bit activations: quantize to full int8"),
    ("MUL", 6, "16-bit or complex values: quantize to full int8"),
)


@dataclass(frozen=True)
class Refusal:
    """An operator that the compiler does not read, and what to do."""

    index: int
    name: str
    version: int
    highest: int  # that it reads; 0: it does not know the operator
    fix: str


def refusals(operators: Iterable[OperatorInfo]) -> list[Refusal]:
    """Every operator for which the compiler would refuse the file; custom operators and kinds not listed here pass."""
    found = []
    for operator in operators:
        later = operator.name in LATER or operator.name.startswith("STABLEHLO_")
        highest = 0 if later else HIGHEST.get(operator.name, operator.version)
        if not operator.custom and operator.version > highest:
            found.append(Refusal(operator.index, operator.name, operator.version, highest, _fix(operator)))
    return found


def _fix(operator: OperatorInfo) -> str:
    for name, lowest, fix in _AVOIDED:
        if operator.name == name and operator.version >= lowest:
            return fix
    since = LATER.get(operator.name)
    return (
        f"it came with TensorFlow {since}: use another operator" if since else "convert with TensorFlow 2.6 or before"
    )
