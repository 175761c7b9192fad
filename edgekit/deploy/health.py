"""On the device: whether the release that is in use does what it should: its golden answers, its server, its bounds.

Nothing here changes anything; who asks decides what follows. Sent together with the agent; standard library only,
Python >= 3.9.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from typing import Any, BinaryIO

from edgekit.deploy.disk import Refused, read_file
from edgekit.deploy.golden import golden_check
from edgekit.deploy.service import Service
from edgekit.deploy.vectors import compare, first_vector

READY_S = 120.0  # for the server to load its model
SOAK_S = 3.0  # for which it must then run without a restart
ANSWER_S = 10.0  # for one answer of the server
BACK = "the release before is in use again; edgekit logs DEVICE shows what the server said"
LONGEST = 16 << 20  # bytes of an answer


def check_in_use(service: Service, folder: str, stream: BinaryIO | None = None) -> dict[str, Any]:
    """What was found of the release in `folder`, which `current` points to. Raises Refused if it is not well.

    Without a service there is nothing to ask but its golden vectors; with one, its server must be the release's, answer,
    stay within the manifest's limits, and not be started anew for SOAK_S seconds.
    """
    if service.socket is None:
        return golden_check(folder, stream)
    path = service.socket or ""
    from urllib.parse import quote  # as http below

    before = _wait_until_ready(service, path, os.path.basename(folder))
    name, request, answers, allowed = first_vector(folder)
    try:
        answer = _ask(path, "POST", f"/v2/models/{quote(name, safe='')}/infer", request)
        largest = compare(answer["outputs"], answers, allowed)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise _unwell(service, f"its server does not answer: {error or type(error).__name__}") from None
    time.sleep(SOAK_S)
    found: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):  # nobody there any more
        found = dict(_ask(path, "GET", "/v2").get("edgekit") or {})
    state = service.state()
    if not state["active"] or found.get("pid") != before.get("pid"):
        raise _unwell(service, "its server did not stay up")
    limits = json.loads(read_file(os.path.join(folder, "manifest.json"))).get("limits") or {}
    for limit, what in (("rss_bytes", "bytes of memory"), ("p95_ms", "ms for 95 of 100 answers")):
        measured, most = found.get(limit), limits.get(limit)
        if most is not None and measured is not None and measured > most:
            raise Refused("ReleaseUnhealthy", f"its server takes {measured:g} {what}, {most:g} are allowed", BACK)
    return {"server": found, "restarts": state["restarts"], "largest_difference": largest}


def _wait_until_ready(service: Service, path: str, release: str) -> dict[str, Any]:
    """What the server of that release says of itself, once it can answer."""
    deadline = time.monotonic() + READY_S
    said = "nobody listens"
    while time.monotonic() < deadline:
        try:
            _ask(path, "GET", "/v2/health/ready")
            found = dict(_ask(path, "GET", "/v2").get("edgekit") or {})
            if found.get("release") == release:
                return found
            said = f"release {found.get('release')} answers"
        except (OSError, ValueError) as error:
            said = str(error) or type(error).__name__
        if service.state()["result"] in ("start-limit-hit", "exit-code", "signal", "core-dump", "watchdog"):
            raise _unwell(service, "its server does not start")
        time.sleep(0.1)
    raise _unwell(service, f"its server is not ready after {READY_S:.0f} s: {said}")


def _ask(path: str, method: str, target: str, body: Any = None) -> dict[str, Any]:
    """The server's answer, a JSON object; {} for an empty one. Raises OSError or ValueError if it is none."""
    import http.client  # a fifth of all that the agent imports, and of no use without a server

    connection = http.client.HTTPConnection("localhost", timeout=ANSWER_S)
    connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.sock.settimeout(ANSWER_S)
        connection.sock.connect(path)
        text = None if body is None else json.dumps(body).encode()
        connection.request(method, target, text, {"Content-Type": "application/json"} if text else {})
        response = connection.getresponse()
        content = response.read(LONGEST)
        if response.status != 200:
            raise ValueError(f"{target}: status {response.status}")
        return dict(json.loads(content)) if content.strip() else {}
    except http.client.HTTPException as error:
        raise ValueError(f"{target}: {type(error).__name__}") from None
    finally:
        connection.close()


def _unwell(service: Service, what: str) -> Refused:
    lines = [line for line in service.logs(20) if line.strip()]
    return Refused("ReleaseUnhealthy", what + (f" ({lines[-1].strip()[:200]})" if lines else ""), BACK)
