"""Picks the best candidate by successive halving: all get a short run, the better half a longer one, until one is left.

Jamieson and Talwalkar 2016 (https://arxiv.org/abs/1502.07943). Its winner is proved by golden vectors before it is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from edgekit.bench.candidate import Candidate
from edgekit.bench.grid import Progress, Result, measure
from edgekit.bench.place import Place
from edgekit.bundle import Bundle, Variant
from edgekit.delegates import delegate_text
from edgekit.errors import EdgekitError, InputError

FIRST_S = 0.25  # of the first round; each next one is twice as long
OBJECTIVES = ("latency", "throughput", "energy")


@dataclass(frozen=True)
class Trial:
    """What became of one candidate."""

    candidate: str
    rounds: int  # that it took part in
    score: float | None  # of its last round, in `unit`; None: it has none
    unit: str
    why: str  # "winner", or why it lost


@dataclass(frozen=True)
class Tuned:
    """The winner, and what became of every candidate."""

    winner: Result
    objective: str
    trials: tuple[Trial, ...]


def check_accuracy(bundle: Bundle, chosen: Sequence[Candidate], least: float) -> dict[str, str]:
    """Candidate -> why it is too inaccurate or nobody knows; by the bundle's first metric of its variant."""
    out = {}
    for candidate in chosen:
        qualities = bundle.manifest.variant(candidate.variant).qualities
        if not qualities:
            out[candidate.text] = "no accuracy was measured for it: convert with --evaluate"
        elif qualities[0].value < least:
            out[candidate.text] = f"{qualities[0].metric} {qualities[0].value:g} is below {least:g}"
    return out


def tune(
    place: Place,
    bundle: Bundle,
    chosen: Sequence[Candidate],
    objective: str,
    *,
    max_ms: float | None = None,
    min_accuracy: float | None = None,
    progress: Progress = lambda what, done, total: None,
) -> Tuned:
    """The best of `chosen`. InputError when none of them keeps the limits, or nothing measures the energy."""
    lost: dict[str, Trial] = {}

    def out(text: str, why: str, rounds: int, value: float | None = None) -> None:
        lost[text] = Trial(text, rounds, value, unit_of(objective), why)

    if min_accuracy is not None:
        for text, why in check_accuracy(bundle, chosen, min_accuracy).items():
            out(text, why, 0)
    left = [candidate for candidate in chosen if candidate.text not in lost]
    results: dict[str, Result] = {}
    seconds, number = FIRST_S, 0
    while left:
        number += 1
        scored: list[tuple[float, Candidate]] = []
        for done, candidate in enumerate(left):
            progress(f"round {number}: {candidate.text}", done, len(left))
            last = len(left) == 1
            found = measure(place, candidate, runs=30, seconds=seconds, cold=last, tries=3 if last else 2)
            results[candidate.text] = found
            why = refusal(found, objective, max_ms)
            if why:
                out(candidate.text, why, number)
            else:
                scored.append((score(found, objective), candidate))
        scored.sort(key=lambda each: each[0])
        keep = max(1, (len(scored) + 1) // 2) if len(left) > 1 else len(scored)
        for value, candidate in scored[keep:]:
            times = value / scored[0][0]
            out(candidate.text, f"{times:.2f} times the best of round {number}", number, value)
        survivors = [candidate for _, candidate in scored[:keep]]
        if len(left) == 1:
            break
        left, seconds = survivors, seconds * 2
    if not left or left[0].text in lost:
        told = "; ".join(f"{trial.candidate}: {trial.why}" for trial in lost.values())
        raise InputError(
            f"no candidate is left ({told})", hint="loosen --max-ms or --min-accuracy, or name other delegates"
        )
    winner = results[left[0].text]
    prove(place, winner.candidate)
    trials = [*lost.values()]
    best = Trial(winner.candidate.text, number, score(winner, objective), unit_of(objective), "winner")
    return Tuned(winner, objective, (best, *sorted(trials, key=lambda trial: -trial.rounds)))


def refusal(found: Result, objective: str, max_ms: float | None) -> str:
    """Why a candidate cannot win, "" if it can."""
    if found.failed:
        return found.failed
    if found.median_us is None:
        return f"{found.served_by}: its times mean nothing"
    if max_ms is not None and found.figures["p99_us"] > 1000 * max_ms:
        return f"p99 {found.figures['p99_us'] / 1000:.3g} ms is over {max_ms:g} ms"
    if objective == "energy" and found.energy_uj is None:
        return "nothing on this machine measures energy"
    return ""


def score(found: Result, objective: str) -> float:
    """Less is better: microseconds (90th percentile; the median for throughput, its inverse), or microjoules."""
    if objective == "energy":
        assert found.energy_uj is not None
        return found.energy_uj
    return float(found.figures["p90_us" if objective == "latency" else "median_us"])


def unit_of(objective: str) -> str:
    return {"latency": "us, p90", "throughput": "us, median", "energy": "uJ"}[objective]


def prove(place: Place, candidate: Candidate) -> None:
    """EdgekitError unless the golden vectors agree on exactly that unit."""
    asked = [
        "--variant",
        candidate.variant,
        "--delegate",
        delegate_text(candidate.delegate),
        "--require",
        candidate.unit,
    ]
    try:
        place.run("check", asked)
    except EdgekitError as error:
        raise EdgekitError(
            f"{candidate.text} won, and then did not prove itself: {error}", hint="nothing was written"
        ) from error


def configured(bundle: Bundle, winner: Candidate) -> Mapping[str, object]:
    """What `replace` puts into the manifest: the winner's variant is the default one, its delegate the first of its list."""
    variants: list[Variant] = []
    for variant in bundle.manifest.variants:
        if variant.name == winner.variant:
            variants.insert(0, _with_first(variant, winner))
        else:
            variants.append(variant)
    return {"variants": tuple(variants)}


def _with_first(variant: Variant, winner: Candidate) -> Variant:
    """Others stay behind it, as what to fall back to; one of the same name with other settings would never be reached."""
    kept = tuple(each for each in variant.delegates if each.name != winner.unit)
    return replace(variant, delegates=(winner.delegate, *kept))
