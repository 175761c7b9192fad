"""Work in a process of its own: what it gives, raises and tells comes back, what it dies of does not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="pip install 'edgekit[convert]'")

from handmade_model import T, build

from edgekit.convert import convert
from edgekit.convert.apart import run_apart
from edgekit.errors import ConversionError, InputError, NotAModel


def model_that_dies() -> bytes:
    """x + INT_MIN mod (int(x) + 1), whole numbers: -2 divides by -1, of which LiteRT 2.3 dies (SIGFPE); zeros are fine."""
    x, hidden, y = (T(name, (1, 4)) for name in ("x", "hidden", "y"))
    whole, more, rest = (T(name, (1, 4), "int32") for name in ("whole", "more", "rest"))
    back = T("back", (1, 4))
    one, low = (
        T("one", (1,), "int32", data=np.ones(1, np.int32)),
        T("low", (1, 4), "int32", data=np.full((1, 4), -(2**31), np.int32)),
    )
    weights, bias = T("w", (4, 4), data=np.eye(4, dtype=np.float32)), T("b", (4,), data=np.zeros(4, np.float32))
    steps = [
        ("FULLY_CONNECTED", [x, weights, bias], [hidden]), ("CAST", [hidden], [whole]), ("ADD", [whole, one], [more]),
        ("FLOOR_MOD", [low, more], [rest]), ("CAST", [rest], [back]), ("ADD", [back, hidden], [y]),
    ]  # fmt: skip
    return build(steps, inputs=[x], outputs=[y])


def model_that_refuses() -> bytes:
    """One of a thousand numbers, at the place int(x): LiteRT says no to a negative one."""
    x, place, y = T("x", (1,)), T("place", (1,), "int32"), T("y", (1,))
    numbers, one = (
        T("numbers", (1000,), data=np.arange(1000, dtype=np.float32)),
        T("one", (1,), "int32", data=np.ones(1, np.int32)),
    )
    return build([("CAST", [x], [place]), ("SLICE", [numbers, place, one], [y])], inputs=[x], outputs=[y])


@pytest.fixture
def deadly(tmp_path) -> tuple[Path, Path, Path]:
    """The model that dies, samples that it survives, and such that it does not."""
    path, fine, bad = tmp_path / "net.tflite", tmp_path / "fine.npz", tmp_path / "bad.npz"
    path.write_bytes(model_that_dies())
    samples = np.random.default_rng(1).uniform(2, 9, (12, 4)).astype("f")
    np.savez(fine, x=samples)
    samples[7, 2] = -2
    np.savez(bad, x=samples)
    return path, fine, bad


def test_what_a_function_gives_comes_back():
    assert run_apart("os.path", "join", "a", "b", doing="joining") == os.path.join("a", "b")
    assert run_apart("os", "getpid", doing="asking") != os.getpid()
    assert run_apart("os", "getcwd", doing="asking") == os.getcwd()


def test_what_it_raises_comes_back_with_its_hint(tmp_path):
    with pytest.raises(NotAModel, match="does not exist") as caught:
        run_apart("edgekit.convert.frontend", "model_kind", tmp_path / "no.keras", doing="looking")

    assert caught.value.hint


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ValueError, match="could not convert") as caught:
        run_apart("builtins", "float", "many", doing="counting")

    assert "apart.py" in str(caught.value.__cause__)


def test_a_process_that_dies_is_a_conversion_error():
    with pytest.raises(ConversionError, match="the process that was dying was killed by SIGABRT"):
        run_apart("os", "abort", doing="dying")
    with pytest.raises(ConversionError, match="the process that was leaving ended with exit code 7"):
        run_apart("os", "_exit", 7, doing="leaving")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts what is written to")
def test_what_wants_more_memory_than_there_is_is_told():
    with pytest.raises(InputError, match="reading needs more memory than there is") as caught:
        run_apart("numpy", "ones", (1 << 40,), doing="reading")

    assert "samples" in caught.value.hint


def test_stages_are_told_while_it_runs(deadly, tmp_path):
    path, fine, _ = deadly
    stages: list[str] = []
    convert(path, tmp_path / "b", fine, modes=("float32",), progress=stages.append)

    assert stages[:2] == ["lint", "quantize to float32"]
    assert stages[-1] == "write"


@pytest.mark.parametrize(
    "words",
    [
        ("convert", "net.tflite", "-o", "b", "--mode", "float32", "--samples"),
        ("convert", "net.tflite", "-o", "b", "--samples"),
        ("lint", "net.tflite", "--samples"),
        ("compare", "net.tflite", "net.tflite", "--samples"),
    ],
    ids=["convert to float32", "convert to int8", "lint", "compare"],
)
def test_a_model_that_passes_one_inference_and_dies_on_a_sample_kills_no_command(
    deadly, command, monkeypatch, tmp_path, words
):
    """In this very process: it would be gone."""
    monkeypatch.chdir(tmp_path)
    code, said, error = command(*words, "bad.npz")

    assert (code, said) == (6, "")
    assert "SIGFPE" in error
    assert len(error.splitlines()) == 2
    assert not (tmp_path / "b").exists()


def test_the_same_model_works_on_the_samples_that_it_survives(deadly, command, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    assert command("lint", "net.tflite", "--samples", "fine.npz")[0] == 0
    assert command("compare", "net.tflite", "net.tflite", "--samples", "fine.npz")[0] == 0
    assert command("convert", "net.tflite", "-o", "b", "--mode", "float32", "--samples", "fine.npz")[0] == 0


@pytest.mark.parametrize(("words", "wanted"), [(("compare", "net.tflite"), 3), (("convert", "-o", "b"), 6)])
def test_a_model_that_refuses_a_sample_is_an_error_with_a_reason(command, monkeypatch, tmp_path, words, wanted):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.tflite").write_bytes(model_that_refuses())
    np.save(tmp_path / "x.npy", np.linspace(-9, 9, 12, dtype="f"))
    code, _, error = command(*words, "net.tflite", "--samples", "x.npy")

    assert code == wanted, error
    assert "Invalid begin" in error
    assert "Traceback" not in error


def test_what_lies_in_the_current_folder_is_not_imported(deadly, tmp_path):
    """A model is unpacked into a folder with a json.py beside it, and converted there."""
    for name in ("json", "numpy", "pickle", "zipfile", "edgekit", "keras", "h5py"):
        (tmp_path / f"{name}.py").write_text("import os; os.mkdir('ran')")
    done = subprocess.run(
        [sys.executable, "-c", "import sys; sys.path.remove(''); from edgekit.cli.main import main; sys.exit(main())",
         "convert", "net.tflite", "-o", "b", "--samples", "fine.npz", "--no-report", "--max-drop", "100"],
        cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])},
    )  # fmt: skip

    assert not (tmp_path / "ran").exists()
    assert done.returncode in (0, 6), done.stderr  # this network is no good in int8
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for the process in /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_when_the_caller_is_stopped_so_is_the_process(tmp_path, number):
    script = "from edgekit.convert.apart import run_apart; run_apart('time', 'sleep', 300, doing='sleeping')"
    process = subprocess.Popen(
        [sys.executable, "-c", script], stderr=subprocess.PIPE, env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    while not (below := children(process.pid)):
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(number)
    process.communicate(timeout=20)
    deadline = time.monotonic() + 10
    while any(map(is_running, below)) and time.monotonic() < deadline:
        time.sleep(0.05)

    assert not any(map(is_running, below))
    if number == signal.SIGINT:
        assert list(tmp_path.iterdir()) == []


def children(parent: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            found.append(int(stat.parent.name))
    return found


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
