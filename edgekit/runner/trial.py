"""Tries a delegate in a child process, golden vectors and all, and remembers what was found for the same library and runtime."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from edgekit.delegates import delegate_text, library_options
from edgekit.digest import sha256, sha256_file
from edgekit.runner.interpreter import runtime_version

if TYPE_CHECKING:
    from dataclasses import dataclass

    from edgekit.bundle import Bundle
    from edgekit.manifest import Delegate, Variant
else:
    from edgekit.values import dataclass

TIMEOUT_S = 300  # drivers compile shaders: minutes for a large network on a small GPU
_LAYOUT = "edgekit "  # how ROOT/layout begins
_KEPT = ("serves", "crashed", "hung")  # a device may be plugged in later: that it was not there is not kept


@dataclass(frozen=True)
class Verdict:
    """What a trial found; `facts` is what the child says of its run, empty when it did not come that far."""

    outcome: str
    reason: str
    facts: Any


def try_apart(bundle: Bundle, variant: Variant, delegate: Delegate, threads: int) -> Verdict:
    """Opens the variant on that unit in a new process and has it answer its golden vectors there; kept for `remembered`."""
    asked = {"name": delegate.name, "options": dict(delegate.options)}
    command = [sys.executable, "-s", "-m", "edgekit.runner", "try", bundle.folder, "--variant", variant.name]
    command += ["--threads", str(threads), "--config", json.dumps(asked)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    try:
        done = subprocess.run(
            command, capture_output=True, env=environment, timeout=TIMEOUT_S, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        verdict = Verdict("hung", f"no answer within {TIMEOUT_S:g} s", {})
    else:
        verdict = read_ending(done.returncode, done.stdout, done.stderr)
    _remember(bundle, variant, delegate, verdict)
    return verdict


def run_trial(path: str, variant: str, config: str, threads: int) -> dict[str, Any]:
    """In the child: one delegate and nothing else, and the golden vectors on it. What it raises becomes the exit code."""
    from dataclasses import asdict
    from time import perf_counter

    from edgekit.bundle import read_bundle
    from edgekit.manifest import Delegate
    from edgekit.runner.check import check_model, read_golden
    from edgekit.runner.choose import open_unit
    from edgekit.runner.model import Model, read_specs

    asked = json.loads(config)
    delegate = Delegate(asked["name"], asked["options"])
    bundle = read_bundle(path)
    started = perf_counter()
    described, interpreter, placement = open_unit(bundle, bundle.manifest.variant(variant), delegate, threads)
    opened = perf_counter()
    model = Model(described, [interpreter], read_specs(bundle.manifest), placement=placement)
    agreement = check_model(model, read_golden(bundle), delegate.options.get("tolerance", described.golden_tolerance))
    taken = None if placement.fake or placement.software else round(1000 * (opened - started), 1)
    return {"placement": asdict(placement), "agreement": asdict(agreement), "open_ms": taken}


def read_ending(code: int, out: bytes, errors: bytes) -> Verdict:
    """What a child that has ended means."""
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        why = (
            ": a library built for another runtime (ABI)?" if name in ("SIGSEGV", "SIGBUS", "SIGILL", "SIGABRT") else ""
        )
        return Verdict("crashed", f"killed by {name}{why}", {})
    try:
        facts = json.loads(out.splitlines()[-1]) if code == 0 else {}
    except (ValueError, IndexError):
        return Verdict("crashed", "it ended without an answer", {})
    if code == 0:
        return Verdict("serves", "", facts)
    said = [line for line in errors.decode(errors="replace").splitlines() if line.startswith("edgekit.runner: ")]
    last = (errors.decode(errors="replace").strip().splitlines() or [""])[-1]
    reason = said[-1].partition(": ")[2] if said else f"exit code {code}: {last}".rstrip(": ")
    return Verdict({5: "wrong", 3: "refused"}.get(code, "unavailable"), reason, {})


def remembered(bundle: Bundle, variant: Variant, delegate: Delegate) -> Verdict | None:
    """What an earlier trial of the same bundle, library and runtime found; None if there was none, or it cannot be told."""
    place = _place(bundle, variant, delegate)
    if place is None:
        return None
    try:
        with open(place, encoding="utf-8") as stream:
            fields = json.load(stream)
        return Verdict(str(fields["outcome"]), str(fields["reason"]), fields["facts"])
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _remember(bundle: Bundle, variant: Variant, delegate: Delegate, verdict: Verdict) -> None:
    place = _place(bundle, variant, delegate)
    if place is None:
        return
    fields = {"delegate": delegate_text(delegate), "runtime": runtime_version(), "library": library_identity(delegate)}
    fields |= {"outcome": verdict.outcome, "reason": verdict.reason, "facts": verdict.facts}
    aside = f"{place}.{os.getpid()}"
    try:
        if verdict.outcome not in _KEPT:
            os.unlink(place)
            return
        with open(aside, "w", encoding="utf-8") as stream:
            json.dump(fields, stream)
        os.replace(aside, place)
    except OSError:  # nothing was there, or there is no space: then the next start tries again
        pass


def _place(bundle: Bundle, variant: Variant, delegate: Delegate) -> str | None:
    """The file that a verdict is kept in; None where there is no such folder, or the library cannot be told."""
    library = library_identity(delegate)
    folder = cache_folder(bundle.folder) if library else None
    if folder is None:
        return None
    key = [bundle.digest, variant.name, delegate.name, dict(delegate.options), library, runtime_version(), sys.version]
    return os.path.join(folder, f"{sha256(json.dumps(key, sort_keys=True).encode())[:32]}.json")


def cache_folder(path: str) -> str | None:
    """A writable folder for what is known of a release: ROOT/cache on a device, else ~/.cache/edgekit; None without one."""
    releases, name = os.path.split(os.path.realpath(path))
    root = os.path.dirname(releases)
    places = [os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "edgekit", "runner")]
    if name and os.path.basename(releases) == "releases" and _is_root(root):
        places.insert(0, os.path.join(root, "cache"))
    for place in places:
        try:
            os.makedirs(place, mode=0o700, exist_ok=True)
        except OSError:
            continue
        if os.access(place, os.W_OK | os.X_OK):
            return place
    return None


def _is_root(root: str) -> bool:
    try:
        with open(os.path.join(root, "layout"), encoding="ascii") as stream:
            return stream.read(32).startswith(_LAYOUT)
    except (OSError, ValueError):
        return False


def library_identity(delegate: Delegate) -> str:
    """What changes when a trial has to be made anew: the library's bytes, or the GPU's drivers. "" when it is not found."""
    if delegate.name == "gpu":
        return "; ".join(f"{path} {_stamp(path)}" for path in gpu_files())
    path = find_library(library_options(delegate)[0])
    try:
        return f"{path} {sha256_file(path)}" if path else ""
    except OSError:
        return ""


def find_library(name: str) -> str:
    """Where the dynamic linker would take a library from; "" where it is not found."""
    if "/" in name:
        return os.path.realpath(name) if os.path.isfile(name) else ""
    import sysconfig

    triplet = sysconfig.get_config_var("MULTIARCH") or ""
    folders = [*os.environ.get("LD_LIBRARY_PATH", "").split(":"), "/usr/local/lib"]
    folders += [f"{base}/{triplet}" for base in ("/usr/local/lib", "/usr/lib", "/lib") if triplet] + [
        "/usr/lib",
        "/lib",
    ]
    found = (os.path.join(folder, name) for folder in folders if folder)
    return next((os.path.realpath(path) for path in found if os.path.isfile(path)), "")


def gpu_files() -> list[str]:
    """The files that decide what a GPU computes: the accelerator, Vulkan's loader and driver lists, the kernel's driver."""
    import glob

    lists = (os.environ.get("VK_DRIVER_FILES") or os.environ.get("VK_ICD_FILENAMES") or "").split(":")
    for folder in ("/etc/vulkan/icd.d", "/usr/share/vulkan/icd.d", "/usr/local/share/vulkan/icd.d"):
        lists += sorted(glob.glob(f"{glob.escape(folder)}/*.json"))
    package = getattr(sys.modules.get("ai_edge_litert"), "__file__", None)
    accelerator = os.path.join(os.path.dirname(package), "libLiteRtWebGpuAccelerator.so") if package else ""
    files = [accelerator, find_library("libvulkan.so.1"), *lists, "/proc/driver/nvidia/version"]
    return [path for path in dict.fromkeys(files) if path and os.path.exists(path)]


def _stamp(path: str) -> str:
    if path.startswith("/proc"):
        with open(path, "rb") as stream:
            return sha256(stream.read())[:16]
    found = os.stat(path)
    return f"{found.st_size} {found.st_mtime_ns}"
