"""The variants of one float .tflite: for each mode a file, the ranges it was made with, and who made it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgekit import preprocess
from edgekit.bundle import Delegate
from edgekit.convert.calibrate import Extremes, Feeds
from edgekit.convert.choose import Choice, choose
from edgekit.convert.coral import units_of
from edgekit.convert.cost import macs
from edgekit.convert.describe import operator_counts
from edgekit.convert.flatbuffer import read_model
from edgekit.convert.held_out import Tried
from edgekit.convert.mixed import can_be_float, leave_float
from edgekit.convert.modes import AUTO, MIXED, MODES, WITH_RANGES
from edgekit.convert.polish import Polished, polished
from edgekit.convert.quantize import check_runs, quantize
from edgekit.convert.recipe import Rule, pick
from edgekit.convert.tflite_file import fed
from edgekit.errors import InputError, PreprocessError
from edgekit.runner.interpreter import open_interpreter
from edgekit.runner.model import Model, describe_variant
from edgekit.target import Target

# Below this a second thread costs more than it brings. Measured on x86-64, int8, median of one answer, 1 and 2 threads:
# 0.26 M MACs (ad01) 4.5 and 7.6 us; 2.7 M (kws) 55 and 34 us; 12.5 M (ResNet8) 94 and 59 us
ONE_THREAD_MACS = 1_000_000

COARSE = ("dynamic", "weights8", "weights4")  # whose weights lose enough that a bias can make up for some of it


@dataclass(frozen=True)
class Made:
    """One variant's file."""

    mode: str
    path: Path
    ranges: str | None  # the policy that its ranges were made by; None: it has none
    made_by: str  # the quantizer and its version; empty for float32
    tried: tuple[Tried, ...]  # every policy that was tried, and how it did
    layers_of: Path | None = None  # the float model that has its layers, if not the one that was given (equalized)


def check_modes(modes: Sequence[str], recipe: Path | None) -> None:
    """InputError for no mode, an unknown one, or one twice; and unless mode mixed and a recipe come together."""
    unknown = [mode for mode in modes if mode not in MODES]
    if not modes or unknown:
        raise InputError(f"no mode is called {''.join(unknown[:1])!r}", hint=f"there are: {', '.join(MODES)}")
    if len(set(modes)) < len(modes):
        raise InputError("a mode is given twice", hint="each makes one variant; the first one is the default")
    if (MIXED in modes) != (recipe is not None):
        raise InputError(
            "--mode mixed and --recipe need each other",
            hint="the recipe is a TOML file that says which operators stay float; docs/convert.md has an example",
        )


def make_variants(
    float_model: Path,
    modes: Sequence[str],
    samples: Mapping[str, np.ndarray],
    folder: Path,
    *,
    rules: Sequence[Rule] = (),
    extremes: Extremes | None = None,
    policy: str = AUTO,
    timeout_s: float = 1800.0,
    progress: Callable[[str], None] = lambda stage: None,
) -> tuple[Made, ...]:
    """`float_model` in each of `modes`, calibrated on `samples` (what the model sees, (n, ...) by input).

    `rules` say what stays float in mode mixed, which is int8 for the rest. `extremes` are those of `float_model` on the
    samples, if they were measured already.
    """
    feeds = as_fed(float_model, samples)
    choices: dict[str, Choice] = {}

    def choice_of(mode: str) -> Choice:
        if mode in choices:
            return choices[mode]
        place = folder / mode
        same = choices.get({"int8": "int8-float-io", "int8-float-io": "int8"}.get(mode, ""))
        if same is None:
            choice = choose(float_model, mode, feeds, place, extremes=extremes, policy=policy, timeout_s=timeout_s)
        else:  # the two forms of int8 are the same inside: what was found for one holds for the other
            done = quantize(same.source, mode, [same.ranges], place, timeout_s=timeout_s)
            choice = replace(same, path=done.paths[0], made_by=done.made_by)
        if mode != "int16x8":
            better = polished(choice.path, choice.source, feeds, place / "polish")
            choice = replace(choice, path=better.path, made_by=_said(choice.made_by, better))
        choices[mode] = choice
        return choice

    made: list[Made] = []
    for mode in modes:
        progress(f"quantize to {mode}")
        if mode in WITH_RANGES:
            choice = choice_of(mode)
            made.append(Made(mode, choice.path, choice.policy, choice.made_by, choice.tried))
        elif mode == MIXED:
            made.append(_mixed(choice_of("int8"), rules, folder / MIXED, timeout_s))
        else:
            done = quantize(float_model, mode, [], folder / mode, timeout_s=timeout_s)
            better = Polished(done.paths[0], "")
            if mode in COARSE:
                place, rounding = folder / mode / "polish", mode == "weights4"
                better = polished(done.paths[0], float_model, feeds, place, rounding=rounding)
            made.append(Made(mode, better.path, None, _said(done.made_by, better), ()))
    return tuple(made)


def _said(made_by: str, better: Polished) -> str:
    return f"{made_by}, {better.done} by edgekit" if better.done else made_by


def as_fed(float_model: Path, samples: Mapping[str, np.ndarray]) -> Feeds:
    """What the model sees, (n, ...) by input, shaped as its tensors are."""
    described = describe_variant(open_interpreter(float_model, 1), "", quantization="float32")
    return fed(samples, described.inputs)


def _mixed(int8: Choice, rules: Sequence[Rule], folder: Path, timeout_s: float) -> Made:
    """The int8 model with what the rules mean left in float."""
    folder.mkdir(parents=True, exist_ok=True)
    names = pick(rules, can_be_float(int8.source, int8.path))
    leave_float(int8.source, int8.path, names, folder / "0.tflite")
    check_runs(folder / "0.tflite", folder / "check", timeout_s=timeout_s)
    return Made(MIXED, folder / "0.tflite", int8.policy, int8.made_by, int8.tried)


def open_variant(
    made: Made, *, specs: Mapping[str, preprocess.Spec], board: Target | None, delegates: Sequence[Delegate] = ()
) -> Model:
    """The variant in the runner that will serve it."""
    path = made.path
    interpreter = open_interpreter(path, threads=1)
    described = describe_variant(interpreter, f"models/{made.mode}.tflite", quantization=made.mode)
    wanted = {t.name: specs.get(t.name, specs.get("", preprocess.Generic())) for t in described.inputs}
    unknown = set(specs) - {""} - {t.name for t in described.inputs}
    if unknown:
        raise PreprocessError(
            f"the preprocessing is for {', '.join(sorted(unknown))}",
            hint=f"the model's inputs are {', '.join(t.name for t in described.inputs)}",
        )
    described_file = read_model(path)
    operators = {op: version for op, (_, version) in sorted(operator_counts(described_file).items())}
    threads = None if board is None else board.threads
    if macs(described_file) < ONE_THREAD_MACS:
        threads = 1
    listed = delegates or (tuple(Delegate(d.name, d.options) for d in board.delegates) if board else ())
    chosen = units_of(listed or (Delegate("cpu", {}),), threads)
    variant_of = replace(described, ranges=made.ranges, operators=operators, delegates=chosen)
    return Model(variant_of, [interpreter], wanted)
