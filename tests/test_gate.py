"""The gate: what passes, what does not, and when the samples are too few to tell."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="pip install 'edgekit[convert]'")

from edgekit.convert import gate
from edgekit.convert.gate import check_options, judge_unlabelled, refusal
from edgekit.convert.metrics import Metric, find_metric
from edgekit.errors import InputError, QualityLost


def answers(right, count, classes=4):
    """Scores of which the first `right` of `count` are class 0."""
    found = np.zeros((count, classes))
    found[np.arange(count), np.where(np.arange(count) < right, 0, 1)] = 1.0
    return found


def judge_labelled(metric, labels, real, int8, **options):
    return gate.judge_labelled(metric, labels, {"out": real}, {"out": int8}, **options)


def metric_for(name, labels, scores):
    return find_metric(name, labels, {"out": scores}, source="e.npz")


def verdict(float_right, int8_right, count, **options):
    labels = np.zeros(count, int)
    metric = metric_for("top-1", labels, answers(0, count))
    return judge_labelled(metric, labels, answers(float_right, count), answers(int8_right, count), **options)


def test_a_loss_within_what_is_allowed_passes_and_a_larger_one_does_not():
    small, large = verdict(9500, 9470, 10000), verdict(9500, 9300, 10000)

    assert (small.passed, small.certain, small.doubt) == (True, True, "")
    assert (large.passed, large.certain) == (False, True)
    assert (small.measured, large.measured) == (pytest.approx(0.3), pytest.approx(2.0))


def test_exactly_what_is_allowed_passes():
    assert verdict(95, 94, 100).passed


def test_what_is_allowed_can_be_chosen():
    assert not verdict(9500, 9470, 10000, max_drop=0.1).passed
    assert verdict(9500, 9300, 10000, max_drop=2.5).passed


def test_too_few_samples_are_said_and_not_hidden():
    found = verdict(40, 40, 40)

    assert (found.passed, found.certain) == (True, False)
    assert found.high == 7.5  # the rule of three: none of 40 lost is up to 3 in 40
    assert "40 samples are too few to be sure" in found.doubt


def test_a_failure_on_few_samples_is_uncertain_too():
    found = verdict(39, 38, 40)

    assert (found.passed, found.certain) == (False, False)
    assert "too few" in str(refusal(found, []))


def test_a_gain_is_no_loss():
    found = verdict(900, 910, 1000)

    assert (found.passed, found.measured) == (True, pytest.approx(-1.0))
    assert found.sentence.startswith("int8 gains 1 point of top-1 accuracy (0.9 → 0.91), a loss of 1 point is allowed")


def test_the_interval_holds_the_loss_and_is_the_same_every_time():
    first, second = verdict(900, 880, 1000), verdict(900, 880, 1000)

    assert first == second
    assert first.low <= first.measured <= first.high
    # of a binomial share of 2 %: 1.96 sqrt(.02 * .98 / 1000) = .87 points to each side
    assert (first.measured - first.low, first.high - first.measured) == (
        pytest.approx(0.87, abs=0.15), pytest.approx(0.87, abs=0.15)
    )  # fmt: skip


def test_an_error_may_get_one_percent_worse():
    targets, real = np.zeros((400, 2)), np.full((400, 2), 1.0)
    metric = metric_for("mae", targets, real)

    good, bad = (judge_labelled(metric, targets, real, real * by) for by in (1.005, 1.02))

    assert (good.passed, good.unit, good.measured) == (True, "%", pytest.approx(0.5))
    assert (bad.passed, bad.measured) == (False, pytest.approx(2.0))


def test_a_persons_own_metric_is_judged_by_its_direction():
    labels, values = np.zeros(100), np.linspace(1, 2, 100)
    up = Metric("up", lambda y, p: p["out"], np.mean, in_points=False)
    down = Metric("down", lambda y, p: p["out"], np.mean, lower_is_better=True, in_points=False)

    assert judge_labelled(up, labels, values, values * 1.1).passed
    assert not judge_labelled(down, labels, values, values * 1.1).passed


def test_an_auc_whose_resamples_miss_a_class_still_has_a_verdict():
    labels = np.array([1] + [0] * 29)
    scores = np.linspace(1, 0, 30)
    metric = metric_for("auc", labels, scores)

    found = judge_labelled(metric, labels, scores, scores)

    assert (found.passed, found.float_value) == (True, 1.0)


def test_without_labels_a_classifier_has_to_agree_with_float():
    good, bad = (judge_unlabelled([answers(1000, 1000)], [answers(n, 1000)], classes=True) for n in (980, 900))

    assert (good.passed, good.certain, good.int8_value) == (True, True, 0.98)
    assert (bad.passed, bad.limit) == (False, 5.0)
    assert "another class than float for 10 % of the samples" in bad.sentence


def test_classes_that_int8_cannot_tell_apart_are_one():
    real, int8 = np.full((100, 4), 0.25), np.full((100, 4), 0.25)
    real[:, 0] += 0.005
    int8[:, 1] += 1 / 256
    decided = real.copy()
    decided[:, 0] += 0.1

    assert judge_unlabelled([real], [int8], classes=True, step=1 / 256).passed
    assert not judge_unlabelled([real], [int8], classes=True).passed
    assert not judge_unlabelled([decided], [int8], classes=True, step=1 / 256).passed


def test_without_labels_and_classes_the_signal_to_noise_decides():
    real = np.random.default_rng(0).normal(size=(200, 8))
    noise = np.random.default_rng(1).normal(size=(200, 8))

    good, bad = (judge_unlabelled([real], [real + noise * by], classes=False) for by in (0.1, 0.6))

    assert (good.passed, good.measured) == (True, pytest.approx(20, abs=0.5))
    assert (bad.passed, bad.unit) == (False, "dB")
    assert judge_unlabelled([real], [real], classes=False).measured == 300


def test_a_refusal_says_the_metric_the_layers_and_what_to_try():
    error = refusal(verdict(95, 90, 100), ["CONV_2D 'a/conv' (30 → 8 dB)"], report="b.report.html", clipped=True)

    assert isinstance(error, QualityLost)
    assert error.exit_code == 6
    assert "int8 loses 5 points of top-1 accuracy (0.95 → 0.9)" in str(error)
    assert "it loses most in CONV_2D 'a/conv' (30 → 8 dB)" in str(error)
    for told in ("--samples", "--preprocess", "--max-drop 5", "b.report.html", "too narrow"):
        assert told in error.hint


@pytest.mark.parametrize(
    ("metric", "max_drop", "labelled", "told"),
    [
        (None, -1.0, True, "max-drop -1"),
        (None, float("nan"), True, "max-drop nan"),
        ("auc", 1.0, False, "--metric auc needs labels"),
        ("top-7", 1.0, True, "no metric 'top-7'"),
    ],
)
def test_options_that_make_no_sense_are_refused_before_anything_is_run(metric, max_drop, labelled, told):
    with pytest.raises(InputError, match=told):
        check_options(metric, max_drop, labelled=labelled)
