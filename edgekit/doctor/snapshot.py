"""A device's snapshot as the checks see it: typed, forgiving, and never believed to be whole.

What comes over the channel is the device's word. `read_snapshot` keeps what has the form that collect.py gives it and drops
the rest, so that a check meets a value or None, and what it shows is fit for a terminal.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

from edgekit.doctor.parts import Disk, Mount, Node, Ran, UsbDevice
from edgekit.doctor.text import plain, whole
from edgekit.errors import InputError

VERSION = 1  # of collect.py's answer
_SEE_THE_JOURNAL = frozenset(("adm", "systemd-journal", "wheel"))
_UNPACKED = frozenset("iUFHWt")  # second letter of dpkg's db:Status-Abbrev: the files are there
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")  # of a user, a kernel, a package: nothing that could be an option


def read_snapshot(fields: Any) -> Snapshot:
    """A snapshot of the form that collect.py gives it. Raises InputError for something else altogether."""
    if not isinstance(fields, Mapping) or fields.get("edgekit_snapshot") != VERSION:
        version = fields.get("edgekit_snapshot") if isinstance(fields, Mapping) else None
        raise InputError(
            f"a snapshot of form {plain(version)[:40]}, this edgekit reads form {VERSION}",
            hint="take it again with edgekit doctor DEVICE --save FILE, with this edgekit",
        )
    return Snapshot(fields)


class Snapshot:
    """What a device said of itself. Everything that is not there, or of another form, is None, "" or empty."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self._fields = fields
        self.root = self._text("root")
        self.user = self._text("user", "name") if _NAME.fullmatch(self._text("user", "name")) else "USER"
        self.uid = self._number("user", "uid")
        self.groups = frozenset(_texts(self._at("user", "groups")))
        self.member_of = frozenset(_texts(self._at("user", "member_of")))
        version = self._at("python", "version")
        numbers = version if isinstance(version, list) and len(version) >= 2 else []
        self.python = tuple(number for number in numbers if _is_number(number) and 0 <= number < 1000)
        self.python_path = self._text("python", "executable")
        self.arch = self._text("machine", "arch")
        self.kernel_arch = self._text("machine", "kernel_arch")
        self.kernel = self._text("machine", "kernel")
        self.libc = self._text("machine", "libc")
        self.page_bytes = self._number("machine", "page_bytes")
        self.time_s = self._number("clock", "time_s")
        self.uptime_s = self._number("clock", "uptime_s")
        self.adjtimex = self._number("clock", "adjtimex")
        self.asked_s = self._number("workstation", "time_s")  # by the workstation's clock
        self.unsafe = self._text("workstation", "unsafe")  # why ROOT must not be used, as the probe said
        self.names = frozenset(_texts(fields.get("names")))
        self.system = self._system()
        self.board = self.text("/proc/device-tree/model") or ""
        self.is_container = self._is_container()

    def release(self) -> tuple[str, Ran | None, list[str]]:
        """The current release's Python, what that says its version is, and names of extension modules built for one."""
        modules = _texts(self._at("release", "modules"))
        return self._text("release", "python"), _ran(self._at("release", "version")), modules

    # -- files

    def text(self, path: str) -> str | None:
        """A file's content, None if it is not there or could not be read."""
        found = self._at("files", path)
        return found if isinstance(found, str) else None

    def number(self, path: str) -> int | None:
        """A file's content as a number (decimal, or hexadecimal with 0x)."""
        return whole(self.text(path))

    def why_not(self, path: str) -> str:
        """Why a file that is there could not be read."""
        return self._text("files", path, "error")

    def paths(self, pattern: str) -> list[str]:
        """The files that were there, of those that a glob names."""
        return sorted(path for path in self._table("files") if fnmatchcase(path, pattern))

    def binary(self, path: str) -> int | None:
        """A big-endian number of the firmware's."""
        digits = self._text("binary", path)
        return int(digits, 16) if re.fullmatch(r"([0-9a-f]{2}){1,8}", digits) else None

    def lines(self, pattern: str) -> Iterator[tuple[str, str]]:
        """The lines that wanted.py asks for, each with the file that it is in."""
        for path, lines in sorted(self._table("lines").items()):
            if fnmatchcase(path, pattern):
                for line in _texts(lines):
                    yield path, line

    def named(self, pattern: str) -> list[str]:
        """Paths that are there, of those that wanted.py asks for by name."""
        return sorted(path for path in self.names if fnmatchcase(path, pattern))

    # -- devices, disks, programs

    def node(self, path: str) -> Node | None:
        """A device node."""
        found = self._table("nodes").get(path)
        if not isinstance(found, Mapping) or not _is_number(found.get("mode")):
            return None
        return Node(
            int(found["mode"]) & 0o7777,
            plain(found.get("owner")),
            plain(found.get("group")),
            found.get("may_use") is True,
        )

    def nodes(self, pattern: str) -> list[tuple[str, Node]]:
        """Device nodes by glob."""
        found = ((path, self.node(path)) for path in sorted(self._table("nodes")) if fnmatchcase(path, pattern))
        return [(path, node) for path, node in found if node is not None]

    def usb(self) -> list[UsbDevice]:
        """What is plugged in."""
        found = []
        for path in self.paths("/sys/bus/usb/devices/*/idVendor"):
            folder = path.rpartition("/")[0]
            bus, number = self.number(f"{folder}/busnum"), self.number(f"{folder}/devnum")
            node = "" if bus is None or number is None else f"/dev/bus/usb/{bus:03d}/{number:03d}"
            found.append(UsbDevice(folder, self.text(path) or "", self.text(f"{folder}/idProduct") or "", node))
        return found

    def pci(self, vendor: str, device: str) -> list[str]:
        """Folders of PCI devices of a kind, "0x1ac1"."""
        folders = (path.rpartition("/")[0] for path in self.paths("/sys/bus/pci/devices/*/vendor"))
        return [
            f for f in folders if self.text(f"{f}/vendor") == vendor and self.text(f"{f}/device") in (device, "*", None)
        ]

    def disk(self, path: str) -> Disk | None:
        """The filesystem below `path`."""
        found = self._table("disks").get(path)
        names = ("bytes", "free_bytes", "inodes", "free_inodes")
        if not isinstance(found, Mapping) or not all(_is_number(found.get(name)) for name in names):
            return None
        return Disk(plain(found.get("place")), *(max(0, int(found[name])) for name in names))

    def mounts(self) -> list[Mount]:
        """/proc/mounts."""
        rows = (line.split() for line in (self.text("/proc/mounts") or "").splitlines())
        return [
            Mount(_unescaped(row[0]), _unescaped(row[1]), row[2], tuple(_unescaped(row[3]).split(",")))
            for row in rows
            if len(row) >= 4
        ]

    def mount_of(self, path: str) -> Mount | None:
        """Where a path lies: the longest mount point above it, the last one of equals."""
        above = [
            mount for mount in self.mounts() if path == mount.place or path.startswith(mount.place.rstrip("/") + "/")
        ]
        return max(above, key=lambda mount: len(mount.place), default=None)

    def program(self, name: str) -> str | None:
        """Where a program is."""
        found = self._table("programs").get(name)
        return found if isinstance(found, str) else None

    def ran(self, name: str) -> Ran | None:
        """What a command said; None if it is not there or was not run."""
        return _ran(self._table("commands").get(name))

    def kernel_log(self) -> list[str] | None:
        """The kernel's messages since it booted that mean something here; None if the login user may not read them."""
        dmesg, journal = self.ran("kernel_log"), self.ran("kernel_journal")
        if dmesg is not None and dmesg.code == 0:
            return dmesg.out.splitlines()
        if journal is None or journal.code != 0:
            return None
        # who may not see the kernel's messages gets none, and exit code 0
        sees_it = self.uid == 0 or self.groups & _SEE_THE_JOURNAL
        return journal.out.splitlines() if sees_it or journal.out.strip() else None

    def kernel_lines(self, pattern: str) -> list[str] | None:
        """Those of the kernel's messages that a regular expression is found in; None as for `kernel_log`."""
        log = self.kernel_log()
        return None if log is None else [line for line in log if re.search(pattern, line)]

    def package(self, name: str) -> str | None:
        """The version of an installed Debian package, also of one that is only half configured."""
        ran = self.ran("packages")
        rows = (line.split() for line in (ran.out if ran else "").splitlines())
        return next(
            (plain(row[1]) for row in rows if len(row) >= 4 and row[0] == name and row[3][1:2] in _UNPACKED), None
        )

    def distribution(self, name: str) -> str | None:
        """The version of a package that the device's own Python would import."""
        found = self._at("python", "packages", name)
        return plain(found) if isinstance(found, str) else None

    def os_release(self, key: str) -> str:
        """A value of /etc/os-release."""
        for line in (self.text("/etc/os-release") or "").splitlines():
            name, _, value = line.partition("=")
            if name == key:
                return plain(value.strip("\"'"))
        return ""

    @property
    def is_raspberry_pi(self) -> bool:
        return "raspberry pi" in self.board.lower()

    @property
    def is_jetson(self) -> bool:
        return (
            "tegra" in (self.text("/proc/device-tree/compatible") or "")
            or self.text("/etc/nv_tegra_release") is not None
        )

    def _system(self) -> str:
        return self.os_release("PRETTY_NAME") or "unknown system"

    def _is_container(self) -> bool:
        marks = {"/.dockerenv", "/run/.containerenv"} & self.names
        return bool(marks) or self.text("/run/systemd/container") is not None

    # -- forms

    def _at(self, *keys: str) -> Any:
        found: Any = self._fields
        for key in keys:
            if not isinstance(found, Mapping):
                return None
            found = found.get(key)
        return found

    def _table(self, key: str) -> Mapping[str, Any]:
        found = self._fields.get(key)
        return (
            {name: value for name, value in found.items() if isinstance(name, str)}
            if isinstance(found, Mapping)
            else {}
        )

    def _text(self, *keys: str) -> str:
        found = self._at(*keys)
        return plain(found) if isinstance(found, str) else ""

    def _number(self, *keys: str) -> int | None:
        found = self._at(*keys)
        return int(found) if _is_number(found) else None


def _ran(found: Any) -> Ran | None:
    if not isinstance(found, Mapping) or not ("code" in found or "timed_out" in found):
        return None
    code = found.get("code")
    return Ran(code if _is_number(code) else None, _block(found.get("out")), _block(found.get("err")))


def _unescaped(text: str) -> str:
    """A field of /proc/mounts, where a blank is \\040."""
    return plain(re.sub(r"\\([0-3][0-7]{2})", lambda found: chr(int(found[1], 8)), text))


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 62


def _texts(value: Any) -> list[str]:
    return [plain(item) for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _block(value: Any) -> str:
    return value if isinstance(value, str) else ""
