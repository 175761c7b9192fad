"""What runs on the device during a deployment: answers requests, and tries what intake.py has proven.

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
    delete,
    explain,
    write_durably,
)
from edgekit.deploy.health import check_in_use
from edgekit.deploy.helper import change_helper, helper_state, remaining_helper, why_no_helper
from edgekit.deploy.intake import Intake
from edgekit.deploy.journal import read_journal
from edgekit.deploy.look import look, outcome, status, verify
from edgekit.deploy.recorded import list_recorded, read_recorded
from edgekit.deploy.service import Service, find_service, read_log
from edgekit.deploy.signers import change_signers, list_signers
from edgekit.deploy.signing import kept_signature
from edgekit.deploy.store import POINTS

IDLE_S = 600  # for which nothing comes: the workstation is gone, and nobody told us
packed = b""  # the agent as it was sent, and [name, code] of each of its parts; set by who loads it
parts: list[Any] = []

Send = Callable[[dict[str, Any]], None]


def serve(root: str, receive: Callable[[], dict[str, Any]], send: Send, stream: BinaryIO) -> None:
    """Answers requests until the workstation closes the channel or one of them fails."""
    os.umask(0o022)  # what we make has the same modes whoever logs in
    agent = Agent(root, stream)
    try:
        while True:
            signal.alarm(IDLE_S)  # a lock must not be held for a link that died in silence
            request: Any = receive()
            while request is not None:
                is_put = isinstance(request, dict) and request.get("op") == "put"
                signal.alarm(IDLE_S if is_put else 0)
                if not agent.reply_to(request, send):
                    return
                request = request.get("then")  # what to go on with if that went well: nobody is waited for
    finally:
        signal.alarm(0)
        agent.cool_down()
        agent.store.unlock()


class Agent(Intake):
    """The device's side of a deployment."""

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
        if not has_failed and request["op"] in LAST:  # who reads the answer need not wait for our end
            self.store.unlock()
        if has_failed:
            self.tidy()  # before the answer: who reads it may look, or try again, at once
        if reply is not None:
            try:
                send(reply)
            except OSError:  # nobody listens any more
                has_failed = True
        if self.is_confirmed:  # what neither release needs: nobody has to wait for that
            self.is_confirmed = False
            with contextlib.suppress(OSError):  # what could not be cleaned up goes next time
                self.store.collect_garbage(self.trials.kept())
        return not has_failed

    def answer(self, request: dict[str, Any]) -> dict[str, Any] | None:
        """The reply to a request; None where the workstation does not wait for one."""
        operation = str(request.get("op"))
        if operation in LOOKS:
            return LOOKS[operation](self, request)
        if operation not in CHANGES:
            raise Refused("DeviceError", f"the agent does not know {operation!r}", OUR_FAULT)
        if operation == "remove" and not os.path.isdir(self.store.root):
            return {"removed": self.store.root, "left": ""}
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

    def begin(self, request: dict[str, Any]) -> dict[str, Any]:
        """The release is in use, on trial, and well. The lock is free from then on: only the guard's word counts."""
        name = checked(ID, request["id"])
        if not os.path.isdir(self.store.path("releases", name)):
            raise Refused("NotInstalled", f"release {name} is not installed", "deploy again")
        self.store.check_intact("releases", name)
        release, signed = self.store.listing("releases", name), kept_signature(self.store.path("releases", name))
        who = self.admit(release, signed, request, whole=True)
        agent = self.store.keep_agent(as_file(packed))
        self.store.keep_code(packed, parts)
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

    def change_service(self, request: dict[str, Any]) -> dict[str, Any]:
        """The release stays, and something else keeps it running."""
        name, before = checked(ID, request["id"]), self.trials.journal.service
        self.store.check_intact("releases", name)
        agent = self.store.keep_agent(as_file(packed))

        def check(service: Service) -> dict[str, Any] | None:
            return None if service.kind == "none" else check_in_use(service, self.store.path("releases", name))

        health = self.trials.change_service(name, agent, request["service"], check)
        return {"before": before, "service": self.trials.journal.service, "health": health}

    def confirm(self, request: dict[str, Any]) -> dict[str, Any]:
        found = self.trials.confirm(checked(ID, request["id"]))
        self.is_confirmed = True
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

    def use_points(self, request: dict[str, Any]) -> dict[str, Any]:
        """The table of operating points that the runner keeps its bundle's goal by; the runner is started anew."""
        place = self.store.path(POINTS)
        if request["text"] is None:
            delete(place)
        else:
            write_durably(place, str(request["text"]).encode())
        service = self.trials.service()
        service.restart()
        return {"place": place, "service": service.kind}

    def install_helper(self, request: dict[str, Any]) -> dict[str, Any]:
        """The power helper of the release that is good is installed, and runs: who asks says that a person agreed."""
        if look(self.trials).is_trial:
            raise Refused("DeviceRefused", "a release is on trial", "confirm it first")
        return {"changed": change_helper(self.store.root, self.store.keep_agent(as_file(packed)), "install")}

    def remove(self, request: dict[str, Any]) -> dict[str, Any]:
        left = remaining_helper(self.store.root, lambda: self.store.keep_agent(as_file(packed)))
        find_service(self.store.root, "auto").remove()
        self.store.remove()
        return {"removed": self.store.root, "left": left}

    def tidy(self) -> None:
        """After a failed request: nothing half-made stays, and nothing that no release needs."""
        with contextlib.suppress(OSError, Refused):  # the first error is the one to report
            if self.store.is_locked:
                self.store.check_folders()
                self.store.collect_garbage(self.trials.kept())


Answers = Mapping[str, Callable[[Agent, dict[str, Any]], "dict[str, Any] | None"]]

LOOKS: Answers = {
    "status": lambda agent, request: dict(status(agent.trials), power=helper_state(agent.store.root)),
    "helper possible": lambda agent, request: {"why_not": why_no_helper(agent.store.root)},
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
    "service": Agent.change_service,
    "rollback": Agent.rollback,
    "adopt": Agent.adopt,
    "change signers": Agent.change_signers,
    "helper": Agent.install_helper,
    "points": Agent.use_points,
    "remove": Agent.remove,
}
LAST = ("service", "rollback", "adopt", "change signers", "remove")  # of a session, as a rule
