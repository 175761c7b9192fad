"""Delegate configurations: what may run a variant and how, as the manifest holds them and as a person writes them.

    parse_delegate("cpu:threads=2")                         XNNPACK on the processor
    parse_delegate("gpu:precision=f32")                     LiteRT's CompiledModel on WebGPU/Vulkan
    parse_delegate("edgetpu:device=usb:0,performance=High") libedgetpu
    parse_delegate("external:path=/usr/lib/libvx_delegate.so,cache_file_path=/tmp/x")   any other; options are its own

They are tried in their order (choose.py). Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from edgekit.errors import BundleError, InputError
from edgekit.fields import AGAIN
from edgekit.manifest import Delegate, is_safe_name

NAMES = ("cpu", "gpu", "edgetpu", "external")
PRECISIONS = ("f16", "f32")
PERFORMANCES = ("Low", "Medium", "High", "Max")  # 63, 125, 250, 500 MHz (libedgetpu's source)
EDGETPU_LIBRARY = "libedgetpu.so.1"

# delegate -> option -> (what it must be, whether a value is that)
_COMMON = {"threads": int, "tolerance": float}  # tolerance: of golden answers on this unit, in the output's own units
_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "cpu": {**_COMMON, "xnnpack": bool, "weight_cache": bool},
    "gpu": {**_COMMON, "precision": PRECISIONS, "partial": bool},
    "edgetpu": {**_COMMON, "library": str, "device": str, "performance": PERFORMANCES, "file": str},
    "external": {**_COMMON, "path": str, "options": dict},
}
_DEVICE = re.compile(r"(usb|pci)?(:[0-9]{1,2})?")


def parse_delegate(text: str) -> Delegate:
    """`NAME` or `NAME:KEY=VALUE,KEY=VALUE`. InputError says what does not fit."""
    name, _, rest = text.partition(":")
    hint = "write cpu, gpu:precision=f32, edgetpu:device=usb:0 or external:path=LIBRARY,OPTION=VALUE"
    if name not in NAMES:
        raise InputError(f"no delegate is called {name!r}", hint=f"there are: {', '.join(NAMES)}")
    options: dict[str, Any] = {}
    for pair in filter(None, rest.split(",")):
        key, equals, value = pair.partition("=")
        if not equals or not key or key in options:
            raise InputError(f"delegate {text!r}: {pair!r} is not a new KEY=VALUE", hint=hint)
        if name == "external" and key not in _OPTIONS["external"]:
            options.setdefault("options", {})[key] = value
        else:
            options[key] = _value(text, name, key, value)
    delegate = Delegate(name, options)
    why = misfit(delegate)
    if why:
        raise InputError(f"delegate {text!r}: {why}", hint=hint)
    return delegate


def _value(text: str, name: str, key: str, value: str) -> Any:
    wanted = _OPTIONS[name].get(key)
    try:
        if wanted is bool:
            return {"true": True, "false": False, "on": True, "off": False}[value.lower()]
        if wanted in (int, float):
            return wanted(value)
    except (KeyError, ValueError):
        raise InputError(f"delegate {text!r}: {key} cannot be {value!r}", hint=_says(wanted)) from None
    if isinstance(wanted, tuple):  # high is High
        return next((one for one in wanted if one.lower() == value.lower()), value)
    return value


def misfit(delegate: Delegate) -> str:
    """What is wrong with a configuration, "" when nothing is."""
    known = _OPTIONS.get(delegate.name)
    if known is None:
        return f"no delegate is called {delegate.name!r} (there are {', '.join(NAMES)})"
    for key, value in delegate.options.items():
        wanted = known.get(key)
        if wanted is None:
            return f"{delegate.name} has no option {key!r} (it has {', '.join(sorted(known))})"
        fits = value in wanted if isinstance(wanted, tuple) else _is_a(value, wanted)
        if not fits or (key in _COMMON and not 0 < value < 1e9):
            return f"{key} cannot be {value!r}, {_says(wanted)}"
    options = delegate.options
    if delegate.name == "external" and not options.get("path"):
        return "external needs path=LIBRARY"
    texts = options.get("options", {})
    if not all(isinstance(value, str) for value in texts.values()):
        return "the options of an external delegate are texts"
    if not _DEVICE.fullmatch(options.get("device", "")):
        return f"device cannot be {options['device']!r}: usb:0, pci:0, :0, usb, pci"
    if "file" in options and not is_safe_name(options["file"]):
        return f"file {options['file']!r} cannot be in a bundle"
    return ""


def _is_a(value: Any, wanted: type) -> bool:
    if wanted is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return type(value) is wanted


def _says(wanted: Any) -> str:
    if isinstance(wanted, tuple):
        return f"it is one of {', '.join(wanted)}"
    words = {bool: "true or false", int: "a whole number above 0", float: "a number above 0", str: "a text"}
    return f"it is {words.get(wanted, 'something else')}"


def delegate_text(delegate: Delegate) -> str:
    """As `parse_delegate` reads it."""
    flat = {k: v for k, v in delegate.options.items() if k != "options"} | dict(delegate.options.get("options", {}))
    words = (f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in flat.items())
    return ":".join(filter(None, (delegate.name, ",".join(words))))


def ladder(delegates: Sequence[Delegate]) -> tuple[Delegate, ...]:
    """What is tried, in order. A gpu whose precision is not said is three rungs: f16, f32, f32 with the rest on the CPU.

    A CPU at the end is not added: a list without one means that nothing else may serve. BundleError for one that no
    runner can read.
    """
    rungs: list[Delegate] = []
    for delegate in delegates:
        why = misfit(delegate)
        if why:
            raise BundleError(f"delegate {delegate.name}: {why}", hint=AGAIN)
        options = dict(delegate.options)
        if delegate.name == "gpu" and "precision" not in options and not options.get("partial"):
            rungs += [Delegate("gpu", {**options, "precision": precision}) for precision in PRECISIONS]
            rungs.append(Delegate("gpu", {**options, "precision": "f32", "partial": True}))
        else:
            rungs.append(delegate)
    return tuple(rungs) or (Delegate("cpu", {}),)


def library_options(delegate: Delegate) -> tuple[str, dict[str, str]]:
    """The library of an external delegate and the options that it gets.

    libedgetpu drops every option unless `device` has an index, without a word: so it always gets one.
    """
    if delegate.name == "external":
        return delegate.options["path"], dict(delegate.options.get("options", {}))
    device = delegate.options.get("device", "")
    options = {"device": device if ":" in device else f"{device}:0"}
    if "performance" in delegate.options:
        options["Performance"] = delegate.options["performance"]
    return delegate.options.get("library", EDGETPU_LIBRARY), options
