"""edgekit puts neural networks on small computers and keeps them running there.

On a workstation `edgekit.convert(...)` is the command of that name; on a board there is only `edgekit.runner`.
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # not imported above: this file goes to boards, which have no convert, and must cost nothing there
    if name in ("convert", "ConversionResult"):
        from importlib import import_module

        try:
            package = import_module("edgekit.convert")
        except ModuleNotFoundError:
            raise AttributeError("this is a board's part of edgekit: there is no convert in it") from None
        return package if name == "convert" else package.ConversionResult
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
