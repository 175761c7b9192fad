"""Runs Google's edgetpu_compiler, here or in a container, and reads what it says and wrote: that replaces what was predicted.

Its exit code says little: a file with nothing mapped "compiled successfully". What counts is the file.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit.edgetpu.compiled import Compiled, read_compiled
from edgekit.edgetpu.predict import Prediction, predict_file
from edgekit.errors import ConversionError, InputError, MissingLibrary

COMPILER = "edgetpu_compiler"
CONTAINERS = ("docker", "podman")
MAPPED = "Mapped to Edge TPU"
TIMEOUT_S = 600.0
_ROW = re.compile(r"([A-Z][A-Za-z0-9_]*)\s+(\d+)\s+(\S.*?)\s*")
_VERSION = re.compile(r"Edge TPU Compiler version (\S+)")

RECIPE = """\
the compiler runs on x86-64 Linux only, from Google's package source, and there is no other. In a container, for example:
  docker build -t edgetpu-compiler - <<'EOF'
  FROM --platform=linux/amd64 debian:12-slim
  ADD https://packages.cloud.google.com/apt/doc/apt-key.gpg /etc/apt/keyrings/coral.asc
  RUN apt-get update && apt-get install -y ca-certificates && chmod 644 /etc/apt/keyrings/coral.asc && \\
      echo "deb [signed-by=/etc/apt/keyrings/coral.asc] https://packages.cloud.google.com/apt coral-edgetpu-stable main" \\
        > /etc/apt/sources.list.d/coral.list && apt-get update && apt-get install -y edgetpu-compiler
  EOF
  edgekit edgetpu {bundle} --compiler docker:edgetpu-compiler
or compile {bundle}/{file} on another machine and then
  edgekit edgetpu {bundle} --compiled {stem}_edgetpu.tflite"""


@dataclass(frozen=True)
class Log:
    """What the compiler printed."""

    version: str  # "" when it did not say
    counts: Mapping[tuple[str, str], int]  # (operator, status) -> how many

    @property
    def mapped(self) -> int:
        """Operators on the Edge TPU."""
        return sum(count for (_, status), count in self.counts.items() if status == MAPPED)

    @property
    def left(self) -> Mapping[tuple[str, str], int]:
        """Those that stay on the CPU, and the compiler's own words why."""
        return {key: count for key, count in self.counts.items() if key[1] != MAPPED}


@dataclass(frozen=True)
class Compilation:
    """A compiled file, with what the compiler and the file itself say, beside what was predicted."""

    content: bytes
    log: Log | None  # None: it was compiled elsewhere
    compiled: Compiled
    prediction: Prediction
    differs: tuple[str, ...]  # in what the prediction was wrong: operators that stay on the CPU, in counts


def read_log(text: str) -> Log:
    """What the compiler printed with -s; lines of other kinds are skipped."""
    version = _VERSION.search(text)
    counts: dict[tuple[str, str], int] = {}
    in_table = False
    for line in text.splitlines():
        if line.split() == ["Operator", "Count", "Status"]:
            in_table = True
        row = _ROW.fullmatch(line.strip()) if in_table else None
        if row:
            key = (row[1], row[3])
            counts[key] = counts.get(key, 0) + int(row[2])
    return Log(version[1] if version else "", counts)


def find_compiler(named: str | None) -> tuple[str, ...] | None:
    """The words that start it: what was named ("docker:IMAGE", a path), else edgetpu_compiler on PATH; None without.

    InputError for one that was named and is not there.
    """
    if named is None:
        found = shutil.which(COMPILER)
        return (found,) if found else None
    kind, colon, image = named.partition(":")
    if colon and kind in CONTAINERS:
        program = shutil.which(kind)
        if program is None or not image or image.startswith("-"):
            raise InputError(
                f"{named}: there is no {kind if image else 'image'}", hint="--compiler docker:IMAGE or podman:IMAGE"
            )
        return (program, "run", "--rm", "--network", "none", "-v", "{folder}:/work", "-w", "/work", image, COMPILER)
    found = shutil.which(named)
    if found is None:
        raise InputError(f"{named} is not a program", hint="give its path, docker:IMAGE or podman:IMAGE")
    return (found,)


def compile_model(model: Path, start: Sequence[str], *, timeout_s: float = TIMEOUT_S) -> Compilation:
    """The model, compiled. ConversionError with the compiler's own words where it fails, or maps nothing."""
    prediction = predict_file(model)
    with tempfile.TemporaryDirectory(prefix="edgekit-edgetpu-") as scratch:
        folder = Path(scratch)
        shutil.copyfile(model, folder / "model.tflite")
        command = [word.replace("{folder}", str(folder)) for word in start] + ["-s", "-o", ".", "model.tflite"]
        try:
            done = subprocess.run(
                command,
                cwd=folder,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout_s,
                stdin=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired:
            raise ConversionError(
                f"the Edge TPU compiler did not end within {timeout_s:g} s",
                hint="it gives up on some models: use a smaller one",
            ) from None
        except OSError as error:
            raise MissingLibrary(
                f"{command[0]} does not start: {error.strerror}", hint="give another --compiler"
            ) from error
        said = done.stdout + done.stderr
        made = folder / "model_edgetpu.tflite"
        if not made.is_file():
            lines = [line.strip() for line in said.splitlines() if line.strip()]
            why = next(
                (line for line in lines if line.startswith(("ERROR", "Invalid", "Internal"))),
                lines[-1] if lines else "",
            )
            refused = "; ".join(f"{each.name} version {each.version}: {each.fix}" for each in prediction.refused)
            raise ConversionError(
                f"the Edge TPU compiler wrote nothing (exit code {done.returncode}): {why}",
                hint=refused or "edgekit inspect --edgetpu says what it does not take",
            )
        return accept(made, prediction, read_log(said))


def accept(path: Path, prediction: Prediction, log: Log | None) -> Compilation:
    """A file that the compiler wrote, for the model that was predicted. ConversionError if nothing of it is for an Edge TPU."""
    compiled = read_compiled(path)
    if compiled is None:
        raise ConversionError(
            "nothing was mapped to the Edge TPU, whatever the file is called",
            hint="edgekit inspect --edgetpu says why; a model has to be full int8 or uint8",
        )
    left: dict[str, int] = {}
    for _, name in compiled.on_cpu:
        left[name] = left.get(name, 0) + 1
    expected: dict[str, int] = {}
    for unit in prediction.operators:
        if unit.unit == "cpu":
            expected[unit.name] = expected.get(unit.name, 0) + 1
    differs = tuple(
        f"{name}: {left.get(name, 0)} on the CPU, {expected.get(name, 0)} predicted"
        for name in sorted(left.keys() | expected.keys())
        if left.get(name, 0) != expected.get(name, 0)
    )
    return Compilation(path.read_bytes(), log, compiled, prediction, differs)
