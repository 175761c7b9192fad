"""The whole of `edgekit convert`: samples and a float model in, a proved bundle out."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from edgekit import __version__, preprocess
from edgekit.bundle import Bundle, Delegate, Manifest, Variant, write_bundle
from edgekit.convert.arguments import check_alike, check_output, read_labels, unwritable
from edgekit.convert.cautions import cautions
from edgekit.convert.compare import Comparison
from edgekit.convert.cost import macs
from edgekit.convert.describe import operator_counts, per_channel_weights
from edgekit.convert.ends import check_ends, with_ends
from edgekit.convert.finding import Finding
from edgekit.convert.flatbuffer import read_model
from edgekit.convert.frontend import Converted, model_kind, to_float_tflite
from edgekit.convert.gate import MAX_DROP, Verdict, check_options
from edgekit.convert.golden import make_golden
from edgekit.convert.held_out import Tried
from edgekit.convert.inspection import check_strict, inspect_float, inspect_preprocessing
from edgekit.convert.ladder import Repair, check_level
from edgekit.convert.lint import runtime_findings
from edgekit.convert.loading import check_loading
from edgekit.convert.modes import AUTO
from edgekit.convert.proof import Proof
from edgekit.convert.provenance import by_name, commits, digests, litert_version, model_name
from edgekit.convert.recipe import Rule, read_recipe
from edgekit.convert.report import About, refused, report_path, write_report
from edgekit.convert.samples import Samples, check_fit, preprocessed, read_samples, read_specs, specs_by_array
from edgekit.convert.selection import pick
from edgekit.convert.settle import MOST, Settled, settle
from edgekit.convert.variants import Made, as_fed, check_modes, make_variants
from edgekit.errors import ConversionError, PreprocessError
from edgekit.runner.interpreter import open_interpreter
from edgekit.runner.model import Model, describe_variant
from edgekit.target import Target, load_target

SHOWN = 16  # samples that a front end gets: to see their shapes, and to compare the answers of both models
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
    calibration_count: int  # samples that made the ranges
    sample_count: int  # of so many that were read
    per_channel_weights: tuple[int, int]  # (with a scale for each channel, all) of the default variant's layers
    tried: Mapping[str, tuple[Tried, ...]]  # variant -> every range policy that was tried for it, and how it did
    repairs: Mapping[str, tuple[Repair, ...]]  # variant -> what was tried after the gate refused it at first
    warnings: tuple[str, ...]
    findings: tuple[Finding, ...]  # of the lint
    convergence: tuple[tuple[int, float], ...]  # (samples, share of the final ranges that they make)
    comparisons: Mapping[str, Comparison]  # variant -> how it compares with float; not of float32 itself
    report: Path | None  # of the first of them

    @property
    def verdicts(self) -> Mapping[str, Verdict]:
        """What the gate says of each variant; one that is not passed is raised, not returned."""
        return {name: comparison.verdict for name, comparison in self.comparisons.items()}


def convert(
    model: Path,
    output: Path,
    samples: Path | Samples,
    *,
    evaluate: Path | Samples | None = None,
    target: str | None = None,
    spec: Path | None = None,
    labels: Path | None = None,
    modes: Sequence[str] = ("int8",),
    ranges: str = AUTO,
    input_type: str = "int8",
    output_type: str = "int8",
    recipe: Path | None = None,
    repair: str = "mixed",
    max_samples: int | None = None,
    metric: str | None = None,
    max_drop: float = MAX_DROP,
    strict: bool = False,
    report: Path | bool = True,
    name: str | None = None,
    timeout_s: float = 1800.0,
    trust: bool = False,
    custom: Sequence[str] = (),
    signature: str | None = None,
    command: Sequence[str] = (),
    progress: Callable[[str], None] = lambda stage: None,
) -> ConversionResult:
    """A bundle in `output` with a variant of `model` for each of `modes` (modes.MODES), the first one its default.

    `samples` (see `read_samples`) are raw inputs as the device will meet them, of which ranges take as many as they need
    or `max_samples` (edgekit.convert.settle); `spec` (TOML) says how they become what the model sees. `input_type` and
    `output_type` (modes.END_TYPES) are those of the mode int8 only. `ranges` is a policy (modes.POLICIES), or the best of
    them by samples held out. `evaluate` adds labels (`y`) and a task metric. Each file is checked operator by operator,
    the float one against the source model, and each variant may lose `max_drop` beside float (edgekit.convert.gate says
    of what; `metric` chooses it). One that loses more is repaired (edgekit.convert.ladder): `repair` int8 keeps it full
    int8, mixed may leave operators in float, none gives up at once. `recipe` (TOML) says which operators of mode mixed
    stay float. With `strict` a warning of the lint is an error. `trust`: code inside the model's file may run; `custom`:
    Python files, or modules, that define its layers; `signature`: the one that is meant of a SavedModel's. `report`:
    where the HTML report goes, also of a refused model; True: beside the bundle. Raises InputError, ConversionError
    (QualityLost), MissingLibrary; no bundle is written then.
    """
    loading = check_loading(model_kind(model), trust, custom, signature)
    check_modes(modes, recipe)
    check_ends(input_type, output_type, modes)
    check_level(repair)
    rules = read_recipe(recipe) if recipe is not None else ()
    check_output(output)
    check_options(metric, max_drop, labelled=evaluate is not None)
    page = report_path(output) if report is True else report or None
    board = load_target(target) if target is not None else None
    specs = read_specs(spec) if spec is not None else {}
    class_names = read_labels(labels)
    raw = read_samples(samples, with_labels=False, classes=class_names, most=max_samples or MOST)
    held_out = read_samples(evaluate, with_labels=True, classes=class_names) if evaluate is not None else None
    picked = pick(raw.arrays, raw.labels, max_samples or MOST)
    by_array = specs_by_array(specs, raw)
    check_fit(raw, by_array)
    if held_out is not None:
        check_alike(raw, held_out, by_array)
    first = preprocessed({n: a[picked[:SHOWN]] for n, a in raw.arrays.items()}, by_array)
    with tempfile.TemporaryDirectory(prefix="edgekit-") as scratch:
        folder = Path(scratch)
        source = to_float_tflite(model, first, folder, timeout_s=timeout_s, progress=progress, loading=loading)
        _check_same(model, source)
        progress("lint")
        settled = settle(source.float_model, raw, by_array, picked, until_settled=max_samples is None)
        inspected = inspect_float(source.float_model, settled, board)
        check_strict(inspected, strict)
        made = _make(model, source, modes, rules, settled, folder / "variants", ranges, timeout_s, progress)
        progress("measure")
        open_variant = partial(_open, specs=specs, board=board)
        proof = Proof(
            float_model=open_variant(Made("float32", source.float_model, None, "", ())),
            float_path=source.float_model,
            samples=held_out or raw,
            open=open_variant,
            metric=metric,
            max_drop=max_drop,
            class_names=class_names,
            timed=page is not None,
        )
        feeds = as_fed(source.float_model, settled.seen)
        proved = []
        for one in made:
            level = "int8" if repair == "mixed" and "mixed" in modes else repair  # one variant has that name already
            place = folder / "repairs" / one.mode
            proved.append(proof.prove(one, feeds, place, repairs=level, timeout_s=timeout_s, progress=progress))
        ends = partial(with_ends, input_type=input_type, output_type=output_type, timeout_s=timeout_s)
        proved = [proof.again(one, ends(one.made, folder / "ends")) for one in proved]
        made = tuple(one.made for one in proved)
        float_model = proof.float_model
        models = {one.made.mode: one.model for one in proved}
        comparisons = {one.made.mode: one.comparison for one in proved if one.comparison is not None}
        findings = [*inspected, *(f for one in made for f in runtime_findings(read_model(one.path), board))]
        findings += inspect_preprocessing(source.float_model, float_model, held_out)
        findings = list(dict.fromkeys(findings))
        check_strict(findings, strict)
        quantizers = {f"quantizer of {one.mode}": one.made_by for one in made if one.made_by}
        made_by = {"edgekit": __version__, "python": platform.python_version()}
        own = {f"custom{i}": Path(file) for i, file in enumerate(loading.custom) if file.endswith(".py")}
        files = {"evaluate": evaluate, "preprocess": spec, "labels": labels, "recipe": recipe, **own}
        given = by_name(model=model, samples=samples, **files)
        about = About(
            title=name or model_name(model),
            command=tuple(command),
            target=target,
            labels=tuple(class_names),
            preprocess={n: preprocess.spec_fields(s) for n, s in float_model.specs.items()},
            made_by={**made_by, **source.versions, **quantizers, **litert_version()},
            made_from=digests(given),
            commits=commits(given),
            warnings=cautions(raw, comparisons, float_model, class_names, source.fixed_sizes),
            policies=tuple(
                {"variant": one.mode, **asdict(tried), "chosen": tried.policy == one.ranges}
                for one in made
                for tried in one.tried
            ),
            convergence=settled.curve,
            repairs=tuple(asdict(each) for one in proved for each in one.repairs),
            findings=tuple(asdict(finding) for finding in findings),
        )
        _check_gate(comparisons, about, page)
        progress("golden vectors")
        golden, tolerances = make_golden(models, {one.mode: one.path for one in made}, raw)
        contents = {f"models/{one.mode}.tflite": one.path.read_bytes() for one in made} | {"golden.npz": golden}
        per_channel = per_channel_weights(read_model(made[0].path))
        float_bytes = source.float_model.stat().st_size
    contents |= {f"{one.made.mode}.recipe.toml": one.recipe.encode() for one in proved if one.recipe is not None}
    if class_names:
        contents["labels.txt"] = ("\n".join(class_names) + "\n").encode()
    qualities = {n: c.qualities for n, c in comparisons.items()}
    variants = tuple(
        replace(models[n].variant, qualities=qualities.get(n, ()), golden_tolerance=tolerances[n]) for n in models
    )
    manifest = _manifest(about, board, variants, float_model)
    progress("write")
    try:
        bundle = write_bundle(output, manifest, contents)
    except OSError as error:
        raise unwritable(output, error.strerror or str(error)) from error
    shown = next(iter(comparisons.values()), None)
    if page is not None and shown is not None:
        write_report(page, shown, replace(about, bundle=bundle.id, variants=variants if variants[1:] else ()))
    return ConversionResult(
        bundle=bundle,
        variants=variants,
        float_bytes=float_bytes,
        variant_bytes={one.mode: len(contents[f"models/{one.mode}.tflite"]) for one in made},
        float_difference=source.float_difference,
        calibration_count=len(settled.chosen),
        sample_count=raw.count,
        per_channel_weights=per_channel,
        tried={one.mode: one.tried for one in made},
        repairs={one.made.mode: one.repairs for one in proved if one.repairs},
        warnings=about.warnings,
        findings=tuple(findings),
        convergence=settled.curve,
        comparisons=comparisons,
        report=page if shown is not None else None,
    )


def _check_same(model: Path, source: Converted) -> None:
    """ConversionError if the float .tflite is not the model that was given."""
    if source.float_difference > FLOAT_TOLERANCE:
        raise ConversionError(
            f"{model}: the float .tflite answers differently from the model ({source.float_difference:.2g} relative)",
            hint="does the model behave differently in training (dropout, batch norm)? export it for inference",
        )


def _check_gate(comparisons: Mapping[str, Comparison], about: About, page: Path | None) -> None:
    """QualityLost, with its report written, for the first variant that lost more than is allowed."""
    failed = next((comparison for comparison in comparisons.values() if not comparison.verdict.passed), None)
    if failed is not None:
        if page is not None:
            write_report(page, failed, about)
        raise refused(failed, page, list(dict.fromkeys(repair["step"] for repair in about.repairs)))


def _manifest(about: About, board: Target | None, variants: tuple[Variant, ...], float_model: Model) -> Manifest:
    """The bundle's manifest; `write_bundle` fills in the files."""
    return Manifest(
        name=about.title,
        target=about.target,
        arch=board.arch if board is not None else None,
        variants=variants,
        preprocess=about.preprocess,
        preprocess_sha256={n: preprocess.spec_digest(s) for n, s in float_model.specs.items()},
        labels="labels.txt" if about.labels else None,
        golden="golden.npz",
        files={},
        made_by=about.made_by,
        made_from=about.made_from,
        commits=about.commits,
        command=about.command,
    )


def _make(
    model: Path,
    source: Converted,
    modes: Sequence[str],
    rules: Sequence[Rule],
    settled: Settled,
    folder: Path,
    ranges: str,
    timeout_s: float,
    progress: Callable[[str], None],
) -> tuple[Made, ...]:
    try:
        return make_variants(
            source.float_model,
            modes,
            settled.seen,
            folder,
            rules=rules,
            extremes=settled.extremes,
            policy=ranges,
            timeout_s=timeout_s,
            progress=progress,
        )
    except ConversionError as error:
        raise ConversionError(f"{model}: {error}", hint=error.hint) from error


def _open(made: Made, *, specs: Mapping[str, preprocess.Spec], board: Target | None) -> Model:
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
