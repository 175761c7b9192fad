"""Puts compiled files into a bundle: an int8 variant gets its Edge TPU file, and an edgetpu delegate in front of the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgekit.bundle import Bundle, Delegate, Variant, verify_bundle, write_bundle
from edgekit.edgetpu.compile import Compilation
from edgekit.errors import InputError


def compilable(bundle: Bundle, names: tuple[str, ...] = ()) -> list[Variant]:
    """The variants that are full int8, or those that are named. InputError when there is none."""
    chosen = [bundle.manifest.variant(name) for name in names] or list(bundle.manifest.variants)
    found = [variant for variant in chosen if variant.quantization == "int8"]
    if not found or (names and len(found) < len(chosen)):
        listed = ", ".join(f"{variant.name} ({variant.quantization})" for variant in chosen)
        raise InputError(f"an Edge TPU runs full int8, and here is {listed}", hint="convert with --mode int8")
    return found


def compiled_name(variant: Variant) -> str:
    """`models/int8_edgetpu.tflite`."""
    return f"{variant.file.removesuffix('.tflite')}_edgetpu.tflite"


def with_compiled(
    bundle: Bundle, compilations: Mapping[str, Compilation], options: Mapping[str, Any], output: Path
) -> Bundle:
    """The bundle with these files (by variant), written to `output`. What else is in it stays as it is.

    `options` are the delegate's: device, performance, library.
    """
    verify_bundle(bundle)
    contents = {name: bundle.file(name).read_bytes() for name in bundle.manifest.files}
    variants = []
    for variant in bundle.manifest.variants:
        compilation = compilations.get(variant.name)
        if compilation is None:
            variants.append(variant)
            continue
        name = compiled_name(variant)
        contents[name] = compilation.content
        others = tuple(each for each in variant.delegates if each.name != "edgetpu")
        variants.append(replace(variant, delegates=(Delegate("edgetpu", {**options, "file": name}), *others)))
    return write_bundle(output, replace(bundle.manifest, variants=tuple(variants)), contents)
