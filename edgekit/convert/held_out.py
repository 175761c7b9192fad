"""Samples that make no ranges but judge what was made of them: how near an int8 file's answers are to float's.

A classifier is judged before its last softmax: after it nearly every answer is 0 or 1, and int8 softmax has 256 fixed steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit.convert.calibrate import Feeds, cores
from edgekit.convert.prune import drop_unread
from edgekit.convert.quality import answers, sqnr_db
from edgekit.convert.rewrite import packed, unpacked, without_softmax
from edgekit.errors import BundleError
from edgekit.runner.interpreter import open_interpreter
from edgekit.runner.model import Model, describe_variant

EVERY = 5  # of the samples, evenly spread: 20 % judge, 80 % make ranges
FEWEST = 10  # samples, below which none can be spared to judge
MOST = 100  # samples that judge, at most: more do not change the order
NOT_RUNNING_DB = -300.0  # of a file that LiteRT refuses


@dataclass(frozen=True)
class Tried:
    """One way to make int8 (a range policy), and how it did on held-out samples."""

    policy: str
    sqnr_db: float  # over all held-out outputs: one clipped answer counts much
    median_sqnr_db: float  # of single samples: one odd sample does not decide
    same_class: float | None  # share of samples with float's class; None if the model does not end in a softmax
    count: int  # samples judged

    @property
    def score_db(self) -> float:
        """The mean of the two: the first alone falls for one odd sample, the second does not see clipped ones."""
        return (self.sqnr_db + self.median_sqnr_db) / 2


class HeldOut:
    """The float model's answers to the samples that judge (`feeds`: what the model sees), for files to be held against.

    `folder` takes models that a softmax was cut off. `logits`: it was already, off this one and all that are judged.
    """

    def __init__(self, float_model: Path, feeds: Feeds, folder: Path, *, logits: bool = False) -> None:
        self.count = len(next(iter(feeds.values())))
        self._feeds = feeds
        cut = None if logits else before_softmax(float_model, folder)
        self._cuts = cut is not None
        self.classifies = logits or self._cuts
        self.wanted = run(cut or float_model, feeds, threads=cores())

    def judge(self, paths: Sequence[Path], names: Sequence[str]) -> list[Tried]:
        """How each file does, under its name; two at a time where there are two processors."""
        with ThreadPoolExecutor(cores()) as pool:
            got = pool.map(self.answers, paths)
            return [judged(n, self.wanted, g, classifies=self.classifies) for n, g in zip(names, got, strict=True)]

    def noise(self, path: Path) -> float:
        """The squared error of a file's answers, as a share of the signal; infinite if it does not run."""
        got = self.answers(path)
        return np.inf if got is None else float(10 ** (-sqnr_db(self.wanted, got) / 10))

    def answers(self, path: Path) -> list[np.ndarray] | None:
        """What the file answers; None if LiteRT refuses it ("no_integer_overflow_from_quantization was not true")."""
        cut = before_softmax(path, path.parent) if self._cuts else None
        try:
            return run(cut or path, self._feeds, threads=1)
        except BundleError:
            return None


def split(count: int) -> tuple[np.ndarray, np.ndarray]:
    """The indexes of the samples that make, and of those that judge; the same ones where there are too few to spare any."""
    if count < FEWEST:
        return np.arange(count), np.arange(count)
    judges = np.arange(EVERY - 1, count, EVERY)
    return np.setdiff1d(np.arange(count), judges), judges[:: -(-len(judges) // MOST)]


def judged(policy: str, wanted: Sequence[np.ndarray], got: Sequence[np.ndarray] | None, *, classifies: bool) -> Tried:
    """How near the answers of a policy's model are to float's; None: it does not run with these ranges."""
    count = len(wanted[0])
    if got is None:
        return Tried(policy, NOT_RUNNING_DB, NOT_RUNNING_DB, 0.0 if classifies else None, count)
    each = [sqnr_db([w[i] for w in wanted], [g[i] for g in got]) for i in range(count)]
    same = float(np.mean(wanted[0].argmax(-1) == got[0].argmax(-1))) if classifies else None
    return Tried(policy, round(sqnr_db(wanted, got), 2), round(float(np.median(each)), 2), same, count)


def judge_all(held_out: Sequence[HeldOut], paths: Sequence[Path], policy: str) -> Tried:
    """How a policy does where each of its files is judged by samples of its own, all of them taken together."""
    got = [each.answers(path) for each, path in zip(held_out, paths, strict=True)]
    wanted = [np.concatenate(parts) for parts in zip(*(each.wanted for each in held_out), strict=True)]
    answered = [one for one in got if one is not None]
    whole = [np.concatenate(parts) for parts in zip(*answered, strict=True)] if len(answered) == len(got) else None
    return judged(policy, wanted, whole, classifies=held_out[0].classifies)


def some(feeds: Feeds, samples: np.ndarray) -> Feeds:
    """Only these of the samples."""
    return {name: array[samples] for name, array in feeds.items()}


def before_softmax(path: Path, folder: Path) -> Path | None:
    """The model without its last softmax, in `folder`; None if it has none."""
    model = unpacked(path.read_bytes())
    if not without_softmax(model):
        return None
    drop_unread(model)
    cut = folder / f"{path.stem}.cut.tflite"
    cut.write_bytes(packed(model))
    return cut


def run(path: Path, feeds: Feeds, *, threads: int) -> list[np.ndarray]:
    """The model's answers to what the model sees, through the runner; float whatever comes out of the file."""
    interpreter = open_interpreter(path, threads)
    variant = describe_variant(interpreter, path.name, quantization="trial")
    inputs = {
        tensor.name: feeds[tensor.name][:, 0] if tensor.shape[:1] == (1,) else feeds[tensor.name]
        for tensor in variant.inputs
    }
    return answers(Model(variant, [interpreter], {}), inputs)
