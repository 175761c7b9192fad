"""The variants of one float .tflite: for each mode a file, the ranges it was made with, and who made it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit.convert.choose import Choice, choose
from edgekit.convert.held_out import Tried
from edgekit.convert.modes import AUTO, MODES, WITH_RANGES
from edgekit.convert.quantize import quantize
from edgekit.convert.tflite_file import fed
from edgekit.errors import InputError
from edgekit.runner.interpreter import open_interpreter
from edgekit.runner.model import describe_variant


@dataclass(frozen=True)
class Made:
    """One variant's file."""

    mode: str
    path: Path
    ranges: str | None  # the policy that its ranges were made by; None: it has none
    made_by: str  # the quantizer and its version; empty for float32
    tried: tuple[Tried, ...]  # every policy that was tried, and how it did


def check_modes(modes: Sequence[str]) -> None:
    """InputError for no mode, an unknown one, or one twice."""
    unknown = [mode for mode in modes if mode not in MODES]
    if not modes or unknown:
        raise InputError(f"no mode is called {''.join(unknown[:1])!r}", hint=f"there are: {', '.join(MODES)}")
    if len(set(modes)) < len(modes):
        raise InputError("a mode is given twice", hint="each makes one variant; the first one is the default")


def make_variants(
    float_model: Path,
    modes: Sequence[str],
    samples: Mapping[str, np.ndarray],
    folder: Path,
    *,
    policy: str = AUTO,
    timeout_s: float = 1800.0,
    progress: Callable[[str], None] = lambda stage: None,
) -> tuple[Made, ...]:
    """`float_model` in each of `modes`, calibrated on `samples` (what the model sees, (n, ...) by input)."""
    described = describe_variant(open_interpreter(float_model, 1), "", quantization="float32")
    feeds = fed(samples, described.inputs)
    made: list[Made] = []
    choices: dict[str, Choice] = {}
    for mode in modes:
        progress(f"quantize to {mode}")
        same = choices.get({"int8": "int8-float-io", "int8-float-io": "int8"}.get(mode, ""))
        if mode in WITH_RANGES and same is None:
            choice = choices[mode] = choose(float_model, mode, feeds, folder / mode, policy=policy, timeout_s=timeout_s)
            made.append(Made(mode, choice.path, choice.policy, choice.made_by, choice.tried))
            continue
        # the two forms of int8 are the same inside: what was found for one holds for the other
        done = quantize(float_model, mode, [same.ranges] if same else [], folder / mode, timeout_s=timeout_s)
        of_ranges = (same.policy, done.made_by, same.tried) if same else (None, done.made_by, ())
        made.append(Made(mode, done.paths[0], *of_ranges))
    return tuple(made)
