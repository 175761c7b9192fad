"""Damaged models whose hashes are right: the golden check, a process of its own, is all that they ever end."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert")

from devices import world
from handmade_model import T, build, make_bundle
from mutants import check_mutants, mutant_bundle, mutants, several_bundle

from edgekit.bundle import Bundle
from edgekit.deploy.address import Local
from edgekit.deploy.install import deploy, status
from edgekit.errors import BundleError, EdgekitError, ReleaseUnhealthy


def check(bundle: Bundle, count: int, folder: Path) -> Counter[str]:
    endings = check_mutants(bundle, count, folder)
    wrong = [ending for ending in endings if not ending.how.startswith(("passed", "refused", "killed", "stopped"))]

    assert wrong == []
    return Counter(ending.how.split(":")[0].split(" by ")[0] for ending in endings)


def test_a_tensors_name_that_is_no_text_is_a_damaged_model(tmp_path: Path) -> None:
    from edgekit.runner import load

    x, y = T("good name", (1, 4), "int8", 0.5), T("out", (1, 4), "int8", 0.5)
    model = build([("RESHAPE", [x], [y])], inputs=[x], outputs=[y])
    good = make_bundle(tmp_path / "good", model, raw=np.ones((2, 4), np.float32))
    bad = mutant_bundle(good, model.replace(b"good name", b"\xf8\xff names!"), tmp_path / "bad")

    with pytest.raises(BundleError) as caught:
        load(bad.folder)
    assert "cannot load" in str(caught.value)


def test_a_name_inside_that_is_no_text_costs_the_model_nothing(tmp_path: Path) -> None:
    from edgekit.runner.check import check_release

    x, mid, y = T("in", (1, 4), "int8", 0.5), T("good name", (4,), "int8", 0.5), T("out", (1, 4), "int8", 0.5)
    model = build([("RESHAPE", [x], [mid]), ("RESHAPE", [mid], [y])], inputs=[x], outputs=[y])
    good = make_bundle(tmp_path / "good", model, raw=np.ones((2, 4), np.float32))
    odd = mutant_bundle(good, model.replace(b"good name", b"\xf8\xff names!"), tmp_path / "odd")

    assert len(check_release(odd.folder)) == 1


def test_a_few_damaged_models_are_refused_in_words(tmp_path: Path, tiny_bundle: Bundle) -> None:
    assert check(tiny_bundle, 24, tmp_path)["refused"] > 12


@pytest.mark.slow
def test_damaged_models_of_many_operators_are_refused_in_words(tmp_path: Path) -> None:
    assert check(several_bundle(tmp_path / "several"), 150, tmp_path)["refused"] > 75


@pytest.mark.slow
@pytest.mark.long
def test_a_thousand_damaged_models_end_nothing_but_their_check(tmp_path: Path, tiny_bundle: Bundle) -> None:
    for bundle in (tiny_bundle, several_bundle(tmp_path / "several")):
        check(bundle, 500, tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("small_runtime")
def test_a_model_that_kills_its_check_is_a_finding_and_what_runs_goes_on(device: Local, tmp_path: Path) -> None:
    """Deployed for real: the agent lives, says what happened, and the release before stays in use."""
    good = several_bundle(tmp_path / "good")
    deploy(good, device)
    model = good.file(good.manifest.variants[0].file).read_bytes()
    refusals = []
    for number, (_, mutant) in enumerate(mutants(model, 4, seed=8)):
        before = os.readlink(device.root / "current")
        error = attempt(mutant_bundle(good, mutant, tmp_path / f"mutant{number}"), device)
        if error is not None:
            refusals.append(error)
            assert os.readlink(device.root / "current") == before

    assert len(refusals) >= 2
    assert all(error.hint for error in refusals)
    assert status(device, verify=True)["damaged"] == []


def attempt(bundle: Bundle, device: Local) -> ReleaseUnhealthy | None:
    try:
        deploy(bundle, device)
    except ReleaseUnhealthy as error:
        return error
    return None


@pytest.mark.usefixtures("small_runtime")
def test_a_runner_that_dies_of_a_signal_is_a_finding(device: Local, tmp_path: Path) -> None:
    from devices import Here, install, refused, release

    here = Here(device.root)
    install(here, release("good"))
    before = world(device.root)
    for number, name in ((11, "SEGV"), (6, "ABRT"), (9, "KILL")):
        with refused(ReleaseUnhealthy, 5) as caught:
            install(here, release(name, run=f"#!/bin/sh\nkill -{name} $$\n".encode()))
        assert f"signal {number}" in str(caught.value)

    assert world(device.root) == before
    assert isinstance(caught.value, EdgekitError)


def test_a_model_that_wants_all_memory_is_the_first_to_go(device: Local) -> None:
    from devices import Here, install, release

    run = b"""#!/bin/sh
sleep 0.3
echo '{"variants": [], "score": '$(cat /proc/self/oom_score_adj)'}'
"""
    one = release("greedy", run=run)
    here = Here(device.root)
    install(here, one)

    assert here.request("release", id=one.id, text=one.text)["check"]["score"] == 1000


@pytest.mark.parametrize(
    "header",
    [
        b"{'descr': '<i1', 'fortran_order': False, 'shape': (2, -5)}",
        b"{'descr': '<i1', 'fortran_order': False, 'shape': (2, 1 << 40)}",
        b"{'descr': '<i1', 'fortran_order': False, 'shape': (2, 1099511627776)}",
        b"{'descr': '<i1', 'fortran_order': False, 'shape': (2, '5')}",
        b"[" * 5000,
        b" " * 60_000,
        b"__import__('os').system('true')",
    ],
)
def test_a_golden_vector_that_lies_about_its_size_takes_no_memory(tmp_path: Path, header: bytes) -> None:
    """64 MiB of zeros behind it, packed: the guard and the agent, which are not limited, must not unpack them."""
    import struct
    import tracemalloc
    import zipfile

    from edgekit.deploy.vectors import first_vector

    bundle = several_bundle(tmp_path / "bundle")
    name = bundle.manifest.variants[0].inputs[0].name
    with zipfile.ZipFile(tmp_path / "bundle" / "golden.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        start = b"\x93NUMPY\x02\x00" + struct.pack("<I", len(header)) + header
        archive.writestr(f"input/{name}.npy", start + bytes(64 << 20))
    tracemalloc.start()
    with pytest.raises((ValueError, TypeError, SyntaxError, MemoryError, RecursionError)):
        first_vector(str(tmp_path / "bundle"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 4 << 20
