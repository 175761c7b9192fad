"""Asks a Raspberry Pi's firmware, as vcgencmd does, without starting a program: in a loop, that disturbs what runs beside it.

The message is that of the mailbox property interface (github.com/raspberrypi/firmware/wiki/Mailbox-property-interface),
the tag that of vcgencmd.c in github.com/raspberrypi/utils.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Callable

Ask = Callable[[str], "tuple[str | None, str]"]  # a command -> what it answers, or None and why not
Ioctl = Callable[[int, int, bytearray], object]

DEVICES = (
    "/dev/vcio_gencmd",
    "/dev/vcio",
)  # the first, where there is one, allows nothing else and needs no more rights
TAG = 0x00030080
TEXT = (
    4096  # bytes of the command or the answer, the firmware's most; less makes the ioctl fail (raspberrypi/utils#187)
)
_HEAD = struct.Struct("=6I")  # size, code, tag, bytes of text, bytes asked, error
_DONE = 0x80000000
_REQUEST = (3 << 30) | (struct.calcsize("P") << 16) | (100 << 8)  # _IOWR(100, 0, char *)


def ask_firmware(
    command: str, *, devices: tuple[str, ...] = DEVICES, ioctl: Ioctl = fcntl.ioctl
) -> tuple[str | None, str]:
    """What `vcgencmd COMMAND` would print; None and why not where there is no such firmware, or no right to ask it."""
    why = "not there"
    for device in devices:
        try:
            handle = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
        except PermissionError:
            why = f"permission denied: the group of {device} (video) may ask"
            continue
        except OSError:
            continue
        message = pack_command(command)
        try:
            ioctl(handle, _REQUEST, message)
        except OSError as error:
            why = f"{device} does not answer ({error.strerror})"
            continue
        finally:
            os.close(handle)
        return unpack_answer(bytes(message))
    return None, why


def pack_command(command: str) -> bytearray:
    """The message that asks; the answer comes back in the same bytes."""
    text = command.encode("ascii")
    size = _HEAD.size + TEXT + 4
    return bytearray(_HEAD.pack(size, 0, TAG, TEXT, 0, 0) + text.ljust(TEXT, b"\0") + b"\0\0\0\0")


def unpack_answer(message: bytes) -> tuple[str | None, str]:
    """The text in a message that came back."""
    if len(message) < _HEAD.size:
        return None, "the firmware's answer is too short"
    _, code, _, _, _, error = _HEAD.unpack_from(message)
    text = message[_HEAD.size : _HEAD.size + TEXT].split(b"\0", 1)[0].decode("ascii", "replace")
    if code != _DONE or error or text.startswith("error="):
        return None, "the firmware does not know this command"
    return text, ""
