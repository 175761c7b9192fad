"""The life of the service: prove the model in a child, load it, listen, say ready, watch itself, stop when told to.

A model can kill the process that loads it (testing a file is running it). So a child does it first, with the golden
inputs; only what it survived is loaded here. Later on a golden input is answered whenever clients leave a pause: if its
answer is wrong, or does not come, systemd's watchdog is not fed and the service is started anew.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

from edgekit.bundle import read_bundle
from edgekit.errors import BundleError, DelegateUnavailable, EdgekitError, GoldenMismatch, InputError, ReleaseUnhealthy
from edgekit.runner.check import read_golden
from edgekit.runner.interpreter import runtime_version
from edgekit.runner.model import Model, load
from edgekit.runner.serve.figures import Figures, SelfCheck
from edgekit.runner.serve.listeners import read_token, tcp_listener, unix_listener
from edgekit.runner.serve.notify import Notify
from edgekit.runner.serve.protocol import Inference
from edgekit.runner.serve.server import Listener, Server

if TYPE_CHECKING:
    from edgekit.runner.serve.governed import Governed

PROOF_S = 600.0  # for the golden vectors, on the slowest board
GRACE_S = 10.0  # for answers that have begun, when the service is stopped
CHECK_S = 30.0  # between looks at itself, where nobody watches
MAX_BODY_MIB = 16


class Settings(NamedTuple):
    """What the command line says."""

    release: str
    variant: str | None = None
    threads: int | None = None
    lanes: int = 1
    socket: str | None = None
    http: str | None = None
    token_file: str | None = None
    to_network: bool = False
    max_body_mib: int = MAX_BODY_MIB
    delegates: Sequence[str] = ()  # instead of the bundle's own
    require: str | None = None  # the unit that has to serve
    goal: str | None = None  # of power; requests are then answered one at a time, as power/policy.py chooses
    table: str | None = None
    trace: str | None = None
    clocks: bool = False


class _Stop(BaseException):
    """SIGTERM or SIGINT came."""


def serve(settings: Settings) -> None:
    """Returns after SIGTERM or SIGINT, when all that had begun was answered.

    Raises InputError for what cannot be listened at, BundleError and ReleaseUnhealthy for a release not fit to serve.
    """
    faulthandler.enable()  # the watchdog's SIGABRT then leaves in the log where each thread was
    tell = Notify()
    with ExitStack() as stack:
        wake, woken = socket.socketpair()  # a signal that comes just before we wait must end the waiting
        wake.setblocking(False)
        stack.callback(wake.close)
        stack.callback(woken.close)
        stack.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(wake.fileno()))
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, _stop)
            _start(settings, tell, stack)
            while True:
                woken.recv(1)
        except _Stop:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)  # whoever says it twice means at once
            tell("STOPPING=1")
    print("stopped", flush=True)


def _start(settings: Settings, tell: Notify, stack: ExitStack) -> None:
    """Everything up to and with the watch; what is to be done in the end goes onto `stack`."""
    bundle = read_bundle(settings.release)
    name = bundle.manifest.name
    token = read_token(settings.token_file) if settings.http is not None else ""  # said before minutes of proof
    path = settings.socket or (None if settings.http is not None else default_socket(settings.release))
    if settings.http is not None:  # likewise an address that cannot be had
        tcp, url = tcp_listener(settings.http, token, to_network=settings.to_network)
        stack.callback(tcp.sock.close)
    tell("STATUS=proving the model in a child process")
    prove(settings)
    tell("STATUS=loading the model")
    plan = None
    if settings.goal is not None or bundle.manifest.goal is not None:
        from edgekit.runner.serve.governed import find_plan

        plan = find_plan(settings, bundle)
    model = load(
        settings.release,
        variant=settings.variant,
        threads=settings.threads,
        lanes=settings.lanes,
        # an Edge TPU is opened at the level that the goal wants, and at no other one beside it
        delegates=settings.delegates or (("cpu",) if plan is not None and plan.has_levels else ()),
        require=settings.require,
    )
    figures = Figures()
    check = SelfCheck(model, read_golden(bundle), figures)
    wrong = check.run_all()
    if wrong:
        raise GoldenMismatch(f"{name}: {wrong}", hint="this machine computes something else than the workstation did")
    listeners: list[Listener] = []
    places: list[str] = []
    doors: list[Any] = []  # to knock at
    removals: list[Callable[[], None]] = []
    if path is not None:
        unix, remove = unix_listener(path)
        stack.callback(unix.sock.close)
        listeners, places, doors, removals = [unix], [path], [path], [remove]
    if settings.http is not None:
        listeners.append(tcp)
        places.append(url)
        doors.append(tcp.sock.getsockname()[:2])
    about = {
        "release": release_id(settings.release),
        "bundle": bundle.digest,
        "variant": model.variant.name,
        "runtime": runtime_version(),
        "unit": model.placement.label,
    }
    answering: Model | Governed = model
    if plan is not None:
        from edgekit.runner.serve.governed import govern

        try:
            answering = govern(plan, settings, model, stack)
            about["goal"] = plan.text
        except EdgekitError as error:
            if not plan.kept:
                raise
            print(f"edgekit.runner: the goal is not kept: {error}", file=sys.stderr, flush=True)
    server = Server(Inference(answering, name, figures, about), listeners, limit=settings.max_body_mib << 20)
    ended = threading.Event()
    server.start()
    watch = threading.Thread(target=_watch, args=(figures, check, tell, doors, ended), name="watch", daemon=True)
    stack.callback(_end, server, removals, ended, watch)
    watch.start()
    print(f"serving {name} ({model.variant.name}) at {', '.join(places)}", flush=True)
    tell("READY=1", f"STATUS=serving {name}")


def prove(settings: Settings) -> None:
    """Lets a child load the model and answer the golden inputs. Raises what the child says, or of what it died."""
    options = [] if settings.threads is None else ["--threads", str(settings.threads)]
    options += ["--variant", settings.variant] if settings.variant is not None else []
    options += [f"--delegate={delegate}" for delegate in settings.delegates]
    options += ["--require", settings.require] if settings.require is not None else []
    command = [sys.executable, "-s", "-m", "edgekit.runner", "check", settings.release, *options]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    try:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=PROOF_S, check=False
        )
    except subprocess.TimeoutExpired:
        message = f"the golden answers did not come within {PROOF_S:.0f} s"
        raise ReleaseUnhealthy(message, hint="is this model made for a board as slow as this?") from None
    if done.returncode == 0:
        return
    lines = done.stderr.decode(errors="replace").strip().splitlines() or ["it said nothing"]
    if done.returncode < 0:
        raise ReleaseUnhealthy(
            f"the model kills the process that runs it ({signal.Signals(-done.returncode).name}): {lines[-1]}",
            hint="it was tried in a child process, and is not served: make the bundle again",
        )
    kinds: dict[int, type[EdgekitError]] = {
        2: InputError,
        3: BundleError,
        4: DelegateUnavailable,
        5: ReleaseUnhealthy,
    }
    said = [number for number, line in enumerate(lines) if line.startswith("edgekit.runner: ")]  # warnings come first
    what = lines[said[-1]].partition(": ")[2] if said else lines[-1]
    hint = "".join(lines[said[-1] + 1 : said[-1] + 2]).strip() if said else ""
    raise kinds.get(done.returncode, EdgekitError)(what, hint=hint)


def default_socket(release: str) -> str:
    """Where systemd gave us a folder, or beside the release that a deployment made. Raises InputError for another one."""
    folder = os.environ.get("RUNTIME_DIRECTORY")
    if folder:
        return os.path.join(folder.split(":")[0], "edgekit.sock")
    if release_id(release) is None:
        raise InputError(f"{release} is not a deployed release", hint="say where to listen: --socket PATH")
    root = os.path.dirname(os.path.dirname(os.path.realpath(release)))
    return os.path.join(root, "run", "edgekit.sock")


def release_id(release: str) -> str | None:
    """The id of a release that a deployment made; None for anything else, a bundle say."""
    folder, name = os.path.split(os.path.realpath(release))
    is_deployed = os.path.basename(folder) == "releases" and os.path.isfile(os.path.join(folder, name, "release.json"))
    return name if is_deployed else None


def knock(door: Any) -> bool:
    """True if somebody answers at a socket's path, or at (address, port), whatever is said."""
    family = socket.AF_UNIX if isinstance(door, str) else socket.AF_INET6 if ":" in door[0] else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.settimeout(5)
            sock.connect(door)
            sock.sendall(b"GET /v2/health/live HTTP/1.0\r\n\r\n")
            return sock.recv(9) == b"HTTP/1.1 "
    except OSError:
        return False


def _watch(figures: Figures, check: SelfCheck, tell: Notify, doors: Sequence[Any], ended: threading.Event) -> None:
    """Feeds the watchdog, but only on evidence: an answer to a client, or else one to ourselves."""
    interval_s = tell.watchdog_s / 3 if tell.watchdog_s is not None else CHECK_S
    while not ended.wait(interval_s):
        wrong = ""
        if not figures.has_passed_within(interval_s):
            wrong = check.run() or next((f"nobody answers at {door}" for door in doors if not knock(door)), "")
        if ended.is_set():  # a door that was closed meanwhile is not one where nobody answers
            return
        if wrong:
            print(f"edgekit.runner: the self-check failed: {wrong}", file=sys.stderr, flush=True)
        else:
            tell("WATCHDOG=1")


def _end(
    server: Server, removals: Sequence[Callable[[], None]], ended: threading.Event, watch: threading.Thread
) -> None:
    ended.set()
    for remove in removals:
        remove()
    if not server.stop(GRACE_S):
        print(f"edgekit.runner: some answers did not end in {GRACE_S:.0f} s", file=sys.stderr, flush=True)
    watch.join(GRACE_S)  # an interpreter that ends under a thread in a model's C++ may abort


def _stop(number: int, frame: object) -> None:
    raise _Stop
