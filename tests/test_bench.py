"""bench and tune through the real runner: every candidate in processes of its own, FAKE units without a time."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from click.testing import CliRunner
from fake_library import crashing, fake_library
from handmade_model import classifier, compiled_classifier, make_bundle

from edgekit.bench.candidate import Candidate, candidates, thread_counts
from edgekit.bench.grid import Result, measure
from edgekit.bench.picture import duration, svg
from edgekit.bench.place import Here
from edgekit.bench.tune import check_accuracy, tune
from edgekit.bundle import Quality, read_bundle, write_bundle
from edgekit.cli.bench import bench_command, tune_command
from edgekit.delegates import parse_delegate
from edgekit.deploy import running
from edgekit.errors import EdgekitError, InputError
from edgekit.manifest import Delegate
from edgekit.runner.conditions import Conditions, watch_conditions
from edgekit.runner.measure import judge, measure_release, spread
from edgekit.runner.power.board import Board

pytest.importorskip("ai_edge_litert")
COMPILED = "models/int8_edgetpu.tflite"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("FAKE_LOG", raising=False)


def bundle(tmp_path, *delegates):
    raw = np.random.default_rng(0).random((4, 8, 8, 1), np.float32)
    files = {COMPILED: compiled_classifier()}
    return make_bundle(tmp_path / "b", classifier(), raw=raw, delegates=delegates or ["cpu"], more=files)


def said(command, *arguments, code=0):
    done = CliRunner().invoke(command, [str(word) for word in arguments], catch_exceptions=True)
    if code == 0 and done.exception:
        raise done.exception
    return done.stdout


# --- what there is to choose from ------------------------------------------------------------------------------------


def test_candidates_are_variants_delegates_and_threads_each_once(tmp_path):
    found = candidates(bundle(tmp_path, "edgetpu", "cpu:threads=3"), cores=4)

    assert [one.text for one in found] == [
        "int8 on edgetpu",
        *(f"int8 on cpu:threads={n}" for n in (1, 2, 4)),
    ]


def test_what_a_person_names_replaces_the_bundles_own(tmp_path):
    found = candidates(bundle(tmp_path), delegates=["gpu:precision=f32", "cpu:threads=2", "cpu"], threads=[1, 2])

    assert [one.text for one in found] == [
        "int8 on gpu:precision=f32",
        "int8 on cpu:threads=2",
        "int8 on cpu:threads=1",
    ]


@pytest.mark.parametrize(
    ("cores", "counts"), [(1, (1,)), (2, (1, 2)), (3, (1, 2, 3)), (4, (1, 2, 4)), (6, (1, 2, 4, 6)), (None, (1, 2))]
)
def test_thread_counts_double_up_to_the_cores(cores, counts):
    assert thread_counts(cores) == counts


# --- measuring --------------------------------------------------------------------------------------------------------


def test_bench_measures_each_candidate_and_a_crash_is_a_row(tmp_path):
    made = bundle(tmp_path)
    crashes = f"external:path={crashing('create')}"
    html, drawing = tmp_path / "b.html", tmp_path / "b.svg"
    out = said(
        *(bench_command, made.path, "--json", "--threads", 1, "--runs", 20, "--seconds", 0),
        *("--delegate", "cpu", "--delegate", crashes, "--html", html, "--svg", drawing),
    )
    cpu, broken = json.loads(out)["results"]

    assert cpu["served_by"] == "cpu" and cpu["figures"]["runs"] >= 20
    assert 0 < cpu["figures"]["median_us"] <= cpu["figures"]["p90_us"] <= cpu["figures"]["p99_us"]
    assert cpu["figures"]["cold_start_ms"] > 1 and cpu["figures"]["peak_bytes"] > 5e6
    assert broken["figures"] is None and "killed by SIGSEGV" in broken["failed"]
    ElementTree.fromstring(drawing.read_text())
    assert "killed by SIGSEGV" in html.read_text()


def test_times_of_a_fake_are_never_shown(tmp_path):
    made = bundle(tmp_path, f"edgetpu:library={fake_library()},file={COMPILED}")
    result = measure(Here(made), candidates(made)[0], runs=5, seconds=0, cold=False)

    assert result.served_by == "FAKE edgetpu"
    assert [value for key, value in result.figures.items() if key.endswith(("_us", "_ms", "_uj"))] == [None] * 5
    assert "FAKE edgetpu: no times" in svg([result], "x")


def test_a_unit_that_cannot_serve_fails_and_nothing_else_is_measured_in_its_place(tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_DEVICES", "")
    made = bundle(tmp_path, f"edgetpu:library={fake_library()},file={COMPILED}", "cpu:threads=1")

    assert "no device" in measure(Here(made), candidates(made)[0], runs=5, seconds=0).failed


class Noisy:
    """A place whose first runs are noisy."""

    name, cores = "a test", 1

    def __init__(self, *noisy: bool) -> None:
        self.noisy = list(noisy)

    def run(self, verb, arguments):
        assert verb == "bench"
        return {"variants": [{"invalid": ["noisy"] if self.noisy.pop(0) else [], "median_us": 5.0}]}


@pytest.mark.parametrize(
    ("noisy", "tries", "invalid"), [([False], 1, ()), ([True, False], 2, ()), ([True, True, True], 3, ("noisy",))]
)
def test_a_noisy_run_is_made_again_and_stays_marked_when_it_stays_noisy(noisy, tries, invalid):
    result = measure(Noisy(*noisy), Candidate("int8", Delegate("cpu", {})), runs=1, seconds=0)

    assert (result.tries, result.invalid) == (tries, invalid)


NOTHING = Conditions(None, None, (), None, "")


@pytest.mark.parametrize(
    ("taken", "conditions", "word"),
    [
        (np.ones(800), NOTHING, ""),
        (np.repeat([1.0, 1.5], 400), NOTHING, "noisy"),
        (np.ones(800), replace(NOTHING, throttled=("under-voltage",)), "throttled meanwhile: under-voltage"),
        (np.linspace(1, 1.3, 800), replace(NOTHING, temperature_mc=(60000, 71000)), "11.0 °C warmer"),
        (np.ones(800), replace(NOTHING, temperature_mc=(60000, 71000)), ""),
    ],
)
def test_what_makes_a_run_invalid(taken, conditions, word):
    why = judge(*spread(taken), conditions)

    assert (word in why[0]) if word else not why


def test_heat_clocks_throttling_and_energy_are_those_of_the_board(tmp_path):
    """A meter that draws 2 W, on a clock of the test's: 5 ms of inference are 10 mJ."""
    meter = tmp_path / "class/hwmon/hwmon0"
    meter.mkdir(parents=True)
    (meter / "name").write_text("ina226\n")
    (meter / "power1_input").write_text("2000000\n")
    zone = tmp_path / "class/thermal/thermal_zone0"
    zone.mkdir(parents=True)
    (zone / "type").write_text("cpu-thermal\n")
    (zone / "temp").write_text("50000\n")
    now = [1_000_000]
    board = Board(str(tmp_path), clock=lambda: now[0], ask=lambda *question: None, nvml=lambda: None)
    with watch_conditions(board) as watch:
        for _ in range(40):
            now[0] += 100
            (zone / "temp").write_text(f"{50000 + (now[0] - 1_000_000) // 10}\n")
            watch.look()
    found = watch.result(busy_ns=4e9, inferences=800)

    assert found.energy_uj == pytest.approx(10_000, rel=0.01)
    assert found.energy_of.endswith("measured")
    assert found.temperature_mc == (50000, 50400)


def test_mlperf_asks_for_1024_queries_and_60_seconds(tmp_path, monkeypatch):
    monkeypatch.setattr("edgekit.runner.measure.MLPERF_S", 0.3)
    (found,) = measure_release(bundle(tmp_path).path, runs=1, mlperf=True, cold=False)

    assert found.runs >= 1024 and found.seconds <= found.runs
    import edgekit.runner.measure as measured

    assert measured.MLPERF_QUERIES == 1024


@pytest.mark.parametrize(("us", "text"), [(7.94, "7.94 us"), (1234.5, "1.23 ms"), (None, "-")])
def test_times_are_read_with_their_unit(us, text):
    assert duration(us) == text


# --- tuning -----------------------------------------------------------------------------------------------------------


class Machine:
    """A place with known times: what tune has to find. Golden vectors agree unless a candidate is named as `wrong`."""

    name, cores = "a test", 4

    def __init__(self, us, *, wrong=(), energy=None):
        self.us, self.wrong, self.energy, self.ran = us, wrong, energy or {}, []

    def run(self, verb, arguments):
        options = dict(zip(arguments[::2], arguments[1::2], strict=False))
        key = options["--delegate"]
        self.ran.append((verb, key, options.get("--seconds")))
        if verb == "check":
            if key in self.wrong:
                raise EdgekitError("an answer is 9 away from the golden one")
            return {"variants": []}
        if key not in self.us:
            raise EdgekitError("no device")
        us = self.us[key]
        placement = {"fake": "fake" in key, "software": False, "unit": key.partition(":")[0], "operators": None}
        shown = None if placement["fake"] else us
        figures = {"median_us": shown, "p90_us": shown and shown * 1.1, "p99_us": shown and shown * 2, "invalid": []}
        return {"variants": [{**figures, "placement": placement, "energy_uj": self.energy.get(key), "energy_of": ""}]}


def chosen(*texts):
    return [Candidate("int8", parse_delegate(text)) for text in texts]


def test_the_fastest_wins_with_fewer_long_runs_than_a_grid_and_the_losers_have_a_reason(tmp_path):
    machine = Machine({f"cpu:threads={n}": us for n, us in ((1, 400.0), (2, 210.0), (3, 150.0), (4, 130.0))})
    tuned = tune(machine, bundle(tmp_path), chosen(*machine.us, "gpu:precision=f32"), "latency")

    assert tuned.winner.candidate.text == "int8 on cpu:threads=4"
    seconds = [float(s) for verb, _, s in machine.ran if verb == "bench"]
    assert seconds.count(0.25) == 5 and seconds.count(0.5) == 2 and seconds[-1] == 1.0
    assert machine.ran[-1][:2] == ("check", "cpu:threads=4")
    reasons = {trial.candidate: trial.why for trial in tuned.trials}
    assert reasons["int8 on gpu:precision=f32"] == "no device"
    assert reasons["int8 on cpu:threads=1"] == "3.08 times the best of round 1"


def test_energy_may_choose_another_than_time(tmp_path):
    us = {"cpu:threads=1": 400.0, "cpu:threads=4": 130.0}
    machine = Machine(us, energy={"cpu:threads=1": 900.0, "cpu:threads=4": 1300.0})

    assert tune(machine, bundle(tmp_path), chosen(*us), "energy").winner.candidate.text == "int8 on cpu:threads=1"
    with pytest.raises(InputError, match="nothing on this machine measures energy"):
        tune(Machine(us), bundle(tmp_path), chosen(*us), "energy")


def test_what_keeps_no_limit_or_is_a_fake_cannot_win(tmp_path):
    us = {"cpu:threads=1": 400.0, "external:path=fake.so": 1.0}
    tuned = tune(Machine(us), bundle(tmp_path), chosen(*us), "latency")

    assert tuned.winner.candidate.text == "int8 on cpu:threads=1"
    assert "its times mean nothing" in tuned.trials[1].why
    with pytest.raises(InputError, match=r"p99 0\.8 ms is over 0\.5 ms"):
        tune(Machine(us), bundle(tmp_path), chosen(*us), "latency", max_ms=0.5)


def test_a_winner_with_wrong_answers_is_not_written(tmp_path):
    with pytest.raises(EdgekitError, match="did not prove itself"):
        tune(Machine({"cpu": 1.0}, wrong=("cpu",)), bundle(tmp_path), chosen("cpu"), "latency")


def test_an_accuracy_that_is_too_low_or_unknown_is_out(tmp_path):
    made = bundle(tmp_path)
    (variant,) = made.manifest.variants
    judged = replace(variant, qualities=(Quality("accuracy", 0.8, 0.9, 100, "a test"),))
    with_it = replace(made, manifest=replace(made.manifest, variants=(judged,)))

    assert list(check_accuracy(with_it, chosen("cpu"), 0.9).values()) == ["accuracy 0.8 is below 0.9"]
    assert not check_accuracy(with_it, chosen("cpu"), 0.8)
    assert "no accuracy was measured" in check_accuracy(made, chosen("cpu"), 0.8)["int8 on cpu"]


@pytest.mark.slow
def test_tune_writes_the_winner_into_the_bundle_and_the_runner_reads_it(tmp_path):
    made = bundle(tmp_path, "gpu:precision=f32", "cpu")
    out = said(tune_command, made.path, "--delegate", "cpu", "--threads", 1, "--threads", 2, "--json")
    found = json.loads(out)
    tuned = read_bundle(made.path)

    assert found["bundle"]["id"] == tuned.id != made.id
    assert tuned.manifest.files == made.manifest.files
    first, *rest = tuned.manifest.variants[0].delegates
    assert f"{first.name}:threads={first.options['threads']}" == found["winner"]["delegate"]
    assert [each.name for each in rest] == ["gpu"]
    assert len(found["trials"]) == 2


@pytest.mark.slow
def test_a_dry_run_writes_nothing(tmp_path):
    made = bundle(tmp_path)
    before = (made.path / "manifest.json").read_bytes()
    out = said(tune_command, made.path, "--threads", 1, "--dry-run")

    assert "winner" in out and (made.path / "manifest.json").read_bytes() == before


# --- on a device ------------------------------------------------------------------------------------------------------


def answers(root: Path, *requests):
    sent, left = [], list(requests)

    def receive():
        if not left:
            raise EOFError
        return left.pop(0)

    with pytest.raises(EOFError):
        running.serve(str(root), receive, sent.append, None)
    return sent


def test_a_device_runs_bench_and_check_of_its_current_release_and_nothing_else(tmp_path):
    release = tmp_path / "releases" / "r"
    release.mkdir(parents=True)
    (release / "run").write_text('echo "$@"; echo why >&2; exit 3\n')
    (release / "manifest.json").write_text("x")
    (tmp_path / "current").symlink_to(release)
    good, bad, worse, current = answers(
        tmp_path,
        {"op": "run", "arguments": ["bench", "a b;c"]},
        {"op": "run", "arguments": ["serve"]},
        {"op": "run", "arguments": "bench"},
        {"op": "current"},
    )

    assert good == {"code": 3, "out": ["bench a b;c"], "errors": ["why"]}
    assert bad["error"] == worse["error"] == "DeviceError"
    assert current["bundle"] == "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"


def test_without_a_release_there_is_nothing_to_run(tmp_path):
    assert answers(tmp_path, {"op": "current"})[0]["error"] == "NotInstalled"


@pytest.mark.slow
def test_bench_and_tune_on_a_device(tmp_path, device):
    from edgekit.deploy.install import deploy

    made = bundle(tmp_path)
    deploy(made, device)
    out = said(bench_command, made.path, device, "--json", "--threads", 1, "--runs", 20, "--seconds", 0)
    tuned = said(tune_command, made.path, device, "--threads", 1, "--json", "-o", tmp_path / "tuned")

    assert json.loads(out)["results"][0]["figures"]["median_us"] > 0
    assert json.loads(tuned)["winner"]["served_by"] == "cpu"
    other = write_bundle(
        tmp_path / "other",
        replace(made.manifest, name="other"),
        {name: made.file(name).read_bytes() for name in made.manifest.files},
    )
    with pytest.raises(InputError, match="runs another bundle"):
        said(bench_command, other.path, device)


def test_a_result_without_figures_has_a_reason():
    failed = Result(Candidate("int8", Delegate("cpu", {})), None, "no device", 1)

    assert (failed.median_us, failed.energy_uj, failed.served_by) == (None, None, "")
