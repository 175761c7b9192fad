"""What is tried when the gate refuses int8: in which order, on which samples, and what is kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="pip install 'edgekit[convert]'")

from handmade_model import T, build

from edgekit.convert import convert
from edgekit.convert.describe import full_int8_findings
from edgekit.convert.flatbuffer import read_model
from edgekit.errors import InputError, QualityLost


def random() -> np.random.Generator:
    return np.random.default_rng(3)


def dense(name: str, given: T, weights: np.ndarray) -> tuple[T, tuple]:
    w = T(f"{name}_w", weights.shape, data=weights.astype(np.float32))
    b = T(f"{name}_b", weights.shape[:1], data=np.zeros(len(weights), np.float32))
    out = T(name, (1, len(weights)))
    return out, ("FULLY_CONNECTED", [given, w, b], [out])


def network(spread: float) -> bytes:
    """Two layers with 64 channels between them that reach from 1 to 10 ** `spread`; all count alike for the answer."""
    factors = 10 ** np.linspace(0, spread, 64)
    x = T("x", (1, 16))
    hidden, first = dense("hidden", x, random().normal(size=(64, 16)) * factors[:, None])
    out, second = dense("out", hidden, random().normal(size=(10, 64)) / factors)
    return build([first, second], inputs=[x], outputs=[out], names={"x": "x", "out": "out"})


@pytest.fixture
def samples(tmp_path) -> Path:
    np.savez(tmp_path / "samples.npz", x=random().normal(size=(60, 16)).astype(np.float32))
    return tmp_path / "samples.npz"


@pytest.fixture
def model(tmp_path) -> Path:
    (tmp_path / "float.tflite").write_bytes(network(4))
    return tmp_path / "float.tflite"


def test_a_model_that_passes_is_not_repaired(samples, tmp_path):
    (tmp_path / "fine.tflite").write_bytes(network(0))
    result = convert(tmp_path / "fine.tflite", tmp_path / "b", samples, report=False)

    assert result.repairs == {}


def test_channels_of_unlike_size_are_equalized_and_the_file_stays_full_int8(model, samples, tmp_path):
    with pytest.raises(QualityLost, match="SQNR to float is"):
        convert(model, tmp_path / "b", samples, repair="none", report=False)
    result = convert(model, tmp_path / "b", samples, repair="int8", report=False)
    repairs = result.repairs["int8"]

    assert [variant.name for variant in result.variants] == ["int8"]
    assert full_int8_findings(read_model(result.bundle.file("models/int8.tflite"))) == []
    assert repairs[-1].step == "equalization"
    assert repairs[-1].passed
    assert repairs[-1].after_db is not None
    assert repairs[-1].after_db > 10 > repairs[0].before_db
    assert all(repair.step == "other ranges" for repair in repairs if not repair.kept)


def test_an_equalized_model_has_its_layers_compared_with_those_it_was_made_of(model, samples, tmp_path):
    result = convert(model, tmp_path / "b", samples, repair="int8", report=False)
    layers = {layer.name: layer.sqnr_db for layer in result.comparisons["int8"].layers.layers}

    assert layers["hidden"] > 20  # beside the model that was given it is 0: every channel was scaled
    assert not any("kept almost nothing" in warning for warning in result.warnings)


def test_the_manifest_names_the_repairs_that_were_kept(model, samples, tmp_path):
    made_by = convert(model, tmp_path / "b", samples, repair="int8", report=False).bundle.manifest.made_by

    assert made_by["quantizer of int8"].endswith(", equalization by edgekit")


def test_each_repair_builds_on_what_was_kept_before(model, samples, tmp_path):
    repairs = convert(model, tmp_path / "b", samples, repair="int8", report=False).repairs["int8"]
    best = repairs[0].before_db
    for repair in repairs:
        assert repair.before_db == best
        best = repair.after_db if repair.kept else best


def test_the_same_repairs_every_time(model, samples, tmp_path):
    results = [convert(model, tmp_path / name, samples, report=False) for name in "ab"]

    assert results[0].repairs == results[1].repairs
    assert results[0].bundle.id == results[1].bundle.id


def test_both_forms_of_int8_are_repaired(model, samples, tmp_path):
    result = convert(model, tmp_path / "b", samples, modes=("int8", "int8-float-io"), report=False)

    assert set(result.repairs) == {"int8", "int8-float-io"}
    assert all(repairs[-1].passed for repairs in result.repairs.values())


def test_a_level_that_there_is_not_is_told(model, samples, tmp_path):
    with pytest.raises(InputError, match="repairs 'all' are none that edgekit knows"):
        convert(model, tmp_path / "b", samples, repair="all")
