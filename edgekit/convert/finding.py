"""One thing wrong with a model or its samples: where, how it is known, what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SEVERITIES = ("warning", "info")


@dataclass(frozen=True)
class Finding:
    """`warning`: it is likely to cost accuracy, or it will not run. `info`: worth knowing, fine in many models."""

    rule: str  # "giant-range": the same word for the same thing, for programs
    layer: str  # "CONV_2D 7 (model/conv/Relu)", "input image", "samples"
    evidence: str  # what was seen, with numbers
    fix: str
    severity: str = "warning"

    def __str__(self) -> str:
        return f"{self.rule}, {self.layer}: {self.evidence}"


def listed(names: Sequence[str], *, most: int = 3) -> str:
    """`a, b, c and 4 more`."""
    shown = ", ".join(names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
