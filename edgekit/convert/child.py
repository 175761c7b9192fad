"""Runs one of our modules in a process of its own: converters crash, hang and print, we must not."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekit import errors
from edgekit.convert.memory import limit_memory
from edgekit.errors import ConversionError, EdgekitError


def run_child(
    module: str,
    arguments: Sequence[str],
    folder: Path,
    *,
    timeout_s: float,
    who: str,
    doing: str,
    hint: str,
    environment: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """What `python -m module ARGUMENTS` left in `folder`/result.json; the folder takes its log and temporary files too.

    `who` is `doing` what, for messages: "TensorFlow", "converting net.keras". An error that the child reports with
    `report` is raised here; ConversionError with `hint` when it crashes, and when it takes longer than `timeout_s`.
    """
    (folder / "result.json").unlink(missing_ok=True)
    log = folder / "log.txt"
    _give_back()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=folder,  # which Python imports from: never from the folder that somebody unpacked a model into
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**child_environment(folder), **(environment or {})},
            start_new_session=True,
        )
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise ConversionError(
                f"{who} did not finish {doing} in {timeout_s:g} s", hint="give it longer with --timeout"
            ) from None
        finally:  # also on Ctrl-C: nothing keeps running, nor what it may have started
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return _read_result(folder, code, log, who, doing, hint)


def _give_back() -> None:
    """What was freed here and the C library kept is the system's again: the child needs it, we only wait.

    glibc; elsewhere there is no such call. Measured after calibrating MobileNetV2-224 on two threads: 45 of 161 MiB, 5 ms.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def child_environment(folder: Path) -> dict[str, str]:
    """Variables for a child that finds this edgekit, and leaves its temporary files in `folder`, also when it is killed."""
    package = Path(errors.__file__).parents[1]
    searched = [package, *map(Path, filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)))]
    paths = os.pathsep.join(str(path.absolute()) for path in searched)
    return {**os.environ, "TMPDIR": str(folder), "PYTHONPATH": paths}


def _read_result(folder: Path, code: int, log: Path, who: str, doing: str, hint: str) -> dict[str, Any]:
    try:
        result: dict[str, Any] = json.loads((folder / "result.json").read_text("utf-8"))
    except (OSError, ValueError):
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        last = (log.read_text("utf-8", "replace").strip().splitlines() or ["no output"])[-1]
        raise ConversionError(f"{who} {how} while {doing}: {last[:200]}", hint=hint) from None
    if "error" in result:
        kind = getattr(errors, result["error"], ConversionError)
        assert issubclass(kind, EdgekitError)
        raise kind(result["message"], hint=result["hint"])
    return result


def end_with_parent() -> None:
    """The calling process is killed when its parent is gone, however that one ended, and may not eat the machine's memory."""
    limit_memory()
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def report(folder: Path, result: Mapping[str, Any] | EdgekitError) -> None:
    """Leaves a child's result, or its error, where `run_child` looks for it."""
    if isinstance(result, EdgekitError):
        result = {"error": type(result).__name__, "message": str(result), "hint": result.hint}
    (folder / "result.json").write_text(json.dumps(result), "utf-8")
