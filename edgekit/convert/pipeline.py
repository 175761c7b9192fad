"""The whole of `edgekit convert`: samples and a float model in, a proved bundle out."""

from __future__ import annotations

import hashlib
import os
import platform
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

from edgekit import __version__, preprocess
from edgekit.bundle import Bundle, Delegate, Manifest, Quality, Variant, check_replaceable, sha256_file, write_bundle
from edgekit.convert.cost import macs
from edgekit.convert.describe import full_int8_findings, operator_counts, per_channel_weights
from edgekit.convert.finding import Finding
from edgekit.convert.flatbuffer import read_model
from edgekit.convert.frontend import model_kind, run_tensorflow
from edgekit.convert.golden import make_golden
from edgekit.convert.inspection import check_strict, inspect_float, inspect_preprocessing
from edgekit.convert.lint import runtime_findings
from edgekit.convert.quality import agreement, answers, judged
from edgekit.convert.samples import Samples, check_fit, preprocessed, read_samples, read_specs, specs_by_array
from edgekit.convert.samples_function import source_file
from edgekit.convert.selection import pick
from edgekit.errors import ConversionError, InputError, PreprocessError, SamplesError
from edgekit.runner.interpreter import open_interpreter
from edgekit.runner.model import Model, describe_variant
from edgekit.target import Target, load_target

MAX_SAMPLES = 500  # used for ranges, unless somebody says otherwise; convergence is reached long before
# Below this a second thread costs more than it brings. Measured on x86-64, int8, median of one answer, 1 and 2 threads:
# 0.26 M MACs (ad01) 4.5 and 7.6 us; 2.7 M (kws) 55 and 34 us; 12.5 M (ResNet8) 94 and 59 us
ONE_THREAD_MACS = 1_000_000
FLOAT_TOLERANCE = 1e-3  # float .tflite against the source model, relative: more is a wrong conversion, not rounding


@dataclass(frozen=True)
class ConversionResult:
    """A bundle and what is known about it."""

    bundle: Bundle
    variants: tuple[Variant, ...]
    float_bytes: int
    int8_bytes: int
    float_difference: float  # largest |float .tflite - source model|, relative to the source's largest output
    calibration_count: int
    per_channel_weights: tuple[int, int]  # (with a scale for each channel, all) of convolutions and dense layers
    warnings: tuple[str, ...]
    findings: tuple[Finding, ...]  # of the lint
    convergence: tuple[tuple[int, float], ...]  # (samples, share of the final ranges that they make)


def convert(
    model: Path,
    output: Path,
    samples: Path,
    *,
    evaluate: Path | None = None,
    target: str | None = None,
    spec: Path | None = None,
    labels: Path | None = None,
    keep_float: bool = False,
    strict: bool = False,
    max_samples: int = MAX_SAMPLES,
    name: str | None = None,
    timeout_s: float = 1800.0,
    command: Sequence[str] = (),
    progress: Callable[[str], None] = lambda stage: None,
) -> ConversionResult:
    """A bundle in `output` with the full-int8 variant of `model` (and with `keep_float` the float one).

    `samples` (see `read_samples`) are raw inputs as the device will meet them; `spec` (TOML) says how they become what the model
    sees. `evaluate` adds labels (`y`) and a task metric. The int8 file is checked operator by operator, the float one
    against the source model. With `strict` a warning of the lint is a ConversionError. Raises InputError, ConversionError,
    MissingLibrary; nothing is written then.
    """
    kind = model_kind(model)
    _check_output(output)
    board = load_target(target) if target is not None else None
    specs = read_specs(spec) if spec is not None else {}
    label_names = _read_labels(labels)
    raw = read_samples(samples, with_labels=False, classes=label_names, most=max_samples)
    held_out = read_samples(evaluate, with_labels=True, classes=label_names) if evaluate is not None else None
    picked = pick(raw.arrays, raw.labels, max_samples)
    calibration = {n: a[picked] for n, a in raw.arrays.items()}
    by_array = specs_by_array(specs, raw)
    check_fit(raw, by_array)
    if held_out is not None:
        _check_alike(raw, held_out, by_array)
    with tempfile.TemporaryDirectory(prefix="edgekit-") as scratch:
        folder = Path(scratch)
        progress("convert with TensorFlow")
        made = run_tensorflow(model, kind, preprocessed(calibration, by_array), folder, timeout_s=timeout_s)
        if made.float_difference > FLOAT_TOLERANCE:
            raise ConversionError(
                f"{model}: the float .tflite answers differently from the model ({made.float_difference:.2g} relative)",
                hint="does the model behave differently in training (dropout, batch norm)? export it for inference",
            )
        inspection = inspect_float(folder / "float.tflite", preprocessed(calibration, by_array), board)
        check_strict(inspection.findings, strict)
        per_channel = _check_int8(folder / "int8.tflite", model)
        progress("measure")
        names = {"int8": folder / "int8.tflite", "float32": folder / "float.tflite"}
        models = {n: _open(path, n, specs, board) for n, path in names.items()}
        qualities = _measure(models, raw, held_out, bool(label_names))
        findings = [*inspection.findings, *runtime_findings(read_model(names["int8"]), board)]
        findings += inspect_preprocessing(names["float32"], models["float32"], held_out)
        check_strict(findings, strict)
        kept = ["int8", "float32"] if keep_float else ["int8"]
        progress("golden vectors")
        golden, tolerances = make_golden(models, names, kept, raw)
        contents = {f"models/{n}.tflite": names[n].read_bytes() for n in kept} | {"golden.npz": golden}
        if label_names:
            contents["labels.txt"] = ("\n".join(label_names) + "\n").encode()
        variants = tuple(
            replace(models[n].variant, qualities=qualities if n == "int8" else (), golden_tolerance=tolerances[n])
            for n in kept
        )
    input_specs = models["int8"].specs
    manifest = Manifest(
        name=name or _name(model),
        target=target,
        arch=board.arch if board is not None else None,
        variants=variants,
        preprocess={n: preprocess.spec_fields(s) for n, s in input_specs.items()},
        preprocess_sha256={n: preprocess.spec_digest(s) for n, s in input_specs.items()},
        labels="labels.txt" if label_names else None,
        golden="golden.npz",
        files={},
        made_by={"edgekit": __version__, "python": platform.python_version(), **made.versions, **_litert()},
        made_from=_digests(model=model, samples=samples, evaluate=evaluate, preprocess=spec, labels=labels),
        command=tuple(command),
    )
    progress("write")
    try:
        bundle = write_bundle(output, manifest, contents)
    except OSError as error:
        raise _unwritable(output, error.strerror or str(error)) from error
    return ConversionResult(
        bundle=bundle,
        variants=variants,
        float_bytes=len(made.float_model),
        int8_bytes=len(made.int8_model),
        float_difference=made.float_difference,
        calibration_count=len(next(iter(calibration.values()))),
        per_channel_weights=per_channel,
        warnings=_warnings(raw, qualities, models["int8"], label_names, made.fixed_sizes),
        findings=tuple(dict.fromkeys(findings)),
        convergence=inspection.convergence,
    )


def _check_alike(raw: Samples, held_out: Samples, specs: Mapping[str, preprocess.Spec]) -> None:
    """SamplesError, before TensorFlow takes its time, if the two files do not hold the same kind of inputs."""
    names = list(raw.arrays)
    check_fit(held_out, specs)
    first = {name: array[:1] for name, array in held_out.of_inputs(names).items()}
    wanted = preprocessed({name: array[:1] for name, array in raw.arrays.items()}, specs)
    for name, array in preprocessed(first, specs).items():
        if array.shape != wanted[name].shape:
            raise SamplesError(
                f"{held_out.source}: inputs of shape {array.shape[1:]}, the samples are {wanted[name].shape[1:]}",
                hint="--samples and --evaluate are both raw inputs as the device will meet them",
            )


def _check_output(path: Path) -> None:
    """InputError, before TensorFlow takes its time, if nothing can be written there or something else lies there."""
    check_replaceable(path)
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir():
        raise _unwritable(path, f"{folder} is not a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise _unwritable(path, f"no permission in {folder}")


def _unwritable(path: Path, why: str) -> InputError:
    return InputError(f"{path} cannot be written: {why}", hint="choose another folder for -o")


def _open(path: Path, variant: str, specs: Mapping[str, preprocess.Spec], board: Target | None) -> Model:
    """The variant in the runner that will serve it."""
    interpreter = open_interpreter(path, threads=1)
    described = describe_variant(interpreter, f"models/{variant}.tflite", quantization=variant)
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
    options = {} if threads is None else {"threads": threads}
    delegates = tuple(Delegate(d.name, options) for d in board.delegates) if board else (Delegate("cpu", options),)
    variant_of = replace(described, operators=operators, delegates=delegates)
    return Model(variant_of, [interpreter], wanted)


def _check_int8(path: Path, model: Path) -> tuple[int, int]:
    """How many of its weights are per channel; ConversionError if an operator is not int8."""
    described = read_model(path)
    findings = full_int8_findings(described)
    if findings:
        raise ConversionError(
            f"{model}: the result is not full int8: {findings[0]}"
            + (f" (and {len(findings) - 1} more)" if findings[1:] else ""),
            hint="replace that layer by one with an int8 kernel; nothing was written",
        )
    return per_channel_weights(described)


def _measure(
    models: Mapping[str, Model], raw: Samples, held_out: Samples | None, has_labels: bool
) -> tuple[Quality, ...]:
    names = [tensor.name for tensor in models["int8"].inputs]
    judge = held_out or raw
    inputs = judge.of_inputs(names)
    float_answers, int8_answers = (answers(models[n], inputs) for n in ("float32", "int8"))
    task = [judged(float_answers, int8_answers, held_out)] if held_out is not None else []
    classes = has_labels or any(quality.metric == "top-1 accuracy" for quality in task)
    source = f"measured on the workstation, {judge.name}"
    return (*task, *agreement(float_answers, int8_answers, source, classes=classes))


def _read_labels(path: Path | None) -> list[str]:
    if path is None:
        return []
    try:
        return path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}", hint="give a text file with one label a line") from error


def _warnings(
    raw: Samples, qualities: Sequence[Quality], model: Model, labels: Sequence[str], fixed_sizes: bool
) -> tuple[str, ...]:
    found = []
    if not fixed_sizes:
        found.append("the graph only works with a free batch: it keeps operators that compute shapes while it runs")
    if raw.count < 32:
        found.append(
            f"only {raw.count} samples: ranges may be too narrow for what the device will meet; give about 100"
        )
    for quality in qualities:
        if quality.metric == "top-1 accuracy" and quality.float_value is not None:
            drop = 100 * (quality.float_value - quality.value)
            if drop > 1.0:
                found.append(f"int8 loses {drop:.1f} points of accuracy: do not ship this without looking into it")
        if quality.metric == "same class as float" and quality.value < 0.95:
            found.append(f"int8 and float agree on only {quality.value:.1%} of the samples")
        if quality.metric == "SQNR to float, dB" and quality.value < 10.0:
            found.append(f"int8 answers are far from the float ones ({quality.value:g} dB): compare them before use")
    classes = model.outputs[0].shape[-1] if model.outputs[0].shape else 1
    if labels and len(labels) != classes:
        found.append(f"{len(labels)} labels for {classes} outputs")
    return tuple(found)


def _name(model: Path) -> str:
    whole = model.resolve().name if model.name in ("", "..") else model.name
    return whole.removesuffix(model.suffix) or whole


def _digests(**paths: Path | None) -> dict[str, str]:
    """The hash of everything that went in, by file name; by role and name where two have the same name."""
    given = {role: path for role, path in paths.items() if path is not None}
    names = [path.name for path in given.values()]
    return {
        path.name if names.count(path.name) == 1 else f"{role}/{path.name}": _digest(path)
        for role, path in given.items()
    }


def _digest(path: Path) -> str:
    """SHA-256 of a file (`file.py:function`: of that file), or of a folder's files and their names."""
    path = source_file(path)
    if path.is_file():
        return sha256_file(path)
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update(f"{file.relative_to(path).as_posix()} {sha256_file(file)}\n".encode())
    return digest.hexdigest()


def _litert() -> dict[str, str]:
    return {"ai-edge-litert": metadata.version("ai-edge-litert")}
