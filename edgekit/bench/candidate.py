"""What there is to choose from: each variant on each delegate that the bundle has or a person names, with each thread count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgekit.bundle import Bundle, Delegate
from edgekit.delegates import delegate_text, ladder, parse_delegate
from edgekit.errors import InputError


@dataclass(frozen=True)
class Candidate:
    """One way to run a model."""

    variant: str
    delegate: Delegate

    @property
    def text(self) -> str:
        """`int8 on cpu:threads=2`."""
        return f"{self.variant} on {delegate_text(self.delegate)}"

    @property
    def unit(self) -> str:
        """The delegate's name."""
        return self.delegate.name


def candidates(
    bundle: Bundle,
    *,
    variants: Sequence[str] = (),
    delegates: Sequence[str] = (),
    threads: Sequence[int] = (),
    cores: int | None = None,
) -> tuple[Candidate, ...]:
    """All of them, each once, in the bundle's order. `cores`: of the machine, for thread counts that nobody named."""
    manifest = bundle.manifest
    names = list(variants) or [variant.name for variant in manifest.variants]
    given = [parse_delegate(text) for text in delegates]
    counts = tuple(dict.fromkeys(threads)) or thread_counts(cores)
    found: dict[str, Candidate] = {}
    for name in names:
        variant = manifest.variant(name)
        for delegate in ladder(given or variant.delegates):
            spread = delegate.name == "cpu" and ("threads" not in delegate.options or not given)
            options = [{**delegate.options, "threads": n} for n in counts] if spread else [dict(delegate.options)]
            for each in options:
                candidate = Candidate(name, replace(delegate, options=each))
                found.setdefault(candidate.text, candidate)
    if not found:
        raise InputError("there is nothing to measure", hint="name a variant or a delegate that the bundle has")
    return tuple(found.values())


def thread_counts(cores: int | None) -> tuple[int, ...]:
    """1, 2, 4 ... and all cores; 1 and 2 where they are not known."""
    if not cores or cores < 1:
        return (1, 2)
    counts = {1 << n for n in range(cores.bit_length()) if 1 << n <= cores}
    return tuple(sorted(counts | {cores}))
