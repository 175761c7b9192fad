"""The TFLite interpreter of this machine: ai-edge-litert or else tflite-runtime; the only place that knows which.

Both have the same class. ai-edge-litert is the maintained one; tflite-runtime 2.14 is the only one with wheels for
32-bit ARM, and it was built against numpy 1: with numpy 2 it imports and then dies in the first `Interpreter(...)`.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.errors import BundleError, MissingLibrary

try:
    from ai_edge_litert import interpreter as _runtime

    RUNTIME = "ai-edge-litert"
except ImportError:
    try:
        from tflite_runtime import interpreter as _runtime

        RUNTIME = "tflite-runtime"
    except ImportError:
        _runtime = None
        RUNTIME = ""


def runtime_version() -> str:
    """What runs models here, as `name version`; reads package metadata, so not for hot paths."""
    from importlib import metadata

    require_runtime()
    try:
        return f"{RUNTIME} {metadata.version(RUNTIME)}"
    except metadata.PackageNotFoundError:  # a tree that was shipped without its .dist-info
        return RUNTIME


def require_runtime() -> None:
    """MissingLibrary, unless an interpreter is here and fits the numpy that is here."""
    if _runtime is None:
        raise MissingLibrary(
            "no TFLite interpreter is installed for this Python",
            hint="deploy with edgekit, which ships one, or: pip install ai-edge-litert",
        )
    if RUNTIME == "tflite-runtime" and int(np.__version__.split(".")[0]) >= 2:
        raise MissingLibrary(
            f"tflite-runtime was built for numpy 1 and cannot run with numpy {np.__version__}",
            hint="pip install 'numpy<2' (or ai-edge-litert, which works with numpy 2, instead of tflite-runtime)",
        )


def open_interpreter(path: Path, threads: int, *, reference: bool = False) -> Any:
    """An `Interpreter` of the model in `path`, its tensors allocated, on `threads` CPU threads (XNNPACK where it can).

    `reference`: the plain C++ kernels instead, slow and independent of the processor: a second opinion.

    Raises MissingLibrary without a usable runtime, BundleError if the runtime refuses the file.
    """
    require_runtime()
    try:
        with _without_info_lines():
            kernels = _runtime.OpResolverType.BUILTIN_REF if reference else _runtime.OpResolverType.AUTO
            interpreter = _runtime.Interpreter(
                model_path=str(path), num_threads=threads, experimental_op_resolver_type=kernels
            )
            interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise BundleError(
            f"{runtime_version()} cannot load {path}: {reason}",
            hint="the file is damaged or newer than this runtime: copy it again, or convert for this board's runtime",
        ) from error
    return interpreter


@contextmanager
def _without_info_lines() -> Iterator[None]:
    """While open, what native code prints to stderr is held back; afterwards all but its INFO lines is printed.

    The runtimes have no switch for this. What other threads print meanwhile is delayed, not lost.
    """
    try:
        sys.stderr.flush()
        saved = os.dup(2)
    except (AttributeError, ValueError, OSError):  # no stderr, or one that is closed: nothing to keep clean
        yield
        return
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            held.seek(0)
            rest = b"".join(line for line in held if not line.startswith((b"INFO:", b"I0000", b"WARNING: All log")))
            if rest:
                os.write(2, rest)
