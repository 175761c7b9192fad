"""The command as a person meets it: help, exit codes, two lines of error, completion."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from edgekit import __version__, errors
from edgekit.cli.main import COMMANDS, HELP, main
from edgekit.errors import EdgekitError
from edgekit.target import target_names

ROOT = Path(__file__).resolve().parents[1]
every_command = pytest.mark.parametrize("command", COMMANDS)


def edgekit(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command as a process of its own."""
    command = [sys.executable, "-m", "edgekit.cli.main", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, timeout=60)


# --- help -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [[], *([command] for command in COMMANDS)], ids=lambda words: " ".join(words))
def test_help_has_examples_and_fits_into_80_columns(words, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code = main([*words, "--help"])
    said = capsys.readouterr().out

    assert code == 0
    assert max(map(len, said.splitlines())) < 80
    assert re.search(r"Examples?:\n +edgekit " + " ".join(words), said)


@every_command
def test_every_command_is_listed_has_help_and_is_in_the_readme(command):
    module = importlib.import_module(COMMANDS[command])
    found = getattr(module, f"{command.replace('-', '_')}_command")

    assert isinstance(found, click.Command)
    assert found.help
    assert HELP[command].endswith(".")
    assert f"edgekit {command}" in (ROOT / "README.md").read_text("utf-8")


def test_help_lists_the_commands_that_there_are():
    assert list(HELP) == list(COMMANDS)


@every_command
def test_every_option_says_what_it_does(command):
    found = getattr(importlib.import_module(COMMANDS[command]), f"{command.replace('-', '_')}_command")

    assert [p.name for p in found.params if isinstance(p, click.Option) and not p.help] == []


def test_asking_for_help_imports_nothing_heavy():
    code = (
        "import sys; from edgekit.cli.main import main; main(['--help']);"
        "print({'numpy', 'tensorflow', 'keras', 'paramiko', 'rich', 'ai_edge_litert'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.endswith("set()\n")
    assert done.stderr == ""


def test_the_version_is_the_package_s(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"edgekit {__version__}\n"


# --- exit codes and errors ------------------------------------------------------------------------------------------

KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, EdgekitError)]


@pytest.fixture
def broken(monkeypatch):
    """Makes `edgekit broken` raise what it is given; a command like any other, found as the others are."""

    def make(error: BaseException) -> None:
        @click.command("broken")
        def broken_command() -> None:
            raise error

        monkeypatch.setitem(COMMANDS, "broken", __name__)
        monkeypatch.setattr(sys.modules[__name__], "broken_command", broken_command, raising=False)

    return make


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_what_edgekit_raises_becomes_two_lines_and_the_code_of_its_kind(kind, broken, capsys):
    broken(kind("the moon is full", hint="wait a day"))
    code = main(["broken"])
    said = capsys.readouterr()

    assert code == kind.exit_code
    assert (said.out, said.err) == ("", "edgekit: the moon is full\n  wait a day\n")


def test_the_exit_codes_are_those_that_help_promises(capsys):
    main(["--help"])
    promised = set(map(int, re.findall(r"(?:codes:|,)\s+(\d+) ", capsys.readouterr().out)))

    assert promised == {0, 130} | {kind.exit_code for kind in KINDS}


def test_an_interruption_is_130(broken, capsys):
    broken(KeyboardInterrupt())

    assert main(["broken"]) == 130
    assert capsys.readouterr().err.strip() == "edgekit: interrupted"


def test_a_bug_keeps_its_traceback(broken):
    broken(ZeroDivisionError("ours to read"))

    with pytest.raises(ZeroDivisionError):
        main(["broken"])


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["convert", "no.keras", "-o", "b", "--samples", "s.npz"], 2, "no.keras does not exist"),
        (["convert", "no.keras", "-o", "b", "--samples", "s.npz", "--target", "rpi44"], 2, "no.keras does not exist"),
        (["inspect", "nothing"], 2, "nothing does not exist"),
        (["inspect", "."], 3, "is not a bundle"),
        (["deploy", ".", "local:device"], 3, "is not a bundle"),
        (["deploy", ".", "a b@c"], 2, "is not a device"),
        (["rollback", "local:device"], 4, "no previous release"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else "",
)
def test_a_process_ends_with_the_code_and_says_two_lines(words, code, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = edgekit(*words, PYTHONPATH=str(ROOT))
    lines = done.stderr.splitlines()

    assert (done.returncode, done.stdout) == (code, "")
    assert len(lines) == 2
    assert lines[0].startswith("edgekit: ")
    assert told in lines[0]
    assert re.match(r"  \S", lines[1])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [["convert"], ["nonsense"], ["inspect", "x", "--colour"], ["completion", "tcsh"]])
def test_a_wrong_command_line_is_2_and_says_how_it_goes(words, capsys):
    code = main(words)
    said = capsys.readouterr()

    assert (code, said.out) == (2, "")
    assert said.err.startswith("Usage: edgekit ")


def test_a_reader_that_goes_away_is_no_traceback():
    done = subprocess.run(
        f"{sys.executable} -m edgekit.cli.main targets --json | head -1", shell=True, capture_output=True, text=True
    )

    assert done.stderr == ""


def test_without_the_host_extra_the_command_says_what_to_install():
    code = "import sys; sys.modules['click'] = None; import edgekit.cli.main"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert done.returncode == 1
    assert done.stderr.splitlines()[1] == "  pip install 'edgekit[host]'"


# --- completion -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shell", "word"), [("bash", "complete "), ("zsh", "compdef "), ("fish", "complete ")])
def test_every_shell_gets_its_completion_script(shell, word, capsys):
    code = main(["completion", shell])
    script = capsys.readouterr().out

    assert code == 0
    assert word in script
    assert f"_EDGEKIT_COMPLETE={shell}_complete" in script


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("edgekit convert m.keras --target rpi", [name for name in target_names() if name.startswith("rpi")]),
        ("edgekit roll", ["rollback"]),
        ("edgekit completion z", ["zsh"]),
        ("edgekit convert --mod", ["--mode"]),
    ],
)
def test_bash_completes(line, expected, tmp_path):
    """Bash itself runs the script, and the script the command, as after pressing Tab."""
    command = tmp_path / "edgekit"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m edgekit.cli.main "$@"\n')
    command.chmod(0o755)
    words = line.split()
    script = (
        f'eval "$(edgekit completion bash)"; COMP_WORDS=({line}); COMP_CWORD={len(words) - 1};'
        f' _edgekit_completion edgekit {words[-1]} {words[-2]}; printf "%s\\n" "${{COMPREPLY[@]}}"'
    )
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=environment, timeout=60)

    assert done.stdout.split() == expected, done.stderr
