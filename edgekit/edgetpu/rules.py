"""Which operators the Edge TPU takes: one rule per limit, each with where it is known from.

`observed`: real compilations show it, files with what the compiler made of them or logs that people published. `documented,
unobserved`: only Coral's table of supported operations says so (coral.ai/docs/edgetpu/models-intro, the same as Axis' table for
ARTPEC-7).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgekit.edgetpu import limits
from edgekit.edgetpu.limits import DOCUMENTED, OBSERVED, OPERATORS, Operator

TABLE = "Coral's table of supported operations"
UNSPECIFIED = "Operation is otherwise supported, but not mapped due to some unspecified limitation"


@dataclass(frozen=True)
class Rule:
    """One limit: `broken` says what is wrong with an operator, None when it keeps the limit."""

    name: str
    broken: Callable[[Operator], str | None]
    operators: frozenset[str] | None  # None: all
    evidence: str  # OBSERVED or DOCUMENTED
    source: str
    status: str = UNSPECIFIED  # the words of the compiler's log


@dataclass(frozen=True)
class Support:
    """Whether the Edge TPU can run an operator by itself, wherever it stands in the graph."""

    supported: bool
    rule: str
    status: str
    reason: str
    evidence: str


def support(operator: Operator) -> Support:
    """The first rule that the operator breaks, or on what evidence it is supported."""
    name = operator.info.name
    for rule in RULES:
        if (rule.operators is None or name in rule.operators) and (reason := rule.broken(operator)) is not None:
            return Support(False, rule.name, rule.status, reason, rule.evidence)
    return Support(True, "", "Mapped to Edge TPU", "", OPERATORS[name])  # the first rule lets no other name pass


def _every(name: str, broken: Callable[[Operator], str | None], evidence: str, source: str, status: str) -> Rule:
    return Rule(name, broken, None, evidence, source, status)


def _of(names: str, name: str, broken: Callable[[Operator], str | None], evidence: str, source: str) -> Rule:
    return Rule(name, broken, frozenset(names.split()), evidence, source)


# In the order in which they are looked at.
RULES = (
    _every(
        "operator",
        limits.unknown,
        OBSERVED,
        f"{TABLE}; ARG_MAX, CAST, DEQUANTIZE, DIV, FLOOR_DIV, GATHER_ND, SQRT, UNPACK, custom ones: seen on the CPU",
        "Operation not supported",
    ),
    _every(
        "data type",
        limits.data_type,
        OBSERVED,
        "float QUANTIZE and int32 RESHAPE, MUL, SUB, ADD and PACK stay on the CPU; int8 to uint8 does not",
        "Operation is working on an unsupported data type",
    ),
    _every(
        "rank",
        limits.rank,
        OBSERVED,
        f"{TABLE}; RESHAPE and PACK in a published log",
        "Tensor has unsupported rank (up to 3 innermost dimensions mapped)",
    ),
    _every(
        "static sizes", limits.static, DOCUMENTED, f"{TABLE}; a free batch with a concrete shape is mapped", UNSPECIFIED
    ),
    _of(" ".join(limits.WEIGHTS_AT), "constant weights", limits.constant_weights, DOCUMENTED, TABLE),
    _of(
        "CONV_2D DEPTHWISE_CONV_2D",
        "equal dilations",
        limits.dilation,
        DOCUMENTED,
        f"{TABLE}; kernels of one row or column are mapped with any",
    ),
    _of("AVERAGE_POOL_2D MAX_POOL_2D CONCATENATION", "no fused activation", limits.no_fused, DOCUMENTED, TABLE),
    _of("CONCATENATION", "zeros appended", limits.concatenated_constant, DOCUMENTED, TABLE),
    _of("FULLY_CONNECTED", "weights format", limits.dense_format, DOCUMENTED, TABLE),
    _of(
        "SOFTMAX",
        "softmax width",
        limits.wide_softmax,
        DOCUMENTED,
        f"{TABLE} says 16,000 values in one dimension; 16,384 are mapped, and many rows of 16 (YOLOv9, published log)",
    ),
    _of(
        "TRANSPOSE",
        "transpose size",
        limits.large_transpose,
        OBSERVED,
        "57,600 values are mapped, 104,000 are not; the limit set between them is estimated",
    ),
    _of(
        "RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR",
        "resize size",
        limits.large_resize,
        OBSERVED,
        "1 and 2 times are mapped, 15.5 and 33 (bilinear) are not, nor twice 512x512 (google-coral/edgetpu#597); the "
        "limits set between them are estimated",
    ),
    _of("MEAN SUM REDUCE_MAX REDUCE_MIN", "batch kept", limits.over_batch, DOCUMENTED, TABLE),
    _of("MEAN", "mean over channels", limits.mean_depth, DOCUMENTED, TABLE),
    _of("PAD", "batch not padded", limits.pad_batch, DOCUMENTED, TABLE),
    _of("PACK", "batch not packed", limits.pack_batch, DOCUMENTED, TABLE),
    _of("SPLIT", "batch not split", limits.split_batch, DOCUMENTED, TABLE),
    _of("PRELU", "slope per channel", limits.slope, DOCUMENTED, TABLE),
    _of("STRIDED_SLICE", "strides of 1", limits.strides, DOCUMENTED, TABLE),
)
