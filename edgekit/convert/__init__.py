"""On a workstation: a float model becomes int8 variants in a bundle, each measured beside the float model.

The package can be called: `edgekit.convert("model.keras", "bundle", samples="samples.npz")` is edgekit.convert.api.convert.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgekit.convert.pipeline import ConversionResult
    from edgekit.convert.samples import Samples

__all__ = ["ConversionResult", "convert"]


def convert(
    model: Any,
    output: Path | str,
    samples: Path | str | Samples,
    *,
    progress: Callable[..., None] | None = None,
    **options: Any,
) -> ConversionResult:
    """`pipeline.convert` of a Request with these options, in a process of its own: what crashes there does not crash here.

    `model` is a path, or a Keras model, tf.function, concrete function or tf.Module of the calling process.
    """
    from edgekit.convert.apart import run_apart
    from edgekit.convert.live_model import on_disk
    from edgekit.convert.request import Request

    with on_disk(model) as path:
        given = Path(samples) if isinstance(samples, str) else samples
        result: ConversionResult = run_apart(
            *("edgekit.convert.pipeline", "convert", Request(path, Path(output), given, **options)),
            doing=f"converting {path.name}",
            progress=progress,
        )
    return result


def __getattr__(name: str) -> Any:
    # not imported above: `edgekit inspect` reads a file's structure without numpy and an interpreter
    if name == "ConversionResult":
        from edgekit.convert import pipeline

        return pipeline.ConversionResult
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
