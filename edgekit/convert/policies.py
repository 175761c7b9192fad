"""Range policies on trial: files made with each, judged on samples that made no ranges."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property
from pathlib import Path

import numpy as np

from edgekit.convert.calibrate import Extremes, Feeds, Histograms, cores, measure_histograms
from edgekit.convert.held_out import EVERY, MOST, NOT_RUNNING_DB, HeldOut, Tried, before_softmax, judge_all, some
from edgekit.convert.modes import BACK_ENDS
from edgekit.convert.quantize import Ready, quantize
from edgekit.convert.ranges import BY_EXTREMES, BY_HISTOGRAMS, Ranges, min_max
from edgekit.convert.rerange import Reranger, distinct, learn
from edgekit.convert.selection import spread
from edgekit.errors import ConversionError

MARGIN_DB = 0.3  # what a policy has to gain to be preferred to one that clips less: held-out samples are few
HISTOGRAM_MOST = 24  # samples whose values are counted, at most: each has thousands
POOR_DB = 20.0  # below which another quantizer is asked


def best_of(tried: Sequence[Tried]) -> Tried:
    """The first whose score is as good as the best, but for MARGIN_DB: those that clip least come first.

    Of those only whose classes agree with float's as often as the best one's, but for chance: two standard errors of
    the share, at least two samples.
    """
    shares = [one.same_class for one in tried if one.same_class is not None]
    most = max(shares, default=0.0)
    allowed = max(2 * np.sqrt(most * (1 - most) / tried[0].count), 2 / tried[0].count)
    fit = [one for one in tried if one.same_class is None or one.same_class >= most - allowed]
    best = max(one.score_db for one in fit)
    return next(one for one in fit if one.score_db >= best - MARGIN_DB)


class Trial:
    """Policies judged on fifths of the samples, ranges made of the rest: a fifth is every fifth sample from a number on.

    What is cut off hurts one sample in a hundred, and much: of twenty that judge none may have been hit. Of a network for
    pairs of pictures the 0.99 quantile had 1.7 dB more than min-max on a fifth, and 11 dB less on 1,000 other samples.

    A quantizer makes two files. The files of all policies are these with other ranges, which takes a twentieth of the
    time; where it cannot be told how its files follow from ranges, it makes those of all policies.
    """

    def __init__(
        self,
        model: Path,
        mode: str,
        feeds: Feeds,
        extremes: Extremes,
        folder: Path,
        timeout_s: float,
        *,
        judging: Collection[int],
        quantizer: Ready,
    ) -> None:
        """`judging`: the fifths that are going to judge. If they are not all, values are counted on the others, once."""
        self._model, self._mode, self._feeds, self._extremes = model, mode, feeds, extremes
        self._folder, self._timeout_s, self._judging = folder, timeout_s, judging
        self._quantizer = quantizer
        self._shares = len(judging) < EVERY  # the values that are counted, between the fifths
        self._logits = before_softmax(model, folder)  # what is tried: one cut for all files, instead of one for each
        self._held_out: dict[int, HeldOut] = {}
        self._counted: dict[tuple[int, ...], Histograms] = {}  # fifths that are left out -> the values of the others
        self._made: dict[tuple[str, int], Path] = {}  # (policy, fifth) -> file

    def judge(self, policies: Sequence[str], fifths: Sequence[int]) -> list[Tried]:
        """How each policy does on these fifths, all of their samples taken together."""
        wanted = [(policy, fifth) for fifth in fifths for policy in policies if (policy, fifth) not in self._made]
        with ThreadPoolExecutor(1) as pool:
            learning = pool.submit(lambda: self._reranger)  # most of it in a process of its own
            several = [self._ranges(policy, fifth) for policy, fifth in wanted]
            learning.result()
            making = pool.submit(self._make, wanted, several)
            held_out = [self._judges(fifth) for fifth in fifths]
            making.result()
        paths = [[self._made[policy, fifth] for fifth in fifths] for policy in policies]
        with ThreadPoolExecutor(cores()) as pool:
            return list(pool.map(lambda p, f: judge_all(held_out, f, p), policies, paths))

    def of_all(self, best: Tried) -> tuple[Ranges, Path, str]:
        """The ranges of all samples by the best policy, a file with them and who made it; of a fifth less if those do not run.

        Where the answers are poor each quantizer is asked: one that does not refuse an operator may still do it badly.
        """
        if best.policy in BY_HISTOGRAMS and self._shares:
            ranges = self._ranges(best.policy, EVERY - 1)  # of no more samples would values be counted again
        else:
            ranges = ranges_of(self._model, self._feeds, self._extremes, best.policy)
        judges = self._judges(EVERY - 1)
        found: list[tuple[Tried, tuple[Ranges, Path, str]]] = []
        for back_end in BACK_ENDS[self._mode]:
            if found and (found[-1][0].score_db >= POOR_DB or back_end == "tensorflow"):  # it takes seconds to start
                break
            with suppress(ConversionError):  # it cannot, or no file runs
                made = quantize(
                    self._model,
                    self._mode,
                    [ranges],
                    self._folder / f"all-{best.policy}-{back_end}",
                    timeout_s=self._timeout_s,
                    back_ends=[back_end],
                    ready=self._quantizer,
                )
                path = made.paths[0]
                if best.score_db >= POOR_DB:
                    self._quantizer.process.dismiss()  # it has done its part, and takes 40 MB
                    return ranges, path, made.made_by
                judged = judges.judge([before_softmax(path, path.parent) or path], [best.policy])[0]
                found.append((judged, (ranges, path, made.made_by)))
        found = [one for one in found if one[0].sqnr_db > NOT_RUNNING_DB]
        if not found:
            ranges = self._ranges(best.policy, EVERY - 1)
            made = quantize(self._model, self._mode, [ranges], self._folder / "fifth", timeout_s=self._timeout_s)
            return ranges, made.paths[0], made.made_by
        winner = best_of([tried for tried, _ in found])
        return next(made for tried, made in found if tried is winner)

    @cached_property
    def _reranger(self) -> Reranger | None:
        unlike = [distinct(min_max(self._extremes), seed) for seed in (1, 2)]
        files = [path.read_bytes() for path in self._quantize(unlike, "learnt")]
        return learn((self._logits or self._model).read_bytes(), files, unlike)

    def _make(self, wanted: Sequence[tuple[str, int]], several: Sequence[Ranges]) -> None:
        if self._reranger is None:
            paths = self._quantize(several, f"trial{len(self._made)}") if wanted else ()
        else:
            paths = tuple(self._folder / f"{policy}-{fifth}.tflite" for policy, fifth in wanted)
            for path, ranges in zip(paths, several, strict=True):
                path.write_bytes(self._reranger(ranges))
        self._made |= dict(zip(wanted, paths, strict=True))

    def _quantize(self, several: Sequence[Ranges], name: str) -> tuple[Path, ...]:
        return quantize(
            *(self._logits or self._model, self._mode, several, self._folder / name),
            timeout_s=self._timeout_s,
            trial=True,
            ready=self._quantizer,
        ).paths

    def _ranges(self, policy: str, fifth: int) -> Ranges:
        """Those of a policy, of samples that are not in this fifth."""
        if policy in BY_EXTREMES:
            return BY_EXTREMES[policy](self._extremes.of(self._all_but([fifth])))
        apart = tuple(self._judging) if self._shares else (fifth,)
        if apart not in self._counted:
            others = self._all_but(apart)
            beside = max(cores() - 1, 1)  # a processor is the quantizer's, and each thread takes memory
            self._counted[apart] = histograms(self._model, self._feeds, self._extremes, others, threads=beside)
        return BY_HISTOGRAMS[policy](self._counted[apart])

    def _judges(self, fifth: int) -> HeldOut:
        if fifth not in self._held_out:
            folder = self._folder / f"fifth{fifth}"
            folder.mkdir()
            judges = self._fifth(fifth)
            feeds, source = some(self._feeds, judges[:: -(-len(judges) // MOST)]), self._logits or self._model
            self._held_out[fifth] = HeldOut(source, feeds, folder, logits=self._logits is not None)
        return self._held_out[fifth]

    def _all_but(self, fifths: Collection[int]) -> np.ndarray:
        return np.flatnonzero(~np.isin(np.arange(len(self._extremes.low)) % EVERY, list(fifths)))

    def _fifth(self, number: int) -> np.ndarray:
        return np.arange(number, len(self._extremes.low), EVERY)


def ranges_of(float_model: Path, feeds: Feeds, extremes: Extremes, policy: str) -> Ranges:
    """The ranges by one policy, with all the samples."""
    if policy in BY_EXTREMES:
        return BY_EXTREMES[policy](extremes)
    return BY_HISTOGRAMS[policy](histograms(float_model, feeds, extremes, np.arange(len(extremes.low))))


def histograms(model: Path, feeds: Feeds, extremes: Extremes, samples: np.ndarray, *, threads: int = 0) -> Histograms:
    """The values on some of these samples."""
    chosen = samples[spread(len(samples), HISTOGRAM_MOST)]
    return measure_histograms(model, some(feeds, chosen), extremes.of(chosen), threads=threads)
