"""Where measurements are made: this machine, or a device whose current release is the bundle. Both start the same runner."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from edgekit.bundle import Bundle
from edgekit.deploy.address import Address
from edgekit.deploy.answers import plain
from edgekit.deploy.session import Session, open_session, refuse_host_key
from edgekit.deploy.transport import AskHostKey, packed_sources
from edgekit.errors import DeviceError, EdgekitError, InputError

_SENT = ("edgekit.deploy.running",)
LOCAL_S = 3900.0  # --seconds 3600, and what is around it


class Place(Protocol):
    """Something that runs the runner's verbs on the bundle."""

    name: str
    cores: int | None

    def run(self, verb: str, arguments: Sequence[str]) -> dict[str, Any]:
        """The verb's JSON. EdgekitError with the runner's own words where it fails."""


class Here:
    """This machine."""

    def __init__(self, bundle: Bundle) -> None:
        self.name = "this machine"
        self.cores: int | None = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        self._bundle = bundle

    def run(self, verb: str, arguments: Sequence[str]) -> dict[str, Any]:
        command = [
            sys.executable,
            "-s",
            "-m",
            "edgekit.runner",
            verb,
            str(self._bundle.path.absolute()),
            *arguments,
            "--json",
        ]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path if entry),
        }
        try:
            done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=LOCAL_S)
        except subprocess.TimeoutExpired:
            raise EdgekitError("it did not end", hint="ask for fewer --seconds") from None
        return _read(done.returncode, done.stdout.splitlines(), done.stderr.splitlines())


class There:
    """A device, as long as the channel is open."""

    def __init__(self, session: Session, address: Address) -> None:
        self.name = f"{address} ({session.hello.board or session.hello.system})"
        self.cores: int | None = None
        self._session = session

    def run(self, verb: str, arguments: Sequence[str]) -> dict[str, Any]:
        answer = self._session.request("run", arguments=[verb, *arguments, "--json"])
        code = answer.get("code")
        return _read(code if isinstance(code, int) else 1, _lines(answer.get("out")), _lines(answer.get("errors")))


@contextmanager
def open_place(
    bundle: Bundle, address: Address | None, *, python: str = "python3", ask: AskHostKey = refuse_host_key
) -> Iterator[Place]:
    """This machine without an address. InputError where a device's current release is another bundle."""
    if address is None:
        yield Here(bundle)
        return
    with open_session(address, python=python, ask=ask, agent=packed_sources(_SENT)) as session:
        there = There(session, address)
        found = session.request("current")
        if found.get("bundle") != bundle.digest:
            raise InputError(
                f"{address} runs another bundle than {bundle.path}",
                hint=f"edgekit deploy {bundle.path} {address} first",
            )
        there.cores = found["cores"] if isinstance(found.get("cores"), int) else None
        yield there


def _lines(value: Any) -> list[str]:
    return [str(line) for line in value] if isinstance(value, list) else []


def _read(code: int, out: list[str], errors: list[str]) -> dict[str, Any]:
    if code == 0:
        try:
            return dict(json.loads(out[-1]))
        except (ValueError, IndexError, TypeError):
            raise DeviceError(
                "the runner's answer is not ours", hint="is the release's runner an older one? deploy again"
            ) from None
    said = [plain(line) for line in errors if line.startswith("edgekit.runner: ")]
    why = said[-1].partition(": ")[2] if said else plain(" ".join(errors)[-200:]) or f"exit code {code}"
    raise EdgekitError(why)
