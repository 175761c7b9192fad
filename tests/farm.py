"""Devices with a real systemd and a real sshd for tests: fixtures `farm` and `machine`; scripts/standins makes them.

`machine` is one booted device for all tests of a module; `farm.start(3)` gives three more. A client's environment is set
while a test uses either, so that edgekit and `ssh` know them by name: `Remote(machine.name, None, None)` is user pi,
`Remote(machine.name, "root", None)` is root.
With EDGEKIT_FARM_ARCH=arm64 they are emulated ones of that architecture.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "scripts"))

if TYPE_CHECKING:
    from standins.nspawn import Device, Farm


@pytest.fixture(scope="session")
def _farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    from standins.nspawn import ARCH, Farm, why_not

    if reason := why_not():
        pytest.skip(reason)
    farm = Farm(tmp_path_factory.mktemp("farm"), os.environ.get("EDGEKIT_FARM_ARCH", ARCH))
    try:
        yield farm
    finally:
        farm.close()


@pytest.fixture
def farm(_farm: Farm, monkeypatch: pytest.MonkeyPatch) -> Farm:
    """Where devices are started; an ssh client knows them."""
    for name, value in _farm.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return _farm


@pytest.fixture(scope="module")
def _machine(_farm: Farm) -> Iterator[Device]:
    [device] = _farm.start()
    yield device
    device.close()


@pytest.fixture
def machine(_machine: Device, farm: Farm) -> Device:
    """A device of this module's, up and reachable, as the last test left its files."""
    _machine.link_up()
    _machine.wait_up()
    return _machine
