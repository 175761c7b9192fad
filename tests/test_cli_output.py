"""What commands show: JSON with stable keys, tables that fit, one progress line that is only for terminals."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgekit.cli.convert import command_of
from edgekit.cli.main import main
from edgekit.cli.show import show_facts, show_table, size_text
from edgekit.target import target_names

pytest.importorskip("ai_edge_litert", reason="pip install 'edgekit[convert]'")
pty = pytest.importorskip("pty", reason="no terminals on this system")

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data" / "mlperf-tiny"
ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    """A bundle of one fully connected layer, with labels and two threads."""
    from handmade_model import classifier, make_bundle

    images = np.random.default_rng(0).random((4, 8, 8, 1)).astype(np.float32)
    folder = tmp_path_factory.mktemp("bundle") / "digits"
    labels = [str(digit) for digit in range(10)]
    return make_bundle(folder, classifier(), raw=images, labels=labels, tolerance=2.0, threads=2).path


def on_a_terminal(*arguments: object, columns: int = 80, stop_at: bytes | None = None) -> tuple[int, str]:
    """Runs python with stdout and stderr on a terminal of that width: exit code, and what appeared there.

    `stop_at`: Ctrl-C is typed as soon as that has appeared.
    """
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(COLUMNS=str(columns), TERM="xterm-256color", PYTHONPATH=str(ROOT))
        os.execv(sys.executable, [sys.executable, *map(str, arguments)])
    shown = b""
    while True:
        try:
            block = os.read(terminal, 65536)
        except OSError:  # Linux says EIO when the last one has left the terminal
            break
        if not block:
            break
        shown += block
        if stop_at is not None and stop_at in shown:
            os.write(terminal, b"\x03")  # as the keyboard sends it
            stop_at = None
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown.decode()


# --- tables ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["targets"], ["inspect", "BUNDLE"], ["inspect", "BUNDLE", "--operators"]])
def test_a_table_stays_within_80_columns_of_a_terminal(words, bundle):
    words = [bundle if word == "BUNDLE" else word for word in words]
    code, shown = on_a_terminal("-m", "edgekit.cli.main", *words)
    lines = ANSI.sub("", shown).splitlines()

    assert code == 0
    assert max(map(len, lines)) <= 80
    assert lines[-1].strip()  # no blank lines at the end
    assert not any(line.endswith(" ") for line in lines)


def test_a_long_cell_goes_on_below_itself_and_the_columns_stay_in_place(capsys, monkeypatch):
    monkeypatch.setattr("edgekit.cli.show._columns", lambda: 40)
    show_table(
        ("name", "count", "what it is"), [("a", 7, "a sentence that is far too long for one line"), ("b", 12345, "x")]
    )

    assert capsys.readouterr().out == (
        "name   count  what it is\n"
        "────  ──────  ──────────────────────────\n"
        "a          7  a sentence that is far too\n"
        "              long for one line\n"
        "b     12,345  x\n"
    )


def test_an_error_breaks_between_words_on_a_terminal_and_nowhere_else(tmp_path):
    words = [
        "-m",
        "edgekit.cli.main",
        "convert",
        str(tmp_path / "nothing.keras"),
        "-o",
        str(tmp_path / "b"),
        "--samples",
        "s",
    ]
    code, shown = on_a_terminal(*words, columns=60)
    told = ANSI.sub("", shown)
    lines = [line.rstrip() for line in told[told.index("edgekit:") :].splitlines()]  # the progress line was before it
    piped = subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=ROOT).stderr.splitlines()

    assert code == 2
    assert len(lines) > len(piped) == 2
    assert all(len(line) <= 60 or " " not in line.strip() for line in lines)
    assert " ".join(" ".join(lines).split()) == " ".join(" ".join(piped).split())


def test_what_is_not_known_is_a_dash(capsys):
    show_table(("metric", "int8", "float"), [("accuracy", 0.5, None)])
    show_facts([("previous", None)])

    assert capsys.readouterr().out.splitlines()[2:] == ["accuracy   0.5      -", "previous  -"]


def test_sizes_are_in_binary_units():
    assert [size_text(n) for n in (0, 1023, 1024, 26_000, 1 << 20, 5 << 30)] == [
        "0 B", "1023 B", "1.0 KiB", "25.4 KiB", "1.0 MiB", "5.0 GiB"
    ]  # fmt: skip


# --- inspect --------------------------------------------------------------------------------------------------------


def test_inspect_of_a_bundle_shows_files_delegates_and_tolerance(bundle, capsys):
    assert main(["inspect", str(bundle)]) == 0
    said = capsys.readouterr().out

    assert re.search(r"^golden\.npz +\d", said, re.M)
    assert "delegates  cpu (threads 2)" in said
    assert "golden     an answer may differ by 2 steps" in said
    assert "image: int8[1,8,8,1], scale 0.00392157, zero point -128" in said
    assert "digit: int8[1,10]" in said
    assert "full int8  yes, weights per channel in 0 of 1 layers" in said


def test_a_float_model_is_not_asked_whether_it_is_int8(tmp_path, capsys):
    from handmade_model import classifier

    path = tmp_path / "float.tflite"
    path.write_bytes(classifier(dtype="float32"))
    main(["inspect", str(path)])

    assert "full int8" not in capsys.readouterr().out


def test_a_free_size_is_shown_as_n(tmp_path, capsys):
    from test_flatbuffer import small_model

    path = tmp_path / "free.tflite"
    path.write_bytes(small_model())
    main(["inspect", str(path)])
    said = capsys.readouterr().out

    assert "image: int8[n,8,8,3]" in said
    assert "scores: int8[n,8,8,4]" in said
    assert "in:" not in said


@pytest.mark.skipif(not DATA.is_dir(), reason="no ../shared/data beside this checkout")
def test_a_real_model_is_shown_in_one_screen(capsys):
    assert main(["inspect", str(DATA / "kws_ref_model.tflite")]) == 0
    lines = capsys.readouterr().out.splitlines()

    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80


# --- JSON -----------------------------------------------------------------------------------------------------------


def test_inspect_json_has_its_keys(bundle, capsys):
    main(["inspect", str(bundle), "--json"])
    said = json.loads(capsys.readouterr().out)

    assert list(said) == ["path", "bundle", "models"]
    assert set(said["bundle"]) == {"id", "sha256", "manifest"}
    assert set(said["models"][0]) == {
        "variant", "description", "file_bytes", "weight_bytes", "subgraphs", "signatures", "quantization", "tensors",
        "operators", "inputs", "outputs", "macs", "arena_bytes", "per_channel_weights", "findings", "operator_table",
        "edgetpu_compiled", "edgetpu_predicted", "parts",
    }  # fmt: skip
    assert set(said["models"][0]["inputs"][0]) == {"name", "tensor", "shape", "dtype", "scale", "zero_point"}
    assert said["models"][0]["inputs"][0]["name"] == "image"


def test_targets_json_has_every_target_with_its_keys(capsys):
    main(["targets", "--json"])
    said = json.loads(capsys.readouterr().out)

    assert [target["name"] for target in said] == target_names()
    assert {tuple(target) for target in said} == {
        ("name", "description", "arch", "cpu", "cores", "cpu_mhz_max", "memory_mb", "features", "threads",
         "throttle_at_mc", "idle_mw", "busy_mw", "systems", "delegates", "sources")
    }  # fmt: skip


def test_status_json_has_its_keys(tmp_path, capsys):
    assert main(["status", f"local:{tmp_path / 'device'}", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)

    assert {
        "device", "board", "system", "python", "arch", "libc", "root", "used_bytes", "free_bytes", "releases"
    } <= set(said)  # fmt: skip
    assert said["releases"] == []


def test_the_manifest_gets_the_command_without_where_the_bundle_goes():
    typed = ["convert", "m.keras", "-o", "x", "--samples", "s.npz", "--json", "--output=y", "-oz", "--mode=dynamic"]

    assert command_of(typed) == ["edgekit", "convert", "m.keras", "--samples", "s.npz", "--mode=dynamic"]


# --- progress -------------------------------------------------------------------------------------------------------

WORK = """
import sys, time
from edgekit.cli.show import showing_progress
with showing_progress(len(sys.argv) > 2) as progress:
    progress("converting")
    time.sleep(0.3)
    for sent in range(0, 5 << 20, 1 << 18):
        progress("sending", sent, 5 << 20)
        time.sleep(0.02)
    with progress.hidden():
        print("is it yours? [y/N]")
    progress("checking")
    time.sleep(float(sys.argv[1]))
print("done")
"""


def test_progress_is_one_line_with_bytes_only_while_sending(tmp_path):
    code, shown = on_a_terminal("-c", WORK, "0.3")
    frames = [ANSI.sub("", frame).strip() for frame in re.split(r"\r|\n", shown)]
    of = {stage: [frame for frame in frames if stage in frame] for stage in ("converting", "sending", "checking")}

    assert code == 0
    assert all(of.values())
    assert not any("MiB" in frame for frame in of["converting"] + of["checking"])
    assert any(re.search(r"sending .*/5\.0 MiB", frame) for frame in of["sending"])
    assert max(map(len, frames)) <= 80
    assert not any("converting" in frame and "sending" in frame for frame in frames)
    assert "is it yours? [y/N]" in frames  # alone on its line
    assert shown.endswith("done\r\n")
    assert shown.rfind("\x1b[?25h") > shown.rfind("\x1b[?25l")  # the cursor is back


def test_progress_is_silent_where_nobody_looks():
    done = subprocess.run(
        [sys.executable, "-c", WORK, "0"], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "is it yours? [y/N]\ndone\n"


def test_progress_is_silent_for_programs_even_on_a_terminal():
    _, shown = on_a_terminal("-c", WORK, "0", "quiet")

    assert shown == "is it yours? [y/N]\r\ndone\r\n"


def test_ctrl_c_gives_the_cursor_back():
    code, shown = on_a_terminal("-c", WORK, "30", stop_at=b"converting")

    assert code in (1, 130, -signal.SIGINT)
    assert "KeyboardInterrupt" in shown
    assert shown.rfind("\x1b[?25h") > shown.rfind("\x1b[?25l")
