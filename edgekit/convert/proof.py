"""A variant is held against the float model, and repaired where it lost too much."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from edgekit.bundle import Variant
from edgekit.convert.calibrate import Feeds
from edgekit.convert.compare import Comparison, compare_models, judge_models
from edgekit.convert.gate import Verdict
from edgekit.convert.ladder import REPAIRABLE, Repair, repair
from edgekit.convert.quality import answers
from edgekit.convert.samples import Samples
from edgekit.convert.variants import Made
from edgekit.runner.model import Model


@dataclass(frozen=True)
class Proved:
    """A variant with what is known about it."""

    made: Made
    model: Model
    comparison: Comparison | None  # None: the float model itself
    repairs: tuple[Repair, ...]
    recipe: str | None  # TOML: what a repair left in float

    def variant(self, golden_tolerance: float) -> Variant:
        """How the manifest has it."""
        qualities = self.comparison.qualities if self.comparison is not None else ()
        return replace(self.model.variant, qualities=qualities, golden_tolerance=golden_tolerance)


@dataclass(frozen=True)
class Proof:
    """The float model and the samples that judge its variants."""

    float_model: Model
    float_path: Path
    samples: Samples
    open: Callable[[Made], Model]
    metric: str | None
    max_drop: float
    class_names: Sequence[str]
    timed: bool

    def prove(
        self,
        made: Made,
        feeds: Feeds,
        folder: Path,
        *,
        repairs: str,
        timeout_s: float,
        progress: Callable[[str], None],
    ) -> Proved:
        """How the variant compares with float, repaired up to level `repairs` (ladder.LEVELS) if the gate refuses it."""
        model = self.open(made)
        if made.mode == "float32":
            return Proved(made, model, None, (), None)
        comparison = self.compare(made, model)
        if comparison.verdict.passed or repairs == "none" or made.mode not in REPAIRABLE:
            return Proved(made, model, comparison, (), None)
        repaired = repair(
            *(made, self.float_path, feeds, self.judge, folder),
            level=repairs,
            timeout_s=timeout_s,
            progress=progress,
        )
        model = self.open(repaired.made)
        return Proved(
            repaired.made, model, self.compare(repaired.made, model), repaired.repairs, repaired.recipe
        )  # fmt: skip

    def again(self, proved: Proved, made: Made) -> Proved:
        """The same variant in another file; itself where it is in that one."""
        if made is proved.made:
            return proved
        model = self.open(made)
        return replace(proved, made=made, model=model, comparison=self.compare(made, model))

    def compare(self, made: Made, model: Model) -> Comparison:
        """All that is known about a variant beside float."""
        return compare_models(
            *(self.float_model, self.float_path, model, made.path, self.samples),
            metric=self.metric,
            max_drop=self.max_drop,
            class_names=self.class_names,
            timed=self.timed,
            variant=made.mode,
            layers_of=made.layers_of,
        )

    def judge(self, made: Made) -> Verdict:
        """Only what the gate says."""
        return judge_models(
            *(self._float_answers, self.open(made), self.samples),
            metric=self.metric,
            max_drop=self.max_drop,
            class_names=self.class_names,
            variant=made.mode,
        )

    @cached_property
    def _float_answers(self) -> Mapping[str, np.ndarray]:
        found = answers(self.float_model, self.samples.of_inputs([t.name for t in self.float_model.inputs]))
        return {t.name: a for t, a in zip(self.float_model.outputs, found, strict=True)}
