"""Opens a variant on the first unit of its delegate list that can run it, proved before in a child process; says what happened.

A CPU is opened at once. What loads foreign code (libraries of delegates, GPU drivers) is tried in a process of its own first,
golden vectors and all (trial.py): a crash there is a finding, not a dead service.
"""

from __future__ import annotations

import ctypes
import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from edgekit.delegates import delegate_text, ladder, library_options
from edgekit.errors import BundleError, DelegateUnavailable, EdgekitError
from edgekit.manifest import Delegate
from edgekit.runner.interpreter import load_library, open_interpreter, operator_count, without_info_lines
from edgekit.runner.placement import Attempt, FellBack, Placement, count_shares, fallback_lines, node_count

if TYPE_CHECKING:
    from edgekit.bundle import Bundle
    from edgekit.manifest import Variant

Opened = tuple["Variant", list[Any], Placement]


def choose(
    bundle: Bundle,
    variant: Variant,
    delegates: Sequence[Delegate],
    *,
    threads: int,
    lanes: int,
    require: str | None,
    anew: bool,
) -> Opened:
    """The variant (with the file that its unit takes), its interpreters, and where they are.

    `require`: only that unit may serve. `anew`: what earlier trials found is not believed. Warns (FellBack) when another
    unit serves than was asked for first. Raises DelegateUnavailable when none of them can, with what each said.
    """
    from edgekit.runner.trial import remembered, try_apart

    rungs = ladder(delegates)
    if require is not None:
        rungs = tuple(rung for rung in rungs if rung.name == require)
        if not rungs:
            raise DelegateUnavailable(
                f"{require} is required, and variant {variant.name} has no such delegate",
                hint=f"its delegates: {', '.join(map(delegate_text, delegates)) or 'cpu'}; name one with --delegate",
            )
    attempts: list[Attempt] = []
    for rung in rungs:
        text = delegate_text(rung)
        if is_foreign(rung):
            found = None if anew else remembered(bundle, variant, rung)
            verdict = found or try_apart(bundle, variant, rung, threads)
            if verdict.outcome != "serves":
                attempts.append(Attempt(text, verdict.outcome, verdict.reason, found is not None))
                continue
        try:
            opened = [open_unit(bundle, variant, rung, threads) for _ in range(lanes)]
        except EdgekitError as error:  # it went away since it was proved, or this process is not that one
            attempts.append(Attempt(text, "unavailable", str(error), False))
            continue
        attempts.append(Attempt(text, "serves", "", False))
        placement = replace(opened[0][2], requested=delegate_text(rungs[0]), attempts=tuple(attempts))
        lines = fallback_lines(placement)
        if lines:
            warnings.warn("\n".join(lines), FellBack, stacklevel=4)
        return opened[0][0], [interpreter for _, interpreter, _ in opened], placement
    told = "; ".join(f"{a.delegate} {a.outcome}: {a.reason}" for a in attempts)
    raise DelegateUnavailable(
        f"variant {variant.name}: no delegate can run it ({told})",
        hint="add cpu behind the others to have it serve then" if require is None else f"leave --require {require} out",
    )


def is_foreign(delegate: Delegate) -> bool:
    """True for what loads code that is neither ours nor the interpreter's, and may kill a process."""
    return delegate.name != "cpu"


def open_unit(bundle: Bundle, variant: Variant, delegate: Delegate, threads: int) -> tuple[Variant, Any, Placement]:
    """The variant on exactly that unit, in this process, unproved. EdgekitError where it cannot be."""
    from edgekit.bundle import verify_file

    options = delegate.options
    threads = options.get("threads") or threads
    if "file" in options:
        if options["file"] not in bundle.manifest.files:
            raise BundleError(f"the bundle has no {options['file']}", hint="make the bundle again")
        variant = replace(variant, file=options["file"])
    path = verify_file(bundle, variant.file)
    if delegate.name == "gpu" or options.get("weight_cache"):
        return variant, *_open_compiled(path, bundle, variant, delegate, threads)
    if delegate.name == "cpu":
        interpreter = open_interpreter(path, threads, xnnpack=options.get("xnnpack", True))
        return variant, interpreter, cpu_placement(interpreter, delegate)
    return variant, *_open_external(path, delegate, threads)


def cpu_placement(interpreter: Any, delegate: Delegate) -> Placement:
    """Where the operators of an interpreter without foreign delegates are: how many XNNPACK took."""
    shares = count_shares(interpreter, None)
    return _placement(delegate, shares)


def _placement(
    delegate: Delegate, shares: Any, *, device: str = "", fake: bool = False, software: bool = False
) -> Placement:
    return Placement(
        requested=delegate_text(delegate),
        delegate=delegate_text(delegate),
        unit=delegate.name,
        operators=shares and shares.operators,
        on_unit=shares and shares.on_unit,
        on_xnnpack=shares and shares.on_xnnpack,
        parts=shares and shares.parts,
        left=shares.left if shares else {},
        device=device,
        fake=fake,
        software=software,
        attempts=(Attempt(delegate_text(delegate), "serves", "", False),),
    )


def _open_compiled(
    path: str, bundle: Bundle, variant: Variant, delegate: Delegate, threads: int
) -> tuple[Any, Placement]:
    from edgekit.runner.compiled import open_compiled
    from edgekit.runner.trial import cache_folder
    from edgekit.runner.weight_cache import keeping_weights

    options = delegate.options
    is_gpu = delegate.name == "gpu"
    cache = ""
    if not is_gpu:  # XNNPACK packs weights for this processor and this version: a file for each of both
        folder = cache_folder(bundle.folder)
        if folder is None:
            raise BundleError("there is no folder to keep packed weights in", hint="leave weight_cache out")
        cache = os.path.join(folder, f"{_cache_name(bundle, variant)}.weights")

    def open_with(weight_cache: str) -> Any:
        return open_compiled(
            *(path, variant),
            gpu=is_gpu,
            precision=options.get("precision", "f32"),
            partial=options.get("partial", False),
            threads=threads,
            weight_cache=weight_cache,
        )

    made = open_with("") if is_gpu else keeping_weights(cache, open_with)
    placement = _placement(delegate, None, device=made.device, software=made.software)
    if is_gpu and made.is_whole:  # all of them; how many that is the file says
        count = operator_count(path)
        placement = replace(placement, operators=count, on_unit=count, parts=1)
    elif is_gpu and made.share is not None:
        names = [each.partition(":")[0] for each in made.refused]
        left = {name: names.count(name) for name in names} if len(names) == made.share[1] else {}
        placement = replace(placement, operators=sum(made.share), on_unit=made.share[0], left=left)
    return made, placement


def _cache_name(bundle: Bundle, variant: Variant) -> str:
    from edgekit.digest import sha256
    from edgekit.runner.interpreter import runtime_version

    text = f"{bundle.manifest.files[variant.file].sha256} {runtime_version()} {os.uname().machine}"
    return sha256(text.encode())[:16]


def _open_external(path: str, delegate: Delegate, threads: int) -> tuple[Any, Placement]:
    library, options = library_options(delegate)
    try:
        loaded = load_library(library, options)
    except OSError as error:
        raise DelegateUnavailable(
            f"{library} cannot be loaded: {str(error).splitlines()[0]}", hint="install it, or give its path"
        ) from error
    except ValueError as error:
        said = str(error).partition("\n")[2].strip()  # the runtime's first line only names the library
        nothing = f"no device {options['device']!r}" if "device" in options else "it does not say why"
        raise DelegateUnavailable(
            f"{library} made no delegate: {said or nothing}",
            hint="is the device plugged in, and may this user open it?",
        ) from error
    counted: list[int] = []
    interpreter = open_interpreter(
        *(path, threads),
        experimental_delegates=[loaded],
        before_xnnpack=lambda made: counted.append(node_count(made)),
    )
    shares = count_shares(interpreter, counted[0])
    if shares is not None and not shares.on_unit:
        raise DelegateUnavailable(
            f"{library} takes none of the {shares.operators} operators of {os.path.basename(path)}",
            hint="is the model made for it? edgekit inspect shows its operators",
        )
    version, fake = describe_library(library)
    return interpreter, _placement(delegate, shares, device=version, fake=fake)


def describe_library(library: str) -> tuple[str, bool]:
    """What a library that is loaded says of its version (libedgetpu does), and whether it is a fake made for tests."""
    with without_info_lines():
        try:
            loaded = ctypes.CDLL(library)
        except OSError:
            return "", False
    version = ""
    if hasattr(loaded, "edgetpu_version"):
        loaded.edgetpu_version.restype = ctypes.c_char_p
        version = (loaded.edgetpu_version() or b"").decode(errors="replace")
    return version, hasattr(loaded, "edgekit_fake_delegate")
