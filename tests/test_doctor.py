"""The doctor's judgement over snapshots of many systems: tests/doctor/*.json, each of which names its sources."""

from __future__ import annotations

import ast
import copy
import json
import subprocess
import sys
import zlib
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, ClassVar

import pytest
from devices import PYTHON, refused, wait_until, world
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sshd import SSHD, why_no_sshd

from edgekit.cli.doctor import _finishing
from edgekit.deploy.release import launcher_script
from edgekit.doctor import collect, manual, running, wanted
from edgekit.doctor.checks import CHECKS, diagnose
from edgekit.doctor.examine import SENT, Patient, Step, open_patient, plan, treat
from edgekit.doctor.finding import Command
from edgekit.doctor.login import sshd_settings
from edgekit.doctor.snapshot import Snapshot, read_snapshot
from edgekit.errors import DeviceError, DeviceRefused, InputError

FOLDER = Path(__file__).parent / "doctor"
DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "doctor.md"
PACKAGE = Path(collect.__file__).parents[1]
SYSTEMS = sorted(path.stem for path in FOLDER.glob("*.json"))

# everything that is found, error warning note
EXPECTED = {
    "alpine-3.22-pc": "python-wheel edgetpu-library coral-udev | clock-free | no-systemd",
    "coral-dev-board-mendel5": "python-wheel flash-worn | apex-hot memory-low ssh-keygen | no-swap",
    "debian-12-arm64-qemu": "| clock-free linger | no-swap ssh-password",
    "debian-12-nspawn": "| linger | ssh-password",
    "debian-12-pc-coral-usb": "edgetpu-abi coral-usb-power coral-group | numpy-abi coral-usb-resets "
    "| edgetpu-usb-max vulkan-driver gpu-access",
    "debian-13-pc-coral-pcie": "release-python apex-driver | broken-packages |",
    "docker-python-3.12": "| ssh-keygen | volatile-root no-systemd",
    "jetson-nano-jetpack4": "python-wheel | jetson-over-current ssh-keygen "
    "| clock-limit cores-offline jetson-power-mode ssh-password",
    "orin-nano-jetpack6": "| | jetson-power-mode",
    "rpi-os-11-pi3-32bit": "python-wheel under-voltage | userland-32bit throttled memory-limit ssh-max-startups ssh-root-login "
    "| swap-on-card ssh-password",
    "rpi-os-12-pi4-32bit": "numpy-missing | userland-32bit |",
    "rpi-os-12-pi4-32bit-numpy2": "numpy-missing | numpy-abi userland-32bit |",
    "rpi-os-12-pi4-failing-card": "root-unsafe disk-space read-only filesystem-errors card-errors "
    "| out-of-memory ssh-root-login | card-atime ssh-password",
    "rpi-os-12-pi4-healthy": "| |",
    "rpi-os-12-pi4-overlay": "volatile-root clock-wrong | throttled too-hot clock-free user-manager |",
    "rpi-os-12-pi5-coral-m2": "apex-pages apex-access | |",
    "rpi-os-12-zero2w": "inodes | governor memory-low | vulkan-loader vulkan-driver gpu-access firmware-access no-swap",
    "rpi-os-13-pi5-coral-usb2": "edgetpu-library coral-udev "
    "| coral-usb2 coral-usb-power under-voltage power-helper memory-limit linger | throttled rtc-unset ssh-password",
    "thor-jetpack7-full-disk": "| vulkan-manifest disk-space | failed-units",
    "ubuntu-24.04-pc-nvidia": "edgetpu-library apex-driver | clock-wrong clock-free | vulkan-loader vulkan-driver",
    "xavier-nx-jetpack5": "python-wheel | jetson-over-current "
    "| vulkan-loader vulkan-driver cores-offline jetson-power-mode ssh-password",
}  # fmt: skip

CPU = "/sys/devices/system/cpu"
POLICY = f"{CPU}/cpufreq/policy0"
THERMAL = "/sys/class/thermal/thermal_zone0/temp"
EMMC = "/sys/block/mmcblk0/device"
SUPPLY = "/proc/device-tree/chosen/power"
USB = "/sys/bus/usb/devices/1-1"
LIBRARY = "/usr/lib/aarch64-linux-gnu/libedgetpu.so.1"
LOADER = "/usr/lib/aarch64-linux-gnu/libvulkan.so.1"
V3D = "/usr/share/vulkan/icd.d/broadcom_icd.aarch64.json"
ICD = '{"ICD": {"library_path": "libvulkan_broadcom.so", "api_version": "1.3.0"}}'
RULES = {
    "/etc/udev/rules.d/60-coral.rules": [
        f'ATTR{{idVendor}}=="{vendor}", GROUP="plugdev"' for vendor in ("1a6e", "18d1")
    ]
}
QUIET = {"code": 0, "out": "", "err": ""}
USABLE = {"mode": 0o660, "owner": "root", "group": "apex", "may_use": True}
NO_SWAP = "Filename Type Size Used Priority"

# check -> a system where it finds something, and what ends that: (where, value) with None for "not there", +x: one name more
CURES: dict[str, tuple[str, list[tuple[Any, ...]]]] = {
    "python-wheel": ("jetson-nano-jetpack4", [("python", "version", [3, 10, 14])]),
    "release-python": ("debian-13-pc-coral-pcie", [("release", "version", "out", "3.11\n")]),
    "numpy-missing": ("rpi-os-12-pi4-32bit", [("commands", "numpy", {"code": 0, "out": "1.24.2\n", "err": ""})]),
    "numpy-abi": ("debian-12-pc-coral-usb", [("python", "packages", "numpy", "1.26.4")]),
    "userland-32bit": ("rpi-os-12-pi4-32bit", [("machine", "arch", "aarch64")]),
    "broken-packages": ("debian-13-pc-coral-pcie", [("commands", "broken_packages", QUIET)]),
    "edgetpu-library": ("rpi-os-13-pi5-coral-usb2", [("names", "+" + LIBRARY)]),
    "edgetpu-abi": ("debian-12-pc-coral-usb", [("commands", "packages", "out", "libedgetpu1-max 16.0tf2.17.1-1 amd64 ii")]),
    "edgetpu-usb-max": ("debian-12-pc-coral-usb", [("commands", "packages", "out", "libedgetpu1-std 16.0tf2.17.1-1 amd64 ii")]),
    "coral-usb2": ("rpi-os-13-pi5-coral-usb2", [("files", f"{USB}/speed", "5000")]),
    "coral-usb-power": ("rpi-os-13-pi5-coral-usb2", [("binary", f"{SUPPLY}/usb_max_current_enable", "00000001")]),
    "coral-usb-resets": ("debian-12-pc-coral-usb", [("commands", "kernel_journal", "out", "usb 4-2: USB disconnect")]),
    "coral-udev": ("rpi-os-13-pi5-coral-usb2", [("lines", RULES)]),
    "coral-group": ("debian-12-pc-coral-usb", [("nodes", "/dev/bus/usb/004/005", USABLE)]),
    "apex-driver": ("debian-13-pc-coral-pcie", [("names", "+/dev/apex_0")]),
    "apex-pages": ("rpi-os-12-pi5-coral-m2", [("machine", "page_bytes", 4096)]),
    "apex-access": ("rpi-os-12-pi5-coral-m2", [("nodes", "/dev/apex_0", USABLE)]),
    "apex-hot": ("coral-dev-board-mendel5", [("files", "/sys/class/apex/apex_0/temp", "61000")]),
    "vulkan-loader": ("rpi-os-12-zero2w", [("names", "+" + LOADER)]),
    "vulkan-driver": ("rpi-os-12-zero2w", [("files", V3D, ICD)]),
    "vulkan-manifest": ("thor-jetpack7-full-disk", [("files", "/usr/share/vulkan/icd.d/nvidia_icd.json", ICD)]),
    "gpu-access": ("rpi-os-12-zero2w", [("nodes", "/dev/dri/renderD128", "may_use", True)]),
    "under-voltage": ("rpi-os-13-pi5-coral-usb2", [("commands", "get_throttled", "out", "throttled=0x0\n")]),
    "throttled": ("rpi-os-13-pi5-coral-usb2", [("commands", "get_throttled", "out", "throttled=0x0\n")]),
    "firmware-access": ("rpi-os-12-zero2w", [("nodes", "/dev/vcio", "may_use", True)]),
    "too-hot": ("rpi-os-12-pi4-overlay", [("files", THERMAL, "61234")]),
    "governor": ("rpi-os-12-zero2w", [("files", f"{POLICY}/scaling_governor", "ondemand")]),
    "clock-limit": ("jetson-nano-jetpack4", [("files", f"{POLICY}/scaling_max_freq", "1479000")]),
    "cores-offline": ("jetson-nano-jetpack4", [("files", f"{CPU}/online", "0-3")]),
    "jetson-over-current": ("xavier-nx-jetpack5", [("files", "/sys/class/hwmon/hwmon4/oc3_event_cnt", "0")]),
    "jetson-power-mode": ("xavier-nx-jetpack5", [("commands", "nvpmodel", "out", "NV Power Mode: MAXN\n0\n")]),
    "power-helper": ("rpi-os-13-pi5-coral-usb2", [("names", "+/run/edgekit-powerd/powerd.sock")]),
    "root-unsafe": ("rpi-os-12-pi4-failing-card", [("workstation", "unsafe", "")]),
    "disk-space": ("thor-jetpack7-full-disk", [("disks", "/home/nvidia/.local/state/edgekit", "free_bytes", 9 << 30)]),
    "inodes": ("rpi-os-12-zero2w", [("disks", "/home/pi/.local/state/edgekit", "free_inodes", 500_000)]),
    "read-only": ("rpi-os-12-pi4-failing-card", [("files", "/proc/mounts", "/dev/mmcblk0p2 / ext4 rw,noatime 0 0")]),
    "volatile-root": ("rpi-os-12-pi4-overlay", [("files", "/proc/mounts", "/dev/mmcblk0p2 / ext4 rw,noatime 0 0")]),
    "filesystem-errors": ("rpi-os-12-pi4-failing-card", [("files", "/sys/fs/ext4/mmcblk0p2/errors_count", "0")]),
    "card-errors": ("rpi-os-12-pi4-failing-card", [("commands", "kernel_log", QUIET)]),
    "flash-worn": (
        "coral-dev-board-mendel5",
        [("files", f"{EMMC}/life_time", "0x02 0x01"), ("files", f"{EMMC}/pre_eol_info", "0x01")],
    ),
    "swap-on-card": ("rpi-os-11-pi3-32bit", [("files", "/proc/swaps", NO_SWAP + "\n/dev/zram0 partition 2097136 0 100")]),
    "card-atime": ("rpi-os-12-pi4-failing-card", [("files", "/proc/mounts", "/dev/mmcblk0p3 / ext4 rw,relatime 0 0")]),
    "clock-wrong": ("rpi-os-12-pi4-overlay", [("clock", "time_s", 1_795_000_000)]),
    "clock-free": ("rpi-os-12-pi4-overlay", [("clock", "adjtimex", 0)]),
    "rtc-unset": ("rpi-os-13-pi5-coral-usb2", [("files", "/sys/class/rtc/rtc0/since_epoch", "1795000000")]),
    "memory-low": ("rpi-os-12-zero2w", [("files", "/proc/meminfo", "MemTotal: 425984 kB\nMemAvailable: 301000 kB")]),
    "no-swap": ("rpi-os-12-zero2w", [("files", "/proc/swaps", NO_SWAP + "\n/dev/zram0 partition 212988 0 100")]),
    "memory-limit": ("rpi-os-13-pi5-coral-usb2", [("files", "/sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory pids")]),
    "out-of-memory": ("rpi-os-12-pi4-failing-card", [("commands", "kernel_log", QUIET)]),
    "ssh-max-startups": ("rpi-os-11-pi3-32bit", [("files", "/etc/ssh/sshd_config", "MaxStartups 30:30:100")]),
    "ssh-root-login": ("rpi-os-11-pi3-32bit", [("files", "/etc/ssh/sshd_config", "PermitRootLogin no")]),
    "ssh-password": ("rpi-os-11-pi3-32bit", [("files", "/etc/ssh/sshd_config", "PasswordAuthentication no")]),
    "ssh-keygen": ("jetson-nano-jetpack4", [("commands", "ssh_version", {"code": 0, "out": "", "err": "OpenSSH_8.4p1"})]),
    "no-systemd": ("alpine-3.22-pc", [("files", "/proc/1/comm", "systemd")]),
    "user-manager": ("rpi-os-12-pi4-overlay", [("names", "+/run/user/1000/systemd/private")]),
    "linger": ("rpi-os-13-pi5-coral-usb2", [("names", "+/var/lib/systemd/linger/pi")]),
    "failed-units": ("thor-jetpack7-full-disk", [("commands", "failed_units", QUIET)]),
}  # fmt: skip


def fields_of(system: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{system}.json").read_text())


def found(fields: dict[str, Any]) -> dict[str, Any]:
    """Check -> its finding."""
    return {finding.check: finding for finding in diagnose(read_snapshot(fields)).findings}


def changed(fields: dict[str, Any], *changes: tuple[Any, ...]) -> dict[str, Any]:
    """The snapshot with some of it otherwise."""
    other = copy.deepcopy(fields)
    for *keys, value in changes:
        place = other
        for key in keys[:-1]:
            place = place.setdefault(key, {})
        if isinstance(value, str) and value.startswith("+"):
            place[keys[-1]].append(value[1:])
        else:
            place[keys[-1]] = value
    return other


# -- what is found where


@pytest.mark.parametrize("system", SYSTEMS)
def test_everything_that_is_wrong_with_a_system_is_found_and_nothing_else(system):
    diagnosis = diagnose(read_snapshot(fields_of(system)))
    told = {
        name: [finding.check for finding in diagnosis.findings if finding.severity == name]
        for name in ("error", "warning", "note")
    }

    assert list(told.values()) == [part.split() for part in EXPECTED[system].split("|")]
    assert diagnosis.exit_code == (20 if told["error"] else 10 if told["warning"] else 0)


def test_every_snapshot_says_where_it_is_from():
    for system in SYSTEMS:
        fields = fields_of(system)

        assert fields["provenance"] in ("documented", "recorded")
        assert fields["about"]
        assert fields["sources"]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_a_check_finds_its_cause_and_is_silent_when_that_is_gone(check):
    system, changes = CURES[check.name]
    fields = fields_of(system)

    assert check.name in found(fields)
    assert check.name not in found(changed(fields, *changes))


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_finding_has_evidence_a_reason_and_something_to_do(system):
    for finding in found(fields_of(system)).values():
        assert finding.evidence
        assert all(one.source and one.said for one in finding.evidence)
        assert finding.reason
        assert finding.commands or finding.by_hand or finding.after
        assert all(command.argv and all(command.argv) for command in finding.commands)


# -- what the commands are


def test_a_udev_rule_is_written_for_both_ids_of_the_coral_and_loaded():
    commands = [command.text for command in found(fields_of("rpi-os-13-pi5-coral-usb2"))["coral-udev"].commands]

    assert commands[1].startswith('printf \'%s\\n\' \'SUBSYSTEM=="usb", ATTR{idVendor}=="1a6e"')
    assert "18d1" in commands[1]
    assert commands[1].endswith("| sudo tee /etc/udev/rules.d/60-edgekit-coral-usb.rules")
    assert commands[2:] == [
        "sudo udevadm control --reload-rules",
        "sudo udevadm trigger --subsystem-match=usb",
    ]  # pi is in plugdev


def test_a_command_with_input_does_the_same_typed_into_a_shell(tmp_path):
    text = "first 'quoted' $HOME\n%s \\n second\n"
    command = Command(("tee", str(tmp_path / "file")), text)

    subprocess.run(["sh", "-c", command.text], check=True, capture_output=True)

    assert (tmp_path / "file").read_text() == text


def test_root_needs_no_sudo():
    commands = found(fields_of("rpi-os-12-pi4-failing-card"))["disk-space"].commands

    assert [command.text for command in commands] == ["apt-get clean", "journalctl --vacuum-size=50M"]


def test_jetpack_5_can_install_a_python_that_has_wheels():
    finding = found(fields_of("xavier-nx-jetpack5"))["python-wheel"]

    assert finding.commands[-1].argv[-2:] == ("--no-install-recommends", "python3.9")
    assert "--python python3.9" in finding.by_hand


def test_a_python_with_wheels_that_is_there_already_is_named():
    assert "/usr/local/bin/python3.9 is there" in found(fields_of("coral-dev-board-mendel5"))["python-wheel"].by_hand


def test_the_group_that_will_count_from_the_next_login_is_not_added_again():
    finding = found(fields_of("rpi-os-12-zero2w"))["firmware-access"]

    assert (finding.commands, finding.after) == ((), "log in again")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ([], "1.0-18 does not compile for kernel 6.12"),
        ([("machine", "kernel", "6.1.0-28-amd64")], "headers are missing"),
        ([("machine", "kernel", "6.1.0-28"), ("names", "+/lib/modules/6.1.0-28/build")], "built no driver for kernel"),
        ([("names", "+/lib/modules/6.12.57+deb13-amd64/updates/dkms/apex.ko.xz")], "there but not loaded"),
        ([("commands", "packages", "out", "")], "has no driver"),
    ],
)  # fmt: skip
def test_what_is_missing_of_the_pcie_driver_is_told_apart(changes, said):
    assert said in found(changed(fields_of("debian-13-pc-coral-pcie"), *changes))["apex-driver"].message


@pytest.mark.parametrize(
    ("version", "fits"),
    [("16.0", False), ("15.0", False), ("16.0tf2.9.1-1", False), ("16.0tf2.10.0-1", True), ("16.0TF2.19.1-1.trixie", True)],
)  # fmt: skip
def test_libedgetpu_fits_from_tensorflow_2_10_on(version, fits):
    rows = {"out": f"libedgetpu1-std {version} amd64 ii", "code": 0, "err": ""}
    fields = changed(fields_of("debian-12-pc-coral-usb"), ("commands", "packages", rows))

    assert ("edgetpu-abi" not in found(fields)) == fits


def test_a_library_that_dpkg_does_not_know_is_not_judged():
    fields = changed(fields_of("debian-12-pc-coral-usb"), ("commands", "packages", "out", ""))
    diagnosis = diagnose(read_snapshot(fields))

    assert "edgetpu-abi" not in [finding.check for finding in diagnosis.findings]
    assert "edgetpu-abi" in [unknown.check for unknown in diagnosis.unknown]


def test_a_library_that_kills_its_process_is_found():
    fields = changed(
        fields_of("rpi-os-12-pi4-healthy"), ("commands", "edgetpu_version", {"code": -11, "out": "", "err": ""})
    )

    assert found(fields)["edgetpu-abi"].evidence[0].said == "exit code -11"


def test_an_overlay_whose_upper_half_is_on_a_disk_keeps_what_is_written():
    mounts = (
        "/dev/mmcblk0p4 /media/rw ext4 rw,noatime 0 0\n"
        "overlay / overlay rw,lowerdir=/media/ro,upperdir=/media/rw/up,workdir=/media/rw/work 0 0"
    )

    assert "volatile-root" not in found(changed(fields_of("rpi-os-12-pi4-overlay"), ("files", "/proc/mounts", mounts)))
    in_memory = mounts.replace("/dev/mmcblk0p4 /media/rw ext4", "tmpfs /media/rw tmpfs")
    assert "volatile-root" in found(changed(fields_of("rpi-os-12-pi4-overlay"), ("files", "/proc/mounts", in_memory)))


def test_powersave_of_intel_pstate_is_a_dynamic_clock():
    fields = fields_of("debian-12-pc-coral-usb")

    assert fields["files"][f"{POLICY}/scaling_governor"] == "powersave"
    assert "governor" not in found(fields)


def test_sshd_takes_the_first_value_and_what_is_behind_match_is_for_some_only():
    files = {
        "/etc/ssh/sshd_config": "Include sshd_config.d/*.conf\nMaxStartups=5\nMatch User x\nPermitRootLogin yes",
        "/etc/ssh/sshd_config.d/10-a.conf": 'PasswordAuthentication "no" # ours\nMaxStartups 7:30:60',
        "/etc/ssh/sshd_config.d/20-b.conf": "PasswordAuthentication yes\nInclude /etc/ssh/sshd_config",
    }
    told = sshd_settings(Snapshot({"files": files}))

    assert told == (
        {"passwordauthentication": "no", "maxstartups": "7:30:60", "permitrootlogin": "prohibit-password"},
        "/etc/ssh/sshd_config",
    )


def test_whichever_of_two_lines_sshd_takes_a_low_one_is_found_and_taken_out_where_it_stands():
    """OpenSSH 9.2 takes the last MaxStartups, unlike any other setting."""
    files = {"/etc/ssh/sshd_config": "MaxStartups 20\nMaxStartups 3:50:10", "/proc/1/comm": "systemd"}
    fields = changed(fields_of("rpi-os-12-pi4-healthy"), *(("files", path, text) for path, text in files.items()))
    finding = found(fields)["ssh-max-startups"]

    assert finding.message == "sshd begins to drop logins at 3 at once"
    assert finding.commands[0].text == "sudo sed -i -E 's/^[[:space:]]*MaxStartups/#&/I' /etc/ssh/sshd_config"


def test_an_empty_slot_for_a_card_is_no_failing_card():
    line = "[    5.1] mmc1: error -110 whilst initialising SDIO card"

    assert "card-errors" not in found(
        changed(fields_of("rpi-os-12-pi4-healthy"), ("commands", "kernel_log", "out", line))
    )


def test_a_pc_may_be_warm_where_a_raspberry_pi_is_throttled():
    for system, is_hot in (("rpi-os-12-pi4-healthy", True), ("ubuntu-24.04-pc-nvidia", False)):
        assert ("too-hot" in found(changed(fields_of(system), ("files", THERMAL, "85000")))) == is_hot
    trips = "/sys/class/thermal/thermal_zone0/trip_point_1"
    passive = [("files", THERMAL, "85000"), ("files", f"{trips}_type", "passive"), ("files", f"{trips}_temp", "84000")]
    assert "too-hot" in found(changed(fields_of("ubuntu-24.04-pc-nvidia"), *passive))


def test_where_the_kernels_messages_are_roots_it_is_said_what_could_not_be_told():
    unknown = diagnose(read_snapshot(fields_of("debian-13-pc-coral-pcie"))).unknown

    assert [one.check for one in unknown] == ["card-errors", "out-of-memory"]
    assert "group adm" in unknown[0].why


class Watched(Snapshot):
    """A snapshot that keeps what it is asked for."""

    asked: ClassVar[set[str]] = set()

    def text(self, path):
        self.asked.add(path)
        return super().text(path)

    def paths(self, pattern):
        self.asked.add(pattern)
        return super().paths(pattern)

    def named(self, pattern):
        self.asked.add(pattern)
        return super().named(pattern)

    def binary(self, path):
        self.asked.add(path)
        return super().binary(path)

    def nodes(self, pattern):
        self.asked.add(pattern)
        return super().nodes(pattern)

    def ran(self, name):
        self.asked.add(name)
        return super().ran(name)

    def program(self, name):
        self.asked.add(name)
        return super().program(name)

    def package(self, name):
        self.asked.add(name)
        return super().package(name)


def test_nothing_is_read_on_a_device_that_nobody_judges():
    for system in SYSTEMS:
        diagnose(Watched(fields_of(system)))
    unbuilt = [("machine", "kernel", "6.1.0-28"), ("names", "+/lib/modules/6.1.0-28/build")]
    diagnose(Watched(changed(fields_of("debian-13-pc-coral-pcie"), *unbuilt)))
    asked = (
        Watched.asked
        | {"/.dockerenv", "/run/.containerenv"}
        | {f"/var/lib/systemd/linger/{name}" for name in ("pi", "ada")}
    )
    wanted_names = (*wanted.FILES, *wanted.NAMES, *wanted.NODES, *wanted.PROGRAMS, *wanted.PACKAGES, *wanted.COMMANDS)

    def is_asked_for(name: str) -> bool:
        example = name.replace("*", ".1")  # libvulkan.so.1
        return any(fnmatchcase(one, name) or fnmatchcase(example, one) for one in asked)

    unread = [name for name in wanted_names if not is_asked_for(name)]

    assert unread == []


def test_root_is_told_by_sshd_itself():
    fields = changed(fields_of("rpi-os-12-pi4-failing-card"), ("files", "/etc/ssh/sshd_config", "MaxStartups 3\n"))
    low = changed(
        fields, ("commands", "sshd", "out", "maxstartups 3:50:10\npermitrootlogin no\npasswordauthentication no\n")
    )

    assert "ssh-max-startups" not in found(fields)  # sshd -T says otherwise
    assert [command.text for command in found(low)["ssh-max-startups"].commands] == [
        "sed -i -E 's/^[[:space:]]*MaxStartups/#&/I' /etc/ssh/sshd_config", "sshd -t", "systemctl reload ssh",
    ]  # fmt: skip


# -- what others say of the same

LINES = st.lists(
    st.sampled_from(
        [
            *(
                "PermitRootLogin yes",
                "permitrootlogin no",
                "PermitRootLogin=prohibit-password",
                "  PermitRootLogin\tyes  ",
            ),
            *("PasswordAuthentication no", 'PasswordAuthentication "yes"', "PASSWORDAUTHENTICATION yes # so far"),
            *(
                "# PermitRootLogin no",
                "#PasswordAuthentication no",
                "",
                "X11Forwarding no",
                "Match User nobody",
                "Match all",
            ),
        ]
    ),
    max_size=8,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(LINES)
def test_sshd_reads_its_file_as_we_do(tmp_path, lines):
    if why := why_no_sshd():
        pytest.skip(why)
    if "Match all" in lines:
        lines = lines[: lines.index("Match all")]  # which is for everybody after all, and nobody writes it
    key, file = tmp_path / "key", tmp_path / "sshd_config"
    if not key.exists():
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    file.write_text("\n".join(lines) + "\n")
    said = subprocess.run(
        [SSHD, "-T", "-f", str(file), "-h", str(key)], capture_output=True, text=True, check=True
    ).stdout
    theirs = dict(line.split(" ", 1) for line in said.splitlines() if " " in line)

    told = sshd_settings(Snapshot({"files": {"/etc/ssh/sshd_config": file.read_text()}}))

    assert told is not None
    root = told[0]["permitrootlogin"].replace("prohibit-password", "without-password")
    assert (root, told[0]["passwordauthentication"]) == (theirs["permitrootlogin"], theirs["passwordauthentication"])


@pytest.mark.parametrize("path", ["/", "/proc/self", "/tmp", "/dev/shm/x", "/sys/kernel", str(Path.home())])
def test_findmnt_knows_the_same_mount_below_a_path(path):
    there = Path(path) if Path(path).exists() else Path(path).parent
    theirs = subprocess.run(["findmnt", "-no", "TARGET,FSTYPE", "-T", there], capture_output=True, text=True)
    if theirs.returncode != 0:
        pytest.skip("no findmnt here, or it cannot tell")
    board = Snapshot({"files": {"/proc/mounts": Path("/proc/mounts").read_text()}})

    mount = board.mount_of(str(there.resolve()))

    assert mount is not None
    assert [mount.place, mount.kind] == theirs.stdout.split()[-2:]


def test_a_mount_point_with_a_blank_is_read():
    [mount] = Snapshot({"files": {"/proc/mounts": "/dev/sda1 /media/my\\040disk ext4 rw 0 0"}}).mounts()

    assert mount.place == "/media/my disk"


# -- damaged snapshots

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["0x", "-1", "\x1b[2J", "9" * 40]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def places(value: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something is that could be damaged."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, inner in inside for place in [(*above, key), *places(inner, (*above, key))]]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_damaged_snapshot_is_judged_without_a_traceback(data):
    fields = fields_of(data.draw(st.sampled_from(SYSTEMS)))
    every = places(fields)
    for _ in range(data.draw(st.integers(1, 6))):
        *above, last = data.draw(st.sampled_from(every))
        place = fields
        try:
            for key in above:
                place = place[key]
            old = place[last]
        except (KeyError, IndexError, TypeError):
            continue  # gone with an earlier damage
        if isinstance(place, str):
            continue
        cut = data.draw(st.integers(0, 30))
        damaged = st.just(old[:cut] + old[cut + 1 :]) | VALUES if isinstance(old, str) else VALUES
        place[last] = data.draw(damaged)
    fields["edgekit_snapshot"] = 1

    diagnosis = diagnose(read_snapshot(fields))

    for finding in diagnosis.findings:
        shown = [finding.message, *(part for one in finding.evidence for part in (one.source, one.said))]
        assert all(text.isprintable() for text in shown)
        assert all(text.isprintable() for command in finding.commands for text in command.argv)


@given(VALUES)
def test_an_answer_of_another_form_is_refused(value):
    with pytest.raises(InputError):
        read_snapshot(value)


@pytest.mark.parametrize("name", ["-rf", "a b", "$(reboot)", "x;y", "", "ü\n"])
def test_a_user_name_that_could_be_an_option_is_not_put_into_a_command(name):
    fields = changed(fields_of("rpi-os-13-pi5-coral-usb2"), ("user", "name", name))

    assert [command.argv[-1] for command in found(fields)["linger"].commands] == ["USER"]


# -- on this machine, through its real channel


def test_a_device_with_nothing_installed_is_examined_and_left_as_it_was(command, device):
    code, out, err = command("doctor", device, "--json")
    told = json.loads(out)

    assert (code, err) == ({"error": 20, "warning": 10, "note": 0}[worst(told)], "")
    assert set(told) == {"device", "board", "findings", "unknown", "checks", "counts", "ran"}
    assert (told["checks"], told["ran"]) == (len(CHECKS), [])
    assert world(device.root) == {}
    assert not device.root.exists()


def worst(told: dict[str, Any]) -> str:
    return next((name for name in ("error", "warning") if told["counts"][name]), "note")


def test_what_is_shown_fits_80_columns_worst_first_and_ends_with_a_summary(command, device):
    _, out, _ = command("doctor", device)
    lines = out.splitlines()
    heads = [
        line.split()[0] for line in lines if line and line.split()[0] in ("error", "warning", "note") and "[" in line
    ]

    assert max(len(line) for line in lines if not line.startswith("  fix   ") and not line.startswith("local:")) <= 80
    assert heads == sorted(heads, key=("error", "warning", "note").index)
    assert lines[-1].endswith("could not tell") or f"{len(CHECKS)} checks" in lines[-1]


def test_the_snapshot_that_is_saved_gives_the_same_findings_again(command, device, tmp_path):
    _, out, _ = command("doctor", device, "--json", "--save", tmp_path / "board.json")
    saved = json.loads((tmp_path / "board.json").read_text())

    again = diagnose(read_snapshot(saved))

    assert [finding.check for finding in again.findings] == [row["check"] for row in json.loads(out)["findings"]]
    assert saved["machine"]["libc"] == collect.libc()


@pytest.mark.parametrize(
    ("tag", "said"), [("cpython-39", "needs Python 3.9, "), (f"cpython-3{sys.version_info[1]}", "")]
)
def test_a_release_of_another_python_is_found(command, device, tag, said):
    release = device.root / "releases" / "r1"
    (release / "site" / "numpy" / "_core").mkdir(parents=True)
    (release / "site" / "numpy" / "_core" / f"_multiarray_umath.{tag}-x86_64-linux-gnu.so").touch()
    (release / "run").write_text(launcher_script(PYTHON))
    (device.root / "current").symlink_to("releases/r1")

    code, out, _ = command("doctor", device, "--only", "release-python")

    assert code == (20 if said else 0)
    assert said in " ".join(out.split())


def test_a_snapshot_that_cannot_be_written_is_an_error_of_two_lines(command, device, tmp_path):
    code, _, err = command("doctor", device, "--save", tmp_path / "missing" / "board.json")

    assert code == 2
    assert len(err.splitlines()) == 2


def test_fix_ends_what_it_finds_and_a_second_look_says_so(command, device):
    device.root.mkdir()
    device.root.chmod(0o777)

    code, out, err = command("doctor", device, "--fix", "--yes", "--only", "root-unsafe")

    assert (code, err) == (0, "")
    assert f"  $ chmod go-w {device.root}\n  done\n" in out
    assert out.endswith("after a second look:\n  root-unsafe: gone\nnothing wrong; 1 check\n")
    assert device.root.stat().st_mode & 0o777 == 0o755


def test_fix_as_json_tells_what_was_run_and_what_is_left(command, device):
    device.root.mkdir()
    device.root.chmod(0o777)

    before = json.loads(command("doctor", device, "--json", "--only", "root-unsafe")[1])
    code, out, _ = command("doctor", device, "--fix", "--yes", "--json", "--only", "root-unsafe")
    after = json.loads(out)

    assert [row["check"] for row in before["findings"]] == ["root-unsafe"]
    assert (code, after["findings"]) == (0, [])
    assert after["ran"] == [{"check": "root-unsafe", "command": f"chmod go-w {device.root}", "code": 0, "out": ""}]


def test_without_consent_nothing_is_run(command, device, monkeypatch):
    device.root.mkdir()
    device.root.chmod(0o777)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr("click.confirm", lambda *_, **__: False)

    code, out, _ = command("doctor", device, "--fix", "--only", "root-unsafe")

    assert code == 20
    assert f"$ chmod go-w {device.root}" in out
    assert "second look" not in out
    assert device.root.stat().st_mode & 0o777 == 0o777


def test_fix_asks_and_where_nobody_is_there_to_answer_it_does_nothing(command, device):
    code, _, err = command("doctor", device, "--fix")

    assert code == 2
    assert "--yes" in err


def test_yes_without_fix_is_a_usage_error(command, device):
    assert command("doctor", device, "--yes")[0] == 2


def test_a_check_that_there_is_not_is_named_with_the_nearest(command, device):
    code, _, err = command("doctor", device, "--only", "disk-spaces")

    assert (code, "did you mean disk-space?" in err) == (2, True)


def steps_for(*commands: Command) -> list[Step]:
    finding = found(fields_of("rpi-os-12-zero2w"))["inodes"]
    return [Step(finding, command) for command in commands]


def test_the_rest_of_a_finding_is_left_out_after_a_command_that_fails(device, tmp_path):
    steps = steps_for(
        Command(("sh", "-c", "echo broken; exit 3")), Command(("touch", str(tmp_path / "not"))),
    )  # fmt: skip

    with open_patient(device, python=PYTHON) as patient:
        done = list(treat(patient, steps, lambda step: True))

    assert [(one.code, one.out) for one in done] == [(3, "broken"), (None, "")]
    assert not (tmp_path / "not").exists()


def test_a_command_reads_what_it_is_given_and_takes_as_long_as_it_takes(device, monkeypatch, tmp_path):
    slow = Command(("sh", "-c", f"cat > {tmp_path}/kept; sleep 0.3; echo done"), "a line\n")

    with open_patient(device, python=PYTHON) as patient:
        assert patient.run(slow) == (0, "done")

    assert (tmp_path / "kept").read_text() == "a line\n"


def test_a_command_goes_on_when_the_connection_breaks(device, tmp_path):
    with open_patient(device, python=PYTHON) as patient:
        going_on = ["sh", "-c", f"sleep 0.5; echo half | cat; touch {tmp_path}/whole"]
        patient._session.request("run", argv=going_on, stdin="")

    wait_until(lambda: (tmp_path / "whole").exists())


def test_a_command_that_does_not_end_is_told_and_left_alone(device):
    times = iter((0.0, 5000.0))

    with open_patient(device, python=PYTHON) as patient:
        with refused(DeviceError, 4) as told:
            patient.run(Command(("sleep", "0.2")), now=lambda: next(times))
        with refused(DeviceError, 4):  # one at a time
            patient.run(Command(("true",)))

    assert "sleep 0.2 has not ended after 30 minutes" in str(told.value)


def test_a_program_that_is_not_there_is_an_error_of_the_device(device):
    with open_patient(device, python=PYTHON) as patient, refused(DeviceError, 4):
        patient.run(Command(("no-such-program",)))


def test_where_sudo_wants_a_password_nothing_is_run(device, tmp_path, monkeypatch):
    sudo = tmp_path / "sudo"
    sudo.write_text("#!/bin/sh\necho 'sudo: a password is required' >&2\nexit 1\n")
    sudo.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    with open_patient(device, python=PYTHON) as patient, refused(DeviceRefused, 4) as told:
        patient.check_sudo(steps_for(Command(("sudo", "true"))))

    assert "wants a password" in str(told.value)


def test_where_there_is_no_sudo_that_is_said(device, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    sources = [(name, (PACKAGE / "doctor" / f"{name.rpartition('.')[2]}.py").read_text()) for name in SENT]
    nowhere = [
        (name, text.replace('FOLDERS = "/usr/local/sbin', 'FOLDERS = "/nowhere" or "')) for name, text in sources
    ]
    monkeypatch.setattr("edgekit.doctor.examine.packed_sources", lambda _: zlib.compress(json.dumps(nowhere).encode()))

    with open_patient(device, python=PYTHON) as patient, refused(DeviceRefused, 4) as told:
        patient.check_sudo(steps_for(Command(("sudo", "true"))))

    assert "sudo is not there" in str(told.value)


def test_a_command_that_two_findings_need_is_run_once():
    diagnosis = diagnose(read_snapshot(fields_of("rpi-os-12-zero2w")))
    updates = [step for step in plan(diagnosis) if step.command.argv[-1] == "update"]

    assert sum(c.argv[-2:] == ("apt-get", "update") for f in diagnosis.findings for c in f.commands) > 1
    assert len(updates) == 1


class Liar:
    """A device that answers something else."""

    hello = type("Hello", (), {"unsafe": ""})

    def __init__(self, answer: object) -> None:
        self.answer = answer

    def request(self, operation: str, **arguments: object) -> dict[str, object]:
        return {"snapshot": self.answer}


@pytest.mark.parametrize(
    "answer",
    [
        None,
        [],
        {},
        "snapshot",
        "A===",
        collect.as_text({"edgekit_snapshot": 2}),
        collect.as_text([1]),
        collect.as_text({"a": "b" * (17 << 20)}),
    ],
)
def test_an_answer_that_is_not_a_snapshot_is_an_error_of_the_device(answer, device):
    with refused(DeviceError, 4):
        Patient(Liar(answer), device).snapshot()


# -- what is sent


@pytest.mark.parametrize("name", ["collect", "running", "wanted"])
def test_what_is_sent_is_python_3_6(name):
    ast.parse((PACKAGE / "doctor" / f"{name}.py").read_text(), feature_version=(3, 6))


def test_a_command_that_hangs_is_killed_with_its_children(tmp_path):
    said = running.run(["sh", "-c", f"(sleep 5; touch {tmp_path}/late) & sleep 5"], 0.2, None)

    assert said == {"timed_out": 0.2}


def test_what_a_command_says_is_kept_or_why_it_said_nothing():
    assert running.run(["sh", "-c", "echo out; echo err >&2; exit 3"], 5, None) == {
        "code": 3,
        "out": "out\n",
        "err": "err\n",
    }
    assert running.run(["sh", "-c", "seq 30"], 5, "^2.$")["out"].split() == [str(n) for n in range(20, 30)]
    assert running.run(["no-such-program"], 5, None) == {"missing": True}


def test_files_that_cannot_be_read_say_why():
    told = collect.read_all(["/proc/self/mem", "/proc/self/comm", "/no/such/*"], collect.text_of)

    assert told["/proc/self/mem"] == {"error": "Input/output error"}
    assert set(told) == {"/proc/self/mem", "/proc/self/comm"}


def test_every_file_that_a_system_has_is_one_that_is_asked_for():
    """A documented snapshot may not contain what a real one never could."""
    for system in SYSTEMS:
        fields = fields_of(system)
        for key, patterns in (("files", wanted.FILES), ("binary", wanted.BINARY), ("names", wanted.NAMES)):
            for path in fields[key]:
                assert any(fnmatchcase(path, pattern) for pattern in patterns), (system, path)
        assert set(fields["commands"]) <= {*wanted.COMMANDS, "numpy", "edgetpu_version"}
        assert set(fields["programs"]) == set(wanted.PROGRAMS)


# -- the document


def test_the_document_lists_every_check_as_the_code_has_it():
    text = DOCUMENT.read_text()

    assert manual.rewritten(text) == text, "run: python -m edgekit.doctor.manual docs/doctor.md"
    assert set(manual.TOPICS) == {check.topic for check in CHECKS}
    assert len({check.name for check in CHECKS}) == len(CHECKS)


def test_an_interruption_tells_that_a_command_goes_on(capsys):
    def interrupted():
        yield "first"
        raise KeyboardInterrupt

    seen = []
    with pytest.raises(KeyboardInterrupt):
        seen.extend(_finishing(interrupted()))

    assert "goes on to its end on the device" in capsys.readouterr().err
