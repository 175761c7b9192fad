"""On the device: takes what a workstation brings, installs runtimes and releases beside what runs, and proves them.

Nothing here changes what is in use. Sent together with the agent; standard library only, Python >= 3.9.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Mapping
from typing import Any, BinaryIO

from edgekit.deploy.disk import (
    ID,
    OUR_FAULT,
    Refused,
    checked,
    forgets,
    read_listing,
    write_durably,
)
from edgekit.deploy.golden import golden_check, start_warm
from edgekit.deploy.look import look
from edgekit.deploy.signing import admit, is_enforced, signature_files
from edgekit.deploy.store import Store
from edgekit.deploy.trial import Trials


class Intake:
    """What a session brings to one ROOT."""

    def __init__(self, root: str, stream: BinaryIO) -> None:
        self.store = Store(root)
        self.trials = Trials(self.store)
        self.stream = stream
        self.warm: subprocess.Popen[bytes] | None = None  # to prove a release in that is on its way
        self.is_confirmed = False  # just now: there may be something to clean up
        self.cut_short: list[str] = []  # blobs whose first part was not what it should have been

    def plan(self, request: dict[str, Any]) -> dict[str, Any]:
        """What must be sent. A trial that is on is given up: there is one at a time, and its guard needs the lock."""
        warning = self.check_place(request)
        self.check_wanted(request)
        self.trials.give_up()
        try:
            missing = self.store.make_room(request["files"])
        except Refused:  # what an earlier trial left behind may be in the way
            self.store.collect_garbage(self.trials.kept())
            missing = self.store.make_room(request["files"])
        self.warm_up(request.get("runtime"))
        return {"missing": missing, "warning": warning}

    def warm_up(self, runtime: Any) -> None:
        """Has the libraries loaded that the release will need, if what is good runs with the same."""
        good = self.trials.journal.good
        if self.warm is None and good is not None and runtime == self.store.runtime_of(good) is not None:
            with contextlib.suppress(OSError):
                self.warm = start_warm(self.store.path("runtimes", checked(ID, runtime)))

    def cool_down(self) -> None:
        """Nothing of ours runs any more when the session ends."""
        if self.warm is not None:
            self.warm.kill()
            self.warm.communicate()
            self.warm = None

    def warm_for(self, release: Mapping[str, Any]) -> subprocess.Popen[bytes] | None:
        """Where the release can be proven: only what is good and has run by the same launcher and with the same runtime
        vouches for both."""
        good = self.trials.journal.good
        if self.warm is None or good is None or release.get("runtime") != self.store.runtime_of(good):
            return None
        try:
            known = self.store.listing("releases", good)["files"]["run"]["sha256"]
        except (OSError, Refused, KeyError):
            return None
        if release["files"].get("run", {}).get("sha256") != known:
            return None
        taken, self.warm = self.warm, None
        return taken

    def missing(self, request: dict[str, Any]) -> dict[str, Any]:
        """What `plan` would say, without changing anything."""
        warning = self.check_place(request)
        self.check_wanted(request)
        files = request["files"]
        missing = self.store.missing(files)
        self.store.check_room(files, missing)
        return {
            "missing": {sha256: self.store.arrived(sha256, files[sha256]) for sha256 in missing},
            "warning": warning,
        }

    def check_place(self, request: dict[str, Any]) -> str:
        """A warning if ROOT may be empty after the next start of the machine and that is allowed; "" if all is well."""
        found = forgets(self.store.root)
        if found and not request.get("volatile"):
            message = f"{self.store.root} is on {found}: what is written there may be gone after a reboot"
            hint = "turn the overlay off while you deploy (raspi-config), or add --allow-volatile"
            raise Refused("DeviceRefused", message, hint)
        return found

    def check_wanted(self, request: dict[str, Any]) -> None:
        """Refused, before anything is sent, if what is to come is not signed and has to be."""
        if is_enforced(self.store.root) and not request.get("unsigned"):
            signed, name, text = (request.get(key) for key in ("signed", "id", "text"))
            release = {} if signed is None else read_listing(str(name), str(text), "edgekit_release")
            self.admit(release, signed, request, whole=False)

    def admit(self, release: Mapping[str, Any], signed: Any, request: dict[str, Any], *, whole: bool) -> Any:
        """Who signed the release, with its number, as signing.py finds; None where that is not asked for."""
        unsigned = request.get("unsigned") is True
        return admit(
            self.store.root, release, signed, unsigned=unsigned, min_seq=look(self.trials).min_seq, whole=whole
        )

    def put(self, request: dict[str, Any]) -> dict[str, Any] | None:
        sha256, offset = request["sha256"], request.get("offset", 0)
        sizes = {key: request[key] for key in ("size", "stored", "packed")}
        if not self.store.put(self.stream, sha256, offset=offset, **sizes):
            self.cut_short.append(sha256)
        if not request["answer"]:
            return None
        again, self.cut_short = self.cut_short, []
        return {"stored": sha256, "again": again}

    def install_runtime(self, request: dict[str, Any]) -> dict[str, Any]:
        name, text = request["id"], request["text"]
        files = read_listing(name, text, "edgekit_runtime")["files"]
        self.store.build("runtimes", name, files, {}, {})
        write_durably(self.store.path("runtimes", name + ".json"), text.encode())
        return {"installed": name}

    def install_release(self, request: dict[str, Any]) -> dict[str, Any]:
        """Builds the release beside the running one, hashes it once more and asks its runner for the golden answers."""
        name, text = request["id"], request["text"]
        release = read_listing(name, text, "edgekit_release")
        links = {}
        if release.get("runtime") is not None:
            runtime = checked(ID, release["runtime"])
            if not os.path.isdir(self.store.path("runtimes", runtime)):
                raise Refused("DeviceDamaged", f"the runtime {runtime} is not there", "deploy again with --verify")
            links["site"] = os.path.join("..", "..", "runtimes", runtime)
        self.admit(release, request.get("signed"), request, whole=True)
        proof = signature_files(request.get("signed"))
        if proof.keys() & release["files"].keys():
            raise Refused("DeviceError", "a file of the release has a name of ours", OUR_FAULT)
        if self.store.damaged_files("releases", name):  # not there yet, or no longer as it was
            own = {"release.json": text.encode(), **proof}
            self.store.build("releases", name, release["files"], own, links)
        for path, content in proof.items():  # it may have been there with another signature
            write_durably(self.store.path("releases", name, path), content)
        self.store.check_intact("releases", name)
        folder = self.store.path("releases", name)
        try:
            return {"installed": name, "check": golden_check(folder, self.stream, self.warm_for(release))}
        except Refused:
            self.store.check_intact("runtimes", self.store.runtime_of(name))
            raise
