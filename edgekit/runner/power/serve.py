"""The device's side of `edgekit power`: sent over the channel instead of the agent, so nothing has to be installed there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, BinaryIO

from edgekit.runner.power.board import Board
from edgekit.runner.power.watch import watch

LONGEST_S = 120.0  # of one answer: the workstation waits no longer than a few minutes


def serve(
    root: str, receive: Callable[[], dict[str, Any]], send: Callable[[dict[str, Any]], None], stream: BinaryIO
) -> None:
    """Answers {"op": "power", "seconds": S} until the workstation closes the channel. Reads sensors, changes nothing."""
    board = Board()
    while True:
        request = receive()
        if request.get("op") != "power":
            send(
                {
                    "error": "DeviceError",
                    "message": "only power is answered here",
                    "hint": "report it: a fault in edgekit",
                }
            )
            return
        try:
            send({"power": watch(board, min(max(float(request["seconds"]), 0.0), LONGEST_S))})
        except OSError:  # nobody listens any more
            return
