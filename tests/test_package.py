"""What is in the wheel: everything that the commands and a board need, found where the installed package looks for it."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The wheel, built from this checkout and unpacked as pip would; nothing of the checkout is importable from it."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run(installed, *command):
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment, cwd=installed)


def test_the_wheel_has_targets_models_and_what_is_sent_to_a_board(installed):
    names = {path.relative_to(installed).as_posix() for path in installed.rglob("*") if path.is_file()}

    for name in ("edgekit/_targets/rpi4.toml", "edgekit/_models/digits/train.py", "edgekit/platforms.toml",
                 "edgekit/deploy/agent.py", "edgekit/runner/__main__.py", "edgekit/py.typed"):  # fmt: skip
        assert name in names
    assert not any(name.startswith(("tests/", "scripts/")) for name in names)


def test_an_installed_edgekit_lists_its_targets(installed):
    listed = run(installed, "-m", "edgekit.cli.main", "targets", "--json")

    assert listed.returncode == 0, listed.stderr
    assert '"rpi4"' in listed.stdout


def test_an_installed_edgekit_is_the_one_that_was_built(installed):
    where = run(installed, "-c", "import edgekit; print(edgekit.__file__)")

    assert where.stdout.strip() == str(installed / "edgekit" / "__init__.py")
