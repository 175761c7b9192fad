"""What a device says of itself when it is asked for the first time, checked before anything is made of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgekit.deploy.address import Address
from edgekit.deploy.answers import plain
from edgekit.errors import DeviceRefused, DeviceUnsupported
from edgekit.platforms import Platform

OLDEST_PYTHON = (3, 9)


@dataclass(frozen=True)
class Hello:
    """What the device said of itself."""

    python: tuple[int, ...]
    executable: str
    arch: str
    libc: str
    numpy: str | None
    system: str  # for a person: the name of its Linux
    board: str  # for a person: the device tree's model, "" on a PC
    root: str
    unsafe: str  # why the root must not be used; "" if it may
    free_bytes: int | None
    current: str | None  # release id
    phase: str | None  # idle or trial; None where no journal is
    good: str | None  # the release that was confirmed last
    previous: str | None
    trial: str | None
    service: str | None  # what keeps it running
    runtimes: tuple[str, ...]
    signers: bool  # it takes signed releases only

    @property
    def platform(self) -> Platform:
        """What decides which wheels run there."""
        return Platform((self.python[0], self.python[1]), self.arch, self.libc, self.numpy)


def read_hello(fields: Mapping[str, Any]) -> Hello:
    """The Hello in a frame of the probe's. Raises ValueError for anything else."""
    try:
        hello = Hello(
            python=tuple(int(part) for part in fields["python"]),
            executable=str(fields["executable"]),
            arch=plain(fields["arch"]),
            libc=plain(fields["libc"]),
            numpy=None if fields["numpy"] is None else plain(fields["numpy"]),
            system=plain(fields["system"]),
            board=plain(fields["board"]),
            root=plain(fields["root"]),
            unsafe=plain(fields["unsafe"]),
            free_bytes=None if fields["free_bytes"] is None else int(fields["free_bytes"]),
            current=None if fields["current"] is None else plain(fields["current"]),
            phase=None if fields["phase"] is None else plain(fields["phase"]),
            good=None if fields["good"] is None else plain(fields["good"]),
            previous=None if fields["prev"] is None else plain(fields["prev"]),
            trial=None if fields["to"] is None else plain(fields["to"]),
            service=None if fields["service"] is None else plain(fields["service"]),
            runtimes=tuple(plain(name) for name in fields["runtimes"]),
            signers=bool(fields["signers"]),
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"not what a probe says: {error}") from error
    if len(hello.python) < 2:
        raise ValueError(f"not a version of Python: {hello.python}")
    return hello


def check_usable(hello: Hello, address: Address) -> None:
    """Raises DeviceUnsupported for a Python that is too old, DeviceRefused for a root that must not be used."""
    if hello.python < OLDEST_PYTHON:
        found = ".".join(str(part) for part in hello.python)
        raise DeviceUnsupported(
            f"{address}: {plain(hello.executable)} is Python {found}, the runner needs 3.9 or newer",
            hint="install a newer python3 beside it and name it with --python (3.9-3.14 have interpreter wheels)",
        )
    if hello.unsafe:
        raise DeviceRefused(
            f"{address}: {hello.root} {hello.unsafe}",
            hint="on the device: make it a folder of the login user that nobody else can write (chmod go-w)",
        )
