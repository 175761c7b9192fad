"""The lint as `convert` uses it: on the float model that was just made, its samples, and its answers to labelled ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit import preprocess
from edgekit.bundle import read_bundle, verify_bundle
from edgekit.convert.extremes import extremes_by_name
from edgekit.convert.finding import Finding
from edgekit.convert.flatbuffer import read_model
from edgekit.convert.lint import lint
from edgekit.convert.samples import Samples, check_fit, preprocessed, read_samples, read_specs, specs_by_array
from edgekit.convert.selection import convergence, enough, spread
from edgekit.convert.trial import preprocessing_findings
from edgekit.errors import BundleError, ConversionError, MissingLibrary
from edgekit.runner.interpreter import open_interpreter
from edgekit.runner.model import Model
from edgekit.target import Target, load_target

MOST_SAMPLES = 100  # whose extremes are looked at: what is unusual among them is unusual


@dataclass(frozen=True)
class Inspection:
    """What was found, and how the ranges grew with the number of samples: (count, share of their final width)."""

    findings: tuple[Finding, ...]
    convergence: tuple[tuple[int, float], ...]  # empty: not measured


def inspect_float(path: Path, samples: Mapping[str, np.ndarray], target: Target | None) -> Inspection:
    """The lint of a float .tflite, its ranges measured on some of the samples (what the model sees, by input name)."""
    model = read_model(path)
    some = {name: array[spread(len(array), MOST_SAMPLES)] for name, array in samples.items()}
    try:
        extremes = extremes_by_name(path, some)
    except (
        MissingLibrary,
        ConversionError,
        BundleError,
        ValueError,
        RuntimeError,
    ):  # a model that LiteRT cannot measure: less is known
        return Inspection(tuple(lint(model, target=target, samples=samples)), ())
    computed = {tensor for op in model.subgraphs[0].operators for tensor in op.outputs if tensor >= 0}
    names = dict.fromkeys(model.subgraphs[0].tensors[index].name for index in sorted(computed))
    sides = [extremes[name] for name in names if name in extremes]
    curve = convergence(*(np.stack(side, 1) for side in zip(*sides, strict=True))) if sides else []
    findings = lint(model, extremes=extremes, target=target, samples=samples)
    if curve and enough(curve) is None:
        findings.append(
            Finding(
                "few-samples",
                "samples",
                f"the ranges still grow: {curve[-2][0] if curve[1:] else 0} samples make {curve[-2][1] if curve[1:] else 0:.1%} "
                f"of what all {curve[-1][0]} make",
                "give more samples, of everything that the device will meet",
                "info",
            )
        )
    return Inspection(tuple(findings), tuple(curve))


def inspect_preprocessing(path: Path, model: Model, held_out: Samples | None) -> list[Finding]:
    """Whether the float .tflite would be right more often on labelled samples that were prepared in another way."""
    if held_out is None or held_out.labels is None or len(model.inputs) != 1 or len(model.outputs) != 1:
        return []
    if len(model.outputs[0].shape) != 2 or model.outputs[0].shape[1] < 2:  # no classifier
        return []
    inputs = preprocessed(held_out.of_inputs([model.inputs[0].name]), model.specs)[model.inputs[0].name]
    plain = Model(model.variant, [open_interpreter(path, threads=1)], {})  # nothing is done to its inputs
    return preprocessing_findings(lambda array: np.asarray(plain(array)), inputs, held_out.labels)


def check_strict(findings: Sequence[Finding], strict: bool) -> None:
    """ConversionError, with `strict`, for the first warning."""
    warnings = [finding for finding in findings if finding.severity == "warning"]
    if strict and warnings:
        more = f" (and {len(warnings) - 1} more)" if warnings[1:] else ""
        raise ConversionError(f"{warnings[0]}{more}", hint=f"{warnings[0].fix}; without --strict it is only told")


def inspect_file(
    path: Path, *, target: str | None = None, samples: Path | None = None, spec: Path | None = None
) -> tuple[Finding, ...]:
    """The lint of a .tflite file, or of every variant of a bundle; each finding once.

    Samples of a bundle go through the bundle's own preprocessing, those of a file through `spec` (TOML).
    """
    board = load_target(target) if target is not None else None
    files, specs = [path], read_specs(spec) if spec is not None else {}
    if path.is_dir():
        bundle = read_bundle(path)
        verify_bundle(bundle)
        files = [bundle.file(variant.file) for variant in bundle.manifest.variants]
        specs = specs or {name: preprocess.parse_spec(fields) for name, fields in bundle.manifest.preprocess.items()}
    seen: dict[str, np.ndarray] = {}
    if samples is not None:
        raw = read_samples(samples, with_labels=False, most=MOST_SAMPLES)
        by_array = specs_by_array(specs, raw)
        check_fit(raw, by_array)
        seen = preprocessed(raw.arrays, by_array)
    findings: dict[Finding, None] = {}
    for file in files:
        model = read_model(file)
        is_float = any(model.subgraphs[0].tensors[index].is_float for index in model.subgraphs[0].inputs)
        found = (
            inspect_float(file, seen, board).findings if seen and is_float else lint(model, target=board, samples=seen)
        )
        findings |= dict.fromkeys(found)
    return tuple(findings)
