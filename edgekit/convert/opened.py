"""A model that a person names for comparing: a .tflite, a bundle, or BUNDLE:VARIANT."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgekit import preprocess
from edgekit.bundle import Bundle, read_bundle, verify_bundle
from edgekit.errors import InputError, PreprocessError
from edgekit.runner.interpreter import open_interpreter
from edgekit.runner.model import Model, describe_variant, load


@dataclass(frozen=True)
class Named:
    """The .tflite that was meant, and the bundle it is in (None: a bare file)."""

    path: Path
    bundle: Bundle | None
    variant: str | None

    @property
    def labels(self) -> tuple[str, ...]:
        """The bundle's class names."""
        if self.bundle is None or self.bundle.manifest.labels is None:
            return ()
        return tuple(self.bundle.file(self.bundle.manifest.labels).read_text("utf-8").splitlines())


def find_model(given: str, *, prefer: str | None = None) -> Named:
    """What `given` names; of a bundle without a variant the one called `prefer`, else the first.

    Raises InputError for what is not there or (with `prefer`) not in the bundle, BundleError for a damaged bundle.
    """
    path, variant = Path(given), None
    if not path.exists() and ":" in given:
        before, _, variant = given.rpartition(":")
        path = Path(before)
    if not path.exists():
        raise InputError(f"{given} does not exist", hint="give a .tflite, a bundle, or BUNDLE:VARIANT")
    if not path.is_dir():
        if variant is not None:
            raise InputError(f"{path} is no bundle, it has no variants", hint=f"leave out :{variant}")
        return Named(path, None, None)
    bundle = read_bundle(path)
    verify_bundle(bundle)
    names = [v.name for v in bundle.manifest.variants]
    wanted = variant or prefer or names[0]
    if wanted not in names:
        raise InputError(
            f"{path} has no variant {wanted}, only {', '.join(names)}",
            hint="convert again with --mode int8 --mode float32" if wanted == "float32" else "name one: BUNDLE:VARIANT",
        )
    return Named(bundle.file(bundle.manifest.variant(wanted).file), bundle, wanted)


def open_model(named: Named, specs: Mapping[str, preprocess.Spec]) -> Model:
    """It in the runner. `specs` by input name, or one under "" for all, are for a bare file: a bundle has its own."""
    if named.bundle is not None:
        return load(named.bundle.path, variant=named.variant, threads=1)
    interpreter = open_interpreter(named.path, 1)
    variant = describe_variant(interpreter, named.path.name, quantization="unknown")
    inputs = [tensor.name for tensor in variant.inputs]
    if unknown := sorted(set(specs) - {"", *inputs}):
        raise PreprocessError(
            f"the preprocessing is for {', '.join(unknown)}", hint=f"the inputs of {named.path} are {', '.join(inputs)}"
        )
    return Model(variant, [interpreter], {n: specs.get(n, specs.get("", preprocess.Generic())) for n in inputs})


def shared_specs(pair: tuple[Named, Named], given: Mapping[str, preprocess.Spec]) -> Mapping[str, preprocess.Spec]:
    """The preprocessing for a bare file beside a bundle: what a person gave, else the bundle's, by position."""
    if given:
        return given
    for named in pair:
        if named.bundle is not None:
            specs = [preprocess.parse_spec(fields) for fields in named.bundle.manifest.preprocess.values()]
            if len(specs) == 1:
                return {"": specs[0]}
            return dict(zip(named.bundle.manifest.preprocess, specs, strict=True))
    return {}
