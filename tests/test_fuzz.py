"""A few hundred hostile inputs for every parser of what others wrote; scripts/fuzz has the hundred thousands."""

from __future__ import annotations

import pytest

pytest.importorskip("ai_edge_litert")

from fuzz import Parser, parsers, run_random

PARSERS = parsers()


@pytest.mark.parametrize("name", sorted(PARSERS))
def test_any_bytes_are_read_or_refused_as_promised(name: str) -> None:
    assert run_random(PARSERS[name], 150) == ""


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("name", sorted(PARSERS))
def test_very_many_bytes_are_read_or_refused_as_promised(name: str) -> None:
    assert run_random(PARSERS[name], 20_000, seed=1) == ""


def test_a_parser_that_breaks_is_noticed() -> None:
    def breaks(data: bytes) -> None:
        data.decode("ascii")

    assert "UnicodeDecodeError" in run_random(Parser(breaks, (b"seed",)), 500)
