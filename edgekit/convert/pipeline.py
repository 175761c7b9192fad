"""The whole of `edgekit convert`: samples and a float model in, a proved bundle out."""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgekit import __version__, preprocess
from edgekit.bundle import Bundle, Delegate, Manifest, Quality, Variant, check_replaceable, write_bundle
from edgekit.convert.choose import Tried
from edgekit.convert.cost import macs
from edgekit.convert.describe import operator_counts, per_channel_weights
from edgekit.convert.flatbuffer import read_model
from edgekit.convert.frontend import Converted, model_kind, to_float_tflite
from edgekit.convert.golden import make_golden
from edgekit.convert.modes import AUTO
from edgekit.convert.provenance import digests, litert_version, model_name
from edgekit.convert.quality import agreement, answers, judged
from edgekit.convert.samples import Samples, preprocessed, read_samples, spread
from edgekit.convert.variants import Made, check_modes, make_variants
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
    variant_bytes: Mapping[str, int]  # of each variant's file
    float_difference: float  # largest |float .tflite - source model|, relative to the source's largest output
    calibration_count: int
    per_channel_weights: tuple[int, int]  # (with a scale for each channel, all) of the default variant's layers
    tried: Mapping[str, tuple[Tried, ...]]  # variant -> every range policy that was tried for it, and how it did
    warnings: tuple[str, ...]


def convert(
    model: Path,
    output: Path,
    samples: Path,
    *,
    evaluate: Path | None = None,
    target: str | None = None,
    spec: Path | None = None,
    labels: Path | None = None,
    modes: Sequence[str] = ("int8",),
    ranges: str = AUTO,
    name: str | None = None,
    timeout_s: float = 1800.0,
    command: Sequence[str] = (),
    progress: Callable[[str], None] = lambda stage: None,
) -> ConversionResult:
    """A bundle in `output` with a variant of `model` for each of `modes` (modes.MODES), the first one its default.

    `samples` (.npz/.npy) are raw inputs as the device will meet them; `spec` (TOML) says how they become what the model
    sees. `ranges` is a policy (modes.POLICIES), or the best of them by samples held out. `evaluate` adds labels (`y`)
    and a task metric. Each file is checked operator by operator, the float one against the source model.
    Raises InputError, ConversionError, MissingLibrary; nothing is written then.
    """
    model_kind(model)
    check_modes(modes)
    _check_output(output)
    board = load_target(target) if target is not None else None
    specs = read_specs(spec) if spec is not None else {}
    label_names = _read_labels(labels)
    raw = read_samples(samples, with_labels=False)
    held_out = read_samples(evaluate, with_labels=True) if evaluate is not None else None
    calibration = {n: a[spread(raw.count, CALIBRATION_COUNT)] for n, a in raw.arrays.items()}
    by_array = _by_array(specs, raw)
    if held_out is not None:
        _check_alike(raw, held_out, by_array)
    with tempfile.TemporaryDirectory(prefix="edgekit-") as scratch:
        folder = Path(scratch)
        seen = preprocessed(calibration, by_array)
        source = to_float_tflite(model, seen, folder, timeout_s=timeout_s, progress=progress)
        if source.float_difference > FLOAT_TOLERANCE:
            raise ConversionError(
                f"{model}: the float .tflite answers differently from the model ({source.float_difference:.2g} relative)",
                hint="does the model behave differently in training (dropout, batch norm)? export it for inference",
            )
        made = _make(model, source, modes, seen, folder / "variants", ranges, timeout_s, progress)
        progress("measure")
        models = {one.mode: _open(one, specs, board) for one in made}
        float_model = models.get("float32") or _open(Made("float32", source.float_model, None, "", ()), specs, board)
        qualities = _measure(float_model, models, raw, held_out, bool(label_names))
        progress("golden vectors")
        golden, tolerances = make_golden(models, {one.mode: one.path for one in made}, raw)
        contents = {f"models/{one.mode}.tflite": one.path.read_bytes() for one in made} | {"golden.npz": golden}
        per_channel = per_channel_weights(read_model(made[0].path))
        float_bytes = source.float_model.stat().st_size
    if label_names:
        contents["labels.txt"] = ("\n".join(label_names) + "\n").encode()
    variants = tuple(replace(models[n].variant, qualities=qualities[n], golden_tolerance=tolerances[n]) for n in models)
    input_specs = models[modes[0]].specs
    quantizers = {f"quantizer of {one.mode}": one.made_by for one in made if one.made_by}
    manifest = Manifest(
        name=name or model_name(model),
        target=target,
        arch=board.arch if board is not None else None,
        variants=variants,
        preprocess={n: preprocess.spec_fields(s) for n, s in input_specs.items()},
        preprocess_sha256={n: preprocess.spec_digest(s) for n, s in input_specs.items()},
        labels="labels.txt" if label_names else None,
        golden="golden.npz",
        files={},
        made_by={
            "edgekit": __version__,
            "python": platform.python_version(),
            **source.versions,
            **quantizers,
            **litert_version(),
        },
        made_from=digests(model=model, samples=samples, evaluate=evaluate, preprocess=spec, labels=labels),
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
        float_bytes=float_bytes,
        variant_bytes={one.mode: len(contents[f"models/{one.mode}.tflite"]) for one in made},
        float_difference=source.float_difference,
        calibration_count=len(next(iter(calibration.values()))),
        per_channel_weights=per_channel,
        tried={one.mode: one.tried for one in made},
        warnings=_warnings(raw, variants, label_names, source.fixed_sizes),
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


def _make(
    model: Path,
    source: Converted,
    modes: Sequence[str],
    seen: Mapping[str, np.ndarray],
    folder: Path,
    ranges: str,
    timeout_s: float,
    progress: Callable[[str], None],
) -> tuple[Made, ...]:
    try:
        return make_variants(
            source.float_model, modes, seen, folder, policy=ranges, timeout_s=timeout_s, progress=progress
        )
    except ConversionError as error:
        raise ConversionError(f"{model}: {error}", hint=error.hint) from error


def _open(made: Made, specs: Mapping[str, preprocess.Spec], board: Target | None) -> Model:
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
    options = {} if threads is None else {"threads": threads}
    delegates = tuple(Delegate(d.name, options) for d in board.delegates) if board else (Delegate("cpu", options),)
    variant_of = replace(described, ranges=made.ranges, operators=operators, delegates=delegates)
    return Model(variant_of, [interpreter], wanted)


def _measure(
    float_model: Model, models: Mapping[str, Model], raw: Samples, held_out: Samples | None, has_labels: bool
) -> dict[str, tuple[Quality, ...]]:
    """For each variant how it does beside the float model, on the labelled samples if there are any."""
    judge = held_out or raw
    inputs = judge.of_inputs([tensor.name for tensor in float_model.inputs])
    source = f"measured on the workstation, {judge.name}"
    float_answers = answers(float_model, inputs)
    found = {}
    for name, model in models.items():
        theirs = float_answers if model is float_model else answers(model, inputs)
        task = [judged(float_answers, theirs, held_out)] if held_out is not None else []
        classes = has_labels or any(quality.metric == "top-1 accuracy" for quality in task)
        beside = [] if model is float_model else agreement(float_answers, theirs, source, classes=classes)
        found[name] = (*task, *beside)
    return found


def _read_labels(path: Path | None) -> list[str]:
    if path is None:
        return []
    try:
        return path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}", hint="give a text file with one label a line") from error


def _warnings(raw: Samples, variants: Sequence[Variant], labels: Sequence[str], fixed_sizes: bool) -> tuple[str, ...]:
    found = []
    if not fixed_sizes:
        found.append("the graph only works with a free batch: it keeps operators that compute shapes while it runs")
    if raw.count < 32:
        found.append(
            f"only {raw.count} samples: ranges may be too narrow for what the device will meet; give about 100"
        )
    for name, quality in ((variant.name, quality) for variant in variants for quality in variant.qualities):
        if quality.metric == "top-1 accuracy" and quality.float_value is not None:
            drop = 100 * (quality.float_value - quality.value)
            if drop > 1.0:
                found.append(f"{name} loses {drop:.1f} points of accuracy: do not ship this without looking into it")
        if quality.metric == "same class as float" and quality.value < 0.95:
            found.append(f"{name} and float agree on only {quality.value:.1%} of the samples")
        if quality.metric == "SQNR to float, dB" and quality.value < 10.0:
            found.append(f"{name} answers are far from the float ones ({quality.value:g} dB): compare them before use")
    outputs = variants[0].outputs
    classes = outputs[0].shape[-1] if outputs[0].shape else 1
    if labels and len(labels) != classes:
        found.append(f"{len(labels)} labels for {classes} outputs")
    return tuple(found)
