"""Files with other ranges are those that the quantizer makes of them, or nothing is learnt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="pip install 'edgekit[convert]'")

from handmade_model import T, build, classifier
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.convert import policies
from edgekit.convert.choose import choose
from edgekit.convert.quantize_child import with_litert
from edgekit.convert.rerange import distinct, learn
from edgekit.convert.rewrite import packed, unpacked, without_ranges

NAMES = ("in", "first", "second", "both", "out")
SPREAD = dict.fromkeys(NAMES, (-1.5, 2.5))


@pytest.fixture(scope="module")
def branches(tmp_path_factory) -> Path:
    """Two layers side by side, put together, and a sigmoid: biases, ranges that are shared, a step that is always the same."""
    rng = np.random.default_rng(3)
    into, first, second, both = T("in", (1, 6)), T("first", (1, 4)), T("second", (1, 4)), T("both", (1, 8))
    out = T("out", (1, 8))
    weights = [T(f"w{i}", (4, 6), data=rng.normal(size=(4, 6)).astype(np.float32)) for i in range(2)]
    biases = [T(f"b{i}", (4,), data=rng.normal(size=4).astype(np.float32)) for i in range(2)]
    steps = [
        ("FULLY_CONNECTED", [into, weights[0], biases[0]], [first]),
        ("FULLY_CONNECTED", [into, weights[1], biases[1]], [second]),
        ("CONCATENATION", [first, second], [both], {"axis": 1}),
        ("LOGISTIC", [both], [out]),
    ]
    path = tmp_path_factory.mktemp("branches") / "float.tflite"
    path.write_bytes(build(steps, inputs=[into], outputs=[out], names={"x": "in", "y": "out"}))
    return path


def by_quantizer(model: Path, *several) -> list[bytes]:
    return list(with_litert(model, "int8", several))


@pytest.fixture(scope="module")
def learnt(branches):
    several = [distinct(SPREAD, seed) for seed in (1, 2)]
    return learn(branches.read_bytes(), by_quantizer(branches, *several), several)


ends = st.floats(1 / 64, 128, width=32)


@settings(max_examples=60, deadline=None)
@given(st.tuples(*[st.tuples(ends, ends)] * len(NAMES)))
def test_a_file_with_other_ranges_is_the_one_that_the_quantizer_makes(branches, learnt, found):
    ranges = {name: (-low, high) for name, (low, high) in zip(NAMES, found, strict=True)}
    [wanted] = by_quantizer(branches, ranges)
    made = learnt(ranges)
    if len(wanted) != len(made):  # two ranges happen to be alike: the quantizer leaves out a step between them
        return

    assert learnt is not None
    assert packed(without_ranges(unpacked(made))) == packed(without_ranges(unpacked(wanted)))


def test_files_that_do_not_follow_from_the_ranges_teach_nothing(branches):
    several = [distinct(SPREAD, seed) for seed in (1, 2)]
    files = by_quantizer(branches, *several)

    floats = branches.read_bytes()

    assert learn(floats, files, several) is not None
    assert learn(floats, files, several[::-1]) is None
    other_weights = bytearray(files[1])
    place = next(i for i in range(len(files[1]) // 2, len(files[1])) if files[0][i] == files[1][i] != 0)
    other_weights[place] ^= 1
    assert learn(floats, [files[0], bytes(other_weights)], several) is None


def test_files_of_another_network_teach_nothing(branches, tmp_path):
    other = tmp_path / "other.tflite"
    other.write_bytes(classifier(dtype="float32"))
    named = dict.fromkeys(("in", "flat", "out"), (-1.0, 1.0))
    several = [distinct(SPREAD, 1), distinct(named, 2)]
    files = [*by_quantizer(branches, several[0]), *by_quantizer(other, several[1])]

    assert learn(branches.read_bytes(), files, several) is None
    assert learn(other.read_bytes(), by_quantizer(branches, *[several[0]] * 2), [several[0]] * 2) is None


def test_where_nothing_is_learnt_the_quantizer_makes_every_file_with_the_same_outcome(tmp_path, monkeypatch):
    model = tmp_path / "float.tflite"
    model.write_bytes(classifier(dtype="float32"))
    feeds = {"image": np.random.default_rng(0).random((50, 1, 8, 8, 1), np.float32)}
    quick = choose(model, "int8", feeds, tmp_path / "quick")
    monkeypatch.setattr(policies, "learn", lambda *of: None)
    slow = choose(model, "int8", feeds, tmp_path / "slow")

    assert (tmp_path / "slow" / "trial0").is_dir() and not (tmp_path / "quick" / "trial0").exists()
    assert quick.policy == slow.policy
    assert quick.path.read_bytes() == slow.path.read_bytes()
    for one, other in zip(quick.tried, slow.tried, strict=True):
        assert one == other
