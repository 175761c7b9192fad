"""Measures every candidate, again where a run was throttled or noisy, and says for each what happened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgekit.bench.candidate import Candidate
from edgekit.bench.place import Place
from edgekit.errors import EdgekitError

TRIES = 3
Progress = Callable[[str, int, int], None]  # what is measured, done, in all


@dataclass(frozen=True)
class Result:
    """One candidate. `figures` are what the runner measured, None where it could not serve; see runner/measure.py."""

    candidate: Candidate
    figures: Any
    failed: str  # why there are no figures
    tries: int  # runs that were needed; all but the last were invalid
    invalid: Sequence[str] = field(default=())  # why the last one is no good either

    @property
    def median_us(self) -> float | None:
        """None where there is nothing to show: it failed, or is FAKE."""
        value = self.figures and self.figures["median_us"]
        return float(value) if value is not None else None

    @property
    def energy_uj(self) -> float | None:
        """Of an inference; None without a meter."""
        value = self.figures and self.figures["energy_uj"]
        return float(value) if value is not None else None

    @property
    def served_by(self) -> str:
        """The unit that served, FAKE and software ones named so; "" where none did."""
        if not self.figures:
            return ""
        placement = self.figures["placement"]
        kind = "FAKE " if placement["fake"] else "software " if placement["software"] else ""
        return f"{kind}{placement['unit']}"


def measure(
    place: Place,
    candidate: Candidate,
    *,
    runs: int,
    seconds: float,
    mlperf: bool = False,
    cold: bool = True,
    tries: int = TRIES,
) -> Result:
    """One candidate, and nothing else in its place: a unit that cannot serve is a failure here, not a fallback."""
    from edgekit.delegates import delegate_text

    arguments = ["--variant", candidate.variant, "--delegate", delegate_text(candidate.delegate)]
    arguments += ["--require", candidate.unit, "--runs", str(runs), "--seconds", f"{seconds:g}"]
    arguments += ["--mlperf"] * mlperf + ["--warm"] * (not cold)
    for number in range(1, tries + 1):
        try:
            (figures,) = place.run("bench", arguments)["variants"]
        except EdgekitError as error:
            return Result(candidate, None, str(error), number)
        except (KeyError, ValueError, TypeError):
            return Result(candidate, None, "the runner's answer is not ours", number)
        if not figures["invalid"]:
            break
    return Result(candidate, figures, "", number, tuple(figures["invalid"]))


def measure_all(
    place: Place, chosen: Sequence[Candidate], *, progress: Progress = lambda what, done, total: None, **how: Any
) -> list[Result]:
    """Each candidate in turn."""
    found = []
    for number, candidate in enumerate(chosen):
        progress(candidate.text, number, len(chosen))
        found.append(measure(place, candidate, **how))
    progress("measured", len(chosen), len(chosen))
    return found
