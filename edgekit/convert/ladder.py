"""What is tried when int8 loses more than the gate allows: the cheapest repair first, each one measured.

A repair is kept if the answers come nearer to float's on the samples that judge, which no repair has seen; the gate says
when it is enough. All but the last keep the file full int8. The last one leaves the noisiest operators in float, as few
as pass: such a variant is called `mixed`, never int8.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from edgekit.convert.bias import correct_bias
from edgekit.convert.blocks import Blocks, measure_noise, smallest
from edgekit.convert.calibrate import Feeds
from edgekit.convert.choose import choose, prepared
from edgekit.convert.equalize import equalized
from edgekit.convert.gate import Verdict
from edgekit.convert.held_out import HeldOut, Tried, some, split
from edgekit.convert.mixed import can_be_float
from edgekit.convert.modes import AUTO, LEVELS
from edgekit.convert.quantize import check_mode, check_runs
from edgekit.convert.recipe import recipe_text
from edgekit.convert.rounding import round_weights
from edgekit.convert.selection import spread
from edgekit.convert.variants import Made
from edgekit.errors import ConversionError, InputError

REPAIRABLE = ("int8", "int8-float-io")
OTHER_RANGES = "other ranges"
STRENGTHS = (0.25, 0.5, 0.5, 0.5)  # of equalization, one after the other while each one helps
NOISE_SAMPLES = 24  # that judge single operators


@dataclass(frozen=True)
class Repair:
    """One repair and what came of it, in words for people; decibels are SQNR to float on samples held out."""

    step: str
    what: str
    before_db: float
    after_db: float | None  # None: there was nothing to do
    gate: str | None  # what the gate said; None: it was not asked, because the answers came no nearer
    kept: bool
    passed: bool


@dataclass(frozen=True)
class Repaired:
    """The best that was found, whether or not the gate lets it pass (the last of `repairs` says)."""

    made: Made
    repairs: tuple[Repair, ...]
    recipe: str | None  # what stays float, where some does


@dataclass(frozen=True)
class _Candidate:
    step: str
    what: str
    made: Made
    float_model: Path  # that it was made of


def check_level(level: str) -> None:
    """InputError unless it is one of LEVELS."""
    if level not in LEVELS:
        raise InputError(f"repairs {level!r} are none that edgekit knows", hint=f"one of {', '.join(LEVELS)}")


def repair(
    made: Made,
    float_model: Path,
    feeds: Feeds,
    judge: Callable[[Made], Verdict],
    folder: Path,
    *,
    level: str = "mixed",
    timeout_s: float = 1800.0,
    progress: Callable[[str], None] = lambda stage: None,
) -> Repaired:
    """`made`, which the gate refuses, repaired until `judge` passes it or nothing is left to try.

    `feeds` are all samples (what the model sees); every fifth of them judges and takes part in no repair.
    `level` int8 leaves out what makes it `mixed`.
    """
    return _Ladder(made, float_model, feeds, judge, folder, timeout_s, progress).climb(level)


class _Ladder:
    def __init__(
        self,
        made: Made,
        float_model: Path,
        feeds: Feeds,
        judge: Callable[[Made], Verdict],
        folder: Path,
        timeout_s: float,
        progress: Callable[[str], None],
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.judge, self.folder, self.timeout_s, self.progress = judge, folder, timeout_s, progress
        rest, judges = split(len(next(iter(feeds.values()))))
        self.feeds, self.rest, self.judges = feeds, some(feeds, rest), some(feeds, judges)
        self.original = prepared(float_model, folder)
        self.held_out = HeldOut(self.original, self.judges, folder)
        self.best = _Candidate("", "", made, self.original)
        self.tried = self._measured(made)
        self.repairs: list[Repair] = []

    def climb(self, level: str) -> Repaired:
        for step in (self.other_policies, self.equalize, self.correct_bias, self.round_weights):
            for candidate in self._made_by(step):
                if self._take(candidate):
                    return self._repaired(None)
        return self._repaired(self._leave_blocks() if level == "mixed" else None)

    def _repaired(self, blocks: Blocks | None) -> Repaired:
        """The best so far, with `blocks` in float, and who made it: ranges have a name of their own."""
        made, repairs = self.best.made, tuple(self.repairs)
        steps = dict.fromkeys(repair.step for repair in repairs if repair.kept and repair.step != OTHER_RANGES)
        if steps:
            made = replace(made, made_by=f"{made.made_by}, {', '.join(steps)} by edgekit")
        if blocks is None:
            return Repaired(made, repairs, None)
        recipe = recipe_text(blocks.names, can_be_float(self.best.float_model, made.path))
        return Repaired(replace(made, mode="mixed", path=blocks.path), repairs, recipe)

    # --- the repairs: each gives candidates, made of the best so far ------------------------------------------------

    def other_policies(self) -> Iterator[_Candidate]:
        """The two that came next: nearer to float in class, or in the median, than the one that clips least."""
        made = self.best.made
        others = sorted(made.tried, key=lambda one: (-(one.same_class or 0.0), -one.median_sqnr_db))
        names = [one.policy for one in others if one.policy != made.ranges][:2] if made.tried else [AUTO]
        for name in dict.fromkeys(names):
            yield self._chosen(OTHER_RANGES, name, self.original, name)

    def equalize(self) -> Iterator[_Candidate]:
        """The channels of layers that follow one another brought nearer to equal, in the float model, as long as it helps."""
        for number, strength in enumerate(STRENGTHS):
            source, output = self.best.float_model, self.folder / f"equalized{number}.tflite"
            count = equalized(source, output, strength=strength, feeds=self.rest)
            if not count and not number:
                self._nothing("equalization", "no two layers with only a ReLU between them")
            if not count or (number and self.best.step != "equalization"):
                return
            yield self._chosen("equalization", f"{count} pairs of layers, strength {strength:g}", output, AUTO)

    def correct_bias(self) -> Iterator[_Candidate]:
        """The mean error of every channel taken out of its bias."""
        return self._changed("bias correction", correct_bias, "no layer has a bias that is off")

    def round_weights(self) -> Iterator[_Candidate]:
        """Weights rounded so that their errors cancel, not each to its nearest step."""
        return self._changed("adaptive rounding", round_weights, "no layer gets better")

    def _changed(self, step: str, change: Callable[[Path, Path, Path, Feeds], int], why: str) -> Iterator[_Candidate]:
        """The best so far with some of its layers changed in place; `why` there may be none."""
        output, best = self.folder / f"{step.replace(' ', '-')}.tflite", self.best
        count = change(best.float_model, best.made.path, output, self.rest)
        if count:
            yield replace(best, step=step, what=f"{count} layers", made=replace(best.made, path=output))
        else:
            self._nothing(step, why)

    def _leave_blocks(self) -> Blocks | None:
        """The smallest part in float that passes, if it costs clearly less than all of it (blocks.MOST)."""
        self.progress("repair: find the operators that have to stay float")
        best = self.best
        few = some(self.judges, spread(self.held_out.count, NOISE_SAMPLES))
        held_out = HeldOut(self.original, few, self.folder)
        runs = measure_noise(best.float_model, best.made.path, held_out, self.folder)
        last: list[tuple[Tried, Verdict]] = []

        def good(path: Path) -> bool:
            check_runs(path, self.folder / "check", timeout_s=self.timeout_s)
            candidate = replace(best.made, mode="mixed", path=path)
            last.append((self._measured(candidate), self.judge(candidate)))
            return last[-1][1].passed

        blocks = smallest(best.float_model, best.made.path, runs, self.folder, good)
        step, before = "blocks in float", self.tried.sqnr_db
        if blocks is None:
            what = (
                "nothing short of most of the network in float is enough: what is left is training on with int8 in mind"
            )
            after, said = (last[-1][0].sqnr_db, last[-1][1].sentence) if last else (None, None)
            self.repairs.append(Repair(step, what, before, after, said, False, False))
            return None
        tried, verdict = next(pair for pair in reversed(last) if pair[1].passed)
        kinds = can_be_float(best.float_model, best.made.path)
        named = ", ".join(f"{n} {kind}" for kind, n in Counter(kinds[name] for name in blocks.names).most_common())
        share = f"{blocks.mac_share:.0%} of the multiply-accumulates"
        what = f"{len(blocks.names)} of {blocks.of} operators ({named}), {share}"
        self.repairs.append(Repair(step, what, before, tried.sqnr_db, verdict.sentence, True, True))
        return blocks

    # --- trying one ---------------------------------------------------------------------------------------------------

    def _made_by(self, step: Callable[[], Iterator[_Candidate]]) -> Iterator[_Candidate]:
        """What a step offers; a step that breaks on this network is told, and the next one has its turn."""
        self.progress(f"repair: {step.__name__.replace('_', ' ')}")
        try:
            yield from step()
        except ConversionError as error:
            self._nothing(step.__name__.replace("_", " "), str(error))

    def _chosen(self, step: str, what: str, float_model: Path, policy: str) -> _Candidate:
        mode = self.best.made.mode
        place = self.folder / f"{step.replace(' ', '-')}{len(self.repairs)}"
        choice = choose(float_model, mode, self.feeds, place, policy=policy, timeout_s=self.timeout_s)
        tried = self.best.made.tried or choice.tried
        layers_of = None if float_model == self.original else float_model
        made = Made(mode, choice.path, choice.policy, choice.made_by, tried, layers_of)
        return _Candidate(step, what, made, choice.source)

    def _take(self, candidate: _Candidate) -> bool:
        """Measures it, keeps it if it is nearer to float, and says whether the gate lets it pass."""
        check_mode(candidate.made.path, candidate.made.mode)
        tried = self._measured(candidate.made)
        nearer = tried.score_db > self.tried.score_db
        is_policy = candidate.step == OTHER_RANGES  # was nearer by one measure and not by the other: the gate decides
        verdict = self.judge(candidate.made) if nearer or is_policy else None
        passed = verdict is not None and verdict.passed
        kept = nearer or passed
        said = verdict.sentence if verdict else None
        self.repairs.append(
            Repair(candidate.step, candidate.what, self.tried.sqnr_db, tried.sqnr_db, said, kept, passed)
        )
        if kept:
            self.best, self.tried = candidate, tried
        return passed

    def _measured(self, made: Made) -> Tried:
        return self.held_out.judge([made.path], [made.mode])[0]

    def _nothing(self, step: str, why: str) -> None:
        self.repairs.append(Repair(step, why, self.tried.sqnr_db, None, None, False, False))
