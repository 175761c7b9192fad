"""The TFLite interpreter of this machine: ai-edge-litert or else tflite-runtime; the only place that knows which.

Both have the same class. ai-edge-litert is the maintained one; tflite-runtime 2.14 is the only one with wheels for
32-bit ARM, and it was built against numpy 1: with numpy 2 it imports and then dies in the first `Interpreter(...)`.
"""

from __future__ import annotations

import os
import sys
from _thread import RLock
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from edgekit.errors import BundleError, MissingLibrary

if TYPE_CHECKING:
    from pathlib import Path

_HINT = "deploy with edgekit, which ships one that fits, or: pip install ai-edge-litert"
_CHATTER = (b"INFO: ", b"VERBOSE: ", b"I0000 ", b"WARNING: All log messages before absl")


def _find_runtime() -> tuple[Any, str, MissingLibrary | None]:
    """The interpreter's module and its distribution's name, or None and why there is none that works."""
    try:
        from ai_edge_litert import interpreter

        return interpreter, "ai-edge-litert", None
    except ImportError as error:
        # a C library that is too old, or half an installation, is not the same as "not installed"
        broken = None if _is_absent(error, "ai_edge_litert") else ("ai-edge-litert", error)
    if int(np.__version__.split(".")[0]) >= 2:
        # not even imported: numpy would print two pages about it
        if _is_there("tflite_runtime"):
            return (
                None,
                "",
                MissingLibrary(
                    f"tflite-runtime was built for numpy 1 and cannot run with numpy {np.__version__}",
                    hint="pip install 'numpy<2' (or ai-edge-litert, which works with numpy 2, instead of tflite-runtime)",
                ),
            )
    else:
        try:
            from tflite_runtime import interpreter

            return interpreter, "tflite-runtime", None
        except ImportError as error:
            broken = broken if _is_absent(error, "tflite_runtime") else ("tflite-runtime", error)
    if broken is None:
        return None, "", MissingLibrary("no TFLite interpreter is installed for this Python", hint=_HINT)
    reason = (str(broken[1]).strip() or repr(broken[1])).splitlines()[0]
    return None, "", MissingLibrary(f"{broken[0]} is installed but cannot be imported: {reason}", hint=_HINT)


def _is_there(package: str) -> bool:
    from importlib.util import find_spec

    try:
        return find_spec(package) is not None
    except ImportError:
        return False


def _is_absent(error: ImportError, package: str) -> bool:
    return isinstance(error, ModuleNotFoundError) and error.name == package


_runtime, RUNTIME, _unusable = _find_runtime()
_one_at_a_time = RLock()  # of those that hold back stderr: two would restore one another's


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
    if _unusable is not None:
        raise MissingLibrary(str(_unusable), hint=_unusable.hint)


def open_interpreter(
    path: Path | str,
    threads: int,
    *,
    reference: bool = False,
    xnnpack: bool = True,
    before_xnnpack: Any = None,  # Callable[[Interpreter], None]
    **options: Any,
) -> Any:
    """An `Interpreter` of the model in `path`, its tensors allocated, on `threads` CPU threads (XNNPACK where it can).

    `reference`: the plain C++ kernels instead, slow and independent of the processor: a second opinion. Without `xnnpack`
    the optimized kernels of the runtime itself. `before_xnnpack` sees it when external delegates have taken their share.
    `options` are the runtime's own, for looking inside (`experimental_preserve_all_tensors`, ...).

    Raises MissingLibrary without a usable runtime, BundleError if the runtime refuses the file.
    """
    require_runtime()
    kinds = _runtime.OpResolverType
    kernels = kinds.BUILTIN_REF if reference else kinds.AUTO if xnnpack else kinds.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    try:
        with without_info_lines():
            interpreter = _runtime.Interpreter(
                model_path=str(path), num_threads=threads, experimental_op_resolver_type=kernels, **options
            )
            if before_xnnpack is not None:
                before_xnnpack(interpreter)
            interpreter.allocate_tensors()
            interpreter.get_input_details(), interpreter.get_output_details()  # where names that are no text come out
    except (ValueError, RuntimeError) as error:
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise BundleError(
            f"{runtime_version()} cannot load {path}: {reason}",
            hint="the file is damaged or newer than this runtime: copy it again, or convert for this board's runtime",
        ) from error
    return interpreter


def operator_count(path: Path | str) -> int | None:
    """How many operators a file has, those of its first graph; None where the runtime does not tell."""
    require_runtime()
    plain = _runtime.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    try:
        with without_info_lines():
            return len(
                _runtime.Interpreter(
                    model_path=str(path), num_threads=1, experimental_op_resolver_type=plain
                )._get_ops_details()
            )
    except (AttributeError, ValueError, RuntimeError):
        return None


def load_library(library: str, options: dict[str, str]) -> Any:
    """An external delegate, made by the shared library of that name. Raises OSError, or ValueError with its own words."""
    require_runtime()
    with without_info_lines(), _quiet_deletion():
        return _runtime.load_delegate(library, options)


@contextmanager
def _quiet_deletion() -> Iterator[None]:
    """Both runtimes' Delegate raises in its __del__ when its library was not found, which hides the reason."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda unraisable: None
    try:
        yield
    finally:
        sys.unraisablehook = hook


def invoke(interpreter: Any) -> None:
    """One inference. BundleError if the runtime refuses it: a file may do so on some inputs only."""
    try:
        interpreter.invoke()
    except (RuntimeError, ValueError) as error:
        raise refusal(error) from error


def refusal(error: Exception) -> BundleError:
    """What the runtime said of an input that it does not run the model on."""
    reason = (str(error).strip() or repr(error)).splitlines()[0]
    return BundleError(
        f"the model does not run on this input: {reason}",
        hint="is the input as the model wants it (range, --preprocess)? was the model's file damaged?",
    )


@contextmanager
def without_info_lines() -> Iterator[None]:
    """While open, what native code prints to stderr is held back; afterwards all but its INFO lines is printed.

    The runtimes have no switch for this. What other threads print meanwhile is delayed, not lost.
    """
    held: list[bytes] = []
    try:
        with _holding(2, sys.stderr) as held:
            yield
    finally:
        _print(b"".join(line for line in held if not line.startswith(_CHATTER)))


@contextmanager
def reading_native_lines() -> Iterator[list[str]]:
    """As without_info_lines, also for stdout, but nothing is printed: what was said is in the list when the block has ended."""
    import ctypes

    lines: list[str] = []
    held: list[bytes] = []
    said: list[bytes] = []
    flush = ctypes.CDLL(None).fflush  # C keeps what it prints to a pipe until its buffer is full
    try:
        with _holding(2, sys.stderr) as held, _holding(1, sys.stdout) as said:
            try:
                yield lines
            finally:
                flush(None)
    finally:
        lines += [line.decode(errors="replace").rstrip() for line in (*held, *said)]


@contextmanager
def _holding(descriptor: int, stream: Any) -> Iterator[list[bytes]]:
    with _one_at_a_time:
        lines: list[bytes] = []
        try:
            stream.flush()
            saved = os.dup(descriptor)
        except (AttributeError, ValueError, OSError):  # no such stream, or one that is closed: nothing to keep clean
            saved = -1
        if saved < 0:
            yield lines
            return
        with _open_aside() as aside:
            os.dup2(aside.fileno(), descriptor)
            try:
                yield lines
            finally:
                os.dup2(saved, descriptor)
                os.close(saved)
                aside.seek(0)
                lines += aside


def _open_aside() -> BinaryIO:
    """A nameless file in memory, or where there is no such thing (macOS) one on disk."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("stderr"), "w+b")
    import tempfile  # only here: 5 ms

    return tempfile.TemporaryFile()


def _print(text: bytes) -> None:
    try:
        while text:
            text = text[os.write(2, text) :]
    except OSError:  # whoever read our stderr is gone
        pass
