"""On the device: whether the release that is in use does what it should: its golden answers, its server, its bounds.

Nothing here changes anything; who asks decides what follows. Sent together with the agent; standard library only,
Python >= 3.9.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import time
from typing import Any, BinaryIO

from edgekit.deploy.disk import OUR_FAULT, Refused, read_file
from edgekit.deploy.service import Service
from edgekit.deploy.vectors import compare, first_vector

CHECK_S = 600.0  # for the golden vectors, on the slowest board
READY_S = 120.0  # for the server to load its model
SOAK_S = 3.0  # for which it must then run without a restart
ANSWER_S = 10.0  # for one answer of the server
BACK = "the release before is in use again; edgekit logs DEVICE shows what the server said"
LONGEST = 16 << 20  # bytes of an answer


def golden_check(folder: str, stream: BinaryIO | None = None) -> dict[str, Any]:
    """What the release's own runner reports; Refused if it does not answer, or not as it should.

    With the stream that the workstation speaks on, ends with the workstation.
    """
    started = time.monotonic()
    code, out, err = _run_check(folder, stream)
    if code == 0:
        with contextlib.suppress(ValueError, TypeError, RecursionError):
            return dict(json.loads(out), seconds=round(time.monotonic() - started, 3))
        raise Refused("ReleaseUnhealthy", "the runner's report on the device is not JSON", OUR_FAULT)
    lines = err.strip().splitlines() or ["it said nothing"]
    if lines[0].startswith("edgekit.runner: "):  # an error on purpose: what, then what to do
        what, todo = lines[0][len("edgekit.runner: ") :], "".join(lines[1:2]).strip()
    else:
        what, todo = lines[-1], ""
    if code == 5:
        raise Refused("GoldenMismatch", what, todo or "nothing was switched")
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    message = f"the runner failed on the device ({how}): {what[:300]}"
    raise Refused("ReleaseUnhealthy", message, todo or "nothing was switched; is this bundle made for this board?")


def _run_check(folder: str, stream: BinaryIO | None) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `run check`."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    with subprocess.Popen(
        ["/bin/sh", os.path.join(folder, "run"), "check", "--json"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        cwd=folder,
    ) as child:
        # a model that wants more memory than there is costs its own check, and nothing that runs
        with contextlib.suppress(OSError), open(f"/proc/{child.pid}/oom_score_adj", "w") as score:
            score.write("1000")
        deadline = time.monotonic() + CHECK_S
        while True:
            try:
                out, err = child.communicate(timeout=0.5)
                if _has_ended(stream):  # nobody is there to go on for
                    raise SystemExit(0)
                return child.returncode, out.decode(errors="replace"), err.decode(errors="replace")
            except subprocess.TimeoutExpired:
                if _has_ended(stream):
                    child.kill()
                    raise SystemExit(0) from None
                if time.monotonic() > deadline:
                    child.kill()
                    message = f"the golden check did not end in {CHECK_S:.0f} s"
                    raise Refused("ReleaseUnhealthy", message, "nothing was switched; is it busy?") from None


def _has_ended(stream: BinaryIO | None) -> bool:
    """True if the workstation is gone: while it waits for us nothing is due, so what there is to read is the end."""
    with contextlib.suppress(OSError):  # one that cannot be asked
        return stream is not None and bool(select.select([stream], [], [], 0)[0])
    return False


# -- the server


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
