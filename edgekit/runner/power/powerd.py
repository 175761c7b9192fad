"""edgekit-powerd: the one part that needs root. Sets clock caps from the platform's own list, and takes them back.

    edgekit deploy BUNDLE DEVICE --power                  installs it as a service (edgekit/deploy/helper.py)
    sudo ROOT/current/run powerd --group edgekit          by hand; socket /run/edgekit-powerd/powerd.sock, mode 0660

One request a line, JSON in and out: {"op": "list"}, {"op": "cap", "what": "cpufreq/policy0", "to": 1800000},
{"op": "mode", "name": "15W"}, {"op": "alive"}. Nothing but what `list` names can be set, and nothing but caps: the
governor stays, and the kernel's and firmware's own limits stay below ours. Everything is as before when the client goes, when
it says nothing for WATCHDOG_S, and when this ends; what was there before is kept beside the socket, so that the next start, or
`powerd.py --restore`, puts it back after a kill. One client at a time: two would fight.

Standard library only, and alone: no other module of edgekit's runs as root.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from typing import Any

SOCKET = "/run/edgekit-powerd/powerd.sock"
WATCHDOG_S = 30.0
LONGEST = 1000  # bytes of a request
SIGN_S = 10.0  # systemd hears from us at least so often
MODES = "etc/nvpmodel.conf"
_MODE = re.compile(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=([\w.+-]+)\s*>")


class Refused(Exception):
    """A request that is not granted; told to the client."""


class Knobs:
    """What can be set on this machine; remembers what was there before, in the file `kept` too. `root` is / but for tests."""

    def __init__(self, root: str = "/", *, nvpmodel: str = "nvpmodel", kept: str | None = None) -> None:
        self._root, self._nvpmodel, self._kept = root, nvpmodel, kept
        self._before: dict[str, str] = {}
        self._mode_before: str | None = None
        self._recall()

    def caps(self) -> dict[str, list[int]]:
        """What can be capped -> the frequencies that the platform has, rising; kHz for cpufreq, Hz for devfreq."""
        found = {}
        for folder in self._matches("sys/devices/system/cpu/cpufreq/policy[0-9]*"):
            clocks = _numbers(os.path.join(folder, "scaling_available_frequencies"))
            ends = [_numbers(os.path.join(folder, f"cpuinfo_{end}_freq")) for end in ("min", "max")]
            if not clocks and all(ends):  # intel_pstate and amd-pstate have no list: their steps are 100 MHz
                low, high = ends[0][0], ends[1][0]
                clocks = sorted({low, *range(-(-low // 100_000) * 100_000, high + 1, 100_000), high})
            found["cpufreq/" + os.path.basename(folder)] = clocks
        for folder in self._matches("sys/class/devfreq/*"):
            found["devfreq/" + os.path.basename(folder)] = _numbers(os.path.join(folder, "available_frequencies"))
        return {name: clocks for name, clocks in found.items() if clocks and os.path.exists(self._file(name))}

    def modes(self) -> dict[str, str]:
        """nvpmodel's modes by name -> id; they differ by module and release, so nobody may say an id."""
        with (
            contextlib.suppress(OSError),
            open(os.path.join(self._root, MODES), encoding="utf-8", errors="replace") as f,
        ):
            return {name: number for number, name in _MODE.findall(f.read())}
        return {}

    def cap(self, what: str, to: int) -> None:
        """The highest frequency from now on. Raises Refused for anything that `caps` does not name."""
        if to not in self.caps().get(what, []) or isinstance(to, bool):
            raise Refused(f"{what} cannot be capped at {to}; list says what can")
        path = self._file(what)
        try:
            with open(path, encoding="ascii") as file:
                before = file.read().strip()
            if self._before.setdefault(what, before) == before:
                self._keep()  # before anything is changed: we may be killed right after
            _write(path, str(to))
        except OSError as error:
            raise Refused(f"{what}: {error.strerror}") from None

    def mode(self, name: str) -> None:
        """nvpmodel's mode of that name. Asked again afterwards: one that needs a reboot fails without saying so."""
        number = self.modes().get(name)
        if number is None:
            raise Refused(f"no power mode {name!r}; list says what there is")
        before = self._current_mode()
        if before == name:
            return
        first, self._mode_before = self._mode_before, self._mode_before or before
        self._keep()
        self._run_nvpmodel("-m", number)
        if self._current_mode() != name:
            self._mode_before = first
            self._keep()
            raise Refused(f"the power mode stayed {before}: {name} may need a reboot, which nobody asked for")

    def restore(self) -> list[str]:
        """Everything as it was; what could not be put back."""
        failed = []
        for what, before in self._before.items():
            try:
                _write(self._file(what), before)
            except OSError as error:
                failed.append(f"{what}: {error.strerror}")
        self._before.clear()
        mode, self._mode_before = self._mode_before, None
        if mode is not None and mode in self.modes():
            try:
                self._run_nvpmodel("-m", self.modes()[mode])
            except Refused as error:
                failed.append(str(error))
        self._keep()
        return failed

    def _keep(self) -> None:
        """Writes down what was there before, or that nothing of ours is set. In /run: a reboot sets everything anew anyway."""
        if self._kept is None:
            return
        with contextlib.suppress(OSError):
            if not self._before and self._mode_before is None:
                os.unlink(self._kept)
                return
            _write(self._kept + ".tmp", json.dumps({"caps": self._before, "mode": self._mode_before}))
            os.rename(self._kept + ".tmp", self._kept)

    def _recall(self) -> None:
        """What one that was killed left set, as far as it is something that we set."""
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError, AttributeError):
            with open(self._kept or "", encoding="ascii") as file:
                found = json.loads(file.read(1 << 16))
            known = self.caps()
            self._before = {str(w): str(v) for w, v in found["caps"].items() if w in known and str(v).isdecimal()}
            self._mode_before = found["mode"] if found["mode"] in self.modes() else None

    def _current_mode(self) -> str:
        found = re.search(r"NV Power Mode\s*:\s*(?:MODE_)?([\w.+-]+)", self._run_nvpmodel("-q"))
        return found[1] if found else ""

    def _run_nvpmodel(self, *arguments: str) -> str:
        try:
            done = subprocess.run(
                [self._nvpmodel, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Refused(f"nvpmodel: {error}") from None
        if done.returncode:
            raise Refused(f"nvpmodel failed: {(done.stderr or done.stdout).strip()[:200]}")
        return done.stdout

    def _matches(self, pattern: str) -> list[str]:
        return sorted(glob.glob(os.path.join(glob.escape(self._root), pattern)))

    def _file(self, what: str) -> str:
        kind, _, name = what.partition("/")
        if kind == "cpufreq":
            return os.path.join(self._root, "sys/devices/system/cpu/cpufreq", name, "scaling_max_freq")
        return os.path.join(self._root, "sys/class/devfreq", name, "max_freq")


def answer(line: bytes, knobs: Knobs) -> dict[str, Any]:
    """The answer to one request; whatever it is, nothing is raised."""
    try:
        request = json.loads(line)
        if not isinstance(request, dict):
            raise Refused("a request is an object")
        op = request.get("op")
        if op == "list":
            return {"ok": True, "caps": knobs.caps(), "modes": sorted(knobs.modes())}
        if op == "cap" and isinstance(request.get("what"), str) and type(request.get("to")) is int:
            knobs.cap(request["what"], request["to"])
        elif op == "mode" and isinstance(request.get("name"), str):
            knobs.mode(request["name"])
        elif op != "alive":
            raise Refused("there are list, cap, mode and alive")
    except Refused as error:
        return {"ok": False, "error": str(error)}
    except (ValueError, RecursionError):
        return {"ok": False, "error": "a request is one line of JSON"}
    return {"ok": True}


def serve_client(client: socket.socket, knobs: Knobs, *, watchdog_s: float = WATCHDOG_S) -> None:
    """Answers until the client goes or says nothing for too long; then everything is as before."""
    tell("WATCHDOG=1")
    pending = b""
    client.setblocking(False)
    heard = time.monotonic()
    try:
        while True:
            left = heard + watchdog_s - time.monotonic()
            if left <= 0:
                return
            tell("WATCHDOG=1")
            if not select.select([client], [], [], min(left, SIGN_S))[0]:
                continue
            block = client.recv(LONGEST)
            if not block or len(pending) + len(block) > 4 * LONGEST:
                return
            *lines, pending = (pending + block).split(b"\n")
            for line in lines:
                client.sendall(json.dumps(answer(line, knobs)).encode() + b"\n")
                heard = time.monotonic()  # half a line is no sign of life
    except OSError:
        return
    finally:
        for failed in knobs.restore():
            print(f"edgekit-powerd: not restored: {failed}", file=sys.stderr, flush=True)


def tell(text: str) -> None:
    """Tells systemd (sd_notify(3)); nobody where it did not start us."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        if address:
            sock.settimeout(5)
            sock.sendto(text.encode(), "\0" + address[1:] if address.startswith("@") else address)


def open_socket(path: str, group: str | None, user: str | None = None) -> socket.socket:
    """Listens there; only root, the user and the group may connect. KeyError if there is no such user or group."""
    os.makedirs(os.path.dirname(path) or ".", mode=0o755, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        listening.bind(path)
    finally:
        os.umask(mask)
    if group is not None or user is not None:
        import grp
        import pwd

        os.chmod(path, 0o660 if group is not None else 0o600)  # first: afterwards it is somebody else's
        uid = -1 if user is None else pwd.getpwnam(user).pw_uid
        os.chown(path, uid, -1 if group is None else grp.getgrnam(group).gr_gid)
    listening.listen(4)
    return listening


def kept_by(path: str) -> str:
    """Where one that listens at `path` writes down what was set before."""
    return os.path.join(os.path.dirname(path), "before.json")


def main(path: str = SOCKET, group: str | None = None, *, user: str | None = None, root: str = "/") -> None:
    """Serves one client after the other, until SIGTERM; what was set is taken back first."""

    def stop(*_: object) -> None:
        raise SystemExit(0)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    with open_socket(path, group, user) as listening:
        knobs = Knobs(root, kept=kept_by(path))
        knobs.restore()
        tell("READY=1")
        try:
            while True:
                tell("WATCHDOG=1")
                if not select.select([listening], [], [], SIGN_S)[0]:
                    continue
                client, _ = listening.accept()
                with client:
                    serve_client(client, knobs)
        finally:
            knobs.restore()
            with contextlib.suppress(OSError):
                os.unlink(path)


def _numbers(path: str) -> list[int]:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return sorted({int(word) for word in file.read(1 << 16).split() if word.isascii() and word.isdecimal()})
    except OSError:
        return []


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


def _start() -> None:
    import argparse

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name, default in (("--socket", SOCKET), ("--user", None), ("--group", None), ("--root", "/")):
        parser.add_argument(name, default=default)
    parser.add_argument("--restore", action="store_true", help="put back what one that was killed left set, and end")
    options = parser.parse_args()
    if options.restore:
        sys.exit("; ".join(Knobs(options.root, kept=kept_by(options.socket)).restore()) or 0)
    main(options.socket, options.group, user=options.user, root=options.root)


if __name__ == "__main__":
    _start()
