"""The power goes after each file operation of the agent's own code: tests/crash.py says what must hold then."""

from __future__ import annotations

import pytest
from crash import NEEDED, SCRIPTS, Program, cut_everywhere, die_everywhere, everything, table


@pytest.fixture(scope="module")
def program() -> Program:
    return Program()


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_power_cut_at_any_moment_leaves_a_whole_proven_release_on_ext4(program: Program, name: str) -> None:
    found = cut_everywhere(program, name, ext4=True, nested=0.1, again=0.1)

    assert not found.violations
    assert found.images > 5


@pytest.mark.parametrize(
    "name",
    [
        "deployment",
        "deployment that takes the oldest away",
        "rollback",
        pytest.param("trial that is given up", marks=pytest.mark.slow),
        pytest.param("deployment in a trial", marks=pytest.mark.slow),
        pytest.param("root of protocol 1", marks=pytest.mark.slow),
    ],
)
def test_a_power_cut_leaves_a_whole_proven_release_on_the_worst_disk_that_posix_allows(
    program: Program, name: str
) -> None:
    found = cut_everywhere(program, name, ext4=False, nested=0.02, again=0.02)

    assert not found.violations
    assert found.images > 5


def test_a_workstation_that_dies_at_any_moment_is_followed_by_a_good_end(program: Program) -> None:
    found = die_everywhere(program, ext4=True, every=6)

    assert not found.violations
    assert found.images > 40


# the others matter to other scripts, or need every image: the long form has them
ELSEWHERE = ("keep_agent", "give_up", "_lay_out", "go_back")
QUICK = sorted(label for label in NEEDED if not any(step in label for step in ELSEWHERE))


@pytest.mark.parametrize(
    "label",
    [
        pytest.param(label, marks=pytest.mark.slow) if "install" in label and "(folder)" in label else label
        for label in QUICK
    ],
)
def test_leaving_out_an_fsync_that_is_needed_is_caught(program: Program, label: str) -> None:
    found = cut_everywhere(program, "deployment", ext4="(file)" in label, left_out=label, enough=1)

    assert found.count


@pytest.mark.long
@pytest.mark.slow
def test_all_of_it(program: Program) -> None:
    found = [result for _, _, result in everything(program, nested=0.2, again=0.1)]
    found += [die_everywhere(program, ext4=ext4) for ext4 in (True, False)]

    assert [result.violations for result in found if result.violations] == []
    assert sum(result.images for result in found) > 20_000
    assert {label for label, _, any_count, _ in table(program, enough=1) if any_count} >= NEEDED
