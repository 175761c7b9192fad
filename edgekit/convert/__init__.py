"""On a workstation: a float model becomes int8 variants in a bundle, each measured beside the float model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgekit.convert.pipeline import ConversionResult, convert

__all__ = ["ConversionResult", "convert"]


def __getattr__(name: str) -> Any:
    # not imported above: `edgekit inspect` reads a file's structure without numpy and an interpreter
    if name in __all__:
        from edgekit.convert import pipeline

        return getattr(pipeline, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
