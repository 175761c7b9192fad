"""A board records what it is given, a workstation fetches it and converts with it: nothing that was sent is trusted."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="the runner needs an interpreter")

from devices import PYTHON, refused
from handmade_model import classifier, make_bundle, sum_and_product
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekit.bundle import Bundle
from edgekit.convert.samples import read_samples
from edgekit.deploy import samples as fetching
from edgekit.deploy.address import Local, Remote
from edgekit.deploy.install import deploy, remove, rollback, status
from edgekit.deploy.samples import fetch_samples
from edgekit.errors import DeviceError, DeviceFull, DeviceRefused, EdgekitError, InputError, SamplesError
from edgekit.runner import load, record
from edgekit.runner.__main__ import main as runner
from edgekit.runner.record import Recording, folder_of

Run = Callable[..., tuple[int, str, str]]
BOARD = Remote("board", None, None)
DIGITS = np.random.default_rng(3).integers(0, 256, (5, 8, 8, 1)).astype(np.uint8)


def numbered(folder: Path) -> dict[str, list[float]]:
    """What a folder of recordings holds: name -> the values of x."""
    found = {}
    for path in sorted(Path(folder).glob("*.npz")):
        with np.load(path) as arrays:
            found[path.name] = arrays["x"].ravel().tolist()
    return found


def some(*values: float) -> list[dict[str, np.ndarray]]:
    return [{"x": np.full((1, 2), value, np.float32)} for value in values]


# --- the runner keeps them ------------------------------------------------------------------------------------------


def test_the_last_ones_stay_in_order_and_the_oldest_go(tmp_path: Path) -> None:
    recording = Recording(str(tmp_path / "samples"), most=3)
    recording.keep(some(1, 2))
    Recording(str(tmp_path / "samples"), most=3).keep(some(3, 4, 5))  # a later run goes on where the first one ended

    assert numbered(tmp_path / "samples") == {
        "000000000003.npz": [3, 3],
        "000000000004.npz": [4, 4],
        "000000000005.npz": [5, 5],
    }
    assert sorted(os.listdir(tmp_path / "samples"))[3:] == ["lock"]


def test_every_so_many_are_kept(tmp_path: Path) -> None:
    recording = Recording(str(tmp_path), every=3)
    for value in range(8):
        recording.keep(some(value))

    assert list(numbered(tmp_path).values()) == [[0, 0], [3, 3], [6, 6]]
    assert recording.kept == 3


def test_they_never_take_more_than_their_share_of_the_disk(tmp_path: Path) -> None:
    recording = Recording(str(tmp_path), most_bytes=2000)
    recording.keep(some(*range(20)))

    taken = sum(path.stat().st_size for path in tmp_path.glob("*.npz"))
    assert 1000 < taken <= 2000
    assert list(numbered(tmp_path).values())[-1] == [19, 19]
    with refused(DeviceFull, 4):
        recording.keep([{"x": np.zeros(1000, np.float32)}])


def test_a_full_disk_gets_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "RESERVE", 1 << 60)
    with refused(DeviceFull, 4):
        Recording(str(tmp_path)).keep(some(1))

    assert numbered(tmp_path) == {}


def test_programs_that_record_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    script = (
        "import sys, numpy as np; from edgekit.runner.record import Recording\n"
        "r = Recording(sys.argv[1])\n"
        "for i in range(40): r.keep([{'x': np.float32([int(sys.argv[2]), i])}])"
    )
    programs = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path), str(n)]) for n in range(3)]

    assert [program.wait(60) for program in programs] == [0, 0, 0]
    found = sorted(numbered(tmp_path).values())
    assert found == [[n, i] for n in range(3) for i in range(40)]


@pytest.mark.parametrize("name", ["file", "allow_pickle", "serving_default_x:0", "a/b"])
def test_an_input_may_have_any_name(tmp_path: Path, name: str) -> None:
    Recording(str(tmp_path)).keep([{name: np.arange(3)}])

    with np.load(tmp_path / "000000000001.npz") as arrays:
        assert arrays.files == [name]


def test_samples_of_a_call_are_raw_and_single(tmp_path: Path) -> None:
    image = load(make_bundle(tmp_path / "a", classifier(), raw=DIGITS).path)
    two = load(make_bundle(tmp_path / "b", sum_and_product(), raw=dict.fromkeys("ab", np.zeros((2, 3), "f4"))).path)

    assert [s["image"].tolist() for s in image.samples(DIGITS[0])] == [DIGITS[0].tolist()]
    assert [s["image"].tolist() for s in image.samples(DIGITS)] == DIGITS.tolist()
    pairs = two.samples({"a": np.ones((2, 3)), "b": np.zeros((2, 3))})
    assert [(list(pair), pair["a"].shape) for pair in pairs] == [(["a", "b"], (3,))] * 2


def test_only_a_deployed_release_has_a_place_to_record_to(
    tiny_bundle: Bundle, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    np.save(tmp_path / "x.npy", np.zeros(4, np.float32))

    assert runner(["infer", str(tiny_bundle.path), str(tmp_path / "x.npy"), "--record"]) == 2
    assert "is not a deployed release" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with refused(DeviceRefused, 4):
        Recording(str(tmp_path / "samples")).keep(some(1))


# --- the workstation fetches them -----------------------------------------------------------------------------------


@pytest.fixture
def board(tiny_bundle: Bundle, device: Local, small_runtime: Path) -> Local:
    """A device with a release."""
    deploy(tiny_bundle, device)
    return device


def infer(root: Path, tmp_path: Path, count: int, *options: str) -> subprocess.CompletedProcess[str]:
    """The release's own launcher answers to a batch of so many inputs."""
    np.save(tmp_path / "x.npy", np.random.default_rng(count).uniform(-4, 4, (count, 4)).astype(np.float32))
    words = [str(root / "current" / "run"), "infer", str(tmp_path / "x.npy"), *options]
    return subprocess.run(words, capture_output=True, text=True)


def test_what_a_release_was_given_comes_back_as_samples(board: Local, tmp_path: Path, command: Run) -> None:
    done = infer(board.root, tmp_path, 30, "--record-every", "2", "--record-most", "12")
    assert (done.returncode, done.stderr, len(done.stdout.splitlines())) == (0, "", 30)

    code, out, err = command("samples", board, "-o", tmp_path / "fetched", "--json")

    assert (code, err) == (0, "")
    assert json.loads(out)["count"] == 12
    found = read_samples(tmp_path / "fetched", with_labels=False)
    (name,) = found.arrays
    np.testing.assert_array_equal(found.arrays[name], np.load(tmp_path / "x.npy")[::2][-12:])


def test_recordings_outlive_rollback_and_go_with_remove(board: Local, other_bundle: Bundle, tmp_path: Path) -> None:
    infer(board.root, tmp_path, 3, "--record")
    deploy(other_bundle, board)
    infer(board.root, tmp_path, 2, "--record")
    rollback(board)

    assert len(os.listdir(board.root / "samples")) == 6  # and the lock
    assert status(board, verify=True)["damaged"] == []
    remove(board)
    assert not board.root.exists()


def test_a_place_that_cannot_be_recorded_to_keeps_nobody_from_answers(board: Local, tmp_path: Path) -> None:
    (board.root / "samples").write_text("in the way")

    done = infer(board.root, tmp_path, 2, "--record")

    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 2
    assert len(done.stderr.splitlines()) == 2
    assert "cannot record to" in done.stderr


def test_a_device_without_recordings_says_how_to_make_some(board: Local, tmp_path: Path) -> None:
    with refused(DeviceError, 4) as caught:
        fetch_samples(board, tmp_path / "fetched")

    assert "--record" in caught.value.hint
    assert not (tmp_path / "fetched").exists()


def test_a_folder_that_holds_something_is_left_alone(board: Local, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years")
    with refused(InputError, 2):
        fetch_samples(board, tmp_path / "mine")

    assert os.listdir(tmp_path / "mine") == ["thesis.tex"]


def test_the_newest_come_when_there_are_more_than_one_fetch_takes(
    board: Local, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Recording(folder_of(board.root / "current")).keep(some(*range(9)))
    each = os.path.getsize(board.root / "samples" / "000000000001.npz")
    monkeypatch.setattr(fetching, "MOST_BYTES", 3 * each)

    fetched = fetch_samples(board, tmp_path / "fetched")

    assert (fetched.count, fetched.left_there, fetched.bytes) == (3, 6, 3 * each)
    assert [values[0] for values in numbered(tmp_path / "fetched").values()] == [6, 7, 8]


def test_links_and_other_things_in_the_folder_are_not_sent(board: Local, tmp_path: Path) -> None:
    Recording(folder_of(board.root / "current")).keep(some(1, 2))
    (tmp_path / "secret").write_text("key")
    samples = board.root / "samples"
    (samples / "000000000007.npz").symlink_to(tmp_path / "secret")
    (samples / "000000000008.npz").mkdir()
    (samples / "notes.npz").write_text("not ours")

    assert fetch_samples(board, tmp_path / "fetched").count == 2
    with pytest.raises(EdgekitError), fetching.open_session(board) as session:
        session.request("sample", name="000000000007.npz")
    with pytest.raises(DeviceError, match="not a name for a file"), fetching.open_session(board) as session:
        session.request("sample", name="../layout")


# --- a device that lies -----------------------------------------------------------------------------------------------


def packed(content: bytes) -> str:
    return base64.b64encode(zlib.compress(content)).decode()


LIES = {
    "a list of something else": ({"samples": 7}, {}),
    "no list": ({}, {}),
    "a sample of no size": ({"samples": [["a", -5]]}, {}),
    "a giant": ({"samples": [["a", 1 << 40]]}, {}),
    "not base64": ({"samples": [["a", 5]]}, {"data": "§§§"}),
    "not packed": ({"samples": [["a", 5]]}, {"data": base64.b64encode(b"plain").decode()}),
    "cut off": ({"samples": [["a", 5]]}, {"data": base64.b64encode(zlib.compress(b"x" * 99)[:-6]).decode()}),
    "a bomb": ({"samples": [["a", 5]]}, {"data": packed(bytes(64 << 20))}),
    "no text": ({"samples": [["a", 5]]}, {"data": 12}),
}


@pytest.mark.parametrize("lie", LIES)
def test_what_is_not_ours_is_refused_and_leaves_nothing(
    board: Local, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lie: str
) -> None:
    listed, sample = LIES[lie]
    monkeypatch.setattr(fetching.Session, "request", lambda self, op, **given: listed if op == "samples" else sample)
    with refused(DeviceError, 4):
        fetch_samples(board, tmp_path / "fetched")

    assert not [name for name in os.listdir(tmp_path) if "fetched" in name or "tmp" in name]


def npz(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return buffer.getvalue()


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


class Bomb:
    """Unpickled, it would leave a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):  # type: ignore[no-untyped-def]
        return (open, (str(self.path), "w"))


def test_a_pickle_that_a_device_sends_is_never_run(board: Local, tmp_path: Path, command: Run) -> None:
    Recording(folder_of(board.root / "current")).keep(some(1, 2))
    evil = npz(x=npy(np.array([Bomb(tmp_path / "ran")], object)))
    (board.root / "samples" / "000000000003.npz").write_bytes(evil)

    model = tmp_path / "net.tflite"
    model.write_bytes(classifier(shape=(1, 4), classes=3, dtype="float32"))

    code, _, err = command("convert", model, "-o", tmp_path / "b", "--from-device", board)

    assert code == 2
    assert "is not a .npz or .npy file of plain numbers" in err
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "b").exists()


def test_a_small_file_that_unpacks_to_much_is_refused(tmp_path: Path) -> None:
    header = npy(np.zeros(1, np.float32))[:128].replace(b"(1,)", b"(9,)")
    for name, content in (("a", npz(x=bytes(300 << 20))), ("b", npz(x=header))):
        (tmp_path / name).mkdir()
        for i in range(2):
            (tmp_path / name / f"{i}.npz").write_bytes(content)
        with pytest.raises(InputError, match=r"not a \.npz"):
            read_samples(tmp_path / name, with_labels=False)


GOOD = npz(x=npy(np.arange(12, dtype=np.float32)), tokens=npy(np.arange(4)))


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cut=st.integers(0, len(GOOD)),
    flips=st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(1, 255)), max_size=4),
)
def test_damaged_recordings_are_samples_or_a_clear_error(tmp_path: Path, cut: int, flips: list) -> None:
    content = bytearray(GOOD)
    for place, mask in flips:
        content[place] ^= mask
    folder = tmp_path / "damaged"
    folder.mkdir(exist_ok=True)
    (folder / "0.npz").write_bytes(content[: cut or None])
    (folder / "1.npz").write_bytes(GOOD)
    try:
        found = read_samples(folder, with_labels=False)
    except InputError as error:
        told = (str(error), error.hint)
    else:
        told = (str(found.count),)

    assert all(told)


def test_folders_of_arrays_may_have_classes_and_several_inputs(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        for i in range(2):
            np.savez(tmp_path / label / f"{i}.npz", a=np.full(3, i), b=np.ones(2))
    found = read_samples(tmp_path, with_labels=True, classes=["dog", "cat"])

    assert {name: array.shape for name, array in found.arrays.items()} == {"a": (4, 3), "b": (4, 2)}
    assert found.labels.tolist() == [1, 1, 0, 0]
    np.savez(tmp_path / "cat" / "odd.npz", c=np.ones(2))
    with pytest.raises(SamplesError, match="has the arrays c"):
        read_samples(tmp_path, with_labels=True)


# --- the whole way ------------------------------------------------------------------------------------------------------


def test_convert_takes_samples_or_a_device_but_not_both(tmp_path: Path, command: Run) -> None:
    words = ("convert", tmp_path / "net.tflite", "-o", tmp_path / "b")
    for more in ((), ("--samples", tmp_path, "--from-device", "local:x")):
        code, _, err = command(*words, *more)

        assert code == 2
        assert "--samples or --from-device" in err


def test_a_float_model_becomes_int8_of_what_the_device_recorded(board: Local, tmp_path: Path, command: Run) -> None:
    model = tmp_path / "net.tflite"
    model.write_bytes(classifier(shape=(1, 4), classes=3, dtype="float32"))
    infer(board.root, tmp_path, 40, "--record")

    code, out, err = command("convert", model, "-o", tmp_path / "b", "--from-device", board, "--json")

    told = json.loads(out)
    assert code == 0, err
    assert told["calibration_count"] == told["sample_count"] == 40
    assert load(tmp_path / "b")(np.zeros(4, np.float32)).shape == (3,)


@pytest.mark.slow
def test_recordings_are_fetched_over_ssh(sshd, small_runtime: Path, tiny_bundle: Bundle, tmp_path: Path) -> None:
    deploy(tiny_bundle, BOARD, python=PYTHON)
    done = infer(sshd.root, tmp_path, 25, "--record")
    assert done.returncode == 0, done.stderr

    fetched = fetch_samples(BOARD, tmp_path / "fetched", python=PYTHON)

    assert (fetched.count, fetched.left_there) == (25, 0)
    found = read_samples(tmp_path / "fetched", with_labels=False)
    (name,) = found.arrays
    np.testing.assert_array_equal(found.arrays[name], np.load(tmp_path / "x.npy"))
    assert sorted(path.name for path in (tmp_path / "fetched").iterdir())[0] == "000000.npz"
