"""On a workstation: a float model becomes int8 variants in a bundle, each measured beside the float model.

The package can be called: `edgekit.convert("model.keras", "bundle", samples="samples.npz")` is edgekit.convert.api.convert.
"""

from __future__ import annotations

import sys
from types import ModuleType
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


class _CallablePackage(ModuleType):
    def __call__(self, *args: Any, **options: Any) -> ConversionResult:
        from edgekit.convert import api

        return api.convert(*args, **options)

    @property
    def __signature__(self) -> Any:  # what help() and editors show
        from inspect import signature

        from edgekit.convert import api

        return signature(api.convert)


sys.modules[__name__].__class__ = _CallablePackage
