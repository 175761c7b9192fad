"""Runs one of our functions in a process of its own: LiteRT dies of some files, and whoever called us must not.

The functions that let native code loose on a file that somebody gave (convert, lint with samples, compare) run so, whole:
a file that survives one inference on zeros may still crash on a real sample.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from edgekit.convert.child import child_environment, end_with_parent
from edgekit.convert.memory import memory_bytes
from edgekit.errors import ConversionError, EdgekitError, InputError

GRACE_S = 5.0  # for the process to end its own children and to leave nothing behind, when we are interrupted


def run_apart(
    module: str,
    function: str,
    *arguments: Any,
    doing: str,
    progress: Callable[..., None] | None = None,
    **options: Any,
) -> Any:
    """What `module.function(*arguments, **options)` gives, or raises, in a process of its own; `progress` is called here.

    Arguments and result are pickled. `doing` is for messages, "converting net.tflite". Raises ConversionError when the
    process dies, InputError when it wants more memory than there is.
    """
    with tempfile.TemporaryDirectory(prefix="edgekit-") as scratch:
        folder = Path(scratch)
        job = (module, function, arguments, options, progress is not None)
        (folder / "job.pickle").write_bytes(pickle.dumps(job))
        receiving, sending = os.pipe()
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", "edgekit.convert.apart", scratch, str(sending), str(Path().absolute())],
                cwd=folder,  # as in child.py
                stdin=subprocess.DEVNULL,
                env=child_environment(folder),
                pass_fds=(sending,),
                start_new_session=True,
            )
        except BaseException:
            os.close(receiving)
            raise
        finally:
            os.close(sending)
        try:
            with os.fdopen(receiving, encoding="utf-8") as told:
                import_module(module)  # what the result is made of, while we wait
                for line in told:  # ends when the process does
                    if progress is not None:
                        progress(*json.loads(line))
            code = process.wait()
        finally:
            _end(process)
        return _result(folder, code, doing)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Whatever happened here, nothing of it keeps running."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _result(folder: Path, code: int, doing: str) -> Any:
    try:
        kind, value, told = pickle.loads((folder / "result.pickle").read_bytes())  # noqa: S301  # from our own process
    except FileNotFoundError:
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        raise ConversionError(
            f"the process that was {doing} {how}",
            hint="the model is damaged, or LiteRT cannot run it; SIGKILL: too little memory",
        ) from None
    if kind == "memory":
        raise InputError(
            f"{doing} needs more memory than there is ({memory_bytes() / 2**30:.1f} GiB)",
            hint="give fewer or smaller samples; are the files what they seem?",
        )
    if kind == "result":
        return value
    if told:  # a bug keeps its traceback
        raise value from RuntimeError(f"\n{told}")
    raise value


def _main(folder: Path, sending: int, working: Path) -> int:
    """Does the job in `folder` and leaves its result there."""
    end_with_parent()
    signal.signal(signal.SIGTERM, _interrupt)
    if sys.path[0] in ("", str(folder), str(folder.resolve())):  # where Python put us to start from
        del sys.path[0]
    with contextlib.suppress(OSError):
        os.chdir(working)
    with os.fdopen(sending, "w", encoding="utf-8", buffering=1) as told:
        result: tuple[str, Any, str]
        try:
            module, function, arguments, options, wants = pickle.loads((folder / "job.pickle").read_bytes())  # noqa: S301
            if wants:
                options["progress"] = lambda *stage: print(json.dumps(stage), file=told)
            result = ("result", getattr(import_module(module), function)(*arguments, **options), "")
        except KeyboardInterrupt:
            return 130
        except MemoryError:
            result = ("memory", None, "")
        except EdgekitError as error:
            error.__cause__ = error.__context__ = None
            result = ("error", error, "")
        except Exception as error:
            result = ("error", error, traceback.format_exc())
        try:
            content = pickle.dumps(result)
        except Exception:  # an exception of somebody's library that cannot be pickled
            content = pickle.dumps(("error", RuntimeError(str(result[1])), result[2] or traceback.format_exc()))
        aside = folder / "result.part"
        aside.write_bytes(content)
        aside.replace(folder / "result.pickle")
    return 0


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(_main(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])))
