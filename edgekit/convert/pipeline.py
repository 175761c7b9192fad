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
from edgekit.bundle import Bundle, Delegate, Manifest, Variant, check_replaceable, sha256_file, write_bundle
from edgekit.convert.cautions import cautions
from edgekit.convert.compare import Comparison, compare_models
from edgekit.convert.cost import macs
from edgekit.convert.describe import full_int8_findings, operator_counts, per_channel_weights
from edgekit.convert.flatbuffer import read_model
from edgekit.convert.frontend import model_kind, run_tensorflow
from edgekit.convert.gate import MAX_DROP, Verdict, check_options
from edgekit.convert.golden import make_golden
from edgekit.convert.report import About, refused, report_path, write_report
from edgekit.convert.samples import Samples, preprocessed, read_samples, spread
from edgekit.errors import ConversionError, InputError, PreprocessError, SamplesError
from edgekit.runner.interpreter import open_interpreter
from edgekit.runner.model import Model, describe_variant
from edgekit.target import Target, load_target
from edgekit.toml import read_toml

CALIBRATION_COUNT = 500  # samples used for ranges at most; convergence is reached long before
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
    verdict: Verdict  # of the gate; one that is not passed is raised, not returned
    comparison: Comparison  # what the report shows
    report: Path | None


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
    name: str | None = None,
    timeout_s: float = 1800.0,
    metric: str | None = None,
    max_drop: float = MAX_DROP,
    report: Path | bool = True,
    command: Sequence[str] = (),
    progress: Callable[[str], None] = lambda stage: None,
) -> ConversionResult:
    """A bundle in `output` with the full-int8 variant of `model` (and with `keep_float` the float one).

    `samples` (.npz/.npy) are raw inputs as the device will meet them; `spec` (TOML) says how they become what the model
    sees. `evaluate` adds labels (`y`) and a task metric. The int8 file is checked operator by operator, the float one
    against the source model, and int8 may lose `max_drop` beside float (edgekit.convert.gate says of what; `metric`
    chooses it). Raises InputError, ConversionError (QualityLost), MissingLibrary; no bundle is written then.
    `report`: where the HTML report goes, also of a refused model; True: beside the bundle.
    """
    kind = model_kind(model)
    _check_output(output)
    check_options(metric, max_drop, labelled=evaluate is not None)
    page = report_path(output) if report is True else report or None
    board = load_target(target) if target is not None else None
    specs = read_specs(spec) if spec is not None else {}
    label_names = read_labels(labels)
    raw = read_samples(samples, with_labels=False)
    held_out = read_samples(evaluate, with_labels=True) if evaluate is not None else None
    calibration = {n: a[spread(raw.count, CALIBRATION_COUNT)] for n, a in raw.arrays.items()}
    by_array = _by_array(specs, raw)
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
        per_channel = _check_int8(folder / "int8.tflite", model)
        progress("measure")
        names = {"int8": folder / "int8.tflite", "float32": folder / "float.tflite"}
        models = {n: _open(path, n, specs, board) for n, path in names.items()}
        comparison = compare_models(
            *(models["float32"], names["float32"], models["int8"], names["int8"], held_out or raw),
            metric=metric,
            max_drop=max_drop,
            has_class_names=bool(label_names),
            timed=page is not None,
        )
        kept = ["int8", "float32"] if keep_float else ["int8"]
        made_by = {"edgekit": __version__, "python": platform.python_version(), **made.versions, **_litert()}
        made_from = _digests(model=model, samples=samples, evaluate=evaluate, preprocess=spec, labels=labels)
        about = About(
            title=name or _name(model),
            command=tuple(command),
            target=target,
            labels=tuple(label_names),
            preprocess={n: preprocess.spec_fields(s) for n, s in models["int8"].specs.items()},
            made_by=made_by,
            made_from=made_from,
            warnings=cautions(raw, comparison, models["int8"], label_names, made.fixed_sizes),
        )
        if not comparison.verdict.passed:
            if page is not None:
                write_report(page, comparison, about)
            raise refused(comparison, page)
        progress("golden vectors")
        golden, tolerances = make_golden(models, names, kept, raw)
        contents = {f"models/{n}.tflite": names[n].read_bytes() for n in kept} | {"golden.npz": golden}
        if label_names:
            contents["labels.txt"] = ("\n".join(label_names) + "\n").encode()
        found = {"int8": comparison.qualities}
        variants = tuple(
            replace(models[n].variant, qualities=found.get(n, ()), golden_tolerance=tolerances[n]) for n in kept
        )
    manifest = Manifest(
        name=about.title,
        target=target,
        arch=board.arch if board is not None else None,
        variants=variants,
        preprocess=about.preprocess,
        preprocess_sha256={n: preprocess.spec_digest(s) for n, s in models["int8"].specs.items()},
        labels="labels.txt" if label_names else None,
        golden="golden.npz",
        files={},
        made_by=made_by,
        made_from=made_from,
        command=tuple(command),
    )
    progress("write")
    try:
        bundle = write_bundle(output, manifest, contents)
    except OSError as error:
        raise _unwritable(output, error.strerror or str(error)) from error
    if page is not None:
        write_report(page, comparison, replace(about, bundle=bundle.id))
    return ConversionResult(
        bundle=bundle,
        variants=variants,
        float_bytes=len(made.float_model),
        int8_bytes=len(made.int8_model),
        float_difference=made.float_difference,
        calibration_count=len(next(iter(calibration.values()))),
        per_channel_weights=per_channel,
        warnings=about.warnings,
        verdict=comparison.verdict,
        comparison=comparison,
        report=page,
    )


def read_specs(path: Path) -> dict[str, preprocess.Spec]:
    """The preprocessing in a TOML file: one spec (for every input, under the name ""), or a table [input name] for each.

    Raises PreprocessError naming the key that is wrong.
    """
    fields = read_toml(path)
    tables = fields if fields and all(isinstance(value, dict) for value in fields.values()) else {"": fields}
    return {name: preprocess.parse_spec(table) for name, table in tables.items()}


def _by_array(specs: Mapping[str, preprocess.Spec], raw: Samples) -> dict[str, preprocess.Spec]:
    """The specs by the name of the sample array they are for; a single array needs no particular name."""
    if set(specs) == {""}:
        return dict.fromkeys(raw.arrays, specs[""])
    if len(specs) == len(raw.arrays) == 1:
        return dict.fromkeys(raw.arrays, next(iter(specs.values())))
    if unknown := sorted(set(specs) - set(raw.arrays)):
        raise PreprocessError(
            f"the preprocessing is for {', '.join(unknown)}; {raw.source} has the arrays {', '.join(raw.arrays)}",
            hint="name both after the model's inputs",
        )
    return dict(specs)


def _check_alike(raw: Samples, held_out: Samples, specs: Mapping[str, preprocess.Spec]) -> None:
    """SamplesError, before TensorFlow takes its time, if the two files do not hold the same kind of inputs."""
    names = list(raw.arrays)
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


def read_labels(path: Path | None) -> list[str]:
    """The class names in a text file; none without one."""
    if path is None:
        return []
    try:
        return path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}", hint="give a text file with one label a line") from error


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
    """SHA-256 of a file, or of a folder's files and their names."""
    if path.is_file():
        return sha256_file(path)
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update(f"{file.relative_to(path).as_posix()} {sha256_file(file)}\n".encode())
    return digest.hexdigest()


def _litert() -> dict[str, str]:
    return {"ai-edge-litert": metadata.version("ai-edge-litert")}
