"""`edgekit join`: several bundles of one task become one, each variant with the golden answers that it was proved by."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from handmade_model import classifier, compiled_classifier, make_bundle

from edgekit.bundle import read_bundle, write_bundle
from edgekit.convert.join import join
from edgekit.errors import GoldenMismatch, InputError
from edgekit.manifest import Quality
from edgekit.runner import load
from edgekit.runner.check import check_release, read_golden

pytest.importorskip("ai_edge_litert")
COMPILED = "models/int8_edgetpu.tflite"
GOAL = "min_energy(accuracy>=75, deadline=50ms)"


def made(path, name, accuracy, *, seed=0, spoil=0, compiled=False):
    raw = np.random.default_rng(seed).random((6, 8, 8, 1), np.float32)
    more = {COMPILED: compiled_classifier()} if compiled else {}
    delegates = ["cpu", f"edgetpu:file={COMPILED}"] if compiled else ["cpu"]
    bundle = make_bundle(path, classifier(), raw=raw, spoil=spoil, delegates=delegates, more=more)
    [variant] = bundle.manifest.variants
    [output] = variant.outputs
    variant = replace(
        variant,
        qualities=(Quality("top-1", accuracy, 0.9, 100, "a test"),),
        outputs=(replace(output, name=f"{name}_out"),),  # as Keras calls each network's layers otherwise
    )
    contents = {file: bundle.file(file).read_bytes() for file in bundle.manifest.files}
    stream = io.BytesIO()
    np.savez(stream, **{key.replace(output.name, f"{name}_out"): a for key, a in read_golden(bundle).items()})
    contents[bundle.manifest.golden] = stream.getvalue()
    return write_bundle(path, replace(bundle.manifest, name=name, variants=(variant,)), contents)


def test_a_family_has_every_variant_with_its_own_figures_files_and_golden_answers(tmp_path, command):
    wide, narrow = made(tmp_path / "a", "wide", 0.8), made(tmp_path / "b", "narrow", 0.7, compiled=True)
    code, out, err = command("join", wide.path, narrow.path, "-o", tmp_path / "family", "--goal", GOAL, "--json")
    family = json.loads(out)
    sample = np.random.default_rng(5).random((8, 8, 1), np.float32)

    assert (code, err, family["goal"]) == (0, "", GOAL)
    assert list(family["variants"]) == ["int8", "narrow-int8"]
    assert [v.outputs[0].name for v in read_bundle(tmp_path / "family").manifest.variants] == ["wide_out", "wide_out"]
    assert family["variants"]["narrow-int8"] == {"top-1": 0.7}
    assert [agreement.ok for agreement, _ in check_release(tmp_path / "family", delegates=["cpu"])] == [True, True]
    model = load(tmp_path / "family", variant="narrow-int8", delegates=["cpu"])
    np.testing.assert_array_equal(model(sample), load(narrow.path, delegates=["cpu"])(sample))
    assert model.manifest.variant("narrow-int8").delegates[1].options["file"] == "models/narrow-int8_edgetpu.tflite"
    assert (tmp_path / "family" / "models" / "narrow-int8_edgetpu.tflite").read_bytes() == compiled_classifier()


@pytest.mark.parametrize(("other", "what"), [({"seed": 1}, "samples"), ({"name": "wide"}, "")])
def test_what_is_not_of_the_same_task_is_refused_and_nothing_is_written(tmp_path, other, what):
    wide, narrow = (
        made(tmp_path / "a", "wide", 0.8),
        made(tmp_path / "b", **{"name": "narrow", "accuracy": 0.7, **other}),
    )
    if not what:  # names make variants differ; two of the same name are told apart by that of their variant alone
        join([wide.path, narrow.path], tmp_path / "c")
        with pytest.raises(InputError, match="would be called wide-int8"):
            join([wide.path, narrow.path, narrow.path], tmp_path / "d")
        return
    with pytest.raises(InputError, match=what):
        join([wide.path, narrow.path], tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_one_that_answers_otherwise_or_is_alone_or_has_no_goal_is_refused(tmp_path):
    wide, spoilt = made(tmp_path / "a", "wide", 0.8), made(tmp_path / "b", "narrow", 0.7, spoil=1)

    with pytest.raises(GoldenMismatch):
        join([wide.path, spoilt.path], tmp_path / "c")
    with pytest.raises(InputError, match="two bundles"):
        join([wide.path], tmp_path / "c")
    with pytest.raises(InputError, match="not a goal"):
        join([wide.path, wide.path], tmp_path / "c", goal="fast")
    assert not (tmp_path / "c").exists()
