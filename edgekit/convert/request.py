"""What is asked of `convert`, and what was read for it: all of it checked before anything takes its time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit import preprocess
from edgekit.convert.arguments import check_alike, check_output, check_report, read_labels
from edgekit.convert.ends import check_ends
from edgekit.convert.frontend import model_kind
from edgekit.convert.gate import MAX_DROP, check_options
from edgekit.convert.ladder import REPAIRABLE, check_level
from edgekit.convert.loading import Loading, check_loading
from edgekit.convert.modes import AUTO, MIXED
from edgekit.convert.recipe import Rule, read_recipe
from edgekit.convert.report import report_path
from edgekit.convert.samples import Samples, check_fit, preprocessed, read_samples, read_specs, specs_by_array
from edgekit.convert.selection import pick
from edgekit.convert.settle import MOST
from edgekit.convert.variants import check_modes
from edgekit.delegates import parse_delegate
from edgekit.errors import InputError
from edgekit.manifest import Delegate
from edgekit.runner.power.goal import parse_goal
from edgekit.target import Target, load_target

SHOWN = 16  # samples that a front end gets: to see their shapes, and to compare the answers of both models


@dataclass(frozen=True)
class Request:
    """A bundle in `output` with a variant of `model` for each of `modes`, the first one its default."""

    model: Path  # see frontend.model_kind
    output: Path
    samples: Path | Samples  # raw inputs as the device will meet them: samples.read_samples
    evaluate: Path | Samples | None = None  # more of them with labels (`y`), for a task metric
    target: str | None = None  # a kind of board
    spec: Path | None = None  # TOML: how a raw input becomes what the model sees
    labels: Path | None = None  # one class name a line
    modes: Sequence[str] = ("int8",)  # of modes.MODES
    ranges: str = AUTO  # one of modes.POLICIES, or the best of them by samples held out
    input_type: str = "int8"  # of modes.END_TYPES, for mode int8 only
    output_type: str = "int8"
    recipe: Path | None = None  # TOML: what mode mixed leaves in float
    repair: str = "mixed"  # how far a variant that the gate refuses is repaired: modes.LEVELS
    max_samples: int | None = None  # for ranges; None: as many as they need
    metric: str | None = None  # metrics.find_metric; None: what fits the labels
    max_drop: float = MAX_DROP  # that each variant may lose beside float; gate says of what
    strict: bool = False  # a warning of the lint is an error
    report: Path | bool = True  # where the HTML goes, also of a refused model; True: beside the bundle
    delegates: Sequence[str] = ()  # what may run it, in order (edgekit.delegates); none: the target's, or the CPU
    goal: str | None = None  # of power, for the manifest: docs/power.md
    max_memory: float | None = None  # MiB that its server may take on a device, for the manifest
    max_p95: float | None = None  # ms that 95 of 100 answers of it may take
    name: str | None = None  # of the bundle; None: the model's
    timeout_s: float = 1800.0  # of each converter
    trust: bool = False  # code inside the model's file may run
    custom: Sequence[str] = ()  # Python files, or modules, that define its layers
    signature: str | None = None  # the one that is meant of a SavedModel's
    command: Sequence[str] = ()  # for the manifest

    @property
    def limits(self) -> Mapping[str, float] | None:
        """What the manifest says of them: bytes and ms; None if nothing was asked for."""
        memory = None if self.max_memory is None else round(self.max_memory * (1 << 20))
        given = {"rss_bytes": memory, "p95_ms": self.max_p95}
        return {name: value for name, value in given.items() if value is not None} or None

    @property
    def repair_level(self) -> str:
        """The level, but no second variant called mixed."""
        could_be_mixed = [mode for mode in self.modes if mode in (*REPAIRABLE, MIXED)]
        return "int8" if self.repair == "mixed" and len(could_be_mixed) > 1 else self.repair


@dataclass(frozen=True)
class Given:
    """What the request names, read."""

    loading: Loading
    rules: Sequence[Rule]
    page: Path | None  # of the report; None: none is wanted
    board: Target | None
    delegates: Sequence[Delegate]
    specs: Mapping[str, preprocess.Spec]  # by input name, "" for all others
    class_names: Sequence[str]
    raw: Samples
    held_out: Samples | None  # with labels
    picked: np.ndarray  # which of `raw` may make ranges: no copies, every class alike
    by_array: Mapping[str, preprocess.Spec]  # by array of `raw`
    first: Mapping[str, np.ndarray]  # a few samples as the model sees them

    @property
    def judging(self) -> Samples:
        """The samples that the gate judges by."""
        return self.held_out or self.raw


def read_request(request: Request) -> Given:
    """Raises InputError for an option that makes no sense, NotAModel, SamplesError, PreprocessError, UnknownTarget."""
    loading = check_loading(model_kind(request.model), request.trust, request.custom, request.signature)
    check_modes(request.modes, request.recipe)
    check_ends(request.input_type, request.output_type, request.modes)
    check_level(request.repair)
    rules = read_recipe(request.recipe) if request.recipe is not None else ()
    if request.goal is not None:
        parse_goal(request.goal)
    if request.limits is not None and not min(request.limits.values()) > 0:
        raise InputError("a server that takes no memory or no time there is none", hint="give a positive number")
    check_output(request.output)
    page = report_path(request.output) if request.report is True else request.report or None
    if page is not None:
        check_report(page)
    check_options(request.metric, request.max_drop, labelled=request.evaluate is not None)
    board = load_target(request.target) if request.target is not None else None
    specs = read_specs(request.spec) if request.spec is not None else {}
    classes = read_labels(request.labels)
    most = request.max_samples or MOST
    raw = read_samples(request.samples, with_labels=False, classes=classes, most=most)
    held_out = None
    if request.evaluate is not None:
        held_out = read_samples(request.evaluate, with_labels=True, classes=classes)
    picked = pick(raw.arrays, raw.labels, most)
    by_array = specs_by_array(specs, raw)
    check_fit(raw, by_array)
    if held_out is not None:
        check_alike(raw, held_out, by_array)
    return Given(
        loading=loading,
        rules=rules,
        page=page,
        board=board,
        delegates=tuple(map(parse_delegate, request.delegates)),
        specs=specs,
        class_names=classes,
        raw=raw,
        held_out=held_out,
        picked=picked,
        by_array=by_array,
        first=preprocessed({n: a[picked[:SHOWN]] for n, a in raw.arrays.items()}, by_array),
    )
