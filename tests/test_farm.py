"""The stand-ins themselves: a test that blames edgekit for what a stand-in cannot do would be worth nothing."""

from __future__ import annotations

import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest
from devices import wait_until

if TYPE_CHECKING:
    from standins.nspawn import Device, Farm

pytestmark = pytest.mark.slow


def test_a_device_has_its_own_systemd_and_a_user_with_sudo(machine: Device) -> None:
    said = machine.ssh("systemctl is-system-running; systemctl --user is-system-running; id -un; sudo id -un").stdout

    assert said.split() == ["running", "running", "pi", "root"]
    assert machine.ssh("uname -n").stdout.strip() == machine.name


def test_its_files_are_on_a_disk_and_not_an_overlay(machine: Device) -> None:
    folders = machine.ssh("findmnt -no FSTYPE -T /var/lib; findmnt -no FSTYPE -T ~").stdout.split()

    assert "overlay" not in folders
    assert "tmpfs" not in folders


def test_a_reboot_is_another_boot_with_the_same_files(machine: Device) -> None:
    machine.ssh("echo kept > ~/note; echo gone > /run/user/1000/note")
    before = machine.boot_id()

    machine.reboot()

    assert machine.boot_id() != before
    assert machine.ssh("cat ~/note; ls /run/user/1000/note", check=False).stdout.split() == ["kept"]
    assert (machine.root / "home" / "pi" / "note").read_text() == "kept\n"


def test_a_reboot_is_asked_for_by_no_process_that_it_would_wait_for(
    machine: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, inside, entered = machine.boot_id(), machine.inside, []

    def seen(*command: str, **options: Any) -> str:
        entered.append(machine.boot_id())
        return inside(*command, **options)

    monkeypatch.setattr(machine, "inside", seen)
    machine.reboot()

    assert entered
    assert before not in entered


def test_a_cut_kills_what_runs_and_it_boots_again(machine: Device) -> None:
    machine.inside("systemd-run", "--quiet", "--unit=sleeper", "sleep", "1000")

    machine.cut()

    assert machine.inside("systemctl", "is-active", "sleeper", check=False).strip() == "inactive"


def test_a_link_that_is_down_loses_packets_and_nothing_else(machine: Device) -> None:
    session = subprocess.Popen(["ssh", machine.name, "read x; echo $x"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    wait_until(lambda: bool(machine.pids("read x")))

    machine.link_down()
    assert machine.ssh("true", check=False).returncode == 255
    assert session.stdin is not None
    session.stdin.write(b"late\n")
    session.stdin.flush()
    assert "DOWN" in machine.inside("ip", "-br", "link", "show", "host0")
    assert session.poll() is None
    machine.link_up()

    assert session.communicate(timeout=30)[0] == b"late\n"


def test_a_slow_link_is_slow(machine: Device) -> None:
    machine.link.round_trip_s = 0.2
    try:
        started = time.monotonic()
        machine.ssh("true")
        took = time.monotonic() - started
    finally:
        machine.link.round_trip_s = 0

    assert took > 5 * 0.2  # ssh needs at least: connect, keys, authentication, the channel, its end


def test_the_watchdog_and_the_start_limit_are_systemds_own(machine: Device) -> None:
    unit = "[Unit]\nStartLimitBurst=2\nStartLimitIntervalSec=60\n[Service]\nExecStart=/bin/sleep 1000\nType=notify\n"
    unit += "NotifyAccess=all\nExecStartPost=\nWatchdogSec=200ms\nTimeoutStartSec=300ms\nRestart=on-failure\nRestartSec=50ms\n"
    (machine.root / "etc" / "systemd" / "system" / "mute.service").write_text(unit)
    machine.inside("systemctl", "daemon-reload")
    machine.inside("systemctl", "start", "--no-block", "mute")

    def failed() -> bool:
        return "ActiveState=failed" in machine.inside("systemctl", "show", "mute", "-p", "ActiveState")

    wait_until(failed)
    assert "NRestarts=2" in machine.inside("systemctl", "show", "mute", "-p", "NRestarts")


def test_a_user_without_root_may_linger(machine: Device) -> None:
    machine.ssh("loginctl enable-linger && systemd-run --user --quiet --unit=mine sleep 1000")
    machine.kill_ssh()

    assert machine.pids("sleep 1000$") != []
    machine.ssh("systemctl --user stop mine; loginctl disable-linger")


def test_devices_do_not_see_one_another(farm: Farm, machine: Device) -> None:
    first, second = farm.start(2)
    try:
        first.inside("systemctl", "stop", "cron", "dbus.socket", check=False)
        first.cut()

        assert second.ssh("systemctl is-system-running").stdout.strip() == "running"
        assert first.host_key != second.host_key
        assert first.boot_id() != second.boot_id()
    finally:
        first.close()
        second.close()
