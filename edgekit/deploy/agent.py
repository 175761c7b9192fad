"""What runs on the device during a deployment: takes blobs, installs runtimes and releases, proves, switches.

Sent over the channel when there is work to do (disk.py, store.py, recorded.py and this file); standard library only,
Python >= 3.9. A name from the other side is used only if it fits a grammar. A blob is trusted only after it was hashed
where it lies; a runtime or release is synced to the disk before it gets its name. Until `current` is renamed, nothing
that runs has changed.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import time
from collections.abc import Callable
from typing import Any, BinaryIO

from edgekit.deploy.disk import ID, OUR_FAULT, Refused, checked, explain, read_listing, write_durably
from edgekit.deploy.recorded import list_recorded, read_recorded
from edgekit.deploy.store import Store

CHECK_S = 600.0  # for the golden vectors, on the slowest board


def serve(
    root: str, receive: Callable[[], dict[str, Any]], send: Callable[[dict[str, Any]], None], stream: BinaryIO
) -> None:
    """Answers requests until the workstation closes the channel or one of them fails."""
    os.umask(0o022)  # what we make has the same modes whoever logs in
    agent = Agent(root, stream)
    try:
        while agent.reply_to(receive(), send):
            pass
    finally:
        agent.store.unlock()


class Agent:
    """The device's side of a deployment."""

    def __init__(self, root: str, stream: BinaryIO) -> None:
        self.store = Store(root)
        self.stream = stream

    def reply_to(self, request: dict[str, Any], send: Callable[[dict[str, Any]], None]) -> bool:
        """True if all went well; after an error nothing half-made is left, and it is over."""
        try:
            reply = self.answer(request)
        except Refused as error:
            reply = error.reply
        except OSError as error:
            reply = explain(error, self.store.root)
        has_failed = reply is not None and "error" in reply
        if has_failed:
            self.tidy()  # before the answer: who reads it may look, or try again, at once
        if reply is not None:
            try:
                send(reply)
            except OSError:  # nobody listens any more
                return False
        return not has_failed

    def answer(self, request: dict[str, Any]) -> dict[str, Any] | None:
        """The reply to a request; None where the workstation does not wait for one."""
        operation = request.get("op")
        if operation == "status":
            return self.status()
        if operation == "verify":
            return {"damaged": self.verify()}
        if operation == "missing":
            return {"missing": self.store.missing(request["files"])}
        if operation == "samples":
            return {"samples": list_recorded(self.store.path("samples"))}
        if operation == "sample":
            return read_recorded(self.store.path("samples"), request["name"])
        if operation == "rollback":
            self.release_before()  # if there is none, nothing is touched
        if operation == "remove" and not os.path.isdir(self.store.root):
            return {"removed": self.store.root}
        self.store.lock()
        if operation == "plan":
            return {"missing": self.store.make_room(request["files"])}
        if operation == "put":
            sha256, size, stored = request["sha256"], request["size"], request["stored"]
            self.store.put(self.stream, sha256, size=size, stored=stored, packed=request["packed"])
            return {"stored": sha256} if request["answer"] else None
        if operation == "runtime":
            return self.install_runtime(request["id"], request["text"])
        if operation == "release":
            return self.install_release(request["id"], request["text"])
        if operation == "switch":
            return self.switch(request["id"])
        if operation == "rollback":
            return self.rollback()
        if operation == "remove":
            self.store.remove()
            return {"removed": self.store.root}
        raise Refused("DeviceError", f"the agent does not know {operation!r}", OUR_FAULT)

    # -- installing

    def install_runtime(self, name: str, text: str) -> dict[str, Any]:
        files = read_listing(name, text, "edgekit_runtime")["files"]
        self.store.build("runtimes", name, files, {}, {})
        write_durably(self.store.path("runtimes", name + ".json"), text.encode())
        return {"installed": name}

    def install_release(self, name: str, text: str) -> dict[str, Any]:
        """Builds the release beside the running one, hashes it once more and asks its runner for the golden answers."""
        release = read_listing(name, text, "edgekit_release")
        links = {}
        if release.get("runtime") is not None:
            runtime = checked(ID, release["runtime"])
            if not os.path.isdir(self.store.path("runtimes", runtime)):
                raise Refused("DeviceDamaged", f"the runtime {runtime} is not there", "deploy again with --verify")
            links["site"] = os.path.join("..", "..", "runtimes", runtime)
        if self.store.damaged_files("releases", name):  # not there yet, or no longer as it was
            self.store.build("releases", name, release["files"], {"release.json": text.encode()}, links)
        self.check_intact("releases", name)
        return {"installed": name, "check": self.golden_check(name)}

    def check_intact(self, kind: str, name: str | None) -> None:
        damaged = self.store.damaged_files(kind, name) if name is not None else []
        if damaged:
            message = f"{kind}/{name} is damaged on the device: {damaged[0]}"
            raise Refused("DeviceDamaged", message, "send it again: edgekit deploy BUNDLE DEVICE --verify")

    def golden_check(self, name: str) -> dict[str, Any]:
        """What the release's own runner reports; Refused if it does not answer, or not as it should."""
        folder = self.store.path("releases", name)
        started = time.monotonic()
        code, out, err = self.run_check(folder)
        if code == 0:
            with contextlib.suppress(ValueError, TypeError):
                return dict(json.loads(out), seconds=round(time.monotonic() - started, 3))
            raise Refused("ReleaseUnhealthy", "the runner's report on the device is not JSON", OUR_FAULT)
        self.check_intact("runtimes", self.store.runtime_of(name))
        lines = err.strip().splitlines() or ["it said nothing"]
        if lines[0].startswith("edgekit.runner: "):  # an error on purpose: what, then what to do
            what, todo = lines[0][len("edgekit.runner: ") :], "".join(lines[1:2]).strip()
        else:
            what, todo = lines[-1], ""
        if code == 5:
            raise Refused("GoldenMismatch", what, todo or "nothing was switched")
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        message = f"the runner failed on the device ({how}): {what[:300]}"
        raise Refused("ReleaseUnhealthy", message, todo or "nothing was switched; is this bundle made for this board?")

    def run_check(self, folder: str) -> tuple[int, str, str]:
        """Exit code, stdout and stderr of `run check`. Ends with it when the workstation has gone."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        with subprocess.Popen(
            ["/bin/sh", os.path.join(folder, "run"), "check", "--json"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            cwd=folder,
        ) as child:
            deadline = time.monotonic() + CHECK_S
            while True:
                try:
                    out, err = child.communicate(timeout=0.5)
                    return child.returncode, out.decode(errors="replace"), err.decode(errors="replace")
                except subprocess.TimeoutExpired:
                    if select.select([self.stream], [], [], 0)[0]:  # nothing is due: it can only be the end
                        child.kill()
                        raise SystemExit(0) from None
                    if time.monotonic() > deadline:
                        child.kill()
                        message = f"the golden check did not end in {CHECK_S:.0f} s"
                        raise Refused("ReleaseUnhealthy", message, "nothing was switched; is it busy?") from None

    # -- what is current

    def switch(self, name: str) -> dict[str, Any]:
        """`current` becomes the release; the one before stays and becomes `previous`."""
        store, old = self.store, self.store.target_of("current")
        if not os.path.isdir(store.path("releases", checked(ID, name))):
            raise Refused("NotInstalled", f"release {name} is not installed", "deploy again")
        if old is not None and old != name:
            store.point("previous", old)
        store.point("current", name)
        with contextlib.suppress(OSError):  # it is switched: what could not be cleaned up goes next time
            store.collect_garbage()
        return {"current": name, "previous": store.target_of("previous")}

    def rollback(self) -> dict[str, Any]:
        """`current` and `previous` change places."""
        current, previous = self.store.target_of("current"), self.release_before()
        self.check_intact("releases", previous)
        self.check_intact("runtimes", self.store.runtime_of(previous))
        self.store.point("current", previous)
        if current is not None:
            self.store.point("previous", current)
        return {"current": previous, "previous": current}

    def release_before(self) -> str:
        current, previous = self.store.target_of("current"), self.store.target_of("previous")
        if previous is None or previous == current:
            raise Refused(
                "NotInstalled", "there is no previous release to go back to", "deploy an older bundle instead"
            )
        return previous

    # -- what is there

    def status(self) -> dict[str, Any]:
        releases: list[dict[str, Any]] = []
        for name in ("current", "previous"):
            found = self.store.target_of(name)
            if found is not None and not any(row["id"] == found for row in releases):
                releases.append(dict(self.describe(found), role=name))
        used = 0
        for folder, _, names in os.walk(self.store.path("blobs")):
            used += sum(os.lstat(os.path.join(folder, name)).st_blocks * 512 for name in names)
        return {"releases": releases, "used_bytes": used}

    def describe(self, name: str) -> dict[str, Any]:
        try:
            release = self.store.listing("releases", name)
        except (OSError, Refused):
            release = {}
        age = os.lstat(self.store.path("releases", name)).st_mtime  # by the board's own clock, which may be wrong
        keys = ("bundle", "name", "edgekit", "runtime", "requirements")
        return dict({key: release.get(key) for key in keys}, id=name, installed_s=round(age))

    def verify(self) -> list[str]:
        """The files that are not what was sent, in what is current or previous and in the runtimes of both."""
        releases = [name for name in map(self.store.target_of, ("current", "previous")) if name is not None]
        runtimes = [name for name in map(self.store.runtime_of, releases) if name is not None]
        parts = [("releases", name) for name in releases] + [("runtimes", name) for name in runtimes]
        return [
            f"{kind}/{name}/{path}"
            for kind, name in dict.fromkeys(parts)
            for path in self.store.damaged_files(kind, name)
        ]

    def tidy(self) -> None:
        """After a failed request: nothing half-made stays, and nothing that no release needs."""
        with contextlib.suppress(OSError):  # the first error is the one to report
            if self.store.is_locked:
                self.store.collect_garbage()
