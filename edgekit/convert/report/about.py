"""What a report tells beside the comparison itself: where everything came from, and what else was tried or found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class About:
    """All of it optional: two bare .tflite files have only names."""

    title: str
    command: tuple[str, ...] = ()
    target: str | None = None
    goal: str | None = None  # of power
    limits: Mapping[str, float] | None = None  # of its server: manifest.LIMITS
    bundle: str | None = None  # its id; None: nothing was written, or there is none
    labels: tuple[str, ...] = ()
    preprocess: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    made_by: Mapping[str, str] = field(default_factory=dict)
    made_from: Mapping[str, str] = field(default_factory=dict)
    commits: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    # tables, where there is something to tell: a dataclass or a mapping of column to value for each row
    policies: tuple[Mapping[str, Any], ...] = ()  # range policies: variant, held_out.Tried's fields, chosen
    repairs: tuple[Mapping[str, Any], ...] = ()  # what was tried after a refusal: variant, ladder.Repair's fields
    convergence: tuple[tuple[int, float], ...] = ()  # (samples, share of the final ranges that they make)
    findings: tuple[Any, ...] = ()  # of lint
    variants: tuple[Any, ...] = ()  # of the bundle, if there are several
    unit: str = "CPU"  # where the operators run; for each, once there is more than one

    def class_name(self, number: int) -> str:
        """The label of a class, or its number."""
        return self.labels[number] if 0 <= number < len(self.labels) else str(number)
