"""Biases corrected as a matter of course, and only where that is nearer to float."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="pip install 'edgekit[convert]'")

from handmade_model import T, build

from edgekit.convert.choose import choose
from edgekit.convert.describe import full_int8_findings
from edgekit.convert.flatbuffer import read_model
from edgekit.convert.held_out import HeldOut
from edgekit.convert.polish import Polished, polished
from edgekit.convert.quantize import quantize
from edgekit.convert.variants import make_variants


def random() -> np.random.Generator:
    return np.random.default_rng(8)


@pytest.fixture
def source(tmp_path):
    """Three layers whose inputs are all positive: rounded weights shift what comes out."""
    given = x = T("x", (1, 32))
    steps = []
    for name, outputs in (("one", 48), ("two", 48), ("three", 8)):
        out = T(name, (1, outputs))
        weights = random().lognormal(size=(outputs, given.shape[-1])).astype(np.float32)
        parts = [
            T(f"{name}_w", weights.shape, data=weights),
            T(f"{name}_b", (outputs,), data=np.zeros(outputs, np.float32)),
        ]
        steps.append(("FULLY_CONNECTED", [given, *parts], [out]))
        given = out
    path = tmp_path / "float.tflite"
    path.write_bytes(build(steps, inputs=[x], outputs=[given], names={"x": "x", "three": "three"}))
    return path


def samples(count: int) -> dict[str, np.ndarray]:
    return {"x": random().uniform(0.5, 1.0, (count, 1, 32)).astype(np.float32)}


def test_corrected_biases_are_nearer_to_float_on_new_samples_and_the_file_stays_full_int8(source, tmp_path):
    feeds = samples(100)
    choice = choose(source, "int8", feeds, tmp_path / "c")
    found = polished(choice.path, source, feeds, tmp_path / "p")
    new = {"x": np.random.default_rng(99).uniform(0.5, 1.0, (200, 1, 32)).astype(np.float32)}
    before, after = HeldOut(source, new, tmp_path).judge([choice.path, found.path], ["before", "after"])

    assert found.done == "bias correction (3 layers)"
    assert after.sqnr_db > before.sqnr_db + 1
    assert full_int8_findings(read_model(found.path)) == []


def test_too_few_samples_to_judge_correct_nothing(source, tmp_path):
    feeds = samples(9)
    choice = choose(source, "int8", feeds, tmp_path / "c")

    assert polished(choice.path, source, feeds, tmp_path / "p", rounding=True) == Polished(choice.path, "")


def test_what_gains_nothing_stays_as_it_was(source, tmp_path):
    feeds = samples(100)
    choice = choose(source, "int8", feeds, tmp_path / "c")
    once = polished(choice.path, source, feeds, tmp_path / "p")

    assert polished(once.path, source, feeds, tmp_path / "again") == Polished(once.path, "")


def test_coarse_weights_are_rounded_so_that_their_errors_cancel(source, tmp_path):
    feeds = samples(100)
    made = make_variants(source, ["weights4", "weights8"], {"x": feeds["x"][:, 0]}, tmp_path / "v")
    plain = [quantize(source, one.mode, [], tmp_path / one.mode).paths[0] for one in made]
    new = {"x": np.random.default_rng(99).uniform(0.5, 1.0, (200, 1, 32)).astype(np.float32)}
    held_out = HeldOut(source, new, tmp_path)
    before, after = (held_out.judge(paths, ["4", "8"]) for paths in (plain, [one.path for one in made]))

    assert "adaptive rounding" in made[0].made_by
    assert "bias correction" in made[1].made_by
    assert after[0].sqnr_db > before[0].sqnr_db + 3
    assert after[1].sqnr_db > before[1].sqnr_db + 1
