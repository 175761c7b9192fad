"""Whether the Edge TPU is likely to be faster than the CPU beside it: two ranges of time, predicted from published rates.

Only a measurement on the board decides; nothing here was measured by us.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from edgekit.convert.cost import operator_macs
from edgekit.convert.flatbuffer import OperatorInfo, Subgraph
from edgekit.errors import NotAModel

# All of them (fast, slow). Multiply-accumulates per second of the Edge TPU: 4 TOPS of the datasheet; 3.3e11 is what the
# compiler's own cycle counts give for MobileNet v2 (0.92 ms at 500 MHz), half of it at 250 MHz (libedgetpu1-std over USB).
TPU_RATES = (2e12, 1.6e11)
# Of a CPU: a Raspberry Pi 5 runs yolov8n 640 (4.4e9) in 383 ms, 1.1e10; three times as many and a quarter are the ends.
CPU_RATES = (3e10, 3e9)
LINK_RATES = (4e8, 4e7)  # bytes per second: PCIe gen 2 x1, USB 2
CALL_S = (1.0e-3, 1.7e-3)  # driver and transfer of small pictures: published times less the compiler's cycles
# An operator that is no matrix product counts this often for each value: a vectorized addition about 1, DeepLab's last
# resize and ARG_MAX about 50 (published: 52 ms with them)
VALUE_WORK = 10
ASSUMED = (
    "Edge TPU 160 to 2000 GMAC/s, CPU 3 to 30 GMAC/s, link 40 to 400 MB/s, 1.0 to 1.7 ms for each call; "
    "from datasheets and published figures, nothing was measured"
)


@dataclass(frozen=True)
class Payoff:
    """Predicted milliseconds for one inference, (least, most). `verdict`: "likely", "unlikely", "unclear" or "no part"."""

    verdict: str
    with_tpu_ms: tuple[float, float]
    cpu_only_ms: tuple[float, float]
    bytes_per_inference: int  # over the link: inputs, outputs and streamed weights
    assumed: str = ASSUMED


def predict_payoff(graph: Subgraph, on_tpu: frozenset[int], link_bytes: int) -> Payoff:
    """Of a graph with these operators (positions) on the Edge TPU and these bytes moved for every inference."""
    part = rest = 0
    for position, operator in enumerate(graph.operators):
        if position in on_tpu:
            part += _work(graph, operator)
        else:
            rest += _work(graph, operator)
    ends = range(2)
    left = [rest / CPU_RATES[end] for end in ends]
    cpu = [part / CPU_RATES[end] for end in ends]
    tpu = [CALL_S[end] + part / TPU_RATES[end] + link_bytes / LINK_RATES[end] if on_tpu else 0.0 for end in ends]
    # what is left to the CPU is the same with and without: only the other part is compared
    verdict = "likely" if tpu[1] < cpu[0] else "unlikely" if tpu[0] > cpu[1] else "unclear"
    return Payoff(
        verdict=verdict if on_tpu else "no part",
        with_tpu_ms=(1e3 * (tpu[0] + left[0]), 1e3 * (tpu[1] + left[1])),
        cpu_only_ms=(1e3 * (cpu[0] + left[0]), 1e3 * (cpu[1] + left[1])),
        bytes_per_inference=link_bytes,
    )


def _work(graph: Subgraph, operator: OperatorInfo) -> int:
    """Multiply-accumulates, or as many as the operator's values count for."""
    try:
        if macs := operator_macs(graph, operator):
            return macs
    except NotAModel:  # shapes that do not fit: what is known are its values
        pass
    tensors = [graph.tensors[index] for index in (*operator.inputs, *operator.outputs) if index >= 0]
    return VALUE_WORK * max(
        (prod(t.shape) for t in tensors if not t.constant and min(t.shape, default=1) > 0), default=0
    )
