"""The documents tell the truth: README's commands are run, and name every target, command and script that there is."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from edgekit.cli.main import COMMANDS, HELP
from edgekit.target import target_names

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_readme_has_every_target_in_its_table():
    missing = [name for name in target_names() if name not in README]

    assert missing == []


def test_readme_shows_every_command_or_says_how_to_list_it():
    missing = [name for name in COMMANDS if f"edgekit {name}" not in README]

    assert missing == []
    assert set(HELP) == set(COMMANDS)


def test_contributing_names_every_script():
    told = README + (ROOT / "CONTRIBUTING.md").read_text()

    missing = [p.name for p in (ROOT / "scripts").iterdir() if p.is_file() and f"scripts/{p.name}" not in told]

    assert missing == []


def test_readme_stays_under_150_lines():
    assert len(README.splitlines()) < 150


def test_documents_link_only_to_files_that_are_there():
    text = "".join(path.read_text() for path in ROOT.glob("*.md"))
    named = re.findall(r"`((?:edgekit|models|scripts|targets)/[a-z][\w./]*)`", text)

    missing = [name for name in named if not (ROOT / name).exists()]

    assert missing == []


@pytest.mark.slow
def test_readme_shows_what_its_commands_really_print(tmp_path):
    pytest.importorskip("tensorflow")
    environment = {**os.environ, "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))}
    train = [sys.executable, str(ROOT / "models" / "digits" / "train.py"), "--out", str(tmp_path / "digits")]
    subprocess.run(train, check=True, capture_output=True, env=environment)

    checked = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "readme"), "--check", str(tmp_path)],
        capture_output=True,
        text=True,
        env=environment,
    )

    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
