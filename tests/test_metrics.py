"""Task metrics beside scikit-learn's, and people's own."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.convert.metrics import find_metric
from edgekit.errors import InputError, SamplesError

random = np.random.default_rng(0)


def scores(count, classes, *, ties=False):
    values = random.random((count, classes)).astype(np.float32)
    values = np.round(values, 1) if ties else values
    return values / values.sum(axis=1, keepdims=True) if classes > 1 and not ties else values


def metric_of(name, labels, answers, **options):
    outputs = answers if isinstance(answers, dict) else {"out": answers}
    return find_metric(name, labels, outputs, source="e.npz", **options)


def judged(name, labels, answers, **options):
    outputs = answers if isinstance(answers, dict) else {"out": answers}
    return metric_of(name, labels, answers, **options).score(labels, outputs)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("classes", [2, 3, 7])
def test_auc_is_scikit_learns(classes, ties):
    sklearn = pytest.importorskip("sklearn.metrics")
    labels, answers = random.integers(0, classes, 300), scores(300, classes, ties=ties)
    each = [sklearn.roc_auc_score(labels == c, answers[:, c]) for c in range(classes)]
    expected = each[1] if classes == 2 else np.mean(each)

    assert judged("auc", labels, answers) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("shape", [(300,), (300, 1)])
def test_auc_and_f1_of_a_single_score_are_scikit_learns(shape):
    sklearn = pytest.importorskip("sklearn.metrics")
    labels, answers = random.integers(0, 2, 300), random.random(shape).astype(np.float32)
    flat = answers.reshape(-1)

    assert judged("auc", labels, answers) == pytest.approx(sklearn.roc_auc_score(labels, flat), abs=1e-12)
    assert judged("f1", labels, answers) == pytest.approx(sklearn.f1_score(labels, flat > 0.5), abs=1e-12)
    assert judged("top-1", labels, answers) == pytest.approx(np.mean(labels == (flat > 0.5)))


@pytest.mark.parametrize("classes", [2, 3, 9])
def test_f1_is_scikit_learns(classes):
    sklearn = pytest.importorskip("sklearn.metrics")
    labels, answers = random.integers(0, classes, 200), scores(200, classes)
    average = "binary" if classes == 2 else "macro"
    expected = sklearn.f1_score(labels, answers.argmax(axis=1), average=average)

    assert judged("f1", labels, answers) == pytest.approx(expected, abs=1e-12)


def test_top_5_is_scikit_learns():
    sklearn = pytest.importorskip("sklearn.metrics")
    labels, answers = random.integers(0, 20, 400), scores(400, 20)
    expected = sklearn.top_k_accuracy_score(labels, answers, k=5, labels=range(20))

    assert judged("top-5", labels, answers) == pytest.approx(expected)


def test_a_logit_is_compared_with_zero_and_a_probability_with_a_half():
    labels = np.array([0, 1, 1, 0])

    assert judged(None, labels, np.array([[-3.0], [0.2], [4.0], [-0.1]])) == 1.0
    assert judged(None, labels, np.array([[0.1], [0.9], [0.6], [0.4]])) == 1.0


def test_without_a_name_the_labels_choose():
    targets, answers = np.zeros((4, 2)), np.ones((4, 2))

    assert metric_of(None, np.array([0, 1, 1, 0]), answers).name == "top-1 accuracy"
    assert metric_of(None, targets, answers).name == "mean absolute error"
    assert judged(None, targets, answers) == 1.0


@pytest.mark.parametrize(
    ("name", "labels", "shape", "told"),
    [
        ("top-1", np.array([0, 5]), (2, 3), "labels go from 0 to 5, the model has 3 classes"),
        ("auc", np.array([0.5, 0.1]), (2, 3), "are no class numbers"),
        ("mae", np.array([0, 1]), (2, 3), "do not fit outputs"),
        ("f1", np.array([0, 1]), (2, 4, 4), "are no class numbers"),
        ("top-5", np.array([0, 1]), (2, 4), "top-5 of 4 classes is always right"),
    ],
)
def test_labels_that_do_not_fit_a_metric_are_refused(name, labels, shape, told):
    with pytest.raises(SamplesError, match=told) as caught:
        metric_of(name, labels, np.zeros(shape))

    assert caught.value.hint


def test_auc_of_one_class_is_refused():
    with pytest.raises(SamplesError, match="at least two classes"):
        judged("auc", np.zeros(5, int), scores(5, 2))


def test_a_metric_may_be_a_function_in_a_file(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "import numpy as np\n"
        "def worst(y_true, y_pred):\n    return np.abs(y_true - y_pred).max()\n"
        "worst.lower_is_better = True\n"
        "def share(y_true, y_pred):\n    return 0.75\n"
    )
    metric = metric_of(f"{file}:worst", np.zeros(3), np.array([1.0, 2.0, -4.0]))

    assert (metric.name, metric.lower_is_better, metric.score(np.zeros(3), {"out": np.array([1.0, 2.0, -4.0])})) == (
        "worst", True, 4.0
    )  # fmt: skip
    assert not metric_of(f"{file}:share", np.zeros(3), np.zeros(3)).lower_is_better


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("top-9", "no metric 'top-9'"),
        ("nowhere.py:f", r"nowhere\.py does not exist"),
        ("mine.py:other", "has no function 'other'"),
        ("mine.py:fails", "failed: ZeroDivisionError"),
        ("broken.py:f", "cannot be loaded: SyntaxError"),
    ],
)
def test_a_metric_that_is_not_there_or_fails_is_a_message(tmp_path, monkeypatch, name, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("def fails(y_true, y_pred):\n    return 1 / 0\n")
    (tmp_path / "broken.py").write_text("def f(:\n")

    with pytest.raises(InputError, match=told) as caught:
        judged(name, np.array([0, 1]), np.zeros((2, 2)))

    assert caught.value.hint
