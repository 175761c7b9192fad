"""scripts/suite: its scores, its tables, and the command itself with the smallest networks."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

pytest.importorskip("ai_edge_litert", reason="pip install 'edgekit[convert]'")

from suites import NETWORKS, scores, table

from edgekit.convert import metrics_boxes


def found(metric: float, sqnr_db: float, float_operators: int = 0) -> dict:
    return {
        "metric": metric,
        "sqnr_db": sqnr_db,
        "output_sqnr_db": sqnr_db,
        "float_operators": float_operators,
        "bytes": 20_000,
    }


def result(ours: dict, tflite: dict, litert: dict, *, metric: str = "top1", network: str = "efficientnetb0") -> dict:
    results = {"float": found(0.9, 300.0), "edgekit": ours, "TFLiteConverter": tflite, "litert-quantizer": litert}
    return {"network": network, "metric": metric, "held_out": 1000, "results": results}


# --- scores ---------------------------------------------------------------------------------------------------------


def scene(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(labels (3, 5), answers (9, 4 + 3)): nine boxes that do not touch, three of them near what is there."""
    at = np.stack(np.meshgrid([0.15, 0.5, 0.85], [0.15, 0.5, 0.85]), -1).reshape(-1, 2)
    sizes = random.uniform(0.1, 0.3, (9, 2))
    answers = np.concatenate([at, sizes, random.random((9, 3))], axis=1)
    labels = np.full((3, 5), -1.0)
    for row, place in enumerate(random.choice(9, random.integers(1, 4), replace=False)):
        centre, size = at[place] + random.normal(0, 0.02, 2), sizes[place] * random.uniform(0.8, 1.2, 2)
        labels[row] = (*(centre - size / 2), *(centre + size / 2), random.integers(3))
    return labels, answers


def test_average_precision_is_that_of_the_metric_that_edgekit_ships():
    """Which has 101 points of the curve where this one has its area."""
    random = np.random.default_rng(3)
    labels, answers = (np.stack(each) for each in zip(*(scene(random) for _ in range(60)), strict=True))
    centres, sizes = answers[..., :2], answers[..., 2:4]
    outputs = {"boxes": np.concatenate([centres - sizes / 2, centres + sizes / 2], -1), "scores": answers[..., 4:]}
    reader = metrics_boxes.find_reader(outputs)
    wanted = metrics_boxes.mean_precision_at_half(metrics_boxes.matched(labels, reader(outputs)))

    assert 0.02 < wanted < 0.98
    assert scores.ap50(labels, answers) == pytest.approx(wanted, abs=0.02)


def test_masks_are_judged_by_what_they_share():
    masks = np.zeros((1, 4, 4, 1))
    masks[0, :2] = 1
    answers = np.zeros_like(masks)
    answers[0, 1:3] = 0.9

    assert scores.iou(masks, answers) == pytest.approx(4 / 12)


# --- tables ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "tflite", "told"),
    [
        (found(0.88, 28.0), found(0.69, -3.0), "ok"),
        (found(0.88, 28.0), found(0.88, 28.2), "ok"),
        (found(0.88, 28.0), found(0.88, 28.4), "less dB"),
        (found(0.87, 28.0), found(0.88, 28.0), "less metric"),
        ({"error": "exit code 6"}, found(0.88, 28.0), "FAILED"),
        (found(0.88, 28.0), {"error": "exit code 139"}, "ok"),
    ],
)
def test_the_standing_is_beside_the_better_stock_converter(ours, tflite, told):
    assert table.standing(result(ours, tflite, found(0.86, 9.0))) == told


def test_of_an_error_less_is_better():
    assert table.standing(result(found(43.0, 30), found(44.0, 30), found(58.0, 10), metric="mae")) == "ok"
    assert table.standing(result(found(45.0, 30), found(44.0, 30), found(58.0, 10), metric="mae")) == "less metric"


def test_the_table_fits_a_terminal_and_tells_failures_and_float_operators():
    failed = {"error": "exit code 1: ValueError: Tensor data is null"}
    shown = table.printed([result(found(0.8801, 28.03), found(0.6912, -3.41, 15), failed)])

    assert max(map(len, shown.splitlines()[:2])) <= 80
    assert "0.691 / -3.4 15f" in shown
    assert "fails" in shown


def test_only_what_is_between_the_markers_is_written_anew():
    document = "before\n<!-- suite -->old | table<!-- /suite -->\n<!-- other -->kept<!-- /other -->\nafter\n"
    written = table.between_markers(document, "suite", "new \\1 table")

    assert written == document.replace("old | table", "new \\1 table")
    assert table.between_markers(written, "suite", "new \\1 table") == written
    with pytest.raises(ValueError, match="no <!-- suite -->"):
        table.between_markers("nothing here", "suite", "new")


def test_the_document_has_every_network_and_what_readme_says_of_them():
    told = (ROOT / "docs" / "suite.md").read_text()
    rows = re.findall(r"^\| (\w+), .* \| ([^|]*) \|$", told.partition("\n\n| network | held out")[0], flags=re.M)
    good = sum(standing == "ok" for _, standing in rows)

    assert [name for name, _ in rows] == list(NETWORKS)
    assert f"On {good} of {len(rows)} networks" in (ROOT / "README.md").read_text()


# --- the command ----------------------------------------------------------------------------------------------------


def run(*words: str, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "scripts" / "suite"), *words]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
    return subprocess.run(command, capture_output=True, text=True, env=environment, **options)


def test_an_unknown_network_is_refused_with_those_there_are():
    done = run("alexnet")

    assert done.returncode == 2
    assert "no network is called alexnet" in done.stderr
    assert "efficientnetb0" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_earlier_run_is_shown_again(tmp_path):
    (tmp_path / "r.json").write_text(json.dumps([result(found(0.88, 28.0), found(0.69, -3.0), found(0.88, 9.5))]))
    done = run("--again", str(tmp_path / "r.json"))

    assert done.returncode == 0, done.stderr
    assert re.search(r"efficientnetb0 +top1 +0.9 +0.88 / 28.0 +0.69 / -3.0 +0.88 / 9.5 +ok", done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("names", [["regression"], pytest.param([], marks=pytest.mark.long)], ids=["one", "all"])
def test_the_quick_suite_trains_converts_and_measures(tmp_path, names):
    pytest.importorskip("tensorflow")
    pytest.importorskip("sklearn")
    pytest.importorskip("litert_quantizer")
    quick = names or [name for name, network in NETWORKS.items() if network.quick]
    done = run(*names, "--quick", "--cache", str(tmp_path), "--json", str(tmp_path / "r.json"))
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "r.json").read_text())

    assert [one["network"] for one in results] == quick
    for one in results:
        assert one["results"]["float"]["sqnr_db"] > 200  # against itself: what is measured is what was converted
        assert one["results"]["edgekit"]["float_operators"] == 0
        assert one["results"]["edgekit"]["sqnr_db"] > 15
        if one["network"] != "gru":  # hundreds of small operators: what describes them outweighs the weights
            assert one["results"]["edgekit"]["bytes"] < one["results"]["float"]["bytes"]
        assert "sqnr_db" in one["results"]["TFLiteConverter"]
        assert one["network"] in done.stdout


@pytest.mark.slow
@pytest.mark.long
def test_int8_is_as_near_to_float_from_every_kind_of_file(tmp_path):
    for module in ("tensorflow", "sklearn", "torch", "litert_torch", "onnx", "onnxruntime", "tf2onnx"):
        pytest.importorskip(module)
    done = run("regression", "--quick", "--front-ends", "--cache", str(tmp_path), "--json", str(tmp_path / "r.json"))
    assert done.returncode == 0, done.stdout + done.stderr
    (one,) = json.loads((tmp_path / "r.json").read_text())

    decibel = {kind: found["output_sqnr_db"] for kind, found in one["front_ends"].items()}
    assert list(decibel) == ["keras", "h5", "SavedModel", "pt2", "onnx"]
    assert min(decibel.values()) > decibel["keras"] - 1
