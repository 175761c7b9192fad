"""The end of a trial, from the workstation: a second connection confirms it, or the device itself does and is asked."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from edgekit.deploy.address import Address
from edgekit.deploy.journal import JUDGE_S
from edgekit.deploy.session import open_session, refuse_host_key
from edgekit.deploy.transport import AskHostKey
from edgekit.errors import DeviceUnreachable, TrialOver

AGAIN_S = 1.0  # between two attempts to connect


def confirm_release(
    address: Address, release: str, ends: float, *, python: str = "python3", ask: AskHostKey = refuse_host_key
) -> str | None:
    """The release before, after this one was confirmed over a new connection: sshd, network and login still work.

    Tries until `ends` (time.monotonic) to connect. Raises TrialOver if the device has gone back already, and what is wrong
    with the connection if there is none to be had in time; then the device goes back by itself.
    """
    while True:
        try:
            with open_session(address, python=python, ask=ask, at_once=True) as session:
                previous = session.request("confirm", id=release)["previous"]
                return None if previous is None else str(previous)
        except DeviceUnreachable as error:
            if time.monotonic() + AGAIN_S > ends:
                message = f"{error}; release {release} is not confirmed, so the device goes back by itself"
                raise type(error)(message, hint=error.hint) from error
            time.sleep(AGAIN_S)


def await_device(
    address: Address, release: str, ends: float, *, python: str = "python3", ask: AskHostKey = refuse_host_key
) -> str | None:
    """The release before, after the device itself has confirmed this one. Raises TrialOver if it did not."""
    while True:
        found: Mapping[str, Any] = {"outcome": "trial"}
        time.sleep(min(max(ends - time.monotonic(), AGAIN_S), 10.0))
        try:
            with open_session(address, python=python, ask=ask) as session:
                found = session.request("outcome", id=release)
        except DeviceUnreachable as error:
            if time.monotonic() > ends + JUDGE_S:
                hint = "the device decides without us: edgekit status DEVICE shows how"
                raise type(error)(str(error), hint=hint) from error
        if found["outcome"] == "good":
            return None if found["previous"] is None else str(found["previous"])
        if found["outcome"] != "trial":
            raise TrialOver(
                f"{address}: release {release} was not well at the end of its trial, the one before is in use again",
                hint="edgekit logs DEVICE shows what it said",
            )
