"""What a check says: a finding with its evidence and the commands that end it, or that it cannot tell."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from edgekit.doctor.snapshot import Snapshot

SEVERITIES = ("error", "warning", "note")  # worst first
EXIT_CODES = {"error": 20, "warning": 10, "note": 0}  # of `edgekit doctor`, by the worst finding


@dataclass(frozen=True)
class Command:
    """One command for the device; `stdin` is what it reads. Never goes through a shell when edgekit runs it."""

    argv: tuple[str, ...]
    stdin: str = ""

    @property
    def text(self) -> str:
        """As a person would type it."""
        typed = shlex.join(self.argv)
        if not self.stdin:
            return typed
        return f"printf '%s\\n' {shlex.join(self.stdin.splitlines())} | {typed}"


@dataclass(frozen=True)
class Evidence:
    """What was read, and where."""

    source: str  # a path, or a command
    said: str


@dataclass(frozen=True)
class Finding:
    """One thing wrong with a device."""

    check: str
    severity: str
    message: str
    reason: str
    evidence: tuple[Evidence, ...] = ()
    commands: tuple[Command, ...] = ()  # in this order; each is asked for before --fix runs it
    by_hand: str = ""  # what no command of ours does: a cable, a setting that could lock somebody out
    after: str = ""  # what makes it count: "log in again", "reboot"


@dataclass(frozen=True)
class Unknown:
    """A check that could not tell, and why."""

    check: str
    why: str


@dataclass(frozen=True)
class Found:
    """What a check's function yields: the parts of a Finding that its Check does not know already."""

    message: str
    evidence: tuple[Evidence, ...] = ()
    commands: tuple[Command, ...] = ()
    by_hand: str = ""
    after: str = ""
    severity: str = ""  # "" = the check's own, its first


@dataclass(frozen=True)
class CannotTell:
    """What a check's function yields when it could not read what it needs."""

    why: str


NO_LOG = CannotTell("the kernel's messages, which root or the group adm may read there")
Judge = Callable[[Snapshot], Iterable[Found | CannotTell]]


@dataclass(frozen=True)
class Check:
    """One row of docs/doctor.md: what is looked at, how bad it is, why it matters, and where that is known from."""

    name: str
    topic: str
    severities: tuple[str, ...]
    about: str
    reason: str
    source: str
    judge: Judge

    def __call__(self, board: Snapshot) -> tuple[list[Finding], list[Unknown]]:
        """What it says of this device."""
        findings: list[Finding] = []
        unknown: list[Unknown] = []
        for said in self.judge(board):
            if isinstance(said, CannotTell):
                unknown.append(Unknown(self.name, said.why))
                continue
            severity = said.severity or self.severities[0]
            assert severity in self.severities
            findings.append(
                Finding(
                    self.name,
                    severity,
                    said.message,
                    self.reason,
                    said.evidence,
                    said.commands,
                    said.by_hand,
                    said.after,
                )
            )
        return findings, unknown


def check(
    name: str, severity: str | tuple[str, ...], about: str, *, reason: str, source: str
) -> Callable[[Judge], Check]:
    """Makes a Check of the function below it; its topic is the module's name."""
    severities = (severity,) if isinstance(severity, str) else severity

    def made(judge: Judge) -> Check:
        topic = judge.__module__.rpartition(".")[2]
        return Check(name, topic, severities, about, reason, source, judge)

    return made


# -- commands that several checks need


def as_root(board: Snapshot, *argv: str, stdin: str = "") -> Command:
    """A command for root: with sudo, unless the login is root's."""
    return Command(argv if board.uid == 0 else ("sudo", *argv), stdin)


def install(board: Snapshot, *packages: str) -> tuple[Command, ...]:
    """What installs Debian packages there; () where there is no apt."""
    if not board.program("apt-get"):
        return ()
    return (
        as_root(board, "apt-get", "update"),
        as_root(board, "apt-get", "install", "-y", "--no-install-recommends", *packages),
    )


def install_by_hand(board: Snapshot, *packages: str) -> str:
    """What to do instead where there is no apt; "" where there is."""
    return "" if board.program("apt-get") else f"install what Debian calls {', '.join(packages)}"


def add_to_group(board: Snapshot, group: str) -> tuple[Command, ...]:
    """What puts the login user into a group."""
    return (as_root(board, "usermod", "-aG", group, board.user),)


def write_file(board: Snapshot, path: str, text: str) -> Command:
    """What writes a file of root's."""
    return as_root(board, "tee", path, stdin=text)
