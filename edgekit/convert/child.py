"""Runs one of our modules in a process of its own: converters crash, hang and print, we must not."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from edgekit import errors
from edgekit.convert.memory import limit_memory
from edgekit.errors import ConversionError, EdgekitError

_LOOK_S = 0.005  # between two looks for a file of the child's


class Child:
    """A process at work for us."""

    def __init__(
        self, process: subprocess.Popen[bytes], folder: Path, timeout_s: float, who: str, doing: str, hint: str
    ):
        self._process, self._folder, self._who, self._doing, self._hint = process, folder, who, doing, hint
        self._timeout_s, self._started = timeout_s, time.monotonic()

    def wait_for(self, path: Path) -> None:
        """Returns when the file is there, or the child has ended. Raises as `result` does if it ended without."""
        self._look_for(path)
        if not path.exists():
            self.result()

    def _look_for(self, path: Path) -> None:
        while not path.exists() and self._process.poll() is None and self._left_s > 0:
            time.sleep(_LOOK_S)

    def do(self, folder: Path) -> dict[str, Any]:
        """What a child that listens leaves in `folder`/result.json, once it has done what it finds there. Raises as `result`."""
        (folder / "result.json").unlink(missing_ok=True)
        _give_back()
        self._started = time.monotonic()
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError, ValueError):  # it has ended, or will: there is no result
            self._process.stdin.write(f"{folder}\n".encode())
            self._process.stdin.flush()
        self._look_for(folder / "result.json")
        if self._left_s <= 0:
            self._process.kill()
            raise self._late()
        return _read_result(self._folder, self._process.poll() or 0, self._who, self._doing, self._hint, left=folder)

    def dismiss(self) -> None:
        """Lets one that listens end: what it holds is free again."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()

    @property
    def works(self) -> bool:
        """Whether one that listens has not ended, and will not."""
        return self._process.poll() is None and self._process.stdin is not None and not self._process.stdin.closed

    def result(self) -> dict[str, Any]:
        """What it left in `folder`/result.json, once it has ended.

        An error that it reported with `report` is raised here; ConversionError with the hint when it crashed, and when
        it takes longer than it may.
        """
        try:
            code = self._process.wait(max(self._left_s, 0.0))
        except subprocess.TimeoutExpired:
            raise self._late() from None
        return _read_result(self._folder, code, self._who, self._doing, self._hint)

    def _late(self) -> ConversionError:
        return ConversionError(
            f"{self._who} did not finish {self._doing} in {self._timeout_s:g} s", hint="give it longer with --timeout"
        )

    @property
    def _left_s(self) -> float:
        return self._started + self._timeout_s - time.monotonic()


@contextlib.contextmanager
def child(
    module: str,
    arguments: Sequence[str],
    folder: Path,
    *,
    timeout_s: float,
    who: str,
    doing: str,
    hint: str,
    environment: Mapping[str, str] | None = None,
    listens: bool = False,
) -> Iterator[Child]:
    """`python -m module ARGUMENTS` at work; `folder` takes its result.json, its log and temporary files.

    `who` is `doing` what, for messages: "TensorFlow", "converting net.keras". One that `listens` is told what to do (`Child.do`).
    """
    (folder / "result.json").unlink(missing_ok=True)
    _give_back()
    with (folder / "log.txt").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=folder,  # which Python imports from: never from the folder that somebody unpacked a model into
            stdin=subprocess.PIPE if listens else subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**child_environment(folder), **(environment or {})},
            start_new_session=True,
        )
        try:
            yield Child(process, folder, timeout_s, who, doing, hint)
        finally:  # also on Ctrl-C: nothing keeps running, nor what it may have started
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def run_child(module: str, arguments: Sequence[str], folder: Path, **about: Any) -> dict[str, Any]:
    """The `Child.result` of such a `child`; with the same arguments."""
    with child(module, arguments, folder, **about) as process:
        return process.result()


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


def _read_result(
    folder: Path, code: int, who: str, doing: str, hint: str, *, left: Path | None = None
) -> dict[str, Any]:
    try:
        result: dict[str, Any] = json.loads(((left or folder) / "result.json").read_text("utf-8"))
    except (OSError, ValueError):
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        last = ((folder / "log.txt").read_text("utf-8", "replace").strip().splitlines() or ["no output"])[-1]
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
    hand_over(folder / "result.json", json.dumps(result).encode())


def hand_over(path: Path, content: bytes) -> None:
    """Writes a file that the parent takes as soon as it is there (`Child.wait_for`)."""
    aside = path.with_suffix(".part")
    aside.write_bytes(content)
    aside.replace(path)


def run_to_end(folder: Path, work: Callable[[], Mapping[str, Any]]) -> NoReturn:
    """Reports what `work` gives, or its error, and ends this process, the child, without taking down what it loaded.

    Nothing is collected either: what TensorFlow makes while it is imported stays, and to go through it again and again
    takes 1.0 of its 3.2 s; to take it down another 0.4 s.
    """
    gc.disable()
    end_with_parent()
    _work(folder, work)
    _end()


def listen(work: Callable[[Path], Mapping[str, Any]]) -> NoReturn:
    """Does `work` for each folder that `Child.do` names, reports it there, and ends as `run_to_end` does."""
    gc.disable()
    end_with_parent()
    for line in sys.stdin:
        folder = Path(line.removesuffix("\n"))
        _work(folder, lambda: work(folder))  # noqa: B023  called at once
    _end()


def _work(folder: Path, work: Callable[[], Mapping[str, Any]]) -> None:
    try:
        report(folder, work())
    except EdgekitError as error:
        report(folder, error)


def _end() -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
