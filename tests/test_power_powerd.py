"""The root helper on a tree of files: nothing but the platform's own caps, and everything back when the client goes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.errors import DeviceRefused
from edgekit.runner.power.caps import Caps
from edgekit.runner.power.powerd import Knobs, answer, serve_client

POLICY = "sys/devices/system/cpu/cpufreq/policy0"


@pytest.fixture
def root(tmp_path):
    files = {
        f"{POLICY}/scaling_available_frequencies": "600000 1500000 1800000 ",
        f"{POLICY}/scaling_max_freq": "1800000",
        "sys/devices/system/cpu/cpufreq/policy4/cpuinfo_min_freq": "800000",
        "sys/devices/system/cpu/cpufreq/policy4/cpuinfo_max_freq": "1050000",
        "sys/devices/system/cpu/cpufreq/policy4/scaling_max_freq": "1050000",
        "sys/class/devfreq/17000000.gpu/available_frequencies": "306000000 612000000",
        "sys/class/devfreq/17000000.gpu/max_freq": "612000000",
        "etc/nvpmodel.conf": "# modes\n< POWER_MODEL ID=0 NAME=MAXN >\nCPU_ONLINE CORE_0 1\n< POWER_MODEL ID=1 NAME=15W >\n",
        "mode": "0",
        "etc/shadow": "secret",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    tool = tmp_path / "nvpmodel"  # the real one's words; mode 7 is one that wants a reboot
    tool.write_text(
        '#!/bin/sh\nhere=$(dirname "$0")\nif [ "$1" = -q ]; then\n case $(cat $here/mode) in 0) n=MAXN;; 1) n=15W;; esac\n'
        ' echo "NV Power Mode: $n"; cat $here/mode\nelif [ -e $here/stuck ]; then :\nelse printf %s "$2" > $here/mode; fi\n'
    )
    tool.chmod(0o755)
    return tmp_path


def knobs_of(root):
    return Knobs(str(root), nvpmodel=str(root / "nvpmodel"))


def tree(root):
    return {str(p.relative_to(root)): p.read_text() for p in sorted(root.rglob("*")) if p.is_file()}


def test_it_lists_the_platforms_own_frequencies_and_modes_by_name(root):
    found = answer(b'{"op": "list"}', knobs_of(root))

    assert found["caps"] == {
        "cpufreq/policy0": [600000, 1500000, 1800000],
        "cpufreq/policy4": [800000, 900000, 1000000, 1050000],
        "devfreq/17000000.gpu": [306000000, 612000000],
    }
    assert found["modes"] == ["15W", "MAXN"]


@pytest.mark.parametrize(
    "request_",
    [
        {"op": "cap", "what": "cpufreq/policy0", "to": 1700000},
        {"op": "cap", "what": "cpufreq/policy0", "to": True},
        {"op": "cap", "what": "cpufreq/policy0", "to": "1500000"},
        {"op": "cap", "what": "cpufreq/../../../../../etc/shadow", "to": 1500000},
        {"op": "cap", "what": "../etc", "to": 1500000},
        {"op": "mode", "name": "25W"},
        {"op": "mode", "name": "-q"},
        {"op": "governor", "to": "performance"},
        {"op": None},
        [],
        3,
    ],
)
def test_anything_else_is_refused_and_nothing_changes(root, request_):
    before = tree(root)
    found = answer(json.dumps(request_).encode(), knobs_of(root))

    assert found["ok"] is False
    assert found["error"]
    assert tree(root) == before


@given(st.binary(max_size=80))
def test_any_bytes_get_an_answer(line):
    assert answer(line, Knobs("/nonexistent"))["ok"] is False


def test_caps_and_mode_are_set_and_all_as_before_when_the_client_goes(root):
    before = tree(root)
    ours, theirs = socket.socketpair()
    serving = threading.Thread(target=serve_client, args=(theirs, knobs_of(root)))
    serving.start()
    stream = ours.makefile("rwb")
    for request_ in (
        {"op": "cap", "what": "cpufreq/policy0", "to": 600000},
        {"op": "cap", "what": "cpufreq/policy0", "to": 1500000},
        {"op": "cap", "what": "devfreq/17000000.gpu", "to": 306000000},
        {"op": "mode", "name": "15W"},
    ):
        stream.write(json.dumps(request_).encode() + b"\n")
        stream.flush()
        assert json.loads(stream.readline()) == {"ok": True}
    inside = tree(root)
    stream.close()
    ours.close()
    serving.join(10)

    assert (inside[f"{POLICY}/scaling_max_freq"], inside["mode"]) == ("1500000", "1")
    assert inside["sys/class/devfreq/17000000.gpu/max_freq"] == "306000000"
    assert tree(root) == before


def test_a_client_that_says_nothing_any_more_is_left_and_half_a_line_is_no_sign_of_life(root):
    before = tree(root)
    ours, theirs = socket.socketpair()
    serving = threading.Thread(target=serve_client, args=(theirs, knobs_of(root)), kwargs={"watchdog_s": 0.3})
    serving.start()
    ours.sendall(b'{"op": "cap", "what": "cpufreq/policy0", "to": 600000}\n')
    ours.recv(100)
    capped = tree(root)[f"{POLICY}/scaling_max_freq"]
    started = time.monotonic()
    while serving.is_alive() and time.monotonic() - started < 10:
        ours.send(b"{") if serving.is_alive() else None
        time.sleep(0.05)
    ours.close()

    assert capped == "600000"
    assert not serving.is_alive()
    assert tree(root) == before


def test_a_mode_that_needs_a_reboot_is_told(root):
    (root / "stuck").touch()
    found = answer(b'{"op": "mode", "name": "15W"}', knobs_of(root))

    assert "may need a reboot" in found["error"]


def test_the_real_process_restores_on_sigterm_and_its_socket_is_gone(root, tmp_path):
    before = tree(root)
    path = str(tmp_path / "p.sock")
    code = f"import sys; from edgekit.runner.power.powerd import main; main({path!r}, root={str(root)!r})"
    with subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ) as helper:
        started = time.monotonic()
        while not os.path.exists(path) and time.monotonic() - started < 20:
            time.sleep(0.02)
        time.sleep(0.1)
        mode = os.stat(path).st_mode & 0o777
        caps = Caps(path)
        caps.cap_cpus(1_600_000)
        capped = tree(root)[f"{POLICY}/scaling_max_freq"]
        with pytest.raises(DeviceRefused, match="25W"):
            caps.mode("25W")
        caps.alive()
        helper.terminate()
        code = helper.wait(10)
        caps.close()

    assert (mode, capped, code) == (0o600, "1500000", 0)
    assert not os.path.exists(path)
    assert tree(root) == before


def test_no_helper_is_told_with_what_to_do(tmp_path):
    with pytest.raises(DeviceRefused, match="no power helper") as caught:
        Caps(str(tmp_path / "none.sock"))

    assert "--power" in caught.value.hint
