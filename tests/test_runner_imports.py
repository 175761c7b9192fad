"""What the runner needs on a board: numpy and an interpreter. Held with everything else made unimportable, and for real."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import edgekit

PACKAGE = Path(edgekit.__file__).parent
HOST_ONLY = {"click", "paramiko", "rich", "tensorflow", "keras", "PIL", "scipy", "sklearn", "flatbuffers", "tomli"}
OURS = {"edgekit.cli", "edgekit.convert", "edgekit.deploy", "edgekit.target"}
BLOCK = f"""
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HOST_ONLY!r} or name in {OURS!r}:
            raise ModuleNotFoundError(f"{{name}} is not on a board", name=name)
sys.meta_path.insert(0, Blocked())
"""


def runner_modules():
    files = [*sorted(PACKAGE.glob("runner/**/*.py")), *sorted(PACKAGE.glob("preprocess/*.py"))]
    names = [".".join(["edgekit", *file.relative_to(PACKAGE).with_suffix("").parts]) for file in files]
    return [name.removesuffix(".__init__") for name in names]


IMPORT_ALL = f"import importlib\nfor name in {runner_modules()!r}: importlib.import_module(name)\n"


def run(python, code, *arguments, path=(), expected=0):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment = {**kept, "PYTHONPATH": os.pathsep.join(map(str, path))}
    command = [str(python), "-s", *(["-c", code] if code else []), *map(str, arguments)]
    done = subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, timeout=300)
    assert done.returncode == expected, done.stderr
    return done


def test_every_runner_module_is_imported_without_what_only_a_workstation_has():
    path = [PACKAGE.parent, *filter(None, sys.path)]
    done = run(sys.executable, BLOCK + IMPORT_ALL + "print('all of them')", path=path)

    assert (done.stdout, done.stderr) == ("all of them\n", "")
    assert {"edgekit.runner.model", "edgekit.runner.__main__", "edgekit.preprocess.image"} <= set(runner_modules())


def test_what_a_deployment_ships_is_all_that_the_runner_imports(tmp_path):
    shipped = copy_of_what_is_shipped(tmp_path)
    path = [shipped, *(entry for entry in sys.path if entry and Path(entry) != PACKAGE.parent)]
    code = BLOCK + IMPORT_ALL + "import edgekit; print(edgekit.__file__)"

    assert run(sys.executable, code, path=path).stdout == f"{shipped}/edgekit/__init__.py\n"


def copy_of_what_is_shipped(folder):
    from edgekit.deploy.release import SHARED

    for name in [*SHARED, *(str(p.relative_to(PACKAGE)) for p in PACKAGE.glob("runner/**/*.py"))]:
        target = folder / "shipped" / "edgekit" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PACKAGE / name, target)
    return folder / "shipped"


def test_importing_the_runner_leaves_out_what_only_some_programs_need():
    pytest.importorskip("ai_edge_litert", reason="the runner needs an interpreter")
    late = ["tempfile", "argparse", "json", "hashlib", "wave", "subprocess", "shutil", "edgekit.manifest"]
    code = f"from edgekit.runner import load; import sys; print([name for name in {late!r} if name in sys.modules])"
    bare = f"import ai_edge_litert.interpreter, sys; print([name for name in {late!r} if name in sys.modules])"
    path = [PACKAGE.parent, *filter(None, sys.path)]

    assert run(sys.executable, code, path=path).stdout == run(sys.executable, bare, path=path).stdout


# --- on other Pythons ----------------------------------------------------------------------------------------------


def find_python(version):
    """A working Python of that version, from PATH or pyenv, or a skip that says why not."""
    found = shutil.which(f"python{version}")
    candidates = [Path(found)] if found else []
    candidates += sorted(Path.home().glob(f".pyenv/versions/{version}*/bin/python{version}"), reverse=True)
    for candidate in candidates:  # pyenv's shims are found but do not work for versions that are not selected
        done = subprocess.run([candidate, "-c", "import ensurepip, venv"], capture_output=True)
        if done.returncode == 0:
            return candidate
    pytest.skip(f"no working python{version} on PATH or in ~/.pyenv/versions")


def make_venv(folder, version, *packages):
    subprocess.run([find_python(version), "-m", "venv", folder], check=True, capture_output=True)
    python = folder / "bin" / "python"
    done = subprocess.run(
        [python, "-m", "pip", "install", "-q", "--only-binary", ":all:", *packages], capture_output=True, text=True
    )
    if done.returncode != 0 and "No matching distribution" in done.stderr:
        pytest.skip(f"the package registry has no {' '.join(packages)} for Python {version}")
    assert done.returncode == 0, done.stderr
    return python


@pytest.mark.slow
@pytest.mark.parametrize("numpy", ["numpy", "numpy==1.21.*"])
def test_every_runner_module_is_imported_on_python_3_9_with_nothing_but_numpy(tmp_path, numpy):
    python = make_venv(tmp_path / "venv", "3.9", numpy)
    shipped = copy_of_what_is_shipped(tmp_path)
    load = "from edgekit.runner import load; from edgekit.errors import MissingLibrary\n"
    load += "try: load(sys.argv[1])\nexcept MissingLibrary as error: print(error)"
    (tmp_path / "x.tflite").write_bytes(b"")
    done = run(python, BLOCK + IMPORT_ALL + load, tmp_path / "x.tflite", path=[shipped])

    assert (done.stdout, done.stderr) == ("no TFLite interpreter is installed for this Python\n", "")


@pytest.fixture
def bundle(tmp_path):
    pytest.importorskip("ai_edge_litert", reason="the runner needs an interpreter")
    from handmade_model import classifier, make_bundle

    from edgekit.preprocess import Generic

    raw = np.random.default_rng(3).integers(0, 17, (20, 8, 8, 1)).astype(np.uint8)
    np.save(tmp_path / "x.npy", raw)
    return make_bundle(tmp_path / "b", classifier(), raw=raw, spec=Generic(scale=1 / 16), tolerance=2).path


@pytest.mark.slow
def test_tflite_runtime_as_pip_installs_it_on_python_3_11_is_named_and_not_a_system_error(tmp_path, bundle):
    python = make_venv(tmp_path / "venv", "3.11", "tflite-runtime")
    shipped = copy_of_what_is_shipped(tmp_path)
    version = run(python, "import numpy; print(numpy.__version__)").stdout.strip()
    if version < "2":
        pytest.skip(f"pip chose numpy {version}: the trap is gone")
    done = run(python, None, "-m", "edgekit.runner", "check", bundle, path=[shipped], expected=1)

    assert done.stdout == ""
    assert done.stderr == (
        f"edgekit.runner: tflite-runtime was built for numpy 1 and cannot run with numpy {version}\n"
        "  pip install 'numpy<2' (or ai-edge-litert, which works with numpy 2, instead of tflite-runtime)\n"
    )


@pytest.mark.slow
@pytest.mark.parametrize("version", ["3.9", "3.11"])
def test_tflite_runtime_with_numpy_1_agrees_with_ai_edge_litert(tmp_path, bundle, version):
    import json

    python = make_venv(tmp_path / "venv", version, "tflite-runtime", "numpy<2")
    shipped = copy_of_what_is_shipped(tmp_path)
    check = run(python, None, "-m", "edgekit.runner", "check", bundle, "--json", path=[shipped])
    found = json.loads(check.stdout)
    infer = run(python, None, "-m", "edgekit.runner", "infer", bundle, tmp_path / "x.npy", path=[shipped])

    assert found["runtime"].startswith("tflite-runtime 2.14")
    assert found["variants"][0]["count"] == 20
    assert found["variants"][0]["largest_difference"] <= 2
    assert (check.stderr, infer.stderr) == ("", "")
    assert len(infer.stdout.splitlines()) == 20
