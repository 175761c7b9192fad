"""The device's side of `edgekit doctor`: reads what wanted.py names and answers with one snapshot, judging nothing.

Sent over the channel in place of the agent, so nothing has to be installed there. Standard library, any Python >= 3.6:
an old Python is one of the findings. It changes nothing, unless `run` is asked for, which a person has agreed to.
"""

import base64
import glob
import grp
import json
import os
import platform
import pwd
import re
import shutil
import stat
import struct
import sys
import threading
import time
import zlib

from edgekit.doctor.running import LONGEST_TEXT, Running, matching_lines, path_list, run
from edgekit.doctor.wanted import BINARY, COMMANDS, FILES, LINES, NAMES, NODES, PROGRAMS

if False:  # for the type checker alone: typing is slow to import
    from typing import Any, BinaryIO, Callable, Dict, List, Optional

VERSION = 1
MOST_PATHS = 400  # that one glob finds
VERSION_OF_IT = "import sys; print('%d.%d' % sys.version_info[:2])"
NUMPY = "import numpy; print(numpy.__version__)"
EDGETPU = (
    "import ctypes, sys; library = ctypes.CDLL(sys.argv[1]); library.edgetpu_version.restype = ctypes.c_char_p; "
    "print(library.edgetpu_version().decode())"
)
DISTRIBUTION = re.compile(r"(numpy|tflite_runtime|ai_edge_litert|pycoral)-([^-]+)(-.*)?\.(dist|egg)-info")
WAIT_S = 20.0  # of one answer to `wait`; the workstation asks again


def serve(
    root: str, receive: "Callable[[], Dict[str, Any]]", send: "Callable[[Dict[str, Any]], None]", stream: "BinaryIO"
) -> None:
    """Answers `collect`, and for `edgekit doctor --fix` `run` and `wait`, until the workstation closes the channel."""
    running = None  # type: Optional[Running]
    while True:
        request = receive()
        operation = request.get("op")
        try:
            if operation == "collect":
                send({"snapshot": as_text(collect(root))})
            elif operation == "run" and (running is None or running.process.poll() is not None):
                running = Running(list(request["argv"]), str(request["stdin"]))
                send({"started": True})
            elif operation == "wait" and running is not None:
                send(running.wait(WAIT_S))
            else:
                message = "the doctor's device side does not know %r now" % operation
                send({"error": "DeviceError", "message": message, "hint": "report it: a fault in edgekit"})
        except (OSError, ValueError) as error:
            send({"error": "DeviceError", "message": str(error), "hint": "run the command on the device yourself"})


def as_text(snapshot: "Dict[str, Any]") -> str:
    """The snapshot as one text: a tenth of its size, and no text in it is taken for a line to show."""
    return base64.b64encode(zlib.compress(json.dumps(snapshot).encode(), 6)).decode()


def collect(root: str) -> "Dict[str, Any]":
    """Everything that the workstation judges; each thing that cannot be read says why."""
    libraries = found_libraries()
    commands = run_all()
    for path in libraries[:1]:
        commands["edgetpu_version"] = run([sys.executable, "-I", "-c", EDGETPU, path], 15, None)
    packages = distributions()
    if "numpy" in packages:
        commands["numpy"] = run([sys.executable, "-I", "-c", NUMPY], 60, None)
    nodes = [path for pattern in NODES for path in matches(pattern)] + usb_nodes()
    return {
        "edgekit_snapshot": VERSION,
        "root": root,
        "release": release(root),
        "user": user(),
        "python": {"version": list(sys.version_info[:3]), "executable": sys.executable, "packages": packages},
        "machine": {
            "arch": arch(),
            "kernel_arch": platform.machine(),
            "kernel": platform.release(),
            "libc": libc(),
            "page_bytes": os.sysconf("SC_PAGE_SIZE"),
        },
        "clock": {"time_s": int(time.time()), "uptime_s": uptime_s(), "adjtimex": adjtimex()},
        "files": read_all(FILES, text_of),
        "binary": read_all(BINARY, hex_of),
        "lines": read_all_lines(),
        "names": sorted({path for pattern in NAMES for path in matches(pattern)}),
        "nodes": {path: node(path) for path in sorted(set(nodes))},
        "disks": {root: disk(root)},
        "programs": {name: shutil.which(name, path=path_list()) for name in PROGRAMS},
        "commands": commands,
    }


def run_all() -> "Dict[str, Any]":
    """What each command says; they run side by side, as most of them only wait for a service."""
    answers = {}  # type: Dict[str, Any]

    def keep(name: str) -> None:
        argv, seconds, wanted = COMMANDS[name]
        answers[name] = run(argv, seconds, wanted)

    threads = [threading.Thread(target=keep, args=(name,)) for name in COMMANDS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def matches(pattern: str) -> "List[str]":
    return sorted(glob.glob(pattern))[:MOST_PATHS]


def read_all(patterns: "Any", reader: "Callable[[str], str]") -> "Dict[str, Any]":
    """Path -> content, or {"error": why}; a path that is not there is not in it."""
    found = {}  # type: Dict[str, Any]
    for pattern in patterns:
        for path in matches(pattern):
            if os.path.isdir(path):
                continue
            try:
                found[path] = reader(path)
            except OSError as error:  # a sleeping sensor, a file of root's
                found[path] = {"error": error.strerror or "OSError"}
    return found


def read_all_lines() -> "Dict[str, Any]":
    found = {}  # type: Dict[str, Any]
    for pattern, wanted in LINES:
        for path, text in read_all((pattern,), whole_text_of).items():
            lines = text if isinstance(text, dict) else matching_lines(text, wanted)
            if lines:
                found[path] = lines
    return found


def text_of(path: str) -> str:
    with open(path, "rb") as stream:
        return stream.read(LONGEST_TEXT).decode(errors="replace").strip("\0\n ")


def whole_text_of(path: str) -> str:
    with open(path, errors="replace") as stream:
        return stream.read(1 << 20)


def hex_of(path: str) -> str:
    with open(path, "rb") as stream:
        return "".join("%02x" % byte for byte in stream.read(64))


def node(path: str) -> "Dict[str, Any]":
    try:
        found = os.stat(path)
    except OSError as error:
        return {"error": error.strerror or "OSError"}
    return {
        "mode": stat.S_IMODE(found.st_mode),
        "owner": name_of(pwd.getpwuid, found.st_uid),
        "group": name_of(grp.getgrgid, found.st_gid),
        "may_use": os.access(path, os.R_OK | os.W_OK),
    }


def usb_nodes() -> "List[str]":
    """/dev/bus/usb/BUS/DEVICE of everything that is plugged in."""
    found = []
    for path in matches("/sys/bus/usb/devices/*/busnum"):
        try:
            numbers = [int(text_of(os.path.join(os.path.dirname(path), name))) for name in ("busnum", "devnum")]
        except (OSError, ValueError):
            continue
        found.append("/dev/bus/usb/%03d/%03d" % tuple(numbers))
    return found


def name_of(look_up: "Callable[[int], Any]", number: int) -> str:
    try:
        return str(look_up(number)[0])
    except KeyError:
        return str(number)


def release(root: str) -> "Dict[str, Any]":
    """The Python that the current release starts with, and extension modules that it brings for one."""
    try:
        starts = re.search(r"exec ('[^']+'|\S+) -s -c", text_of(os.path.join(root, "current", "run")))
    except OSError:  # nothing is installed
        return {}
    site = os.path.join(glob.escape(root), "current", "site")
    modules = matches(site + "/*/*.cpython-*.so") + matches(site + "/*/*/*.cpython-*.so")
    python = starts.group(1).strip("'") if starts else ""
    return {
        "python": python,
        "version": run([python, "-I", "-c", VERSION_OF_IT], 15, None) if python else {"missing": True},
        "modules": sorted(os.path.basename(path) for path in modules)[:4],
    }


def user() -> "Dict[str, Any]":
    name = name_of(pwd.getpwuid, os.geteuid())
    member = sorted(group.gr_name for group in grp.getgrall() if name in group.gr_mem)
    return {
        "uid": os.geteuid(),
        "name": name,
        "groups": sorted(name_of(grp.getgrgid, number) for number in set(os.getgroups() + [os.getegid()])),
        "member_of": member,  # as the files say: counts from the next login on
    }


def disk(path: str) -> "Dict[str, Any]":
    """The filesystem under a path, or under its nearest parent that is there."""
    place = path
    while not os.path.exists(place) and place != os.path.dirname(place):
        place = os.path.dirname(place)
    try:
        found = os.statvfs(place)
    except OSError as error:
        return {"error": error.strerror or "OSError"}
    return {
        "place": os.path.realpath(place),
        "bytes": found.f_blocks * found.f_frsize,
        "free_bytes": found.f_bavail * found.f_frsize,
        "inodes": found.f_files,
        "free_inodes": found.f_favail,
    }


def found_libraries() -> "List[str]":
    return [path for pattern in NAMES if "libedgetpu" in pattern for path in matches(pattern) if ".so.1" in path]


def distributions() -> "Dict[str, str]":
    """What of interest the device's own Python would import, by its metadata: nothing is imported."""
    found = {}  # type: Dict[str, str]
    for folder in reversed(sys.path):  # the first one wins
        try:
            names = os.listdir(folder or ".")
        except OSError:
            continue
        for name in names:
            match = DISTRIBUTION.match(name)
            if match:
                found[match.group(1)] = match.group(2)
    return found


def arch() -> str:
    machine = platform.machine()  # of the kernel: a 64-bit one may run 32-bit programs
    if struct.calcsize("P") == 4:
        return {"aarch64": "armv7l", "armv8l": "armv7l", "x86_64": "i686"}.get(machine, machine)
    return machine


def libc() -> str:
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, AttributeError):
        return "musl" if glob.glob("/lib/ld-musl-*") else ""


def uptime_s() -> "Optional[int]":
    try:
        return int(float(text_of("/proc/uptime").split()[0]))
    except (OSError, ValueError, IndexError):
        return None


def adjtimex() -> "Optional[int]":
    """What the kernel says of its clock: 5 (TIME_ERROR) is not synchronized. Asked with no change in mind (modes 0)."""
    try:
        import ctypes  # which not every Python is built with

        answer = int(ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512)))
        return answer if answer >= 0 else None  # -1: a container may not ask
    except (ImportError, OSError, AttributeError, TypeError):
        return None
