"""The virtual Pi, aarch64 Debian with a kernel of its own: what nothing lighter can show. scripts/test -m device runs these."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from devices import wait_until

from edgekit.bundle import write_bundle

if TYPE_CHECKING:
    from standins.vpi import VirtualPi

    from edgekit.bundle import Bundle

pytestmark = pytest.mark.device
STATE = "/home/pi/.local/state/edgekit"
SLOW_S = 300.0  # an emulated board on a busy machine
ASK = f"""
import http.client, json, socket
connection = http.client.HTTPConnection("localhost", timeout=10)
connection.sock = socket.socket(socket.AF_UNIX)
connection.sock.connect("{STATE}/run/edgekit.sock")
connection.request("GET", "/v2")
print(json.loads(connection.getresponse().read())["edgekit"]["release"])
"""


@pytest.fixture(scope="module")
def pi(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VirtualPi]:
    """A booted one, thawed; `edgekit` and `ssh` know it as vpi."""
    from standins import vpi

    if reason := vpi.why_not():
        pytest.skip(reason)
    device = vpi.VirtualPi(tmp_path_factory.mktemp("vpi"), vpi.prepared())
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**device.environment, "XDG_CACHE_HOME": cache}.items():
            patch.setenv(name, value)
        try:
            device.thaw()
            yield device
        finally:
            device.cut()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    pytest.importorskip("ai_edge_litert")
    from tiny_model import tiny_bundle

    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


def another(bundle: Bundle, folder: Path, **fields: Any) -> Path:
    """The bundle with another name, so that it is another release."""
    contents = {name: bundle.file(name).read_bytes() for name in bundle.manifest.files}
    manifest = dataclasses.replace(bundle.manifest, **{"name": f"n{time.time_ns()}", **fields})
    return write_bundle(folder / manifest.name, manifest, contents).path


def edgekit(*words: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "edgekit.cli.main", *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def deploy(path: Path, *words: object) -> dict[str, Any]:
    out, err = (process := edgekit("deploy", path, "vpi", "--json", *words)).communicate(timeout=600)
    assert process.returncode == 0, err
    return dict(json.loads(out))


def current(pi: VirtualPi) -> str:
    return os.path.basename(pi.ssh(f"readlink {STATE}/current").stdout.strip())


def serves(pi: VirtualPi) -> str:
    """The release whose server answers; "" while none does."""
    return pi.ssh(f"python3 - <<'END'\n{ASK}\nEND", check=False).stdout.strip()


def test_it_is_arm_with_a_kernel_and_cgroups_of_its_own(pi: VirtualPi) -> None:
    said = pi.ssh("uname -m; findmnt -no FSTYPE /; cat /sys/fs/cgroup/cgroup.controllers").stdout.split()

    assert said[:2] == ["aarch64", "ext4"]
    assert "memory" in said


def test_a_bundle_is_deployed_and_served_with_the_golden_answers(pi: VirtualPi, bundle: Bundle, tmp_path: Path) -> None:
    done = deploy(another(bundle, tmp_path))

    assert done["service"] == "user"
    assert done["check"]["variants"][0]["largest_difference"] <= done["check"]["variants"][0]["tolerance"]
    assert serves(pi) == done["release"] == current(pi)


def test_a_release_whose_server_does_not_start_is_taken_back(pi: VirtualPi, bundle: Bundle, tmp_path: Path) -> None:
    good = deploy(another(bundle, tmp_path))["release"]
    folder = "~/.config/systemd/user/edgekit-runner.service.d"
    only_good = f"[Service]\\nExecStartPre=/bin/sh -c 'readlink {STATE}/current | grep -q {good}'\\n"
    pi.ssh(f'mkdir -p {folder} && printf "{only_good}" > {folder}/only-good.conf && systemctl --user daemon-reload')
    try:
        process = edgekit("deploy", another(bundle, tmp_path), "vpi", "--json")
        _, err = process.communicate(timeout=900)
    finally:
        pi.ssh(f"rm {folder}/only-good.conf && systemctl --user daemon-reload")

    assert process.returncode == 5, err
    wait_until(lambda: serves(pi) == good, SLOW_S)
    assert current(pi) == good


def test_a_reboot_in_the_trial_ends_it(pi: VirtualPi, bundle: Bundle, tmp_path: Path) -> None:
    good = deploy(another(bundle, tmp_path))["release"]
    process = edgekit("deploy", another(bundle, tmp_path), "vpi", "--json", "--window", "600")
    stop_at(process, "trial")
    wait_until(lambda: current(pi) != good, SLOW_S)
    process.kill()
    process.communicate()

    pi.reboot()

    wait_until(lambda: serves(pi) == good, SLOW_S)
    assert current(pi) == good


def test_a_limit_on_memory_is_the_kernels(pi: VirtualPi) -> None:
    ended = {}
    for limit in ("40M", "300M"):  # not by systemd-run, which needs a session bus that small systems lack
        eat = f"Type=oneshot\\nMemoryMax={limit}\\nMemorySwapMax=0\\nExecStart=python3 -c 'x = bytearray(200 << 20)'"
        folder = "~/.config/systemd/user"
        pi.ssh(f"mkdir -p {folder} && printf '%b\\n' \"[Service]\\n{eat}\" > {folder}/eat.service")
        pi.ssh("systemctl --user daemon-reload && systemctl --user start eat", check=False)
        ended[limit] = pi.ssh("systemctl --user show eat -p Result --value").stdout.strip()

    assert ended == {"40M": "oom-kill", "300M": "success"}


def stop_at(process: subprocess.Popen[str], state: str) -> None:
    """Returns when the deployment says that it has come to that state."""
    assert process.stderr is not None
    for line in process.stderr:
        if json.loads(line).get("event") == state:
            return
    raise AssertionError(f"it ended before {state}")
