"""Fetches what a device's runner, its recovery and its guards said: the journal of systemd, through the same channel."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from edgekit.deploy.address import Address
from edgekit.deploy.answers import plain
from edgekit.deploy.session import open_session, refuse_host_key
from edgekit.deploy.transport import AskHostKey
from edgekit.errors import NotInstalled

LOOK_S = 1.0  # between two looks at a log that is followed


def read_logs(
    address: Address,
    lines: int,
    *,
    follow: bool = False,
    python: str = "python3",
    ask: AskHostKey = refuse_host_key,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[str]:
    """The last `lines` lines, the oldest first; with `follow` then each new one, until somebody stops asking.

    Raises NotInstalled where no runner is kept running, DeviceRefused where the login user may not read the journal.
    """
    with open_session(address, python=python, ask=ask) as session:
        cursor = None
        while True:
            answer = session.request("logs", lines=lines, cursor=cursor)
            if answer["kind"] == "none":
                raise NotInstalled(
                    f"{address} keeps no runner running, so there is no log",
                    hint="what edgekit deploy starts there has one: it needs systemd, and root or a user who may linger",
                )
            cursor = answer["cursor"]
            yield from map(plain, answer["lines"])
            if not follow:
                return
            sleep(LOOK_S)
