"""Metrics of detectors, class maps, sequences and regressions, beside pycocotools, scikit-learn and jiwer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from handmade_model import T, build
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.convert import metrics_sequences
from edgekit.convert.gate import judge_labelled
from edgekit.convert.metrics import find_metric
from edgekit.convert.samples import padded
from edgekit.errors import InputError, SamplesError

RECORDED = Path(__file__).parent / "transcripts" / "metrics"


def outputs_of(answers):
    return answers if isinstance(answers, dict) else {"out": answers}


def metric_of(name, labels, answers, **options):
    return find_metric(name, labels, outputs_of(answers), source="e.npz", **options)


def judged(name, labels, answers, **options):
    return metric_of(name, labels, answers, **options).score(labels, outputs_of(answers))


# --- detection --------------------------------------------------------------------------------------------------------


def scene(seed=0, *, images=40, most=6, k=120, classes=5):
    """Labels (images, most, 5) and what a middling detector says of them: boxes, classes, scores and counts."""
    random = np.random.default_rng(seed)
    labels = np.full((images, most, 5), -1.0)
    boxes, numbers = np.zeros((images, k, 4)), np.zeros((images, k))
    scores, counts = np.zeros((images, k)), np.zeros(images)
    for i in range(images):
        objects = random.integers(0, most + 1)
        corner, size = random.uniform(0, 0.6, (objects, 2)), random.uniform(0.05, 0.4, (objects, 2))
        labels[i, :objects] = np.c_[corner, corner + size, random.integers(0, classes, objects)]
        found = [
            np.r_[labels[i, j, :4] + random.normal(0, 0.015, 4), labels[i, j, 4], random.uniform(0.2, 1)]
            for j in range(objects)
            for _ in range(random.integers(0, 4))
        ]
        for _ in range(random.integers(0, k - len(found))):
            at = random.uniform(0, 0.8, 2)
            found.append(np.r_[at, at + 0.2, random.integers(0, classes + 1), random.choice([0.1, 0.3, 0.5, 0.7])])
        counts[i] = len(found)
        if found:
            table = np.stack(found)
            boxes[i, : len(table)], numbers[i, : len(table)], scores[i, : len(table)] = (
                table[:, :4], table[:, 4], table[:, 5]
            )  # fmt: skip
    return labels.astype(np.float32), {
        "boxes": boxes.astype(np.float32), "classes": numbers.astype(np.float32),
        "scores": scores.astype(np.float32), "count": counts.astype(np.float32),
    }  # fmt: skip


def coco_says(labels, found):
    """(mAP, mAP at 0.5) by pycocotools."""
    coco = pytest.importorskip("pycocotools.coco", reason="pip install pycocotools")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")

    def box(corners):
        y, x, y2, x2 = (float(v) for v in corners)
        return [x, y, x2 - x, y2 - y]

    truth, results = [], []
    for image, rows in enumerate(labels):
        for row in rows[rows[:, 4] >= 0]:
            area = float(np.prod(row[2:4] - row[:2]))
            truth.append({"id": len(truth) + 1, "image_id": image, "category_id": int(row[4]) + 1, "bbox": box(row[:4]),
                          "area": area, "iscrowd": 0})  # fmt: skip
        for i in range(int(found["count"][image])):
            results.append({"image_id": image, "category_id": int(found["classes"][image, i]) + 1,
                            "bbox": box(found["boxes"][image, i]), "score": float(found["scores"][image, i])})  # fmt: skip
    ground = coco.COCO()
    categories = [{"id": i, "name": str(i)} for i in range(1, 20)]
    images = [{"id": i} for i in range(len(labels))]
    ground.dataset = {"info": {}, "images": images, "annotations": truth, "categories": categories}
    ground.createIndex()
    judge = cocoeval.COCOeval(ground, ground.loadRes(results), "bbox")
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    return float(judge.stats[0]), float(judge.stats[1])


@pytest.mark.parametrize("seed", range(4))
def test_map_is_what_pycocotools_said(seed):
    """Recorded with pycocotools 2.0.11, by the test below."""
    labels, found = scene(seed)
    recorded = json.loads((RECORDED / "coco.json").read_text())[str(seed)]

    assert [judged(name, labels, found) for name in ("map", "map50")] == pytest.approx(recorded, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_map_is_pycocotools(seed):
    labels, found = scene(seed)

    assert [judged(name, labels, found) for name in ("map", "map50")] == pytest.approx(
        coco_says(labels, found), abs=1e-6
    )


def test_detections_are_read_in_every_form_and_order():
    labels, found = scene(1)
    expected = judged(None, labels, found)
    backwards = dict(reversed(found.items()))
    six = np.concatenate([found["boxes"], found["scores"][..., None], found["classes"][..., None]], axis=2)
    renamed = {
        f"StatefulPartitionedCall:{i}": found[name] for i, name in enumerate(("scores", "boxes", "count", "classes"))
    }

    assert metric_of(None, labels, found).name == "mAP@[.5:.95]"
    assert judged("map", labels, backwards) == expected
    assert judged("map", labels, renamed) == expected
    assert judged("map", labels, six) == expected
    assert judged("map", labels, {name: found[name] for name in ("classes", "boxes", "scores")}) == expected


def test_scores_of_whole_numbers_are_told_from_classes_by_name():
    labels, found = scene(2)
    found = {**found, "scores": np.where(found["scores"] > 0.3, 1.0, 0.0)}
    first = {name: found[name] for name in ("scores", "boxes", "classes", "count")}

    assert judged("map", labels, first) == judged("map", labels, found) > 0.05


def test_boxes_with_scores_of_every_class_count_each_object_once():
    labels = np.array([[[0.1, 0.1, 0.4, 0.4, 1]], [[0.5, 0.5, 0.9, 0.9, 0]]])
    boxes = np.array([[[0.1, 0.1, 0.4, 0.4], [0.11, 0.1, 0.41, 0.4], [0.6, 0.6, 0.8, 0.8]],
                      [[0.5, 0.5, 0.9, 0.9], [0.5, 0.51, 0.9, 0.9], [0.0, 0.0, 0.1, 0.1]]])  # fmt: skip
    scores = np.zeros((2, 3, 2))
    scores[0, :2, 1], scores[1, :2, 0] = (0.9, 0.8), (0.7, 0.95)

    assert judged("map50", labels, {"a": boxes, "b": scores}) == 1.0
    assert judged("map50", labels[..., :], {"boxes": boxes, "scores": scores[:, :, 1] + scores[:, :, 0]}) < 1.0


def test_every_sample_of_a_detector_can_be_drawn_alone():
    labels, found = scene(3)
    metric = metric_of("map", labels, found)
    rows, chosen = metric.each(labels, found), np.array([3, 3, 7, 20, 21])

    alone = metric.score(labels[chosen], {n: a[chosen] for n, a in found.items()})

    assert metric.total(rows[chosen]) == pytest.approx(alone, abs=1e-12)


def test_a_detector_that_got_worse_is_judged_in_points():
    labels, found = scene(0)
    blurred = {**found, "boxes": found["boxes"] + np.float32(0.03)}
    metric = metric_of("map", labels, found)
    same, worse = (judge_labelled(metric, labels, found, other) for other in (found, blurred))

    assert (same.passed, same.measured, same.high, same.unit) == (True, 0.0, 7.5, "points")  # 3 in 40
    assert (worse.passed, worse.certain) == (False, True)
    assert worse.low < worse.measured < worse.high
    assert "of mAP@[.5:.95]" in worse.sentence


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda y: y * np.array([300, 300, 300, 300, 1]), "no object is where the float model finds one"),
        (lambda y: y[..., [0, 1, 0, 1, 4]], "second corner is not beyond the first"),
        (lambda y: y * 0 - 1, "without objects"),
        (lambda y: y[..., :4], "are no objects"),
    ],
)
def test_labels_that_are_no_boxes_of_this_detector_are_refused(change, told):
    labels, found = scene(0)

    with pytest.raises(SamplesError, match=told) as caught:
        judged("map", change(labels), found)

    assert caught.value.hint


def test_outputs_that_are_no_detections_are_refused():
    with pytest.raises(SamplesError, match="the outputs are no detections: out"):
        judged("map", scene(0)[0], np.zeros((40, 10)))


# --- class maps -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 5])
def test_mean_iou_and_f1_of_maps_are_scikit_learns(classes):
    sklearn = pytest.importorskip("sklearn.metrics")
    random = np.random.default_rng(classes)
    labels = random.integers(0, classes, (12, 9, 7))
    answers = (random.random((12, 9, 7, classes)) + 0.8 * np.eye(classes)[labels]).astype(np.float32)
    found = answers.argmax(-1)
    flat = labels.ravel(), found.ravel()

    assert judged(None, labels, answers) == pytest.approx(sklearn.jaccard_score(*flat, average="macro"))
    assert judged("iou", labels[..., None], np.moveaxis(answers, -1, 1)) == judged("iou", labels, answers)
    assert judged("iou", labels, found.astype(np.int64)) == judged("iou", labels, answers)
    assert judged("top-1", labels, answers) == pytest.approx((labels == found).mean())
    average = "binary" if classes == 2 else "macro"
    assert judged("f1", labels, answers) == pytest.approx(sklearn.f1_score(*flat, average=average))


def test_a_map_of_one_score_has_two_classes():
    sklearn = pytest.importorskip("sklearn.metrics")
    random = np.random.default_rng(0)
    labels, logits = random.integers(0, 2, (6, 8, 8)), random.normal(size=(6, 8, 8, 1))
    expected = sklearn.jaccard_score(labels.ravel(), (logits > 0).ravel().astype(int), average="macro")

    assert judged("iou", labels.astype(bool), logits) == pytest.approx(expected)
    assert judged("iou", labels, 1 / (1 + np.exp(-logits))) == pytest.approx(expected)


def test_pixels_that_nobody_labelled_do_not_count():
    random = np.random.default_rng(0)
    labels, answers = random.integers(0, 3, (5, 6, 6)), random.random((5, 6, 6, 3))
    half = np.concatenate([labels, np.full_like(labels, 255)], axis=1)
    other = np.concatenate([labels, np.full_like(labels, -1)], axis=1)
    twice = np.concatenate([answers, random.random(answers.shape)], axis=1)

    for name in ("iou", "top-1", "f1"):
        assert judged(name, half.astype(np.uint8), twice) == judged(name, other, twice) == judged(name, labels, answers)


def test_labels_that_are_one_hot_are_class_numbers():
    random = np.random.default_rng(0)
    labels, answers = random.integers(0, 4, 50), random.random((50, 4))

    assert metric_of(None, np.eye(4, dtype=int)[labels], answers).name == "top-1 accuracy"
    assert judged("auc", np.eye(4, dtype=int)[labels], answers) == judged("auc", labels, answers)


def test_classes_that_the_model_does_not_have_are_refused_in_maps_too():
    with pytest.raises(SamplesError, match="labels go from 0 to 7, the model has 3 classes"):
        judged("iou", np.array([[[0, 1], [7, 2]]] * 2), np.random.default_rng(0).random((2, 2, 2, 3)))


# --- sequences --------------------------------------------------------------------------------------------------------

LETTERS = ["<blank>", " ", *"abcdefgh"]


def spoken(texts, letters=LETTERS, *, seed=0, blank=0):
    """CTC scores whose best path says the texts, letters held for a while and blanks in between; and the labels."""
    random = np.random.default_rng(seed)
    paths = []
    for text in texts:
        path = []
        for letter in text:
            path += [blank] * random.integers(0, 3) + [letters.index(letter)] * random.integers(1, 4)
            path.append(blank)
        paths.append(path)
    longest = max(map(len, paths))
    scores = random.random((len(texts), longest, len(letters)))
    for place, path in enumerate(paths):
        path += [blank] * (longest - len(path))
        scores[place, np.arange(longest), path] += 2
    labels = padded(np.array([np.array([letters.index(c) for c in t], int) for t in texts], dtype=object))
    return labels, scores.astype(np.float32)


WANTED = ["abc abba gag", "h", "fade bad cab deed", "a b c d e f g h", "egg head", "fed a bee"]
GIVEN = ["abc aba gag", "ha", "fade bed cab", "a b c de f g h h", "egg head", "bee"]
WER, CER = 9 / 21, 17 / 62


def test_ctc_scores_say_what_was_put_into_them():
    labels, scores = spoken(WANTED)

    assert judged("cer", labels, scores, class_names=LETTERS) == 0.0
    assert judged("wer", labels, scores, class_names=LETTERS) == 0.0
    assert metrics_sequences.decoded(scores, 0)[0] == [LETTERS.index(c) for c in WANTED[0]]


def test_word_and_character_error_rates_are_what_jiwer_said():
    """jiwer 4.0.0: wer(WANTED, GIVEN) and cer(WANTED, GIVEN), over all texts."""
    labels, _ = spoken(WANTED)
    _, scores = spoken(GIVEN)

    assert judged("wer", labels, scores, class_names=LETTERS) == pytest.approx(WER)
    assert judged("cer", labels, scores, class_names=LETTERS) == pytest.approx(CER)


@pytest.mark.slow
def test_word_and_character_error_rates_are_jiwers():
    jiwer = pytest.importorskip("jiwer", reason="pip install jiwer")
    random = np.random.default_rng(0)
    texts = [[" ".join("".join(random.choice(list("abcd"), random.integers(1, 4))) for _ in range(random.integers(1, 9)))
              for _ in range(30)] for _ in range(2)]  # fmt: skip
    labels, scores = spoken(texts[0])[0], spoken(texts[1])[1]

    assert judged("wer", labels, scores, class_names=LETTERS) == pytest.approx(jiwer.wer(texts[0], texts[1]))
    assert judged("cer", labels, scores, class_names=LETTERS) == pytest.approx(jiwer.cer(texts[0], texts[1]))
    assert (jiwer.wer(WANTED, GIVEN), jiwer.cer(WANTED, GIVEN)) == pytest.approx((WER, CER))


@pytest.mark.parametrize("blank", [0, 9])
def test_the_blank_is_found_without_names(blank):
    letters = list(" abcdefgh")
    letters.insert(blank, "<nothing>")
    labels, scores = spoken(WANTED, letters, blank=blank)

    assert metric_of(None, labels, scores).name == "character error rate"
    assert judged(None, labels, scores) == 0.0


@pytest.mark.parametrize("most", [10, 30])
def test_labels_that_are_filled_up_are_sequences_whatever_their_length(most):
    """10 is how many classes there are, 30 how many steps of time."""
    labels, scores = spoken(["abc", "h", "fade bad"])
    labels = np.concatenate([labels, np.full((3, most - labels.shape[1]), -1)], axis=1)
    scores = np.concatenate([scores, np.eye(10)[np.zeros((3, 30), int)]], axis=1)[:, :30]

    assert metric_of(None, labels, scores.astype(np.float32)).name == "character error rate"


def test_without_a_space_among_the_names_every_token_is_a_word():
    labels = np.array([[1, 2, 3], [2, -1, -1]])
    tokens = np.array([[1, 3, -1], [2, -1, -1]], np.int32)

    assert judged("wer", labels, tokens) == 0.25
    assert judged("wer", labels, tokens, class_names=("_", "yes", "no", "up")) == 0.25


def test_pieces_that_begin_words_are_put_together():
    names = ("<blank>", "▁he", "llo", "▁you", "▁your")
    labels, tokens = np.array([[1, 2, 3], [1, 2, -1]]), np.array([[1, 2, 4], [1, 2, -1]], np.int32)

    assert judged("wer", labels, tokens, class_names=names) == pytest.approx(1 / 3)
    assert judged("cer", labels, tokens, class_names=names) == pytest.approx(1 / 14)


def test_an_error_rate_that_rises_is_told_as_such():
    labels, real = spoken(WANTED)
    worse = spoken(GIVEN)[1]
    longest = max(real.shape[1], worse.shape[1])
    real, worse = (np.concatenate([a, np.zeros((6, longest - a.shape[1], 10), np.float32)], 1) for a in (real, worse))
    metric = metric_of("cer", labels, real, class_names=LETTERS)
    verdict = judge_labelled(metric, labels, {"out": real}, {"out": worse})

    assert not verdict.passed
    assert verdict.sentence.startswith("int8 raises character error rate by ")
    assert "1 point more is allowed" in verdict.sentence


@settings(max_examples=200)
@given(st.lists(st.integers(0, 3), max_size=8), st.lists(st.integers(0, 3), max_size=8))
def test_edits_are_counted_as_the_definition_says(a, b):
    def slow(i, j):
        if not i or not j:
            return i + j
        return min(slow(i - 1, j) + 1, slow(i, j - 1) + 1, slow(i - 1, j - 1) + (a[i - 1] != b[j - 1]))

    found = metrics_sequences.edit_distance(a, b)

    assert found == metrics_sequences.edit_distance(b, a)
    assert abs(len(a) - len(b)) <= found <= max(len(a), len(b))
    assert len(a) + len(b) > 9 or found == slow(len(a), len(b))


# --- regression, several outputs, people's own ------------------------------------------------------------------------


def test_regression_metrics_are_scikit_learns():
    sklearn = pytest.importorskip("sklearn.metrics")
    random = np.random.default_rng(0)
    targets = random.normal(size=(60, 3))
    answers = targets + random.normal(0, 0.3, targets.shape)

    assert judged("r2", targets, answers) == pytest.approx(sklearn.r2_score(targets, answers))
    assert judged("rmse", targets, answers) == pytest.approx(np.sqrt(sklearn.mean_squared_error(targets, answers)))
    assert judged("mae", targets, answers) == pytest.approx(sklearn.mean_absolute_error(targets, answers))
    assert judge_labelled(metric_of("rmse", targets, answers), targets, {"out": answers}, {"out": answers}).unit == "%"
    assert (
        judge_labelled(metric_of("r2", targets, answers), targets, {"out": answers}, {"out": answers}).unit == "points"
    )


def test_of_several_outputs_the_one_that_fits_or_is_named_is_judged():
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 40)
    outputs = {"box": random.random((40, 7, 4)), "wrong": random.random((40, 3)), "right": np.eye(3)[labels]}

    assert metric_of(None, labels, outputs).name == "top-1 accuracy of wrong"
    assert judged("top-1@right", labels, outputs) == 1.0
    with pytest.raises(InputError, match="no output is called 'left'") as caught:
        metric_of("top-1@left", labels, outputs)
    assert caught.value.hint == "there are: box, wrong, right"


def test_a_persons_own_metric_gets_all_outputs_by_name(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "def f(y_true, y_pred):\n    return (y_pred['b'] * y_true).sum() + len(y_pred)\nf.in_points = True\n"
    )
    labels, outputs = np.array([1.0, 2.0]), {"a": np.zeros(2), "b": np.array([3.0, 4.0])}
    metric = metric_of(f"{file}:f", labels, outputs)

    assert (metric.score(labels, outputs), metric.in_points) == (13.0, True)
    assert metric.total(metric.each(labels, outputs)[np.array([0, 0])]) == 8.0


def test_labels_of_different_lengths_are_filled_up():
    rows = np.empty(3, object)
    rows[:] = [np.array([[1, 2], [3, 4]]), np.zeros((0,)), np.array([[5, 6]])]
    mixed = np.empty(2, object)
    mixed[:] = [np.zeros((1, 2)), np.zeros((1, 3))]

    assert padded(rows).tolist() == [[[1, 2], [3, 4]], [[-1, -1], [-1, -1]], [[5, 6], [-1, -1]]]
    assert padded(mixed) is mixed


# --- the whole command ------------------------------------------------------------------------------------------------


def detector():
    """A network that says where its input says that something is: x (1, 5) -> boxes (1, 1, 4), scores (1, 1, 2)."""
    into, flat, boxes = T("in", (1, 5)), T("flat", (1, 4)), T("boxes", (1, 1, 4))
    w, b = T("w", (4, 5), data=np.eye(4, 5, dtype=np.float32)), T("b", (4,), data=np.zeros(4, np.float32))
    pick = np.zeros((2, 5), np.float32)
    pick[:, 4] = -4, 4
    v, c = T("v", (2, 5), data=pick), T("c", (2,), data=np.array([2, -2], np.float32))
    logits, probability, scores = T("logits", (1, 2)), T("probability", (1, 2)), T("scores", (1, 1, 2))
    steps = [
        ("FULLY_CONNECTED", [into, w, b], [flat]), ("RESHAPE", [flat], [boxes]),
        ("FULLY_CONNECTED", [into, v, c], [logits]), ("LOGISTIC", [logits], [probability]),
        ("RESHAPE", [probability], [scores]),
    ]  # fmt: skip
    return build(
        steps, inputs=[into], outputs=[boxes, scores], names={"x": "in", "detection_boxes": "boxes", "scores": "scores"}
    )


def test_a_detector_is_converted_and_judged_by_its_map(tmp_path):
    pytest.importorskip("ai_edge_litert", reason="pip install 'edgekit[convert]'")
    from edgekit.convert import convert

    random = np.random.default_rng(0)
    corner, kind = random.uniform(0, 0.5, (120, 2)), random.integers(0, 2, 120)
    boxes = np.c_[corner, corner + random.uniform(0.2, 0.5, (120, 2))]
    x = np.c_[boxes, kind].astype(np.float32)
    (tmp_path / "det.tflite").write_bytes(detector())
    np.savez(tmp_path / "s.npz", x=x)
    np.savez(tmp_path / "e.npz", x=x, y=np.c_[boxes, kind][:, None])
    result = convert(tmp_path / "det.tflite", tmp_path / "b", tmp_path / "s.npz", evaluate=tmp_path / "e.npz")
    verdict = result.verdicts["int8"]

    assert (verdict.metric, verdict.float_value, verdict.unit) == ("mAP@[.5:.95]", pytest.approx(1.0), "points")
    assert 0.9 < verdict.int8_value <= 1.0
    assert result.variants[0].qualities[0].metric == "mAP@[.5:.95]"
