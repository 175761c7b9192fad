"""A family of variants for one goal: several bundles of the same task become one, each variant as it was proved.

Networks of several widths, or of several architectures, are converted each for itself: each has its own ranges, repairs and gate.
What they must share is what a bundle has once: inputs, preprocessing, labels and golden inputs, so the samples too.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgekit.bundle import Bundle, Manifest, Variant, read_bundle, verify_bundle, write_bundle
from edgekit.errors import InputError
from edgekit.manifest import Tensor
from edgekit.runner.check import check_release, read_golden
from edgekit.runner.power.goal import parse_goal


def join(folders: Sequence[Path], output: Path, *, goal: str | None = None) -> Bundle:
    """The bundle with every variant of each: the first one's under their names, the others' as NAME-VARIANT.

    Each bundle must give its own golden answers here first. Raises InputError where they are not of one task, GoldenMismatch
    where one answers otherwise. `goal`: for the new bundle; None keeps the first one's.
    """
    if goal is not None:
        parse_goal(goal)
    bundles = [read_bundle(folder) for folder in folders]
    if len(bundles) < 2:
        raise InputError("a family is made of two bundles or more", hint="edgekit join SMALL LARGE -o FAMILY")
    first = bundles[0]
    arrays = {name: array for name, array in read_golden(first).items() if name.startswith("input/")}
    contents: dict[str, bytes] = {}
    variants: list[Variant] = []
    for bundle in bundles:
        verify_bundle(bundle)
        _check_task(first, bundle)
        check_release(bundle.path, delegates=["cpu"])
        golden = read_golden(bundle)
        for variant in bundle.manifest.variants:
            name = variant.name if bundle is first else f"{bundle.manifest.name}-{variant.name}"
            if any(other.name == name for other in variants):
                raise InputError(f"two variants would be called {name}", hint="convert one with another --name")
            shown = _as_in(first.manifest.variants[0], variant)
            for tensor, own in zip(shown.outputs, variant.outputs, strict=True):
                arrays[f"output/{name}/{tensor.name}"] = golden[f"output/{variant.name}/{own.name}"]
            moved = {file: _moved(file, variant.name, name) for file in _files_of(bundle, variant)}
            contents |= {new: bundle.file(old).read_bytes() for old, new in moved.items()}
            delegates = []
            for one in variant.delegates:
                place = {"file": moved[one.options["file"]]} if "file" in one.options else {}
                delegates.append(replace(one, options={**one.options, **place}))
            variants.append(replace(shown, name=name, file=moved[variant.file], delegates=tuple(delegates)))
    packed = io.BytesIO()
    np.savez_compressed(packed, **arrays)
    contents[first.manifest.golden] = packed.getvalue()
    if first.manifest.labels is not None:
        contents[first.manifest.labels] = first.file(first.manifest.labels).read_bytes()
    return write_bundle(output, _manifest(bundles, tuple(variants), goal), contents)


def _check_task(first: Bundle, other: Bundle) -> None:
    """InputError unless one could stand for the other, by all that a bundle has once."""
    a, b = _task(first), _task(other)
    for what in a:
        if a[what] != b[what]:
            raise InputError(
                f"{first.folder} and {other.folder} have different {what}",
                hint="a family answers the same question about the same samples: convert each with the same options",
            )


def _task(bundle: Bundle) -> dict[str, object]:
    """What bundles of one task have in common. A tensor that is alone may have another name in each."""
    manifest, golden = bundle.manifest, read_golden(bundle)
    variant = manifest.variants[0]
    alone = variant.inputs[0].name if len(variant.inputs) == 1 else None

    def name(tensor: Tensor, tensors: Sequence[Tensor]) -> str:
        return "" if len(tensors) == 1 else tensor.name

    samples = {n.removeprefix("input/"): v for n, v in golden.items() if n.startswith("input/")}
    return {
        "inputs": sorted((name(tensor, variant.inputs), tensor.shape) for tensor in variant.inputs),
        "outputs": sorted((name(tensor, variant.outputs), tensor.shape) for tensor in variant.outputs),
        "preprocessing": {"" if key == alone else key: digest for key, digest in manifest.preprocess_sha256.items()},
        "labels": None if manifest.labels is None else bundle.file(manifest.labels).read_bytes(),
        "targets": (manifest.target, manifest.arch),
        "samples": {"" if key == alone else key: (v.dtype.str, v.shape, v.tobytes()) for key, v in samples.items()},
    }


def _as_in(first: Variant, other: Variant) -> Variant:
    """The other variant, its tensors called as the first one's: clients ask by these names."""

    def called(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return (replace(theirs[0], name=ours[0].name),) if len(ours) == 1 else tuple(theirs)

    return replace(other, inputs=called(first.inputs, other.inputs), outputs=called(first.outputs, other.outputs))


def _files_of(bundle: Bundle, variant: Variant) -> list[str]:
    """What belongs to the variant: its model, the one compiled for a unit, its recipe."""
    own = [variant.file, *(one.options["file"] for one in variant.delegates if "file" in one.options)]
    return list(dict.fromkeys(own)) + [f for f in bundle.manifest.files if f == f"{variant.name}.recipe.toml"]


def _moved(file: str, before: str, name: str) -> str:
    folder, slash, last = file.rpartition("/")
    return f"{folder}{slash}{name}{last.removeprefix(before)}" if name != before else file


def _manifest(bundles: Sequence[Bundle], variants: tuple[Variant, ...], goal: str | None) -> Manifest:
    first = bundles[0].manifest
    named = [bundle.manifest for bundle in bundles]
    return replace(
        first,
        variants=variants,
        files={},
        made_by={tool: version for m in reversed(named) for tool, version in m.made_by.items()},
        made_from={f"{m.name}/{name}": digest for m in named for name, digest in m.made_from.items()},
        commits={f"{m.name}/{name}": commit for m in named for name, commit in m.commits.items()},
        command=("edgekit", "join", *(m.name for m in named)),
        goal=first.goal if goal is None else goal,
    )
