"""What runs on the device during a deployment: keeps blobs, builds runtimes and releases, checks, switches, cleans up.

Sent over the channel when there is work to do; standard library only, Python >= 3.9. Everything lies under one ROOT:

    lock                    flock: one deployment at a time; the kernel lets go when the process dies
    blobs/<sha256>          every file ever needed, once; read-only
    incoming/<sha256>       a blob while it arrives
    runtimes/<id>/          site-packages for this board's Python: hard links into blobs; <id>.json lists them
    releases/<id>/          bundle, runner and `run`: hard links; `site` -> the runtime; release.json lists them
    current -> releases/<id>, previous -> releases/<id>    replaced by rename, so always whole

A name from the other side is used only if it fits the grammar below. A blob is trusted only after it was hashed where
it lies; a runtime or release is synced to the disk before it gets its name. Until `current` is renamed, nothing that
runs has changed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

ID = re.compile(r"[0-9a-f]{16}")
SHA256 = re.compile(r"[0-9a-f]{64}")
COMPONENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,127}")
RESERVE = 16 << 20  # bytes left free on the disk, so that logs and the system go on


class Refused(Exception):
    """Goes to the workstation as an error of that kind (a class of edgekit.errors)."""

    def __init__(self, kind: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.kind, self.hint = kind, hint


def serve(
    root: str, receive: Callable[[], dict[str, Any]], send: Callable[[dict[str, Any]], None], stream: BinaryIO
) -> None:
    """Answers requests until the workstation closes the channel or one of them fails."""
    agent = Agent(root, stream)
    while True:
        request = receive()
        try:
            reply = agent.answer(request)
        except Refused as error:
            reply = {"error": error.kind, "message": str(error), "hint": error.hint}
        except OSError as error:
            reply = explain(error, root)
        if reply is not None:
            send(reply)
        if reply is not None and "error" in reply:
            agent.tidy()
            return


def explain(error: OSError, root: str) -> dict[str, Any]:
    """An OSError as an answer that a person can use."""
    where = error.filename or root
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return {"error": "DeviceFull", "message": f"no space left under {root}", "hint": "make room, then deploy again"}
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        message = f"cannot write {where}: {error.strerror}"
        return {"error": "DeviceRefused", "message": message, "hint": f"make {root} writable for the login user"}
    return {
        "error": "DeviceError",
        "message": f"{where}: {error.strerror}",
        "hint": "look at the board's disk and logs",
    }


class Agent:
    """The device's side of a deployment. All paths are below `root`."""

    def __init__(self, root: str, stream: BinaryIO) -> None:
        self.root = root
        self.stream = stream
        self.lock: int | None = None

    def path(self, *parts: str) -> str:
        return os.path.join(self.root, *parts)

    def answer(self, request: dict[str, Any]) -> dict[str, Any] | None:
        operation = request["op"]
        if operation == "status":
            return self.status()
        if operation == "verify":
            return self.verify()
        if operation == "missing":
            return {"missing": self.missing(request["files"])}
        self.hold_lock()
        if operation == "repair":
            return self.repair()
        if operation == "plan":
            return self.plan(request["files"])
        if operation == "put":
            return self.put(request)
        if operation == "runtime":
            return self.install_runtime(request["id"], request["text"])
        if operation == "release":
            return self.install_release(request["id"], request["text"])
        if operation == "switch":
            return self.switch(request["id"])
        if operation == "rollback":
            return self.rollback()
        if operation == "remove":
            return self.remove()
        raise Refused("DeviceError", f"the agent does not know {operation!r}", "this is a fault in edgekit: report it")

    def hold_lock(self) -> None:
        if self.lock is not None:
            return
        # 0700: what runs on the board is nobody else's to change
        os.makedirs(self.root, mode=0o700, exist_ok=True)
        lock = os.open(self.path("lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(lock, 100).decode(errors="replace").strip() or "another process"
            raise Refused("DeviceBusy", f"a deployment is under way ({holder})", "wait until it ends") from None
        os.ftruncate(lock, 0)
        os.write(lock, f"pid {os.getpid()}".encode())
        self.lock = lock
        for name in ("blobs", "incoming", "runtimes", "releases"):
            os.makedirs(self.path(name), exist_ok=True)
        for folder in ("incoming", "runtimes", "releases"):  # what an earlier death left behind
            for name in os.listdir(self.path(folder)):
                if folder == "incoming" or name.startswith(".tmp-"):
                    delete(self.path(folder, name))

    # -- blobs

    def plan(self, files: Mapping[str, int]) -> dict[str, Any]:
        """Which of `files` (sha256 -> bytes) must be sent, if there is room; a damaged blob is thrown away first."""
        missing = self.missing(files)
        for sha256 in missing:
            delete(self.path("blobs", sha256))
        need = sum(files[sha256] for sha256 in missing)
        disk = os.statvfs(self.root)
        free = disk.f_bavail * disk.f_frsize
        if missing and need * 11 // 10 + RESERVE > free:
            message = f"{need >> 20} MiB are needed under {self.root}, {free >> 20} MiB are free"
            raise Refused("DeviceFull", message, f"make room: {RESERVE >> 20} MiB and a tenth stay in reserve")
        return {"missing": missing}

    def missing(self, files: Mapping[str, int]) -> list[str]:
        blobs = {sha256: self.path("blobs", checked(SHA256, sha256)) for sha256 in files}
        return [sha256 for sha256, blob in blobs.items() if not intact(blob, sha256, files[sha256])]

    def put(self, request: dict[str, Any]) -> dict[str, Any] | None:
        """Takes one blob off the stream: aside, hashed as read back, then under its name. Answers only if asked.

        Not synced one by one, which would cost seconds on an SD card: `build` syncs all before anything refers to them.
        """
        sha256, stored = checked(SHA256, request["sha256"]), int(request["stored"])
        aside, blob = self.path("incoming", sha256), self.path("blobs", sha256)
        unpack = zlib.decompressobj() if request["packed"] else None
        with open(aside, "wb") as out:
            while stored:
                block = self.stream.read(min(stored, 1 << 14))
                if not block:  # the workstation is gone in mid-file
                    delete(aside)
                    raise SystemExit(0)
                stored -= len(block)
                out.write(unpack.decompress(block) if unpack else block)
                if out.tell() > request["size"]:
                    raise Refused("DeviceDamaged", f"blob {sha256[:16]} is larger than announced", "deploy again")
        if not intact(aside, sha256, request["size"]):
            delete(aside)
            raise Refused("DeviceDamaged", f"blob {sha256[:16]} arrived damaged", "deploy again")
        os.chmod(aside, 0o444)
        os.rename(aside, blob)
        return {"stored": sha256} if request.get("answer") else None

    # -- runtimes and releases

    def install_runtime(self, name: str, text: str) -> dict[str, Any]:
        files = listed(name, text, "edgekit_runtime")["files"]
        self.build("runtimes", name, files, {}, {})
        write_durably(self.path("runtimes", name + ".json"), text.encode())
        return {"installed": name}

    def install_release(self, name: str, text: str) -> dict[str, Any]:
        """Builds the release beside the running one, hashes it once more and asks its runner for the golden answers."""
        release = listed(name, text, "edgekit_release")
        runtime = release["runtime"]
        links = {}
        if runtime is not None:
            links["site"] = os.path.join("..", "..", "runtimes", checked(ID, runtime))
        if self.damaged_files("releases", name):  # not there yet, or no longer as it was
            self.build("releases", name, release["files"], links, {"release.json": text})
        folder = self.path("releases", name)
        damaged = self.damaged_files("releases", name)
        if damaged:
            raise Refused("DeviceDamaged", f"{damaged[0]} is damaged on the device", "deploy again with --verify")
        return {"installed": name, "check": self.golden_check(folder, release)}

    def build(
        self,
        kind: str,
        name: str,
        files: Mapping[str, dict[str, Any]],
        links: Mapping[str, str],
        extra: Mapping[str, str],
    ) -> None:
        """A folder of hard links into blobs, made aside and renamed: it is there whole or not at all."""
        aside, final = self.path(kind, ".tmp-" + name), self.path(kind, checked(ID, name))
        delete(aside)
        os.mkdir(aside)
        made = {aside}
        for path, file in files.items():
            parts = path.split("/")
            if len(parts) > 16 or not all(COMPONENT.fullmatch(part) for part in parts):
                raise Refused(
                    "DeviceError", f"not a name for a file: {path!r}", "this is a fault in edgekit: report it"
                )
            place = os.path.join(aside, *parts)
            if os.path.dirname(place) not in made:
                os.makedirs(os.path.dirname(place), exist_ok=True)
                made.add(os.path.dirname(place))
            os.link(self.path("blobs", checked(SHA256, file["sha256"])), place)
            if file.get("run"):
                os.chmod(place, 0o555)
        for path, content in extra.items():
            with open(os.path.join(aside, path), "w", encoding="utf-8") as out:
                out.write(content)
        for path, place in links.items():
            os.symlink(place, os.path.join(aside, path))
        os.sync()  # one call for many files and folders; fsync on each costs seconds on an SD card
        if os.path.isdir(final):
            os.rename(final, aside + "-old")
        os.rename(aside, final)
        sync_folder(self.path(kind))
        delete(aside + "-old")

    def golden_check(self, folder: str, release: Mapping[str, Any]) -> dict[str, Any]:
        command = [sys.executable, "-s", "-m", "edgekit.runner", "check", folder, "--json"]
        site = os.path.join(folder, "site")
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONHOME", "PYTHONSTARTUP")}
        environment["PYTHONPATH"] = os.pathsep.join([folder, site])
        started = time.monotonic()
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=600, env=environment, cwd="/"
            )
        except subprocess.TimeoutExpired:
            raise Refused(
                "ReleaseUnhealthy", "the golden check did not end in 600 s", "is the board overloaded?"
            ) from None
        if done.returncode == 0:
            return dict(json.loads(done.stdout), seconds=round(time.monotonic() - started, 3))
        if release["runtime"] is not None and self.damaged_files("runtimes", release["runtime"]):
            delete(self.path("runtimes", release["runtime"] + ".json"))
            raise Refused(
                "DeviceDamaged", "files of the runtime are damaged on the device", "deploy again: they are sent again"
            )
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["no output"]
        if done.returncode == 5:
            hint = lines[1].strip() if len(lines) > 1 else ""
            raise Refused("GoldenMismatch", lines[0].replace("edgekit.runner: ", ""), hint)
        how = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
        raise Refused(
            "ReleaseUnhealthy", f"the runner failed on the device ({how}): {lines[-1][:300]}", "nothing was switched"
        )

    # -- what is current

    def target_of(self, name: str) -> str | None:
        try:
            found = os.path.basename(os.readlink(self.path(name)))
        except OSError:
            return None
        return found if os.path.isdir(self.path("releases", found)) else None

    def point(self, name: str, release: str) -> None:
        aside = self.path(f".tmp-{name}")
        delete(aside)
        os.symlink(os.path.join("releases", release), aside)
        os.rename(aside, self.path(name))
        sync_folder(self.root)

    def switch(self, name: str) -> dict[str, Any]:
        """`current` becomes the release; the one before stays and becomes `previous`."""
        old = self.target_of("current")
        if not os.path.isdir(self.path("releases", checked(ID, name))):
            raise Refused("NotInstalled", f"release {name} is not installed", "deploy again")
        if old is not None and old != name:
            self.point("previous", old)
        self.point("current", name)
        self.collect_garbage()
        return {"current": name, "previous": self.target_of("previous")}

    def rollback(self) -> dict[str, Any]:
        """`current` and `previous` change places."""
        current, previous = self.target_of("current"), self.target_of("previous")
        if previous is None or previous == current:
            raise Refused(
                "NotInstalled", "there is no previous release to go back to", "deploy an older bundle instead"
            )
        self.check_installed(previous)
        self.point("current", previous)
        if current is not None:
            self.point("previous", current)
        return {"current": previous, "previous": current}

    def check_installed(self, name: str) -> None:
        damaged = self.damaged_files("releases", name)
        if damaged:
            raise Refused("DeviceDamaged", f"the previous release is damaged: {damaged[0]}", "deploy that bundle again")

    def status(self) -> dict[str, Any]:
        releases: list[dict[str, Any]] = []
        for name in ("current", "previous"):
            found = self.target_of(name)
            if found is not None and not any(row["id"] == found for row in releases):
                releases.append(dict(self.describe(found), role=name))
        used = 0
        for folder, _, names in os.walk(self.path("blobs")):
            used += sum(os.lstat(os.path.join(folder, name)).st_blocks * 512 for name in names)
        return {"releases": releases, "used_bytes": used}

    def describe(self, name: str) -> dict[str, Any]:
        try:
            with open(self.path("releases", name, "release.json"), encoding="utf-8") as stream:
                release = json.load(stream)
        except (OSError, ValueError):
            return {"id": name, "bundle": None, "name": None, "edgekit": None, "runtime": None, "installed_s": None}
        age = os.lstat(self.path("releases", name)).st_mtime  # by the board's own clock, which may be wrong
        keys = ("bundle", "name", "edgekit", "runtime", "requirements")
        return dict({key: release.get(key) for key in keys}, id=name, installed_s=round(age))

    def verify(self) -> dict[str, Any]:
        """The files of all releases and runtimes that are not what was sent."""
        damaged: list[str] = []
        for kind in ("releases", "runtimes"):
            for name in self.installed(kind):
                damaged += [f"{kind}/{name}/{path}" for path in self.damaged_files(kind, name)]
        return {"damaged": damaged}

    def repair(self) -> dict[str, Any]:
        """Forgets what is damaged, so that the deployment that follows sends it again."""
        damaged = self.verify()["damaged"]
        for path in damaged:
            kind, name = path.split("/")[:2]
            delete(
                self.path("runtimes", name + ".json") if kind == "runtimes" else self.path(kind, name, "release.json")
            )
        return {"damaged": damaged}

    def installed(self, kind: str) -> list[str]:
        try:
            names = os.listdir(self.path(kind))
        except OSError:
            return []
        return sorted(name for name in names if ID.fullmatch(name))

    def listing(self, kind: str, name: str) -> dict[str, Any]:
        path = self.path(kind, name + ".json") if kind == "runtimes" else self.path(kind, name, "release.json")
        with open(path, encoding="utf-8") as stream:
            return dict(json.load(stream))

    def damaged_files(self, kind: str, name: str) -> list[str]:
        try:
            files = self.listing(kind, name)["files"]
        except (OSError, ValueError, KeyError):
            return ["its list of files"]
        folder = self.path(kind, name)
        return [p for p, file in files.items() if not intact(os.path.join(folder, p), file["sha256"], file["size"])]

    def remove(self) -> dict[str, Any]:
        """Takes everything of edgekit's off the device; what else lies under ROOT stays."""
        for name in ("current", "previous", "releases", "runtimes", "incoming", "blobs", "lock"):
            delete(self.path(name))
        with contextlib.suppress(OSError):  # somebody else's files
            os.rmdir(self.root)
        return {"removed": self.root}

    def tidy(self) -> None:
        """After a failed request: nothing half-made stays, and nothing that no release needs."""
        with contextlib.suppress(OSError):  # the first error is the one to report
            if self.lock is not None and os.path.isdir(self.path("releases")):
                self.collect_garbage()

    def collect_garbage(self) -> None:
        """Keeps current and previous, and what they need."""
        keep = {name for name in (self.target_of("current"), self.target_of("previous")) if name is not None}
        runtimes = set()
        for name in keep:
            with contextlib.suppress(OSError, ValueError, KeyError):
                runtimes.add(self.listing("releases", name)["runtime"])
        for kind, wanted in (("releases", keep), ("runtimes", runtimes)):
            for name in sorted(os.listdir(self.path(kind)), reverse=True):  # a runtime's list goes before its folder
                if name.split(".json")[0] not in wanted:
                    aside = self.path(kind, ".tmp-" + name.replace(".tmp-", ""))
                    if not name.startswith(".tmp-"):  # a half-deleted folder must not carry a release's name
                        os.rename(self.path(kind, name), aside)
                    delete(aside)
        for name in os.listdir(self.path("blobs")):
            if os.lstat(self.path("blobs", name)).st_nlink == 1:  # in no release and no runtime
                os.unlink(self.path("blobs", name))
        for name in os.listdir(self.path("incoming")):
            delete(self.path("incoming", name))


def checked(grammar: re.Pattern[str], name: Any) -> str:
    if not isinstance(name, str) or not grammar.fullmatch(name):
        raise Refused("DeviceError", f"not an id: {name!r}", "this is a fault in edgekit: report it")
    return str(name)


def listed(name: str, text: str, key: str) -> dict[str, Any]:
    """A listing whose name is its hash."""
    if hashlib.sha256(text.encode()).hexdigest()[:16] != checked(ID, name):
        raise Refused("DeviceDamaged", f"the list of {name} arrived damaged", "deploy again")
    listing: dict[str, Any] = json.loads(text)
    if listing.get(key) != 1:
        raise Refused(
            "DeviceError", f"{key} {listing.get(key)!r}, this agent knows 1", "this is a fault in edgekit: report it"
        )
    return listing


def intact(path: str, sha256: str, size: int) -> bool:
    """True if the file is a plain file of that size and hash."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    digest = hashlib.sha256()
    with os.fdopen(handle, "rb") as stream:
        if os.fstat(stream.fileno()).st_size != size:
            return False
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest() == sha256


def write_durably(path: str, data: bytes) -> None:
    with open(path + ".tmp", "wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
    os.rename(path + ".tmp", path)
    sync_folder(os.path.dirname(path))


def sync_folder(path: str) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def delete(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
