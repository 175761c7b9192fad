"""The interpreter underneath: found or named as missing, and silent."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="the runner needs an interpreter")

from handmade_model import T, build, classifier

from edgekit.errors import BundleError
from edgekit.runner import load
from edgekit.runner.interpreter import without_info_lines

WITHOUT = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocked())
"""
LOAD = """
from edgekit.errors import EdgekitError
from edgekit.runner import load
try:
    load("nothing.tflite" if len(sys.argv) < 2 else sys.argv[1])
except EdgekitError as error:
    print(error.exit_code, error, "|", error.hint)
"""


def python(code, *arguments, path=()):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*map(str, path), *filter(None, sys.path)])}
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture
def file(tmp_path):
    (tmp_path / "m.tflite").write_bytes(classifier())
    return tmp_path / "m.tflite"


def test_loading_and_answering_prints_nothing_at_all(file):
    code = "import sys, numpy as np; from edgekit.runner import load\nload(sys.argv[1])(np.zeros((8, 8, 1)))"
    done = python(code, file)

    assert (done.stdout, done.stderr) == ("", "")


def test_only_chatter_is_held_back_from_stderr(capfd):
    with without_info_lines():
        os.write(2, b"INFO: Created TensorFlow Lite XNNPACK delegate for CPU.\nERROR: something\n")
        os.write(2, b"I0000 00:00:1700 more chatter\nW0000 a warning\nno newline")

    assert capfd.readouterr().err == "ERROR: something\nW0000 a warning\nno newline"


def test_stderr_comes_back_after_a_failure(capfd):
    def fail():
        with without_info_lines():
            os.write(2, b"before\n")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    os.write(2, b"after\n")

    assert capfd.readouterr().err == "before\nafter\n"


def test_threads_that_load_at_the_same_time_do_not_lose_stderr(file, capfd):
    threads = [threading.Thread(target=lambda: [load(file) for _ in range(10)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.write(2, b"still here\n")

    assert capfd.readouterr().err == "still here\n"


def test_a_closed_stderr_is_no_obstacle(file):
    code = "import os, sys; sys.stderr = None; os.close(2); from edgekit.runner import load; print(load(sys.argv[1]).labels)"

    assert python(code, file).stdout == "()\n"


def test_an_operator_that_the_runtime_does_not_know_is_named(tmp_path):
    into, out = T("in", (1, 4)), T("out", (1, 4))
    (tmp_path / "m.tflite").write_bytes(build([("CUSTOM", [into], [out])], inputs=[into], outputs=[out]))

    with pytest.raises(BundleError, match="cannot load") as refused:
        load(tmp_path / "m.tflite")
    assert "runtime" in refused.value.hint


def test_no_interpreter_at_all_is_said_with_what_to_install(file):
    without = WITHOUT.format(blocked={"ai_edge_litert", "tflite_runtime"})

    assert python(without + LOAD, file).stdout == (
        "1 no TFLite interpreter is installed for this Python | "
        "deploy with edgekit, which ships one that fits, or: pip install ai-edge-litert\n"
    )


def test_a_broken_interpreter_is_not_called_absent(file, tmp_path):
    package = tmp_path / "ai_edge_litert"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "interpreter.py").write_text('raise ImportError("GLIBC_2.35 not found\\nand more")')

    said = python("import sys\n" + LOAD, file, path=[tmp_path]).stdout
    assert said.startswith("1 ai-edge-litert is installed but cannot be imported: GLIBC_2.35 not found |")


@pytest.mark.skipif(np.__version__ < "2", reason="about numpy 2")
def test_tflite_runtime_beside_numpy_2_is_named_without_importing_it(file, tmp_path):
    (tmp_path / "tflite_runtime").mkdir()
    (tmp_path / "tflite_runtime" / "__init__.py").write_text("print('imported')")
    without = WITHOUT.format(blocked={"ai_edge_litert"})

    said = python(without + LOAD, file, path=[tmp_path]).stdout
    assert said.startswith(f"1 tflite-runtime was built for numpy 1 and cannot run with numpy {np.__version__} | pip")
