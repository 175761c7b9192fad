"""The whole of `edgekit compare`: two models that a person names, samples, and the report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edgekit import __version__, preprocess
from edgekit.convert.arguments import read_labels
from edgekit.convert.cautions import quality_cautions
from edgekit.convert.compare import Comparison, compare_models
from edgekit.convert.gate import MAX_DROP, check_options
from edgekit.convert.opened import find_model, open_model, shared_specs
from edgekit.convert.report import About, write_report
from edgekit.convert.samples import read_samples, read_specs
from edgekit.errors import InputError
from edgekit.runner.interpreter import runtime_version


def compare(
    float_model: str, int8_model: str, samples: Path,
    *, spec: Path | None = None, labels: Path | None = None, metric: str | None = None, max_drop: float | None = None,
    html: Path | None = None, progress: Callable[[str], None] = lambda stage: None,
) -> Comparison:  # fmt: skip
    """Two .tflite files, bundles or BUNDLE:VARIANT on the raw inputs in `samples`; `html` is where the report goes.

    The verdict is in the result, passed or not. Raises InputError, BundleError.
    """
    if html is not None and html.is_dir():
        raise InputError(f"{html} is a folder", hint="give a file: --html report.html")
    named = find_model(float_model, prefer="float32"), find_model(int8_model)
    given = read_samples(samples, with_labels=False)
    check_options(metric, MAX_DROP if max_drop is None else max_drop, labelled=given.labels is not None)
    specs = shared_specs(named, read_specs(spec) if spec is not None else {})
    models = [open_model(each, specs) for each in named]
    names = tuple(read_labels(labels)) or named[1].labels or named[0].labels
    progress("compare")
    comparison = compare_models(
        *(models[0], named[0].path, models[1], named[1].path, given),
        metric=metric,
        max_drop=MAX_DROP if max_drop is None else max_drop,
        class_names=names,
    )
    if html is not None:
        manifest = next((each.bundle.manifest for each in reversed(named) if each.bundle is not None), None)
        bundle = named[1].bundle
        runtime, _, version = runtime_version().partition(" ")
        command = ["edgekit", "compare", float_model, int8_model, "--samples", str(samples)]
        command += ["--preprocess", str(spec)] if spec is not None else []
        command += ["--metric", metric] if metric is not None else []
        about = About(
            title=manifest.name if manifest is not None else named[1].path.stem,
            command=tuple(command),
            target=manifest.target if manifest is not None else None,
            bundle=None if bundle is None else bundle.id,
            labels=names,
            preprocess={name: preprocess.spec_fields(s) for name, s in models[1].specs.items()},
            warnings=tuple(quality_cautions(comparison)),
            made_by={"edgekit": __version__, runtime: version},
            made_from={} if bundle is None else bundle.manifest.made_from,
            commits={} if bundle is None else bundle.manifest.commits,
        )
        write_report(html, comparison, about)
    return comparison
