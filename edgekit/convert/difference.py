"""What differs between two models or two bundles: weights, ranges, operators, figures, preprocessing."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekit.bundle import Manifest, sha256_file
from edgekit.convert.constants import read_constants, real_values
from edgekit.convert.describe import operator_counts
from edgekit.convert.flatbuffer import Model as File
from edgekit.convert.flatbuffer import TensorInfo, read_model
from edgekit.convert.opened import Named


@dataclass(frozen=True)
class WeightChange:
    """A constant that is not the same. Sizes are None on the side that does not have it."""

    tensor: str
    bytes_a: int | None
    bytes_b: int | None
    changed_bytes: int  # of those at the same place; all of them where the sizes differ
    difference: (
        float | None
    )  # RMS of the values' difference by the RMS of a's values; None: not of one shape, or no numbers


@dataclass(frozen=True)
class RangeChange:
    """A tensor whose scale, zero point or dtype changed. Per channel: the first channel, and how many changed."""

    tensor: str
    dtype_a: str
    dtype_b: str
    scale_a: float | None
    scale_b: float | None
    zero_point_a: int | None
    zero_point_b: int | None
    channels: int  # that changed


@dataclass(frozen=True)
class Change:
    """Something that is `a` on one side and `b` on the other; None: not there."""

    what: str
    a: Any
    b: Any


@dataclass(frozen=True)
class ModelDifference:
    """Two .tflite files. `same_bytes`: equal to the byte; else the lists say where not, as far as names go."""

    name: str  # of the variant, or of the files
    same_bytes: bool
    tensors: int  # constants that both have
    weights: tuple[WeightChange, ...] = ()
    ranges: tuple[RangeChange, ...] = ()
    shapes: tuple[Change, ...] = ()  # of tensors that both have
    operators: tuple[Change, ...] = ()  # kinds: how many, and in which version
    order: tuple[Change, ...] = ()  # runs of operators that one side has where the other has others
    tensors_only: tuple[Change, ...] = ()  # computed tensors that one side has


@dataclass(frozen=True)
class Difference:
    """All that differs; empty lists and `same_bytes` everywhere: nothing."""

    models: tuple[ModelDifference, ...]
    variants: tuple[Change, ...] = ()  # that one side has
    metrics: tuple[Change, ...] = ()
    preprocess: tuple[Change, ...] = ()
    others: tuple[Change, ...] = ()  # name, target, labels, golden vectors, where it came from, ...

    @property
    def is_empty(self) -> bool:
        """Whether there is no difference at all."""
        lists = (self.variants, self.metrics, self.preprocess, self.others)
        return all(model.same_bytes for model in self.models) and not any(lists)


def diff_named(a: Named, b: Named) -> Difference:
    """Two .tflite files, two bundles (every variant), or one of each (the variant that was named, or the first)."""
    if a.bundle is None or b.bundle is None:
        return Difference((diff_files(a, b, f"{a.path.name} and {b.path.name}"),))
    left, right = a.bundle.manifest, b.bundle.manifest
    names = [v.name for v in left.variants]
    both = [name for name in names if name in {v.name for v in right.variants}]
    if not both:
        return dataclasses.replace(_manifests(left, right), models=(diff_files(a, b, f"{a.variant} and {b.variant}"),))
    models = tuple(diff_files(_variant(a, name), _variant(b, name), name) for name in both)
    return dataclasses.replace(_manifests(left, right), models=models)


def _variant(named: Named, name: str) -> Named:
    assert named.bundle is not None
    return Named(named.bundle.file(named.bundle.manifest.variant(name).file), named.bundle, name)


def diff_files(a: Named, b: Named, name: str) -> ModelDifference:
    """Two .tflite files, their tensors matched by name."""
    files = read_model(a.path), read_model(b.path)
    constants = read_constants(a.path), read_constants(b.path)
    left, right = (_by_name(file) for file in files)
    shared = [key for key in left if key in right]
    same = sha256_file(a.path) == sha256_file(b.path)
    kept = sum(left[key].constant and right[key].constant for key in shared)
    if same:
        return ModelDifference(name, True, kept)
    counts = [operator_counts(file) for file in files]
    operators = tuple(
        Change(op, *(f"{c[op][0]} (version {c[op][1]})" if op in c else None for c in counts))
        for op in sorted({*counts[0], *counts[1]})
        if counts[0].get(op) != counts[1].get(op)
    )
    lonely = [Change(key, t.dtype, None) for key, t in left.items() if key not in right and not t.constant]
    lonely += [Change(key, None, t.dtype) for key, t in right.items() if key not in left and not t.constant]
    return ModelDifference(
        name,
        same_bytes=False,
        tensors=kept,
        weights=tuple(_weights(left, right, constants)),
        ranges=tuple(change for key in shared if (change := _range(key, left[key], right[key])) is not None),
        shapes=tuple(
            Change(key, list(left[key].shape), list(right[key].shape))
            for key in shared
            if left[key].shape != right[key].shape
        ),
        operators=operators,
        order=tuple(_order(*files)),
        tensors_only=tuple(lonely),
    )


def _by_name(file: File) -> dict[str, TensorInfo]:
    """The tensors of the primary subgraph; a name that comes again gets its number."""
    found: dict[str, TensorInfo] = {}
    for tensor in file.subgraphs[0].tensors:
        name = tensor.name if tensor.name not in found else f"{tensor.name} #{tensor.index}"
        found[name] = tensor
    return found


def _weights(
    left: Mapping[str, TensorInfo],
    right: Mapping[str, TensorInfo],
    constants: tuple[dict[int, bytes], dict[int, bytes]],
) -> list[WeightChange]:
    changes = []
    for key in dict.fromkeys([*left, *right]):
        contents = [
            found[side[key].index] if key in side and side[key].index in found else None
            for side, found in zip((left, right), constants, strict=True)
        ]
        old, new = contents
        if old == new:
            continue
        sizes = [None if content is None else len(content) for content in contents]
        if old is not None and new is not None and len(old) == len(new):
            changed = int((np.frombuffer(old, np.uint8) != np.frombuffer(new, np.uint8)).sum())
        else:
            changed = max(size or 0 for size in sizes)
        real = [
            None if content is None else real_values(side[key], content)
            for side, content in zip((left, right), contents, strict=True)
        ]
        changes.append(WeightChange(key, sizes[0], sizes[1], changed, _difference(*real)))
    return changes


def _difference(a: np.ndarray | None, b: np.ndarray | None) -> float | None:
    """How far b's values are from a's, as a share of a's."""
    if a is None or b is None or a.shape != b.shape:
        return None
    signal, noise = float(np.square(a).sum()), float(np.square(a - b).sum())
    return float(f"{np.sqrt(noise / signal):.4g}") if signal and np.isfinite(noise / signal) else None


def _order(a: File, b: File) -> list[Change]:
    """Where the operators, as they run, are not the same ones: by kind and what they write."""
    sides = [
        [(op.name, [f.subgraphs[0].tensors[i].shape for i in op.outputs]) for op in f.subgraphs[0].operators]
        for f in (a, b)
    ]
    keys = [[f"{name} {shapes}" for name, shapes in side] for side in sides]
    changes = []
    for kind, i, j, k, m in difflib.SequenceMatcher(None, keys[0], keys[1], autojunk=False).get_opcodes():
        if kind != "equal":
            runs = [" ".join(name for name, _ in side) or None for side in (sides[0][i:j], sides[1][k:m])]
            changes.append(Change(f"from operator {i} of a, {k} of b", *runs))
    return changes


def _range(name: str, a: TensorInfo, b: TensorInfo) -> RangeChange | None:
    pairs = [(t.dtype, t.scale, t.zero_point) for t in (a, b)]
    if pairs[0] == pairs[1]:
        return None
    if len(a.scale) == len(b.scale):
        channels = sum(x != y for x, y in zip(zip(a.scale, a.zero_point), zip(b.scale, b.zero_point)))  # noqa: B905
    else:
        channels = max(len(a.scale), len(b.scale))
    scales = [t.scale[0] if t.scale else None for t in (a, b)]
    zeros = [t.zero_point[0] if t.zero_point else None for t in (a, b)]
    return RangeChange(name, a.dtype, b.dtype, scales[0], scales[1], zeros[0], zeros[1], channels)


def _manifests(a: Manifest, b: Manifest) -> Difference:
    sides = a, b
    variants = [{v.name: v.quantization for v in m.variants} for m in sides]
    metrics: list[dict[str, Any]] = []
    for m in sides:
        judged = [(f"{v.name}: {q.metric}", q) for v in m.variants for q in v.qualities]
        found: dict[str, Any] = {name: quality.value for name, quality in judged}
        found |= {f"{name}, float": q.float_value for name, q in judged if q.float_value is not None}
        metrics.append(found | {f"{name}, inputs": quality.count for name, quality in judged})
    specs = [{f"{n}.{k}": v for n, spec in m.preprocess.items() for k, v in spec.items()} for m in sides]
    shared = {v.name for v in a.variants} & {v.name for v in b.variants}
    others: list[dict[str, Any]] = []
    for m in sides:
        plain: dict[str, Any] = {"name": m.name, "target": m.target, "arch": m.arch, "command": " ".join(m.command)}
        plain |= {f"made by {tool}": version for tool, version in m.made_by.items()}
        plain |= {f"made from {file}": digest[:16] for file, digest in m.made_from.items()}
        plain |= {f"git commit of {file}": commit for file, commit in m.commits.items()}
        models = {v.file for v in m.variants}
        plain |= {name: file.sha256[:16] for name, file in m.files.items() if name not in models}
        for v in (v for v in m.variants if v.name in shared):
            plain[f"{v.name}: ranges by"] = v.ranges
            plain[f"{v.name}: bytes"] = m.files[v.file].size if v.file in m.files else None
            for side, tensors in (("input", v.inputs), ("output", v.outputs)):
                plain |= {f"{v.name}: {side} {t.name}": f"{t.dtype} {list(t.shape)}" for t in tensors}
            plain[f"{v.name}: golden tolerance"] = v.golden_tolerance
            plain[f"{v.name}: delegates"] = [dataclasses.asdict(d) for d in v.delegates]
        others.append(plain)
    return Difference((), _changes(variants), _changes(metrics), _changes(specs), _changes(others))


def _changes(pair: list[Any]) -> tuple[Change, ...]:
    a, b = pair
    return tuple(Change(key, a.get(key), b.get(key)) for key in dict.fromkeys([*a, *b]) if a.get(key) != b.get(key))
