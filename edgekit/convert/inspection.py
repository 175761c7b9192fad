"""The lint as `convert` uses it: on the float model that was just made, its samples, and its answers to labelled ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from edgekit import preprocess
from edgekit.bundle import read_bundle, verify_bundle
from edgekit.convert.extremes import by_name
from edgekit.convert.finding import Finding
from edgekit.convert.flatbuffer import read_model
from edgekit.convert.lint import lint
from edgekit.convert.samples import Samples, check_fit, preprocessed, read_samples, read_specs, specs_by_array
from edgekit.convert.selection import enough, spread
from edgekit.convert.settle import Settled, settle
from edgekit.convert.trial import preprocessing_findings
from edgekit.errors import ConversionError
from edgekit.runner.interpreter import open_interpreter
from edgekit.runner.model import Model
from edgekit.target import Target, load_target

MOST_SAMPLES = 100  # that `edgekit lint` looks at: what is unusual among them is unusual


def inspect_float(path: Path, settled: Settled, target: Target | None) -> tuple[Finding, ...]:
    """The lint of a float .tflite with what was measured of it; whether the samples were enough for its ranges."""
    extremes = by_name(settled.extremes) if settled.extremes is not None else None
    findings = lint(read_model(path), extremes=extremes, target=target, samples=settled.seen)
    curve = settled.curve
    if curve and enough(curve) is None:
        count, share = curve[-2] if curve[1:] else (0, 0.0)
        findings.append(
            Finding(
                "few-samples",
                "samples",
                f"the ranges still grow: {count} samples make {share:.1%} of what all {curve[-1][0]} make",
                "give more samples, of everything that the device will meet",
                "info",
            )
        )
    return tuple(findings)


def inspect_preprocessing(path: Path, model: Model, held_out: Samples | None) -> list[Finding]:
    """Whether the float .tflite would be right more often on labelled samples that were prepared in another way."""
    if held_out is None or held_out.labels is None or len(model.inputs) != 1 or len(model.outputs) != 1:
        return []
    if len(model.outputs[0].shape) != 2 or model.outputs[0].shape[1] < 2:  # no classifier
        return []
    if not model.inputs[0].dtype.startswith("float"):  # tokens are prepared in one way only
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
    raw = read_samples(samples, with_labels=False, most=MOST_SAMPLES) if samples is not None else None
    by_array = specs_by_array(specs, raw) if raw is not None else {}
    if raw is not None:
        check_fit(raw, by_array)
    findings: dict[Finding, None] = {}
    for file in files:
        findings |= dict.fromkeys(_found(file, raw, by_array, board))
    return tuple(findings)


def _found(
    file: Path, raw: Samples | None, specs: Mapping[str, preprocess.Spec], board: Target | None
) -> Sequence[Finding]:
    model = read_model(file)
    if raw is None:
        return lint(model, target=board)
    some = spread(raw.count, MOST_SAMPLES)
    if any(model.subgraphs[0].tensors[index].is_float for index in model.subgraphs[0].inputs):
        return inspect_float(file, settle(file, raw, specs, some, until_settled=False), board)
    seen = preprocessed({name: array[some] for name, array in raw.arrays.items()}, specs)
    return lint(model, target=board, samples=seen)
