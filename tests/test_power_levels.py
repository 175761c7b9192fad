"""Clock levels and delegates as part of operating points. The Edge TPU is a FAKE (tests/fake): no time of it means anything."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
from fake_library import fake_library
from handmade_model import classifier, compiled_classifier, make_bundle
from hypothesis import given
from hypothesis import strategies as st

from edgekit.bundle import write_bundle
from edgekit.errors import DelegateUnavailable, InputError
from edgekit.manifest import Quality
from edgekit.power.calibration import Watts, calibrate, points_of, table_facts
from edgekit.runner import load
from edgekit.runner.point import idle_power, measure_point
from edgekit.runner.power.actuators import OperatingPoint
from edgekit.runner.power.board import Board
from edgekit.runner.power.feasible import MARGIN
from edgekit.runner.power.goal import parse_goal
from edgekit.runner.power.levels import USED, best_level, rows_at
from edgekit.runner.power.looks import Looks
from edgekit.runner.power.points import PointCost, Table, read_table, write_table
from edgekit.runner.power.policy import Policy
from edgekit.runner.rehearse import rehearse
from edgekit.runner.serve.governed import LEVEL_S, Governed
from edgekit.runner.variants import Variants

pytest.importorskip("ai_edge_litert")
COMPILED = "models/int8_edgetpu.tflite"
LEVELS = ("Low", "Medium", "High", "Max")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("FAKE_LOG", str(tmp_path / "log"))


def opened(tmp_path):
    """What happened to the device in this order: a level when it was opened, None when it was closed."""
    lines = (tmp_path / "log").read_text().splitlines() if (tmp_path / "log").exists() else []
    return [
        line.rpartition("=")[2] if "Performance" in line else None
        for line in lines
        if "Perf" in line or line == "destroyed"
    ]


def bundle_of(tmp_path, *more):
    """A classifier with a known accuracy, also compiled for an Edge TPU."""
    raw = np.random.default_rng(0).random((6, 8, 8, 1), np.float32)
    first = f"edgetpu:library={fake_library()},file={COMPILED}"
    made = make_bundle(
        tmp_path / "b", classifier(), raw=raw, delegates=[first, *more], more={COMPILED: compiled_classifier()}
    )
    [variant] = made.manifest.variants
    quality = (Quality("top-1", 0.8, 0.81, 100, "a test"),)
    contents = {name: made.file(name).read_bytes() for name in made.manifest.files}
    return write_bundle(
        tmp_path / "made", replace(made.manifest, variants=(replace(variant, qualities=quality),)), contents
    )


def row(point, ms, watts, *, fake=False):
    return PointCost(point, round(ms * 1e3), 50_000, round((2 + watts) * 1e6), 800_000, "measured", 9, fake)


def table_of(latencies, watts):
    """A table of one variant on an Edge TPU at four levels, idling at 2 W."""
    rows = [
        row(OperatingPoint("int8", 1, delegate=f"edgetpu:library=x.so,file=f,performance={level}"), ms, w, fake=True)
        for level, ms, w in zip(LEVELS, latencies, watts, strict=True)
    ]
    return Table("b", "", "", 2_000_000, "measured", "m", tuple(rows))


TABLE = table_of((40, 20, 10, 5), (0.2, 0.5, 1.2, 3.0))  # 8, 10, 12, 15 mJ


def test_each_level_is_a_point_with_the_library_and_file_of_the_variants_own_list(tmp_path):
    manifest = bundle_of(tmp_path, "cpu").manifest
    points = points_of(manifest, [1, 2], delegates=["edgetpu:performance=each", "cpu"])

    assert [(p.unit, p.level, p.threads) for p in points] == [
        *(("edgetpu", level, 1) for level in LEVELS), ("cpu", "", 1), ("cpu", "", 2),
    ]  # fmt: skip
    assert all(f"file={COMPILED}" in p.delegate and fake_library() in p.delegate for p in points[:4])
    assert [p.delegate for p in points_of(manifest, [1])] == [""]
    with pytest.raises(InputError, match="one of Low"):
        points_of(manifest, [1], delegates=["edgetpu:performance=Fast"])
    other = replace(manifest, variants=(replace(manifest.variants[0], delegates=()),))
    with pytest.raises(InputError, match="can run on edgetpu"):
        points_of(other, [1], delegates=["edgetpu:performance=each"])


@pytest.mark.parametrize(
    ("deadline_ms", "rate", "level"),
    [(100, 0, "Low"), (100, 10, "Low"), (30, 0, "Medium"), (100, 50, "High"), (100, 130, "Max")],
)
def test_the_cheapest_level_that_keeps_deadline_and_rate_is_chosen(deadline_ms, rate, level):
    goal = parse_goal(f"min_energy(accuracy>=75, deadline={deadline_ms}ms)")

    assert best_level(goal, TABLE, rate_hz=rate) == level


@given(
    st.lists(st.floats(1, 100), min_size=4, max_size=4), st.lists(st.floats(0.1, 9), min_size=4, max_size=4),
    st.integers(10, 200), st.floats(0, 200), st.sampled_from(("", *LEVELS)),
)  # fmt: skip
def test_no_level_that_keeps_all_is_left_for_one_that_does_not_or_is_much_dearer(latencies, watts, deadline, rate, now):
    table, goal = table_of(latencies, watts), parse_goal(f"max_accuracy(deadline={deadline}ms)")
    chosen = best_level(goal, table, rate_hz=rate, now=now)
    fits = {
        level: table.energy_j(i)
        for i, level in enumerate(LEVELS)
        if table.rows[i].latency_s * MARGIN <= goal.deadline_s and table.rows[i].latency_s * rate <= USED
    }

    if fits:
        assert chosen in fits
        assert fits[chosen] <= min(fits.values()) / 0.9 + 1e-9
    else:
        assert chosen in LEVELS


def test_a_table_without_levels_has_none_and_all_of_its_rows():
    rows = (row(OperatingPoint("a", 1), 5, 1), row(OperatingPoint("a", 1, delegate="gpu:precision=f16"), 2, 3))
    plain = Table("b", "", "", 2_000_000, "measured", "m", rows)

    assert best_level(parse_goal("max_accuracy(deadline=1s)"), plain) == ""
    assert rows_at(plain, "") == [0, 1]
    assert read_table(write_table(TABLE)) == TABLE


def test_calibrated_on_a_fake_its_times_are_never_shown_and_one_level_runs(tmp_path):
    bundle = bundle_of(tmp_path, "cpu")

    def measure(seconds, variant=None, threads=None, delegate=None, **more):
        if variant is None:
            return {**vars(idle_power(0)), "power_uw": None}
        point = OperatingPoint(variant, threads, delegate=delegate or "")
        return {**vars(measure_point(bundle.path, point, 0.05)), "power_uw": None}

    points = points_of(bundle.manifest, [1], delegates=["edgetpu:performance=each"])
    usual = {"board": "here", "digest": "", "seconds": 0.1}
    with pytest.raises(InputError, match="what the edgetpu draws"):
        calibrate(
            bundle.manifest,
            points,
            measure,
            tmp_path / "a.json",
            **usual,
            watts=Watts(6_000_000, 20_000_000, 2, "said"),
        )
    watts = Watts(6_000_000, 20_000_000, 2, "said", 1_100_000)
    table = calibrate(bundle.manifest, points, measure, tmp_path / "t.json", **usual, watts=watts)

    assert all(row.fake for row in table.rows)
    assert [facts[3:8] for facts in table_facts(table)] == [
        (f"FAKE edgetpu {level}", "", "", "", "") for level in LEVELS
    ]
    (tmp_path / "log").unlink()
    found = rehearse(bundle.path, parse_goal("min_energy(accuracy>=75, deadline=1s)"), table, rate_hz=50.0, seconds=0.4)
    levels = set(opened(tmp_path)) - {None}
    assert (found.fake, found.median_ms, found.p99_ms, len(levels)) == (True, None, None, 1)
    assert list(found.points) == [f"int8, 1 threads, edgetpu {levels.pop()}"]


def test_a_server_opens_another_level_when_more_comes_and_never_two_at_once(tmp_path):
    bundle, seconds = bundle_of(tmp_path, "cpu"), [0.0]
    points = points_of(bundle.manifest, [1], delegates=["edgetpu:performance=each"])
    table = replace(TABLE, rows=tuple(replace(r, point=p) for r, p in zip(TABLE.rows, points, strict=True)))
    goal = parse_goal("min_energy(accuracy>=75, deadline=100ms)")
    policy, variants = Policy(goal, table), Variants(bundle.path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = load(bundle.path, delegates=["cpu"])
        governed = Governed(model, variants, policy, Looks(Board(nvml=lambda: None)), clock=lambda: seconds[0])
        (tmp_path / "log").write_text("option Performance=Low\n")  # the children that proved them are not counted
        answers = []
        for _ in range(80):
            answers.append(governed(np.zeros((8, 8, 1), np.float32)))
            seconds[0] += 0.02
        governed._choose_level()
        early = policy.table.rows[policy.choose(seconds[0] - governed._began, [1e9])].point.level
        seconds[0] += LEVEL_S - 1.6
        for _ in range(80):
            governed(np.zeros((8, 8, 1), np.float32))
            seconds[0] += 0.02
        governed._choose_level()
    now = policy.table.rows[policy.choose(seconds[0] - governed._began, [1e9])].point.level

    assert (early, now) == ("Low", "High")
    np.testing.assert_array_equal(answers[0], governed(np.zeros((8, 8, 1), np.float32)))
    mine = opened(tmp_path)
    assert mine[0] == "Low" and mine[-1] == "High"
    assert mine.index(None) < mine.index("High")


def test_a_point_whose_delegate_does_not_serve_is_an_error_and_nothing_else_runs(tmp_path, monkeypatch):
    bundle = bundle_of(tmp_path, "cpu")
    [point] = points_of(bundle.manifest, [1], delegates=["edgetpu:performance=Low"])
    monkeypatch.setenv("FAKE_DEVICES", "")

    with pytest.raises(DelegateUnavailable, match="no device"):
        measure_point(bundle.path, point, 0.05)
    with pytest.raises(DelegateUnavailable, match="no device"):
        Variants(bundle.path, [point])
