"""Delegates in the runner: lists and fallback, a child process first, golden vectors on the unit, with a FAKE library in C."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from fake_library import crashing, fake_library
from handmade_model import classifier, compiled_classifier, identity, make_bundle
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.delegates import delegate_text, ladder, library_options, misfit, parse_delegate
from edgekit.errors import BundleError, DelegateUnavailable, InputError
from edgekit.manifest import Delegate
from edgekit.runner import load
from edgekit.runner.__main__ import main
from edgekit.runner.check import check_release
from edgekit.runner.placement import FellBack, words
from edgekit.runner.trial import read_ending

pytest.importorskip("ai_edge_litert")
COMPILED = "models/int8_edgetpu.tflite"
RESHAPE = 22  # its number in schema.fbs


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("FAKE_LOG", str(tmp_path / "log"))
    return tmp_path / "cache" / "edgekit" / "runner"


def log(tmp_path) -> list[str]:
    path = tmp_path / "log"
    return path.read_text().splitlines() if path.exists() else []


def tpu_bundle(tmp_path, library, *more: str, options: str = ""):
    """A classifier, also as it might be compiled, for an Edge TPU and then what is in `more`."""
    raw = np.random.default_rng(0).random((6, 8, 8, 1), np.float32)
    first = f"edgetpu:library={library},file={COMPILED}{options}"
    files = {COMPILED: compiled_classifier()}
    return make_bundle(tmp_path / "b", classifier(), raw=raw, delegates=[first, *more], more=files).path


def quietly(path, **how):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return load(path, **how)


# --- what a person writes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        *("cpu", "cpu:threads=2", "cpu:xnnpack=false", "cpu:weight_cache=true", "gpu", "gpu:precision=f16"),
        *("gpu:precision=f32,partial=true", "edgetpu:device=usb:0,performance=High", "gpu:tolerance=0.5"),
        *("external:path=/a/b.so,cache_file_path=/tmp/x", "edgetpu:library=libx.so,file=models/a_edgetpu.tflite"),
    ],
)
def test_a_delegate_is_written_as_it_is_read(text):
    assert delegate_text(parse_delegate(text)) == text


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("tpu", "no delegate is called 'tpu'"),
        ("gpu:precision=f64", "one of f16, f32"),
        ("edgetpu:performance=Fast", "one of Low, Medium, High, Max"),
        ("edgetpu:device=usb0", "usb:0"),
        ("cpu:threads=0", "whole number above 0"),
        ("cpu:threads=two", "threads cannot be 'two'"),
        ("cpu:precision=f16", "cpu has no option 'precision'"),
        ("external", "needs path"),
        ("cpu:threads", "is not a new KEY=VALUE"),
        ("edgetpu:file=../x", "cannot be in a bundle"),
    ],
)
def test_what_does_not_fit_is_told_in_words(text, told):
    with pytest.raises(InputError) as raised:
        parse_delegate(text)

    assert told in f"{raised.value} {raised.value.hint}"


@settings(max_examples=60)
@given(st.text(max_size=40), st.dictionaries(st.text(max_size=9), st.text(max_size=9) | st.integers() | st.booleans()))
def test_no_configuration_from_a_manifest_is_more_than_refused(name, options):
    for one in (name, "cpu", "gpu", "edgetpu", "external"):
        delegate = Delegate(one, options)
        if misfit(delegate):
            with pytest.raises(BundleError):
                ladder([delegate])
        else:
            assert ladder([delegate])


@settings(max_examples=60)
@given(st.text(max_size=60))
def test_no_text_is_more_than_refused(text):
    try:
        found = parse_delegate(text)
    except InputError:
        return
    assert parse_delegate(delegate_text(found)) == found


def test_a_gpu_without_a_precision_is_three_rungs():
    assert list(map(delegate_text, ladder([Delegate("gpu", {}), Delegate("cpu", {})]))) == [
        "gpu:precision=f16",
        "gpu:precision=f32",
        "gpu:precision=f32,partial=true",
        "cpu",
    ]


def test_libedgetpu_always_gets_a_device_with_an_index_as_it_drops_other_options_without_one():
    assert library_options(parse_delegate("edgetpu:performance=low")) == (
        "libedgetpu.so.1",
        {"device": ":0", "Performance": "Low"},
    )
    assert library_options(parse_delegate("edgetpu:device=pci"))[1] == {"device": "pci:0"}


# --- what serves ------------------------------------------------------------------------------------------------------


def test_an_edge_tpu_serves_with_its_own_file_and_gives_the_golden_answers(tmp_path):
    path = tpu_bundle(tmp_path, fake_library(), "cpu", options=",performance=High")
    model = quietly(path)
    placement = model.placement

    assert (placement.unit, placement.fake, placement.fell_back) == ("edgetpu", True, False)
    assert (placement.operators, placement.on_unit, placement.on_xnnpack) == (2, 1, 1)
    assert words(placement).startswith("FAKE edgetpu (FAKE BuildLabel")
    assert model.variant.file == COMPILED
    assert "option device=:0" in log(tmp_path) and "option Performance=High" in log(tmp_path)
    (agreement, _), *_ = check_release(path)
    assert (agreement.bit_equal, agreement.count) == (6, 6)


def test_without_a_device_the_next_delegate_serves_and_that_is_a_warning(tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_DEVICES", "")
    path = tpu_bundle(tmp_path, fake_library(), "cpu")

    with pytest.warns(FellBack, match="was asked for, cpu serves") as told:
        model = load(path)
    assert "no device ':0'" in str(told[0].message)
    assert (model.placement.unit, model.placement.on_unit) == ("cpu", 2)
    assert [a.outcome for a in model.placement.attempts] == ["unavailable", "serves"]


@pytest.mark.parametrize(
    ("devices", "device", "serves"),
    [("usb,pci", "pci:0", True), ("usb", "pci:0", False), ("usb,usb", "usb:1", True), ("usb", ":1", False)],
)
def test_the_device_that_was_named_is_the_one(tmp_path, monkeypatch, devices, device, serves):
    monkeypatch.setenv("FAKE_DEVICES", devices)
    path = tpu_bundle(tmp_path, fake_library(), options=f",device={device}")

    if serves:
        assert quietly(path).placement.unit == "edgetpu"
    else:
        with pytest.raises(DelegateUnavailable, match="no device"):
            load(path)


def test_a_required_unit_that_cannot_serve_is_exit_code_4(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("FAKE_DEVICES", "")
    path = str(tpu_bundle(tmp_path, fake_library(), "cpu"))

    assert main(["check", path, "--require", "edgetpu"]) == 4
    assert "no delegate can run it" in capfd.readouterr().err
    assert main(["check", path]) == 0
    out, err = capfd.readouterr()
    assert "cpu: 2 of 2 operators on XNNPACK" in out
    assert err.startswith("edgekit.runner: delegate edgetpu:") and "asked for, cpu serves" in err


@pytest.mark.parametrize("place", ["create", "prepare", "invoke"])
def test_a_library_that_crashes_is_a_finding_and_is_not_loaded_a_second_time(tmp_path, place):
    path = tpu_bundle(tmp_path, crashing(place), "cpu")

    with pytest.warns(FellBack, match="killed by SIGSEGV"):
        assert load(path).placement.unit == "cpu"
    before = len(log(tmp_path))
    with pytest.warns(FellBack, match="known from before"):
        model = load(path)
    assert [a.cached for a in model.placement.attempts] == [True, False]
    assert len(log(tmp_path)) == before


def test_a_library_built_against_old_headers_is_a_finding(tmp_path):
    path = tpu_bundle(tmp_path, fake_library("-DPOISON"), "cpu")

    with pytest.warns(FellBack, match=r"killed by SIGSEGV: a library built for another runtime \(ABI\)"):
        assert load(path).placement.unit == "cpu"


def test_wrong_answers_are_found_before_they_are_served(tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_ANSWER", "wrong")
    path = tpu_bundle(tmp_path, fake_library(), "cpu")

    with pytest.warns(FellBack, match="wrong: .* away from the golden one"):
        assert load(path).placement.unit == "cpu"


def test_an_inference_that_never_ends_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_INVOKE", "hang")
    monkeypatch.setattr("edgekit.runner.trial.TIMEOUT_S", 1)
    path = tpu_bundle(tmp_path, fake_library(), "cpu")

    with pytest.warns(FellBack, match="hung: no answer within 1 s"):
        assert load(path).placement.unit == "cpu"


def test_a_missing_library_is_named(tmp_path):
    with pytest.raises(DelegateUnavailable, match=r"libnone\.so cannot be loaded: .*No such file"):
        load(tpu_bundle(tmp_path, "/nowhere/libnone.so"))


def test_any_other_library_gets_its_own_options_and_what_it_does_not_take_stays(tmp_path):
    raw = np.random.default_rng(0).random((3, 8, 8, 1), np.float32)
    text = f"external:path={fake_library()},claim={RESHAPE},color=red"
    path = make_bundle(tmp_path / "b", classifier(), raw=raw, delegates=[text]).path
    placement = quietly(path).placement

    assert (placement.unit, placement.on_unit, placement.on_xnnpack, placement.parts) == ("external", 1, 1, 1)
    assert "option color=red" in log(tmp_path)


def test_what_a_library_says_of_its_refusal_is_told(tmp_path):
    path = make_bundle(tmp_path / "b", identity(), raw=np.zeros((1, 4), np.float32)).path

    with pytest.raises(DelegateUnavailable, match="made no delegate: wrong firmware"):
        load(path, delegates=[f"external:path={fake_library()},refuse=wrong firmware"])


def test_a_library_that_takes_nothing_does_not_serve_under_its_name(tmp_path):
    path = make_bundle(tmp_path / "b", identity(), raw=np.zeros((1, 4), np.float32)).path

    with pytest.raises(DelegateUnavailable, match="takes none of the 1 operators"):
        load(path, delegates=[f"edgetpu:library={fake_library()}"])


def test_a_proof_is_kept_for_the_same_library_and_made_anew_for_another(tmp_path, own_cache):
    library = tmp_path / "lib.so"
    shutil.copy(fake_library(), library)
    path = tpu_bundle(tmp_path, library)
    quietly(path)
    quietly(path)
    opened = log(tmp_path).count('created for ":0"')
    aside = shutil.copy(fake_library("-DOTHER", "-O0"), tmp_path / "aside.so")
    Path(aside).rename(library)  # as packages are upgraded: a file that is loaded is never written to
    quietly(path)
    (kept, *_) = own_cache.glob("*.json")

    assert opened == 3  # the child, and twice here
    assert log(tmp_path).count('created for ":0"') == 5
    assert json.loads(kept.read_text())["facts"]["agreement"]["bit_equal"] == 6
    assert json.loads(kept.read_text())["runtime"].startswith("ai-edge-litert ")


def test_a_release_folder_is_not_written_to_and_a_proof_lies_in_the_root(tmp_path):
    root = tmp_path / "root"
    (root / "releases").mkdir(parents=True)
    (root / "layout").write_text("edgekit 1\n")
    release = root / "releases" / "0123456789abcdef"
    tpu_bundle(tmp_path, fake_library()).rename(release)
    before = sorted(release.rglob("*"))
    quietly(release)

    assert sorted(release.rglob("*")) == before
    assert len(list((root / "cache").glob("*.json"))) == 1


def test_where_nothing_can_be_kept_it_is_proved_each_time(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    path = tpu_bundle(tmp_path, fake_library())
    quietly(path)
    quietly(path)

    assert log(tmp_path).count('created for ":0"') == 4


def test_lanes_each_have_a_delegate(tmp_path):
    model = quietly(tpu_bundle(tmp_path, fake_library()), lanes=2)

    assert log(tmp_path).count('created for ":0"') == 3
    assert model(np.zeros((4, 8, 8, 1), np.float32)).shape == (4, 10)


def test_a_cpu_without_xnnpack_says_what_its_plain_kernels_run(tmp_path):
    path = make_bundle(tmp_path / "b", classifier(), raw=np.zeros((1, 8, 8, 1), np.float32), tolerance=1).path
    placement = quietly(path, delegates=["cpu:xnnpack=false"]).placement

    assert words(placement) == "cpu: 0 of 2 operators on XNNPACK, on plain kernels 1 x FULLY_CONNECTED, 1 x RESHAPE"


def test_packed_weights_are_kept_for_the_next_start(tmp_path, own_cache):
    raw = np.random.default_rng(0).random((2, 8, 8, 1), np.float32)
    path = make_bundle(tmp_path / "b", classifier(), raw=raw, delegates=["cpu:weight_cache=true"]).path
    first = quietly(path)(raw, raw_out=True)
    (kept,) = own_cache.glob("*.weights")

    assert kept.stat().st_size > 0
    assert np.array_equal(quietly(path)(raw, raw_out=True), first)
    (agreement, _), *_ = check_release(path)
    assert agreement.bit_equal == 2


def test_packed_weights_that_nobody_finished_are_neither_believed_nor_kept(tmp_path, own_cache):
    raw = np.random.default_rng(0).random((2, 8, 8, 1), np.float32)
    path = make_bundle(tmp_path / "b", classifier(), raw=raw, delegates=["cpu:weight_cache=true"]).path
    first = quietly(path)(raw, raw_out=True)
    (kept,) = own_cache.glob("*.weights")
    whole = kept.read_bytes()
    with_a_hole = whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2)
    kept.unlink()
    dead = subprocess.Popen(["true"])
    dead.wait()
    ours, live = f"{kept}.{os.getpid()}-{threading.get_ident()}", f"{kept}.{os.getppid()}-1"
    for name in (ours, live, f"{kept}.{dead.pid}-1"):
        Path(name).write_bytes(with_a_hole)

    assert np.array_equal(quietly(path)(raw, raw_out=True), first)
    assert kept.read_bytes() != with_a_hole
    assert sorted(map(str, own_cache.glob("*.weights*"))) == [str(kept), live]


def test_packed_weights_get_their_name_when_they_are_on_the_disk_and_not_before(tmp_path, own_cache, monkeypatch):
    """XNNPACK would take half of them for all: what a power cut leaves must not be there the next time."""
    raw = np.random.default_rng(0).random((2, 8, 8, 1), np.float32)
    path = make_bundle(tmp_path / "b", classifier(), raw=raw, delegates=["cpu:weight_cache=true"]).path
    seen = []

    def power_cut(handle):
        seen.append((os.path.basename(os.readlink(f"/proc/self/fd/{handle}")), [each.name for each in files()]))
        raise OSError

    def files():
        return [each for each in own_cache.iterdir() if ".weights" in each.name]

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", power_cut)
        first = quietly(path)(raw, raw_out=True)

    [(synced, there)] = seen
    assert there == [synced]
    assert not synced.endswith(".weights")
    assert files() == []
    assert np.array_equal(quietly(path)(raw, raw_out=True), first)
    assert [each.suffix for each in files()] == [".weights"]


def test_a_bare_file_has_no_golden_vectors_and_so_no_delegates(tmp_path):
    (tmp_path / "m.tflite").write_bytes(identity())

    with pytest.raises(InputError, match="delegates are for bundles"):
        load(tmp_path / "m.tflite", delegates=["gpu"])


def test_one_that_the_bundle_has_not_cannot_be_required(tmp_path):
    path = make_bundle(tmp_path / "b", identity(), raw=np.zeros((1, 4), np.float32)).path

    with pytest.raises(DelegateUnavailable, match="has no such delegate"):
        load(path, require="gpu")


@pytest.mark.parametrize(
    ("code", "out", "outcome"),
    [
        (0, b'{"a": 1}\n', "serves"),
        (0, b"", "crashed"),
        (0, b"x\n", "crashed"),
        (5, b"", "wrong"),
        (-9, b"", "crashed"),
    ],
)
def test_every_ending_of_a_trial_means_something(code, out, outcome):
    assert read_ending(code, out, b"edgekit.runner: why\n").outcome == outcome


def test_a_traceback_in_the_child_is_told_by_its_last_line():
    verdict = read_ending(1, b"", b"Traceback (most recent call last):\n  ...\nAttributeError: no attribute\n")

    assert (verdict.outcome, verdict.reason) == ("unavailable", "exit code 1: AttributeError: no attribute")


def test_inspect_shows_what_runs_as_one(tmp_path, capsys):
    from edgekit.cli.main import main as edgekit

    made = make_bundle(tmp_path / "b", classifier(), raw=np.zeros((1, 8, 8, 1), np.float32))

    assert edgekit(["inspect", str(made.path), "--fused", "--json"]) == 0
    (part,) = json.loads(capsys.readouterr().out)["models"][0]["parts"]
    assert part == {
        "unit": "XNNPACK",
        "operators": [{"index": 0, "name": "RESHAPE"}, {"index": 1, "name": "FULLY_CONNECTED"}],
    }
    assert edgekit(["inspect", str(made.path), "--fused"]) == 0
    assert "0-1 RESHAPE ... FULLY_CONNECTED" in capsys.readouterr().out
