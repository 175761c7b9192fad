"""The whole of `edgekit convert`: samples and a float model in, a proved bundle out."""

from __future__ import annotations

import contextlib
import platform
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from edgekit import __version__, preprocess
from edgekit.bundle import Bundle, Manifest, Variant, write_bundle
from edgekit.convert.arguments import unwritable
from edgekit.convert.calibrate import Feeds
from edgekit.convert.cautions import cautions
from edgekit.convert.compare import Comparison
from edgekit.convert.coral import edgetpu_findings, for_edgetpu
from edgekit.convert.cost import is_cheap
from edgekit.convert.describe import per_channel_weights
from edgekit.convert.ends import with_ends
from edgekit.convert.finding import Finding
from edgekit.convert.flatbuffer import read_model
from edgekit.convert.frontend import Converted, converting
from edgekit.convert.gate import Verdict
from edgekit.convert.golden import make_golden
from edgekit.convert.gpu import for_gpu
from edgekit.convert.held_out import Tried
from edgekit.convert.inspection import check_strict, inspect_float, inspect_preprocessing
from edgekit.convert.ladder import Repair
from edgekit.convert.lint import runtime_findings
from edgekit.convert.proof import Proof, Proved
from edgekit.convert.provenance import by_name, commits, digests, litert_version, model_name
from edgekit.convert.report import About, refused, write_report
from edgekit.convert.request import Given, Request, read_request
from edgekit.convert.settle import Settled, settle
from edgekit.convert.variants import Made, as_fed, make_variants, open_variant
from edgekit.errors import ConversionError, EdgekitError
from edgekit.runner.model import Model

FLOAT_TOLERANCE = 1e-3  # float .tflite against the source model, relative: more is a wrong conversion, not rounding
Progress = Callable[[str], None]


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


def convert(request: Request, *, progress: Progress = lambda stage: None) -> ConversionResult:
    """The bundle that is asked for. Each file is checked operator by operator, the float one against the source model, and
    each variant by the gate, which has it repaired (ladder) where it lost too much.

    Raises InputError, ConversionError (QualityLost), MissingLibrary; no bundle is written then.
    """
    given = read_request(request)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edgekit-")))
        early = stack.enter_context(
            converting(
                *(request.model, given.first, folder),
                timeout_s=request.timeout_s,
                progress=progress,
                loading=given.loading,
            )
        )
        progress("lint")
        # of a small network a sample costs next to nothing, and all of them make up to 0.6 dB more (measured, ResNet8)
        until_settled = request.max_samples is None and not is_cheap(read_model(early.float_model))
        try:
            settled = settle(early.float_model, given.raw, given.by_array, given.picked, until_settled=until_settled)
        except EdgekitError:
            early.finish()  # has the same to say in the model's own names, if it is the model that is wrong
            raise
        findings = list(inspect_float(early.float_model, settled, given.board))
        check_strict(findings, request.strict)
        made = _make(request, given, early.float_model, settled, folder / "variants", progress)
        source = _checked(request, early.finish())
        progress("measure")
        proof = _proof(request, given, source.float_model)
        feeds = as_fed(source.float_model, settled.seen)
        proved = tuple(_prove(request, given, proof, one, feeds, folder, progress) for one in made)
        findings += [f for one in proved for f in runtime_findings(read_model(one.made.path), given.board)]
        findings += [f for one in proved for f in edgetpu_findings(one.made, given.board, given.delegates)]
        findings += inspect_preprocessing(source.float_model, proof.float_model, given.held_out)
        findings = list(dict.fromkeys(findings))
        check_strict(findings, request.strict)
        about = _about(request, given, source, settled, proof.float_model, proved, findings)
        _check_gate(proved, about, given.page)
        progress("golden vectors")
        models = {one.made.mode: one.model for one in proved}
        golden, tolerances = make_golden(models, {one.made.mode: one.made.path for one in proved}, given.raw)
        contents = _contents(given, proved, golden)
        per_channel = per_channel_weights(read_model(proved[0].made.path))
        float_bytes = source.float_model.stat().st_size
    progress("write")
    variants = tuple(one.variant(tolerances[one.made.mode]) for one in proved)
    bundle = _write(request.output, _manifest(about, given, variants, proof.float_model), contents)
    comparisons = {one.made.mode: one.comparison for one in proved if one.comparison is not None}
    shown = next(iter(comparisons.values()), None)
    if given.page is not None and shown is not None:
        write_report(given.page, shown, replace(about, bundle=bundle.id, variants=variants if variants[1:] else ()))
    return ConversionResult(
        bundle=bundle,
        variants=variants,
        float_bytes=float_bytes,
        variant_bytes={v.name: len(contents[v.file]) for v in variants},
        float_difference=source.float_difference,
        calibration_count=len(settled.chosen),
        sample_count=given.raw.count,
        per_channel_weights=per_channel,
        tried={one.made.mode: one.made.tried for one in proved},
        repairs={one.made.mode: one.repairs for one in proved if one.repairs},
        warnings=about.warnings,
        findings=tuple(findings),
        convergence=settled.curve,
        comparisons=comparisons,
        report=given.page if shown is not None else None,
    )


def _checked(request: Request, source: Converted) -> Converted:
    """The same; ConversionError if it is not the model that was given."""
    if source.float_difference > FLOAT_TOLERANCE:
        difference = f"({source.float_difference:.2g} relative)"
        raise ConversionError(
            f"{request.model}: the float .tflite answers differently from the model {difference}",
            hint="does the model behave differently in training (dropout, batch norm)? export it for inference",
        )
    return source


def _make(
    request: Request, given: Given, float_model: Path, settled: Settled, folder: Path, progress: Progress
) -> tuple[Made, ...]:
    try:
        return make_variants(
            *(float_model, request.modes, settled.seen, folder),
            rules=given.rules,
            extremes=settled.extremes,
            policy=request.ranges,
            timeout_s=request.timeout_s,
            progress=progress,
        )
    except ConversionError as error:
        raise ConversionError(f"{request.model}: {error}", hint=error.hint) from error


def _proof(request: Request, given: Given, float_model: Path) -> Proof:
    opener = partial(open_variant, specs=given.specs, board=given.board, delegates=given.delegates)
    return Proof(
        float_model=opener(Made("float32", float_model, None, "", ())),
        float_path=float_model,
        samples=given.judging,
        open=opener,
        metric=request.metric,
        max_drop=request.max_drop,
        class_names=given.class_names,
        timed=given.page is not None,
    )


def _prove(
    request: Request, given: Given, proof: Proof, made: Made, feeds: Feeds, folder: Path, progress: Progress
) -> Proved:  # fmt: skip
    """One variant beside float, repaired if it has to be, with the ends that are asked for."""
    timeout_s = request.timeout_s
    proved = proof.prove(
        *(made, feeds, folder / "repairs" / made.mode),
        repairs=request.repair_level,
        timeout_s=timeout_s,
        progress=progress,
    )
    ends = {"input_type": request.input_type, "output_type": request.output_type}
    done = with_ends(proved.made, folder / "ends", **ends, timeout_s=timeout_s)
    done = for_edgetpu(done, given.board, given.delegates, folder / "edgetpu")
    return proof.again(proved, for_gpu(done, given.board, given.delegates, folder / "gpu"))


def _about(
    request: Request,
    given: Given,
    source: Converted,
    settled: Settled,
    float_model: Model,
    proved: Sequence[Proved],
    findings: Sequence[Finding],
) -> About:
    """Where everything came from, and what was tried and found."""
    made = [one.made for one in proved]
    quantizers = {f"quantizer of {one.mode}": one.made_by for one in made if one.made_by}
    own = {f"custom{i}": Path(file) for i, file in enumerate(given.loading.custom) if file.endswith(".py")}
    files = {name: getattr(request, name) for name in ("model", "samples", "evaluate", "labels", "recipe")}
    went_in = by_name(**files, preprocess=request.spec, **own)
    comparisons = {one.made.mode: one.comparison for one in proved if one.comparison is not None}
    return About(
        title=request.name or model_name(request.model),
        command=tuple(request.command),
        goal=request.goal,
        limits=request.limits,
        target=request.target,
        labels=tuple(given.class_names),
        preprocess={n: preprocess.spec_fields(s) for n, s in float_model.specs.items()},
        made_by={
            "edgekit": __version__,
            "python": platform.python_version(),
            **source.versions,
            **quantizers,
            **litert_version(),
        },
        made_from=digests(went_in),
        commits=commits(went_in),
        warnings=cautions(given.raw, comparisons, float_model, given.class_names, source.fixed_sizes),
        policies=tuple(
            {"variant": one.mode, **asdict(tried), "chosen": tried.policy == one.ranges}
            for one in made
            for tried in one.tried
        ),
        convergence=settled.curve,
        repairs=tuple({"variant": one.made.mode, **asdict(each)} for one in proved for each in one.repairs),
        findings=tuple(asdict(finding) for finding in findings),
    )


def _check_gate(proved: Sequence[Proved], about: About, page: Path | None) -> None:
    """QualityLost, with its report written, for the first variant that lost more than is allowed."""
    for one in proved:
        if one.comparison is not None and not one.comparison.verdict.passed:
            if page is not None:
                write_report(page, one.comparison, about)
            raise refused(one.comparison, page, list(dict.fromkeys(repair.step for repair in one.repairs)))


def _contents(given: Given, proved: Sequence[Proved], golden: bytes) -> dict[str, bytes]:
    """The bundle's files but for the manifest."""
    contents = {f"models/{one.made.mode}.tflite": one.made.path.read_bytes() for one in proved}
    contents |= {"golden.npz": golden}
    contents |= {f"{one.made.mode}.recipe.toml": one.recipe.encode() for one in proved if one.recipe is not None}
    if given.class_names:
        contents["labels.txt"] = ("\n".join(given.class_names) + "\n").encode()
    return contents


def _manifest(about: About, given: Given, variants: tuple[Variant, ...], float_model: Model) -> Manifest:
    """The bundle's manifest; `write_bundle` fills in the files."""
    return Manifest(
        name=about.title,
        target=about.target,
        arch=given.board.arch if given.board is not None else None,
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
        goal=about.goal,
        limits=about.limits,
    )


def _write(output: Path, manifest: Manifest, contents: Mapping[str, bytes]) -> Bundle:
    try:
        return write_bundle(output, manifest, contents)
    except OSError as error:
        raise unwritable(output, error.strerror or str(error)) from error
