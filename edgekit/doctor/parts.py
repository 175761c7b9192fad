"""What a snapshot is made of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Ran:
    """What a command said; `code` is None if it was killed for taking too long."""

    code: int | None
    out: str
    err: str


@dataclass(frozen=True)
class Node:
    """A device node, and whether the login user may read and write it."""

    mode: int
    owner: str
    group: str
    may_use: bool

    def __str__(self) -> str:
        return f"{self.owner}:{self.group} {self.mode:04o}"


@dataclass(frozen=True)
class Disk:
    """The filesystem below a path."""

    place: str  # the nearest folder that is there
    bytes: int
    free_bytes: int
    inodes: int  # 0: the filesystem does not count them
    free_inodes: int


@dataclass(frozen=True)
class Mount:
    """A line of /proc/mounts."""

    device: str
    place: str
    kind: str
    options: tuple[str, ...]


@dataclass(frozen=True)
class UsbDevice:
    """Something plugged in."""

    path: str  # below /sys
    vendor: str
    product: str
    node: str  # below /dev/bus/usb; "" if it cannot be told
