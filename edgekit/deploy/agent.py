"""What runs on the device during a deployment: takes blobs, installs runtimes and releases, proves, switches.

Sent over the channel when there is work to do; standard library only, Python >= 3.9. A name from the other side is used
only if it fits a grammar. A blob is trusted only after it was hashed where it lies; a runtime or release is on the
disk before it gets its name. What is in use changes in trial.py, and only there.
"""

from __future__ import annotations

import contextlib
import os
import signal
import traceback
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

from edgekit.deploy.alone import as_file
from edgekit.deploy.disk import (
    ID,
    OUR_FAULT,
    Refused,
    checked,
    explain,
    forgets,
    read_listing,
    write_durably,
)
from edgekit.deploy.health import check_in_use, golden_check
from edgekit.deploy.journal import read_journal
from edgekit.deploy.look import look, outcome, status, verify
from edgekit.deploy.recorded import list_recorded, read_recorded
from edgekit.deploy.service import find_service, read_log
from edgekit.deploy.signers import change_signers, list_signers
from edgekit.deploy.signing import admit, is_enforced, kept_signature, signature_files
from edgekit.deploy.store import Store
from edgekit.deploy.trial import Trials

IDLE_S = 600  # for which nothing comes: the workstation is gone, and nobody told us
packed = b""  # the agent as it was sent; set by who loads it

Send = Callable[[dict[str, Any]], None]


def serve(root: str, receive: Callable[[], dict[str, Any]], send: Send, stream: BinaryIO) -> None:
    """Answers requests until the workstation closes the channel or one of them fails."""
    os.umask(0o022)  # what we make has the same modes whoever logs in
    agent = Agent(root, stream)
    try:
        while True:
            signal.alarm(IDLE_S)  # a lock must not be held for a link that died in silence
            request = receive()
            signal.alarm(IDLE_S if request.get("op") == "put" else 0)
            if not agent.reply_to(request, send):
                break
    finally:
        signal.alarm(0)
        agent.store.unlock()


class Agent:
    """The device's side of a deployment."""

    def __init__(self, root: str, stream: BinaryIO) -> None:
        self.store = Store(root)
        self.trials = Trials(self.store)
        self.stream = stream
        self.cut_short: list[str] = []  # blobs whose first part was not what it should have been

    def reply_to(self, request: dict[str, Any], send: Send) -> bool:
        """True if all went well; after an error nothing half-made is left, and it is over."""
        try:
            reply = self.answer(request)
        except Refused as error:
            reply = error.reply
        except OSError as error:
            reply = explain(error, self.store.root)
        except Exception as error:  # a request of another form, or a fault of ours: what is there stays as it is
            place = traceback.extract_tb(error.__traceback__)[-1]
            message = f"the agent failed ({type(error).__name__}: {error}; {place.filename}:{place.lineno})"
            reply = Refused("DeviceError", message, OUR_FAULT).reply
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
        operation = str(request.get("op"))
        if operation in LOOKS:
            return LOOKS[operation](self, request)
        if operation not in CHANGES:
            raise Refused("DeviceError", f"the agent does not know {operation!r}", OUR_FAULT)
        if operation == "remove" and not os.path.isdir(self.store.root):
            return {"removed": self.store.root}
        if operation in ("rollback", "adopt") and not os.path.isdir(self.store.root):
            message = "nothing is installed there, so there is no previous release either"
            raise Refused("NotInstalled", message, "edgekit deploy BUNDLE DEVICE")
        if not self.store.is_locked:
            if operation != "rollback":
                self.store.check_folders()
            self.store.lock()
            if operation not in ("adopt", "remove"):  # which need no sound journal
                self.trials.recover()
        return CHANGES[operation](self, request)

    # -- bringing

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
        return {"missing": missing, "warning": warning}

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
        try:
            return {"installed": name, "check": golden_check(self.store.path("releases", name), self.stream)}
        except Refused:
            self.store.check_intact("runtimes", self.store.runtime_of(name))
            raise

    # -- trying

    def begin(self, request: dict[str, Any]) -> dict[str, Any]:
        """The release is in use, on trial, and well. The lock is free from then on: only the guard's word counts."""
        name = checked(ID, request["id"])
        if not os.path.isdir(self.store.path("releases", name)):
            raise Refused("NotInstalled", f"release {name} is not installed", "deploy again")
        self.store.check_intact("releases", name)
        release, signed = self.store.listing("releases", name), kept_signature(self.store.path("releases", name))
        who = self.admit(release, signed, request, whole=True)
        agent = self.store.keep_agent(as_file(packed))
        service = find_service(self.store.root, request.get("service", "auto"))
        service.install(self.store.root, agent)
        number = None if who is None else [who["key"], who["seq"]]
        window_s, confirm = request["window_s"], request["confirm"]
        found = self.trials.begin(name, agent, window_s=window_s, confirm=confirm, service=service, signed=number)
        self.store.unlock()
        health = None
        if service.kind != "none":  # without one, the golden check before was all there is to know
            try:
                health = check_in_use(service, self.store.path("releases", name))
            except Exception:  # whatever it was, it is no proof
                self.store.lock()
                self.trials.fail(found)
                raise
        return {"before": found.before, "service": service.kind, "health": health, "signed": who}

    def confirm(self, request: dict[str, Any]) -> dict[str, Any]:
        found = self.trials.confirm(checked(ID, request["id"]))
        with contextlib.suppress(OSError):  # it is confirmed: what could not be cleaned up goes next time
            self.store.collect_garbage(self.trials.kept())
        return {"current": found.good, "previous": found.prev}

    def rollback(self, request: dict[str, Any]) -> dict[str, Any]:
        left = self.store.target_of("current")
        found = self.trials.go_back()
        return {"current": found.good, "previous": found.prev, "left": left}

    def adopt(self, request: dict[str, Any]) -> dict[str, Any]:
        """Takes over what another version laid out, or what lost its journal."""
        if read_journal(self.store.root) is None:
            self.trials.adopt()
        found = self.trials.recover()
        for name in sorted(self.trials.kept()):
            self.store.check_intact("releases", name)
            self.store.check_intact("runtimes", self.store.runtime_of(name))
        self.store.keep_agent(as_file(packed))
        return {"current": found.good, "previous": found.prev}

    def change_signers(self, request: dict[str, Any]) -> dict[str, Any]:
        unsigned = request.get("unsigned") is True
        return change_signers(self.store.root, request["text"], request["signature"], unsigned=unsigned)

    def remove(self, request: dict[str, Any]) -> dict[str, Any]:
        find_service(self.store.root, "auto").remove()
        self.store.remove()
        return {"removed": self.store.root}

    def tidy(self) -> None:
        """After a failed request: nothing half-made stays, and nothing that no release needs."""
        with contextlib.suppress(OSError, Refused):  # the first error is the one to report
            if self.store.is_locked:
                self.store.check_folders()
                self.store.collect_garbage(self.trials.kept())


Answers = Mapping[str, Callable[[Agent, dict[str, Any]], "dict[str, Any] | None"]]

LOOKS: Answers = {
    "status": lambda agent, request: status(agent.trials),
    "verify": lambda agent, request: {"damaged": verify(agent.trials)},
    "outcome": lambda agent, request: outcome(agent.trials, request["id"]),
    "missing": Agent.missing,
    "logs": lambda agent, request: read_log(agent.store.root, request["lines"], request["cursor"]),
    "signers": lambda agent, request: list_signers(agent.store.root, look(agent.trials).min_seq),
    "samples": lambda agent, request: {"samples": list_recorded(agent.store.path("samples"))},
    "sample": lambda agent, request: read_recorded(agent.store.path("samples"), request["name"]),
}
CHANGES: Answers = {
    "plan": Agent.plan,
    "put": Agent.put,
    "runtime": Agent.install_runtime,
    "release": Agent.install_release,
    "trial": Agent.begin,
    "confirm": Agent.confirm,
    "rollback": Agent.rollback,
    "adopt": Agent.adopt,
    "change signers": Agent.change_signers,
    "remove": Agent.remove,
}
