"""Proves a release on the machine it runs on: its golden inputs must give the golden outputs, within the tolerance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.errors import BundleError, GoldenMismatch, InputError
from edgekit.runner.inputs import read_arrays
from edgekit.runner.model import Model, load

if TYPE_CHECKING:
    from pathlib import Path

    from edgekit.bundle import Bundle
    from edgekit.runner.placement import Placement


@dataclass(frozen=True)
class Agreement:
    """How the answers of this machine compare with the golden ones, for one variant."""

    variant: str
    count: int  # golden inputs
    bit_equal: int  # of them, how many answers were the same to the bit
    same_class: int  # of them, how many answers had their largest value at the same place
    largest_difference: float  # in the output's own units (int8: steps)
    tolerance: float  # what the bundle allows, same units

    @property
    def ok(self) -> bool:
        """True if no output is further from the golden one than the bundle allows."""
        return self.largest_difference <= self.tolerance


def check_release(
    path: Path | str,
    *,
    variant: str | None = None,
    threads: int | None = None,
    delegates: Sequence[str] = (),
    require: str | None = None,
) -> list[tuple[Agreement, Placement]]:
    """How each variant of the release (or bundle) in `path` (or one) agrees on the unit that serves it, and which that is.

    Delegates are tried anew, whatever earlier trials found. Raises GoldenMismatch if one is outside its tolerance, BundleError
    if the release cannot be read, DelegateUnavailable if nothing that is allowed can run a variant.
    """
    from edgekit.bundle import read_bundle

    bundle = read_bundle(path)
    golden = read_golden(bundle)
    names = [variant] if variant is not None else [each.name for each in bundle.manifest.variants]
    found = []
    for name in names:
        model = load(path, variant=name, threads=threads, delegates=delegates, require=require, anew=True)
        found.append((check_model(model, golden), model.placement))
    return found


def check_model(model: Model, golden: Mapping[str, Any], tolerance: float | None = None) -> Agreement:
    """How a model agrees; GoldenMismatch if an answer is further away than its tolerance, or its delegate's own."""
    agreement = compare_golden(model, golden, tolerance)
    if not agreement.ok:
        raise GoldenMismatch(
            f"variant {agreement.variant}: an answer is {agreement.largest_difference:g} away from the golden one, "
            f"{agreement.tolerance:g} is allowed",
            hint="this machine computes something else than the workstation did: do not use this release here",
        )
    return agreement


def read_golden(bundle: Bundle) -> Mapping[str, Any]:
    """The arrays of golden.npz: `input/<name>` (n, ...) raw samples, `output/<variant>/<name>` (n, ...) answers."""
    from edgekit.bundle import verify_file

    path = verify_file(bundle, bundle.manifest.golden)
    try:
        arrays = read_arrays(path)
    except InputError as error:
        raise BundleError(str(error), hint="make the bundle again") from error
    manifest = bundle.manifest
    wanted = {f"input/{tensor.name}" for tensor in manifest.variant().inputs}
    wanted |= {f"output/{variant.name}/{tensor.name}" for variant in manifest.variants for tensor in variant.outputs}
    counts = {len(array) if array.ndim else 0 for array in arrays.values()}
    if not wanted <= arrays.keys() or len(counts) != 1 or 0 in counts:
        raise BundleError(f"{path} does not hold the golden vectors of the manifest", hint="make the bundle again")
    return arrays


def golden_inputs(model: Model, golden: Mapping[str, Any]) -> list[Any]:
    """The golden inputs as things to call the model with, one by one."""
    names = [tensor.name for tensor in model.inputs]
    count = len(golden[f"input/{names[0]}"])
    if len(names) == 1:
        return list(golden[f"input/{names[0]}"])
    return [{name: golden[f"input/{name}"][i] for name in names} for i in range(count)]


def compare_golden(model: Model, golden: Mapping[str, Any], tolerance: float | None = None) -> Agreement:
    """How a model's answers to golden inputs compare with the golden answers; None: its delegate's tolerance, or its own."""
    variant = model.variant.name
    if tolerance is None:
        from edgekit.delegates import parse_delegate

        options = parse_delegate(model.placement.delegate).options if model.is_delegated else {}
        tolerance = float(options.get("tolerance", model.variant.golden_tolerance))
    inputs = golden_inputs(model, golden)
    bit_equal = same_class = 0
    largest = 0.0
    for i, sample in enumerate(inputs):
        answer = model(sample, raw_out=True)
        answers = answer if isinstance(answer, dict) else {model.outputs[0].name: answer}
        wanted = {name: golden[f"output/{variant}/{name}"][i] for name in answers}
        bit_equal += all(np.array_equal(answers[name], wanted[name]) for name in answers)
        same_class += all(np.argmax(answers[name]) == np.argmax(wanted[name]) for name in answers)
        for name, got in answers.items():
            if got.shape != wanted[name].shape:
                raise BundleError(
                    f"a golden output of {variant} has another shape than the answer", hint="make the bundle again"
                )
            difference = np.abs(got.astype(np.float64) - wanted[name].astype(np.float64))
            # a NaN on either side must not pass as "no difference"
            largest = max(largest, float(np.where(np.isnan(difference), np.inf, difference).max(initial=0.0)))
    return Agreement(variant, len(inputs), bit_equal, same_class, largest, tolerance)
