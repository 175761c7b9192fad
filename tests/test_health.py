"""Whether a release on trial is well: its real server is asked over its socket, as the agent on a device asks it."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.bundle import Bundle
from edgekit.deploy import health, vectors
from edgekit.deploy.address import Local
from edgekit.deploy.disk import Refused
from edgekit.deploy.health import check_in_use
from edgekit.deploy.install import deploy


class Served:
    """A service that is one process of ours, in the form that health.py asks."""

    kind = "process"

    def __init__(self, device: Local) -> None:
        self.socket = str(device.root / "run" / "edgekit.sock")
        self.start(device)

    def start(self, device: Local) -> None:
        self.process = subprocess.Popen([device.root / "current" / "run", "serve"], stderr=subprocess.DEVNULL)

    def state(self) -> dict[str, Any]:
        active = self.process.poll() is None
        return {
            "active": active,
            "pid": self.process.pid,
            "restarts": 0,
            "result": "success" if active else "exit-code",
        }

    def logs(self, lines: int) -> list[str]:
        return ["what it said last"]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Bundle, small_cache: Path) -> Iterator[Any]:
    device = Local(tmp_path_factory.mktemp("served") / "device")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(small_cache))
        done = deploy(tiny_bundle, device)
    service = Served(device)
    yield service, device.root / "releases" / done.release, device
    service.process.terminate()
    service.process.wait(timeout=30)


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Less patience than with a board."""
    monkeypatch.setattr(health, "SOAK_S", 0.2)


def changed(folder: Path, tmp_path: Path, **fields: Any) -> Path:
    """The same release with something else in its manifest."""
    copy = shutil.copytree(folder, tmp_path / folder.name, symlinks=True)
    manifest = copy / "manifest.json"
    text = json.dumps({**json.loads(manifest.read_text()), **fields})
    manifest.unlink()
    manifest.write_text(text)
    return copy


def unwell(served: Any, folder: Path) -> dict[str, Any]:
    with pytest.raises(Refused) as caught:
        check_in_use(served, str(folder))
    assert caught.value.reply["hint"]
    return caught.value.reply


@pytest.mark.usefixtures("soon")
def test_a_server_that_gives_the_golden_answer_and_stays_up_is_well(served: Any) -> None:
    service, folder, _ = served

    found = check_in_use(service, str(folder))

    assert found["server"]["release"] == folder.name
    assert found["largest_difference"] == 0
    assert found["server"]["inferences"] >= 1


@pytest.mark.slow
@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize(("limits", "said"), [({"rss_bytes": 1000}, "memory"), ({"p95_ms": 1e-6}, "95 of 100")])
def test_a_server_beyond_the_manifests_limits_is_not(served: Any, tmp_path: Path, limits: Any, said: str) -> None:
    service, folder, _ = served

    assert said in unwell(service, changed(folder, tmp_path, limits=limits))["message"]
    assert check_in_use(service, str(changed(folder, tmp_path / "2", limits={"rss_bytes": 1 << 40, "p95_ms": 1e9})))


@pytest.mark.usefixtures("soon")
def test_a_server_that_answers_something_else_is_not(served: Any, tmp_path: Path) -> None:
    service, folder, _ = served
    copy = changed(folder, tmp_path)
    with np.load(folder / "golden.npz") as golden:
        arrays = {name: golden[name] + (3 if name.startswith("output") else 0) for name in golden.files}
    (copy / "golden.npz").unlink()
    np.savez(
        copy / "golden.npz",
        **{name: array.astype(np.int8) if name[0] == "o" else array for name, array in arrays.items()},
    )

    reply = unwell(service, copy)

    assert reply["error"] == "GoldenMismatch"


@pytest.mark.usefixtures("soon")
def test_the_server_of_another_release_is_not_it(served: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service, folder, _ = served
    monkeypatch.setattr(health, "READY_S", 0.5)

    reply = unwell(service, folder.parent / ("0" * 16))

    assert folder.name in reply["message"]


@pytest.mark.slow
def test_a_server_that_dies_meanwhile_is_not_well(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    service, folder, device = served
    monkeypatch.setattr(health, "SOAK_S", 1.0)
    killer = threading.Timer(0.5, service.process.kill)
    killer.start()

    reply = unwell(service, folder)
    service.process.wait()
    later = unwell(service, folder)
    service.start(device)

    assert "stay up" in reply["message"]
    assert "what it said last" in reply["message"]
    assert "does not start" in later["message"]


@given(
    st.sampled_from(
        ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "float16", "float32", "float64"]
    ),
    st.lists(st.integers(1, 4), max_size=4),
    st.booleans(),
)
def test_arrays_are_read_as_numpy_reads_them(dtype: str, shape: list[int], packed: bool) -> None:
    array = np.random.default_rng(0).uniform(0, 100, (3, *shape)).astype(dtype)
    content = io.BytesIO()
    (np.savez_compressed if packed else np.savez)(content, **{"input/x": array})

    with zipfile.ZipFile(content) as archive:
        found_shape, kind, data = vectors._first(archive, "input/x.npy")

    assert found_shape == shape
    assert np.array_equal(np.array(data, dtype).reshape(shape), array[0])
    assert vectors.TYPES[kind][1].replace("FP", "FLOAT") == dtype.upper()


@pytest.mark.parametrize("wrong", [[1.0], [1.0, 2.1], [1.0, None], [], [1.0, 2.0, 3.0], [1.0, float("nan")]])
def test_an_answer_of_another_size_or_value_is_a_mismatch(wrong: list[Any]) -> None:
    assert vectors.compare([{"name": "y", "data": [[1.0, 2.04]]}], {"y": [1.0, 2.0]}, {"y": 0.05}) == pytest.approx(
        0.04
    )
    with pytest.raises(Refused) as caught:
        vectors.compare([{"name": "y", "data": wrong}], {"y": [1.0, 2.0]}, {"y": 0.05})

    assert caught.value.reply["error"] == "GoldenMismatch"
