"""How many samples the ranges are made of: on a model whose ranges are known, and on networks that other people trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from handmade_model import T, build

pytest.importorskip("ai_edge_litert")

from edgekit import preprocess
from edgekit.convert.calibrate import measure_extremes
from edgekit.convert.frontend import converting
from edgekit.convert.held_out import HeldOut
from edgekit.convert.samples import Samples
from edgekit.convert.settle import FIRST, MOST, settle
from edgekit.convert.tflite_file import fed
from edgekit.convert.variants import make_variants
from edgekit.errors import ConversionError
from edgekit.runner.interpreter import open_interpreter
from edgekit.runner.model import describe_variant

TINY = Path(__file__).resolve().parents[2] / "shared" / "data" / "mlperf-tiny"
WITHIN_DB = 1.0  # 0.6 were measured for pictures, 0.1 for words: why small networks take all samples
ORDERS = 3


@pytest.fixture
def doubler(tmp_path):
    """x -> 2 x, four numbers at a time."""
    x, w, out = T("x", (1, 4)), T("w", (4, 4), data=2 * np.eye(4, dtype=np.float32)), T("out", (1, 4))
    path = tmp_path / "doubler.tflite"
    path.write_bytes(build([("FULLY_CONNECTED", [x, w], [out])], inputs=[x], outputs=[out]))
    return path


def of_width(widths, labels=None):
    """A sample for each width, whose values go from 0 to there."""
    return Samples("made", {"x": np.outer(widths, [0, 0.25, 0.5, 1]).astype(np.float32)}, labels)


def used(doubler, raw, **given):
    return settle(doubler, raw, given.pop("specs", {}), np.arange(raw.count), **{"until_settled": True, **given})


def test_samples_that_are_all_alike_stop_at_the_first_look(doubler):
    settled = used(doubler, of_width(np.ones(400)))

    assert len(settled.chosen) == FIRST
    assert settled.curve[-1] == (FIRST, 1.0)


def test_samples_that_never_settle_are_all_used(doubler):
    settled = used(doubler, of_width(1.1 ** np.arange(400)[::-1]), until_settled=False)
    growing = used(doubler, of_width(np.arange(1, 401)))

    assert len(settled.chosen) == 400
    assert len(growing.chosen) < 400  # spread over all from the start: where they were recorded does not matter


def test_ranges_that_widen_late_are_waited_for(doubler):
    widths = np.ones(400)
    late = used(doubler, of_width(widths)).chosen
    widths[late[-1]] = 3.0  # one of the first 128 in the order of use: the second half of them may widen the first

    settled = used(doubler, of_width(widths))

    shares = dict(settled.curve)
    assert (len(settled.chosen) == FIRST) == (shares[FIRST // 2] >= 0.95)
    assert settled.curve[-1][1] == 1.0


def test_what_is_measured_belongs_to_the_samples_that_are_seen(doubler):
    raw = of_width(np.random.default_rng(1).uniform(1, 2, 300), np.arange(300) % 3)
    settled = used(doubler, raw)

    assert (np.diff(settled.chosen) > 0).all()
    np.testing.assert_array_equal(settled.seen["x"], raw.arrays["x"][settled.chosen])
    again = measure_extremes(doubler, {"x": settled.seen["x"][:, None]})
    assert settled.extremes.names == again.names
    np.testing.assert_array_equal(settled.extremes.high, again.high)


def test_every_class_has_its_share_of_what_is_used(doubler):
    labels = np.array([0] * 300 + [1] * 100 + [2] * 20)
    settled = used(doubler, of_width(np.ones(420), labels))

    counts = np.bincount(labels[settled.chosen])
    assert counts.tolist() == [54, 54, 20]


def test_preprocessing_is_done_for_what_is_used_and_gives_the_same_as_for_one_sample(doubler):
    pixels = np.random.default_rng(1).integers(0, 256, (300, 4), dtype=np.uint8)
    spec = preprocess.Generic(scale=1 / 255)
    settled = used(doubler, Samples("made", {"x": pixels}, None), specs={"x": spec})

    assert len(settled.chosen) < 300
    wanted = np.stack([preprocess.apply(spec, pixels[i]) for i in settled.chosen])
    np.testing.assert_array_equal(settled.seen["x"], wanted)


def test_the_sample_that_is_not_finite_is_named_by_its_number(tmp_path):
    x, out = T("x", (1, 4)), T("out", (1, 4))
    path = tmp_path / "log.tflite"
    path.write_bytes(build([("LOG", [x], [out])], inputs=[x], outputs=[out]))
    raw = of_width(np.where(np.arange(200) == 77, 0.0, 1.0))
    raw.arrays["x"][:] += (np.arange(200) != 77)[:, None]

    with pytest.raises(ConversionError, match="not finite on sample 77"):
        used(path, raw, until_settled=False)


def words():
    with np.load(TINY / "kws01.npz") as arrays:
        return arrays["x"].astype(np.float32), arrays["label"], 500


def pictures():
    with np.load(TINY / "cifar10_unlabelled_500.npz") as arrays:
        return arrays["x"].astype(np.float32), None, 350


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize(
    ("model", "read"), [("kws_ref_model", words), ("pretrainedResnet.h5", pictures)], ids=["words", "pictures"]
)
def test_fewer_samples_make_int8_as_good_as_all_of_them(tmp_path, model, read):
    pytest.importorskip("tensorflow", reason="converting needs tensorflow: pip install 'edgekit[convert]'")
    if not (TINY / model).exists():
        pytest.skip(f"no ../shared/data/mlperf-tiny/{model} beside this checkout")
    x, y, count = read()
    with converting(TINY / model, {"x": x[:16]}, tmp_path, timeout_s=600) as early:
        source = early.finish()
    path = source.float_model
    inputs = describe_variant(open_interpreter(path, 1), "", quantization="").inputs
    found, counts = {True: [], False: []}, []
    for seed in range(ORDERS):
        order = np.random.default_rng(seed).permutation(len(x))
        raw = Samples("real", {"x": x[order[:count]]}, None if y is None else y[order[:count]])
        judges = HeldOut(path, fed({"x": x[order[count:]]}, inputs), tmp_path)
        for auto in (True, False):
            settled = settle(path, raw, {}, np.arange(count), until_settled=auto)
            folder = tmp_path / f"{seed}{auto}"
            made = make_variants(path, ["int8"], settled.seen, folder, extremes=settled.extremes)[0]
            found[auto].append(judges.judge([made.path], [""])[0].score_db)
            counts += [len(settled.chosen)] if auto else []

    assert np.mean(found[True]) >= np.mean(found[False]) - WITHIN_DB
    assert min(counts) < count <= MOST
