"""What several tests share: a real little bundle, a runtime for it, a device that is a folder, a device behind sshd."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from farm import _farm, _machine, farm, machine  # noqa: F401 - fixtures

if TYPE_CHECKING:
    from sshd import Sshd

    from edgekit.bundle import Bundle
    from edgekit.deploy.address import Local


def pytest_configure() -> None:
    """Ctrl-C can be typed at what a test starts, also where a shell started the tests in the background and ignores it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle whose model is one int8 layer; everything else about it is as convert makes it."""
    pytest.importorskip("ai_edge_litert")
    from tiny_model import tiny_bundle

    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


@pytest.fixture(scope="session")
def other_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The same with other weights."""
    pytest.importorskip("ai_edge_litert")
    from tiny_model import tiny_bundle

    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "other", seed=1, title="other")


@pytest.fixture
def device(tmp_path: Path) -> Local:
    """This machine as the device, in a folder that is not there yet."""
    from edgekit.deploy.address import Local

    return Local(tmp_path / "device")


@pytest.fixture(scope="session")
def small_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with a runtime of one file that borrows the interpreter of these tests: real, and nothing to build."""
    from devices import keep_small_runtime

    folder = tmp_path_factory.mktemp("cache")
    keep_small_runtime(folder)
    return folder


@pytest.fixture
def small_runtime(small_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Deployments of this test take the runtime from `small_cache`."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(small_cache))
    return small_cache


@pytest.fixture(scope="session")
def real_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty cache that the first slow test fills with the real runtime: about 10 s and 60 MB, once."""
    return tmp_path_factory.mktemp("real-cache")


@pytest.fixture
def real_runtime(real_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Deployments of this test build the real runtime with pip, or find it in `real_cache`."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(real_cache))
    return real_cache


@pytest.fixture(scope="session")
def _sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    from sshd import running_sshd, why_no_sshd

    reason = why_no_sshd()
    if reason:
        pytest.skip(reason)
    with running_sshd(tmp_path_factory.mktemp("sshd")) as server:
        yield server


@pytest.fixture
def sshd(_sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> Sshd:
    """A device behind OpenSSH's own server, empty, with an ssh client that knows it as `board` and reads no other file."""
    _sshd.reset()
    for name, value in _sshd.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return _sshd


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> Path:
    """A FIDO token in software, which ssh-keygen makes keys on and signs with. It is touched as soon as it asks for it."""
    from software_token import software_token

    library = software_token()
    monkeypatch.setenv("SSH_SK_PROVIDER", str(library))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return library


@pytest.fixture
def finger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What touches the token: from here on it waits, some 30 s, until this file is there."""
    monkeypatch.setenv("SOFTWARE_TOKEN_TOUCH", str(tmp_path / "finger"))
    return tmp_path / "finger"


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs `edgekit ARGUMENTS` in this process: exit code, stdout, stderr."""
    from edgekit.cli.main import main

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([os.fspath(a) if isinstance(a, Path) else str(a) for a in arguments])
        found = capsys.readouterr()
        return code, found.out, found.err

    return run
