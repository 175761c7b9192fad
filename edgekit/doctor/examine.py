"""The workstation's side of a device that is examined: takes a snapshot, and runs what a person has agreed to."""

from __future__ import annotations

import base64
import json
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from edgekit.deploy.address import Address
from edgekit.deploy.session import Session, open_session, refuse_host_key
from edgekit.deploy.transport import AskHostKey, packed_sources
from edgekit.doctor.checks import Diagnosis
from edgekit.doctor.finding import Command, Finding
from edgekit.doctor.snapshot import Snapshot, read_snapshot
from edgekit.doctor.text import plain
from edgekit.errors import DeviceError, DeviceRefused, DeviceUnreachable, InputError

SENT = (
    "edgekit.doctor.wanted",
    "edgekit.doctor.running",
    "edgekit.doctor.collect",
)  # in the order in which they import one another
_LARGEST = 16 << 20  # bytes of an unpacked snapshot; real ones have 20,000
LONGEST_S = 1800.0  # of one command: a package manager on a slow card


@dataclass(frozen=True)
class Step:
    """One command of one finding."""

    finding: Finding
    command: Command


@dataclass(frozen=True)
class Done:
    """What became of a step; `code` is None if nobody agreed to it, or an earlier command of its finding failed."""

    step: Step
    code: int | None
    out: str


class Patient:
    """A device that is examined, for as long as the channel is open."""

    def __init__(self, session: Session, address: Address) -> None:
        self._session = session
        self._address = address

    def snapshot(self) -> tuple[Snapshot, dict[str, object]]:
        """What is there now, as the checks see it and as it can be saved."""
        answer = self._session.request("collect").get("snapshot")
        try:
            fields = _unpacked(answer)
            fields["workstation"] = {"time_s": int(time.time()), "unsafe": self._session.hello.unsafe}
            return read_snapshot(fields), fields
        except (InputError, ValueError, TypeError, RecursionError, zlib.error):
            raise DeviceError(
                f"{self._address}: what it says of itself is not ours", hint="is it the device that you meant?"
            ) from None

    def run(self, command: Command, *, now: Callable[[], float] = time.monotonic) -> tuple[int, str]:
        """The command's exit code and the end of what it printed. Raises DeviceError if it does not end."""
        self._session.request("run", argv=list(command.argv), stdin=command.stdin)
        began = now()
        while now() - began < LONGEST_S:
            answer = self._session.request("wait")
            if answer.get("done") is True:
                code = answer.get("code")
                lines = answer.get("lines")
                said = "\n".join(plain(line) for line in lines) if isinstance(lines, list) else ""
                return code if isinstance(code, int) else -1, said
        raise DeviceError(
            f"{self._address}: {plain(command.text)} has not ended after {LONGEST_S / 60:.0f} minutes",
            hint="it goes on there; see on the device what it waits for",
        )

    def check_sudo(self, steps: Iterable[Step]) -> None:
        """Raises DeviceRefused if a step needs sudo and sudo would ask for a password."""
        if not any(step.command.argv[0] == "sudo" for step in steps):
            return
        try:
            code, _ = self.run(Command(("sudo", "-n", "true")))
        except DeviceUnreachable:
            raise
        except DeviceError:  # there is none
            code = 127
        if code != 0:
            why = "is not there" if code == 127 else "wants a password there, which edgekit never asks for"
            raise DeviceRefused(
                f"{self._address}: sudo {why}",
                hint="nothing was changed: run the commands above on the device yourself, or log in as root",
            )


def _unpacked(text: object) -> dict[str, object]:
    """What collect.py packed; raises ValueError, TypeError, RecursionError or zlib.error for anything else."""
    packed = base64.b64decode(str(text), validate=True)
    return dict(json.loads(zlib.decompressobj().decompress(packed, _LARGEST)))


@contextmanager
def open_patient(address: Address, *, python: str = "python3", ask: AskHostKey = refuse_host_key) -> Iterator[Patient]:
    """A device to examine. An old Python there, or a ROOT that must not be used, is a finding and no error."""
    sent = packed_sources(SENT)
    with open_session(address, python=python, ask=ask, agent=sent, strict=False) as session:
        yield Patient(session, address)


def plan(diagnosis: Diagnosis) -> tuple[Step, ...]:
    """Every command of every finding, worst first, each command once."""
    steps: list[Step] = []
    for finding in diagnosis.findings:
        for command in finding.commands:
            if all(step.command != command for step in steps):
                steps.append(Step(finding, command))
    return tuple(steps)


def treat(patient: Patient, steps: Iterable[Step], agree: Callable[[Step], bool]) -> Iterator[Done]:
    """Runs the steps that are agreed to, in order; a finding is left alone from the first of its commands that is not run."""
    left: set[str] = set()
    for step in steps:
        if step.finding.check in left or not agree(step):
            left.add(step.finding.check)
            yield Done(step, None, "")
            continue
        code, out = patient.run(step.command)
        if code != 0:
            left.add(step.finding.check)
        yield Done(step, code, out)
