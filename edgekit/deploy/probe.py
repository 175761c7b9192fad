"""The first thing sent to a device: says what the device is, then runs the agent if the workstation sends one.

It arrives on stdin of `python3 -I`, so nothing has to be on the device before and nothing is quoted for a shell. It is
small, because it is sent every time, and it runs on any Python 3, because it must be able to say "too old".
After a magic line (a login shell may print before it) both sides speak frames: 4 bytes of length, then JSON.
"""

import json
import os
import stat
import struct
import sys
import zlib

if False:  # for the type checker alone: typing is slow to import, and not in every Python 3
    from typing import Any


def send(message: "dict[str, object]") -> None:
    data = json.dumps(message).encode()
    sys.stdout.buffer.write(struct.pack(">I", len(data)) + data)
    sys.stdout.buffer.flush()


def read(count: int) -> bytes:
    data = sys.stdin.buffer.read(count)
    if len(data) < count:  # the workstation is gone, be it in the middle of a word
        raise SystemExit(0)
    return data


def receive() -> "dict[str, Any]":
    size = struct.unpack(">I", read(4))[0]
    try:
        if size > 64 << 20:  # before memory is taken for it
            raise ValueError
        return dict(json.loads(read(size).decode()))
    except (ValueError, TypeError, RuntimeError):  # of the last kind: a nesting too deep for Python
        sys.exit("edgekit: what arrived is not a frame of ours")


def text_of(path: str) -> str:
    try:
        with open(path, errors="replace") as stream:
            return stream.read().strip("\0\n ")
    except OSError:
        return ""


def libc() -> str:
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, AttributeError):
        import sysconfig  # like platform below: slow to import, and hardly ever asked

        return "musl" if "musl" in (sysconfig.get_config_var("SOABI") or "") else ""


def numpy_version() -> "str | None":
    try:
        import numpy

        return str(numpy.__version__)
    except Exception:  # whatever a broken numpy raises, it is not there
        return None


def arch() -> str:
    machine = os.uname().machine  # of the kernel: a 64-bit one may run 32-bit programs
    if struct.calcsize("P") == 4:
        return {"aarch64": "armv7l", "armv8l": "armv7l", "x86_64": "i686"}.get(machine, machine)
    return machine


def unsafe(root: str) -> str:
    """Why nothing may be put there or believed from there; "" if there is no reason, or nothing there yet."""
    try:
        found = os.lstat(root)
    except OSError:
        return ""
    if stat.S_ISLNK(found.st_mode):
        return "is a symbolic link"
    if not stat.S_ISDIR(found.st_mode):
        return "is not a folder"
    if found.st_uid != os.geteuid():
        return "belongs to another user (%d)" % found.st_uid
    if found.st_mode & 0o022:
        return "can be written by other users"
    return ""


def installed(root: str) -> "dict[str, Any]":
    state = {"current": None}  # type: dict[str, Any]
    try:
        found = os.path.basename(os.readlink(os.path.join(root, "current")))
        if os.path.isdir(os.path.join(root, "releases", found)):
            state["current"] = found
    except OSError:
        pass
    try:
        journal = json.loads(text_of(os.path.join(root, "journal.json")))
        state.update((key, journal[key]) for key in ("phase", "good", "prev", "to", "service"))
    except (ValueError, TypeError, KeyError):  # not there yet, or the agent will say
        state.update(dict.fromkeys(("phase", "good", "prev", "to", "service")))
    names = []  # type: list[str]
    try:
        names = os.listdir(os.path.join(root, "runtimes"))
    except OSError:
        pass
    # one without a list of bytecode is from before there were any, and is installed once more
    listed = (name for name in names if os.path.exists(os.path.join(root, "runtimes", name, ".bytecode.json")))
    state["runtimes"] = sorted(name for name in listed if name + ".json" in names)
    return state


def hello(root: str) -> "dict[str, object]":
    release = dict(line.split("=", 1) for line in text_of("/etc/os-release").splitlines() if "=" in line)
    free = None
    place = root
    while not os.path.isdir(place) and place != os.path.dirname(place):
        place = os.path.dirname(place)
    try:
        disk = os.statvfs(place)
        free = disk.f_bavail * disk.f_frsize
    except OSError:
        pass
    machine, system = arch(), release.get("PRETTY_NAME", "").strip('"')
    if not system:
        import platform

        system = platform.platform()
    facts = {  # type: dict[str, object]
        "python": list(sys.version_info[:3]),
        "executable": sys.executable,
        "arch": machine,
        "libc": libc(),
        "numpy": numpy_version()
        if machine == "armv7l"
        else None,  # only asked where no wheel exists: importing is slow
        "system": system,
        "board": text_of("/proc/device-tree/model"),
        "root": root,
        "unsafe": unsafe(root),
        "free_bytes": free,
        "signers": os.path.lexists(os.path.join(root, "allowed_signers")),
    }
    facts.update(installed(root))
    return facts


def default_root() -> str:
    state = os.environ.get("XDG_STATE_HOME") or ""
    if not os.path.isabs(state):
        state = os.path.join(os.path.expanduser("~"), ".local", "state")
    return os.path.join(state, "edgekit")


def compiled(root: str, packed: bytes) -> "list[Any]":
    """[name, code] of each part of the agent: as an earlier one kept it there (store.py), or from its source."""
    import marshal
    from _frozen_importlib_external import MAGIC_NUMBER
    from hashlib import sha256

    path = os.path.join(root, "agent", "%s-%s.code" % (sha256(packed).hexdigest()[:16], MAGIC_NUMBER.hex()))
    try:
        if not unsafe(root) and not unsafe(os.path.dirname(path)) and not os.path.islink(path):
            with open(path, "rb") as stream:
                digest, kept = stream.read(32), stream.read()
            if sha256(kept).digest() == digest:  # whole: what it is after a power cut nobody knows
                return list(marshal.loads(kept))  # noqa: S302 - our own, as all that lies there
    except OSError:
        pass
    sources = json.loads(zlib.decompress(packed).decode())
    return [[name, compile(source, name, "exec")] for name, source in sources]


def main() -> None:
    wanted = globals().get("WANTED") or receive()  # what the command line says already, nobody has to wait for
    root = wanted["root"] or default_root()
    sys.stdout.buffer.write(b"\nEDGEKIT 1\n")
    facts = hello(root)
    send(facts)
    if wanted.get("strict") and (facts["unsafe"] or sys.version_info < (3, 9)):
        return  # whatever was asked for meanwhile
    agent = None
    packed = read(receive()["agent"])
    parts = compiled(root, packed)
    for name, code in parts:
        agent = sys.modules[name] = type(sys)(name)  # so that the next one can import it
        exec(code, agent.__dict__)
    agent.packed, agent.parts = packed, parts  # type: ignore[union-attr]
    agent.serve(root, receive, send, sys.stdin.buffer)  # type: ignore[union-attr]


main()
