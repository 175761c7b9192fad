"""Hundreds of malformed and hostile inputs: each ends well or with an error that says what is wrong, and nothing in them runs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("tensorflow", reason="hostile Keras files are made with tensorflow: pip install 'edgekit[convert]'")

from hostile import Case, make_cases, make_seeds, run_command

pytestmark = pytest.mark.slow

FORKED = r"""
import dataclasses, json, sys
from pathlib import Path
from hostile import make_cases, run_forked
seeds, folder = map(Path, sys.argv[1:3])
endings = run_forked(make_cases(seeds, folder / "cases")[:: int(sys.argv[3])], folder / "scratch")
print(json.dumps([(e.case.name, e.how, e.seconds) for e in endings]))
"""
# one of each kind, through the real command
THROUGH_THE_COMMAND = (
    "net-cut5.keras", "lambda.keras", "lambda.h5", "bomb.keras", "config-os-system.keras", "huge.npy", "write_saved", "pipe.h5",
    "loop.tflite", "claims.npz",
)  # fmt: skip


@pytest.fixture(scope="module")
def canary(tmp_path_factory) -> Path:
    """The folder that the code in the traps makes."""
    return tmp_path_factory.mktemp("watched") / "canary"


@pytest.fixture(scope="module")
def seeds(tmp_path_factory, canary) -> Path:
    return make_seeds(tmp_path_factory.mktemp("seeds"), canary)


@pytest.fixture(scope="module")
def cases(seeds, tmp_path_factory) -> list[Case]:
    return make_cases(seeds, tmp_path_factory.mktemp("cases"))


@pytest.fixture(scope="module", params=[3, pytest.param(1, marks=pytest.mark.long)], ids=["a third", "all"])
def endings(request, seeds, tmp_path_factory) -> dict[str, str]:
    """How each of them ended, in forks of one process that has TensorFlow."""
    folder = tmp_path_factory.mktemp("forked")
    here = Path(__file__).parent
    environment = {"PYTHONPATH": os.pathsep.join([str(here), str(here.parent)]), "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment |= {"CUDA_VISIBLE_DEVICES": "-1", "TF_ENABLE_ONEDNN_OPTS": "0", "KERAS_BACKEND": "tensorflow"}
    done = subprocess.run(
        [sys.executable, "-c", FORKED, str(seeds), str(folder), str(request.param)],
        stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, **environment},
    )  # fmt: skip
    found = json.loads(done.stdout.splitlines()[-1])
    return {f"{number} {name}": how for number, (name, how, _) in enumerate(found)}


def test_there_are_more_than_three_hundred(cases):
    assert len(cases) > 300


def test_every_one_ends_well_or_with_an_error_that_says_what_is_wrong(endings):
    """A fork that dies of it is a ConversionError to who converts; of so many a few may."""
    wrong = {name: how for name, how in endings.items() if not how.startswith(("fine", "error: ", "died of "))}
    died = [name for name, how in endings.items() if how.startswith("died")]

    assert wrong == {}
    assert len(died) <= len(endings) // 50, died


def test_a_command_that_was_only_slow_does_not_count_as_hung(tmp_path):
    bad = tmp_path / "bad.tflite"
    bad.write_bytes(b"no model")

    assert run_command(Case("bad", bad, bad), tmp_path, (0.01,)).how == "hung"
    assert run_command(Case("bad", bad, bad), tmp_path, (0.01, 100.0)).how.startswith("error: ")


def test_an_error_is_short_and_has_a_hint(endings):
    for name, how in endings.items():
        match = re.match(r"error: (\w+): (.*) \| (.*)", how, re.DOTALL)
        if match:
            kind, told, hint = match.groups()

            assert told.count("\n") == 0, name
            assert len(told) < 600, name
            assert hint, name
            assert kind != "EdgekitError", name


def test_what_is_bad_all_over_never_ends_well(endings):
    fine = [name for name, how in endings.items() if how == "fine"]
    bad = (
        r"empty|zeros|noise|pickle|head|cut|folder|pipe|loop|zero|nothing|bomb|traversal|twice|claims|overlap|encrypted"
    )
    bad += r"|lambda|external|virtual|outside|many|unallocated|py_saved|write_saved|nan|inf|objects|code|huge|no-"
    bad += r"|os-system|eval|get-file|tfsm|torch|popen|src"

    assert [name for name in fine if re.search(bad, name)] == []
    assert Counter(how.split(":")[0] for how in endings.values())["error"] > len(endings) // 2


def test_no_code_in_them_ran(endings, canary):
    assert endings
    assert not canary.exists()


@pytest.mark.parametrize("name", THROUGH_THE_COMMAND)
def test_the_command_says_it_in_two_lines(cases, tmp_path, canary, name):
    case = next(case for case in cases if case.name == name)
    ending = run_command(case, tmp_path)

    assert ending.how.startswith("error: edgekit: ")
    assert len(ending.how.splitlines()) == 2
    assert list(tmp_path.iterdir()) == []
    assert not canary.exists()
