"""Biases corrected, and weights rounded anew, where that brings a quantized file nearer to float on samples held out.

Correcting biases takes one run of 64 samples: int8 of MLPerf Tiny's ResNet8 gains 1 dB, of its autoencoder 6. Large networks
would need longer for it than for all the rest, and a hundred MB, and MobileNetV2 gains 0.2 dB: there it is a repair (ladder).
Rounding takes seconds a network and pays where steps are coarse: weights4 of ResNet8 goes from 8 to 21 dB, int8 gains 0.3. Where
either is no nearer, as in some networks without biases, the file stays as it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgekit.convert.bias import correct_bias
from edgekit.convert.calibrate import Feeds
from edgekit.convert.cost import is_cheap
from edgekit.convert.flatbuffer import read_model
from edgekit.convert.held_out import FEWEST, HeldOut, some, split
from edgekit.convert.rounding import round_weights

GAIN_DB = 0.05  # less is not worth that somebody wonders where the file comes from


@dataclass(frozen=True)
class Polished:
    """The file that is nearest to float, and what was done to it; nothing: empty."""

    path: Path
    done: str  # "bias correction (9 layers)"


def polished(path: Path, float_model: Path, feeds: Feeds, folder: Path, *, rounding: bool = False) -> Polished:
    """The quantized file at `path` with corrected biases, with `rounding` also with weights rounded anew.

    `float_model` is what it was made of; every fifth of the samples `feeds` (what the model sees) judges and takes no
    other part. New files go to `folder`.
    """
    best = Polished(path, "")
    count = len(next(iter(feeds.values())))
    if count < FEWEST or (not rounding and not is_cheap(read_model(float_model))):
        return best
    folder.mkdir(parents=True, exist_ok=True)
    rest, judges = split(count)
    held_out = HeldOut(float_model, some(feeds, judges), folder)
    score = held_out.judge([path], ["as made"])[0]
    steps = {"bias correction": correct_bias} | ({"adaptive rounding": round_weights} if rounding else {})
    for number, (step, change) in enumerate(steps.items()):
        output = folder / f"{number}.tflite"
        layers = change(float_model, best.path, output, some(feeds, rest))
        if not layers:
            continue
        after = held_out.judge([output], [step])[0]
        if after.score_db >= score.score_db + GAIN_DB and (after.same_class or 0.0) >= (score.same_class or 0.0):
            done = ", ".join(filter(None, [best.done, f"{step} ({layers} layers)"]))
            best, score = Polished(output, done), after
    return best
