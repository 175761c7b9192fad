"""Runtimes: what pip is asked for, what stays in the cache, and what a cache that lost something does."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from devices import keep_small_runtime, refused, runtime_folder, this_platform, wait_until

from edgekit.deploy.runtime import build_runtime, read_tree
from edgekit.errors import DeviceUnsupported, EdgekitError
from edgekit.platforms import Platform, choose_runtime

ARM = Platform((3, 11), "aarch64", "glibc 2.36", None)  # a Raspberry Pi 4 with Debian 12


def wheel(folder: Path, requirement: str, tag: str, files: dict[str, str]) -> None:
    """A small wheel as pip wants it."""
    name, version = requirement.replace("-", "_").split("==")
    info = f"{name}-{version}.dist-info"
    contents = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: {tag}\n",
    }
    record = []
    with zipfile.ZipFile(folder / f"{name}-{version}-{tag}.whl", "w") as archive:
        for path, text in contents.items():
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            record.append(f"{path},sha256={digest},{len(text)}\n")
            archive.writestr(path, text)
        archive.writestr(f"{info}/RECORD", "".join(record) + f"{info}/RECORD,,\n")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A registry that is a folder, with wheels for ARM: pip looks nowhere else."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    for requirement in choose_runtime(ARM).requirements:
        package = requirement.split("==")[0].replace("-", "_")
        files = {f"{package}/__init__.py": "x = 1\n", f"{package}/tests/test_x.py": "assert 0\n"}
        wheel(folder, requirement, "cp311-cp311-manylinux_2_28_aarch64", files)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


def test_a_list_that_is_half_written_or_junk_is_no_tree(tmp_path: Path) -> None:
    folder = keep_small_runtime(tmp_path)
    whole = (folder / "runtime.json").read_text()
    assert read_tree(folder) is not None

    for text in (
        "",
        whole[:-9],
        "{}",
        "[]",
        "7",
        '{"files": 3, "requirements": []}',
        '{"files": {"a": 1}, "requirements": []}',
    ):
        (folder / "runtime.json").write_text(text)
        assert read_tree(folder) is None
    (folder / "runtime.json").write_bytes(b"\xff\xfe")
    assert read_tree(folder) is None
    assert read_tree(tmp_path / "nowhere") is None


def test_a_cache_that_cannot_be_written_is_an_error_with_another_folder_as_the_hint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))

    with refused(EdgekitError, 1) as caught:
        build_runtime(ARM, choose_runtime(ARM))

    assert "XDG_CACHE_HOME" in caught.value.hint


def test_pillow_where_there_is_no_wheel_is_refused() -> None:
    with refused(DeviceUnsupported, 4):
        build_runtime(ARM, replace(choose_runtime(ARM), images=()), with_pillow=True)


@pytest.mark.slow
def test_a_tree_for_another_processor_is_built_pruned_listed_and_kept(index: Path) -> None:
    tree = build_runtime(ARM, choose_runtime(ARM))
    files = json.loads(tree.text)["files"]
    for place in index.iterdir():
        place.unlink()  # from now on only the cache is left

    assert "numpy/__init__.py" in files
    assert "numpy/tests/test_x.py" not in files
    assert all(hashlib.sha256(place.read_bytes()).hexdigest() == name for name, place in tree.contents.items())
    assert build_runtime(ARM, choose_runtime(ARM)) == tree


@pytest.mark.slow
def test_the_same_wheels_give_the_same_tree(index: Path) -> None:
    first = build_runtime(ARM, choose_runtime(ARM))

    assert build_runtime(ARM, choose_runtime(ARM), anew=True).id == first.id


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["list", "folder"])
def test_a_cache_that_lost_its_list_is_built_again(index: Path, damage: str) -> None:
    first = build_runtime(ARM, choose_runtime(ARM))
    (folder,) = (place for place in cache_of(index).iterdir() if place.is_dir())
    (folder / "runtime.json").write_text("")
    if damage == "folder":
        (folder / "runtime.json").unlink()

    assert build_runtime(ARM, choose_runtime(ARM)) == first


@pytest.mark.slow
def test_a_registry_without_the_wheels_is_named_with_what_was_wanted(index: Path) -> None:
    for place in index.iterdir():
        place.unlink()

    with refused(DeviceUnsupported, 4) as caught:
        build_runtime(ARM, choose_runtime(ARM))

    assert "ai-edge-litert" in str(caught.value)
    assert "aarch64" in str(caught.value)
    assert not list(cache_of(index).glob("*.building"))


def cache_of(index: Path) -> Path:
    return index.parent / "cache" / "edgekit" / "runtimes"


@pytest.mark.slow
@pytest.mark.parametrize("setting", ["PIP_USER", "PIP_REQUIRE_VIRTUALENV", "PIP_TARGET"])
def test_a_persons_own_pip_settings_about_where_to_install_do_not_matter(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    monkeypatch.setenv(setting, str(tmp_path / "elsewhere") if setting == "PIP_TARGET" else "1")

    assert build_runtime(ARM, choose_runtime(ARM)).sizes
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_build_that_is_interrupted_leaves_no_half_tree_and_no_pip(
    index: Path, monkeypatch: pytest.MonkeyPatch, how: signal.Signals
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # a registry that never answers
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{silent.getsockname()[1]}/simple")
        monkeypatch.delenv("PIP_NO_INDEX")
        for place in index.iterdir():
            place.unlink()
        code = "from test_deploy_runtime import *; build_runtime(ARM, choose_runtime(ARM))"
        process = subprocess.Popen(
            [sys.executable, "-c", code], cwd=Path(__file__).parent, stderr=subprocess.DEVNULL, start_new_session=True
        )
        connection, _ = silent.accept()  # pip is waiting for it now
        with connection:
            process.send_signal(how)
            process.wait(10)

            if how == signal.SIGINT:
                assert not list(cache_of(index).glob("*.building"))
                wait_until(lambda: not processes_of_session(process.pid))
            for pid in processes_of_session(process.pid):
                os.kill(pid, signal.SIGKILL)

    wait_until(lambda: not processes_of_session(process.pid))
    assert not [place for place in cache_of(index).iterdir() if place.suffix not in (".lock", ".building")]


def processes_of_session(leader: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=,stat=", "-s", str(leader)], capture_output=True, text=True).stdout
    return [int(line.split()[0]) for line in found.splitlines() if not line.split()[1].startswith("Z")]


@pytest.mark.slow
def test_what_a_killed_build_left_behind_goes_with_the_next_one(index: Path) -> None:
    tree = build_runtime(ARM, choose_runtime(ARM))
    (folder,) = (place for place in cache_of(index).iterdir() if place.is_dir())
    left = folder.with_suffix(".building")
    (left / "site").mkdir(parents=True)
    (left / "site" / "half.py").touch()

    assert build_runtime(ARM, choose_runtime(ARM), anew=True).id == tree.id
    assert not left.exists()


@pytest.mark.slow
def test_two_deployments_build_one_tree(index: Path) -> None:
    code = "from test_deploy_runtime import *; print(build_runtime(ARM, choose_runtime(ARM)).id)"
    both = [
        subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parent, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    ids = {process.communicate()[0] for process in both}

    assert len(ids) == 1
    assert len([place for place in cache_of(index).iterdir() if place.is_dir()]) == 1


def test_the_cache_of_these_tests_is_where_deploy_looks(small_cache: Path, small_runtime: Path) -> None:
    tree = build_runtime(this_platform(), choose_runtime(this_platform()))

    assert next(iter(tree.contents.values())).is_relative_to(runtime_folder(small_cache))
