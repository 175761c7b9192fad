"""What a person should know before shipping a model that is good enough to be written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgekit.convert.compare import Comparison
from edgekit.convert.layers import short_name
from edgekit.convert.samples import Samples
from edgekit.runner.model import Model

DEAD_DB = 3.0  # SQNR of a layer whose noise is half of its signal


def cautions(
    raw: Samples, comparisons: Mapping[str, Comparison], model: Model, labels: Sequence[str], fixed_sizes: bool
) -> tuple[str, ...]:
    """A sentence each, without a full stop; `comparisons` are of the variants, by name."""
    found = []
    if not fixed_sizes:
        found.append("the batch of the model is not fixed: it keeps operators that compute shapes while it runs")
    if raw.count < 32:
        found.append(
            f"only {raw.count} samples: ranges may be too narrow for what the device will meet; give about 100"
        )
    for name, comparison in comparisons.items():
        found += [f"{name}, {caution}" for caution in quality_cautions(comparison)]
        for quality in comparison.qualities:
            if quality.metric == "same class as float" and quality.value < 0.95:
                found.append(f"{name} and float agree on only {quality.value:.1%} of the samples")
            if quality.metric == "SQNR to float, dB" and quality.value < 10.0:
                found.append(f"{name} is far from float ({quality.value:g} dB): compare the answers before use")
    classes = model.outputs[0].shape[-1] if model.outputs[0].shape else 1
    if labels and len(labels) != classes:
        found.append(f"{len(labels)} labels for {classes} outputs")
    return tuple(found)


def quality_cautions(comparison: Comparison) -> list[str]:
    """What makes a verdict that was passed less than it seems."""
    verdict, found = comparison.verdict, []
    if verdict.passed and verdict.doubt:
        found.append(f"{verdict.metric}: {verdict.doubt}")
    dead = [layer for layer in comparison.layers.layers if layer.sqnr_db is not None and layer.sqnr_db < DEAD_DB]
    if verdict.passed and dead:
        more = f" and {len(dead) - 1} more" if dead[1:] else ""
        found.append(
            f"the answers are good enough, but {dead[0].operator} '{short_name(dead[0].name)}'{more} kept almost nothing of "
            f"the float values (under {DEAD_DB:g} dB): are these samples all alike, or is the model not trained?"
        )
    return found
