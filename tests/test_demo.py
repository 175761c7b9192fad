"""The demo that README promises, from training to the table, on this machine as the device and over a real sshd."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

DEMO = Path(__file__).resolve().parents[1] / "models" / "digits" / "demo.py"


def run_demo(*options, **environment):
    done = subprocess.run(
        [sys.executable, str(DEMO), *options], capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def row_of(table, name):
    (line,) = [line for line in table.splitlines() if line.startswith(name)]
    return re.split(r"  +", line)[1:]


def test_the_demo_ends_with_a_table_in_which_int8_is_as_good_as_float(tmp_path, real_runtime):
    pytest.importorskip("tensorflow")
    pytest.importorskip("sklearn")

    table = run_demo("--out", str(tmp_path))

    on_device = [float(cell.rstrip("%")) for cell in row_of(table, "accuracy, 200 unseen digits")]
    assert on_device[0] > 95
    assert on_device[1] >= on_device[0] - 1
    assert row_of(table, "golden answers equal to the bit") == ["32 of 32", "32 of 32"]


def test_the_demo_runs_on_a_device_behind_sshd(tmp_path, real_runtime, sshd):
    pytest.importorskip("tensorflow")
    pytest.importorskip("sklearn")

    table = run_demo("--out", str(tmp_path), "--ssh", "board", **sshd.environment)

    assert "the device is board:" in table
    assert row_of(table, "golden answers equal to the bit") == ["32 of 32", "32 of 32"]
    assert (sshd.root / "current" / "run").exists()
    assert shutil.which("edgekit", path=sshd.environment["PATH"]) is not None
