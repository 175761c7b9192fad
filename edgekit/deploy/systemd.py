"""On the device: a runner as units of systemd, the system's or a user's own: installed, asked, started and taken away.

Sent together with the agent; standard library only, Python >= 3.9.
"""

from __future__ import annotations

import contextlib
import grp
import json
import os
import pwd
import re
import sys
from collections.abc import Mapping
from typing import Any

from edgekit.deploy.command import COMMAND_S, run
from edgekit.deploy.disk import ID, Refused, checked, delete, write_durably
from edgekit.deploy.units import (
    GUARD,
    RECOVER,
    ROLLBACK,
    RUNNER,
    USER,
    Needs,
    is_hidden,
    known_devices,
    root_of,
    socket_path,
    unit_files,
)

BOOTED = "/run/systemd/system"  # a folder where systemd is PID 1 (sd_booted(3))
SYSTEM_UNITS = "/etc/systemd/system"
ACCOUNT = "edgekit service"  # its comment in /etc/passwd: only an account that says so is ours to delete
RESTART_S = 700.0  # the runner checks its golden vectors first
_CURSOR = re.compile(r"[A-Za-z0-9=;]{1,400}")


class Systemd:
    """Units of the system's or of the user's own manager."""

    def __init__(self, root: str, kind: str) -> None:
        self.root = root
        self.kind = kind
        self.socket: str | None = socket_path(kind, root)
        self._scope = [] if kind == "system" else ["--user"]
        self._folder = SYSTEM_UNITS if kind == "system" else user_units()

    def installed_root(self) -> str | None:
        """The ROOT that the installed runner serves."""
        try:
            with open(os.path.join(self._folder, RUNNER), encoding="utf-8", errors="replace") as stream:
                return root_of(stream.read())
        except OSError:
            return None

    def install(self, root: str, agent_path: str) -> list[str]:
        taken = self.installed_root()
        if taken not in (None, root):
            message = f"a runner of {taken} is installed here already"
            raise Refused("DeviceRefused", message, f"remove that one first, or deploy to {taken}")
        python = sys.executable
        visible = {sys.prefix, sys.base_prefix, os.path.dirname(os.path.realpath(python))}
        groups = frozenset(group.gr_name for group in grp.getgrall())
        hidden = tuple(sorted(path for path in visible if is_hidden(path)))
        devices = known_devices(delegates_of(self.root))
        needs = Needs(self.kind, root, agent_path, python, hidden, devices, groups, may_make_namespaces())
        files = unit_files(needs)
        if self.kind == "system":
            changed = self._make_account()
        else:
            for writable in ("run", "cache"):
                os.makedirs(os.path.join(self.root, writable), mode=0o700, exist_ok=True)
            os.makedirs(self._folder, exist_ok=True)
            changed = linger()
        written = [name for name, text in files.items() if write_if_other(os.path.join(self._folder, name), text)]
        if written:
            self._systemctl("daemon-reload")
        self._systemctl("enable", "--quiet", RUNNER, RECOVER)
        return changed + [f"{self._folder}/{name}" for name in written]

    def restart(self) -> None:
        if self._show(RECOVER, "ActiveState")["ActiveState"] == "activating":
            return  # we are what the runner waits for: it starts when we end, and to wait for it would be for ever
        self._systemctl("reset-failed", RUNNER, may_fail=True)  # or the start limit would say no
        self._systemctl("restart", RUNNER, may_fail=True, timeout_s=RESTART_S)

    def stop(self) -> None:
        self._systemctl("stop", RUNNER, may_fail=True)

    def remove(self) -> None:
        if self.installed_root() != self.root:
            return
        self._systemctl("disable", "--quiet", "--now", RUNNER, RECOVER, may_fail=True)
        for name in (RUNNER, RECOVER, ROLLBACK, GUARD):
            delete(os.path.join(self._folder, name))
        self._systemctl("stop", "edgekit-guard@*.service", may_fail=True)
        self._systemctl("daemon-reload")
        self._systemctl("reset-failed", RUNNER, RECOVER, ROLLBACK, may_fail=True)
        if self.kind == "user":
            delete(os.path.join(self.root, "run"))
        else:
            delete("/var/cache/edgekit")
            with contextlib.suppress(KeyError):
                if pwd.getpwnam(USER).pw_gecos == ACCOUNT:
                    run(["userdel", USER])

    def state(self) -> dict[str, Any]:
        found = self._show(RUNNER, "ActiveState", "MainPID", "NRestarts", "Result")
        return {
            "active": found["ActiveState"] == "active",
            "pid": int(found["MainPID"] or 0) or None,
            "restarts": int(found["NRestarts"] or 0),
            "result": found["Result"],
        }

    def start_guard(self, agent_path: str, release: str, window_s: float) -> None:
        self._systemctl("start", f"edgekit-guard@{checked(ID, release)}.service")

    def cancel_guard(self, release: str) -> None:
        """It looks every second whether its trial is still on; it may be the one that calls."""

    def logs(self, lines: int) -> list[str]:
        try:
            return self.read_log(lines, None)[0]
        except Refused:
            return []

    def read_log(self, lines: int, cursor: str | None) -> tuple[list[str], str | None]:
        units = [f"--unit={unit}" for unit in (RUNNER, RECOVER, ROLLBACK, "edgekit-guard@*")]
        some = [f"--lines={lines:d}"] if cursor is None else [f"--after-cursor={checked(_CURSOR, cursor)}"]
        options = ["--no-pager", "--quiet", "--show-cursor", "--output=short-iso", *some]
        code, out, err = run(["journalctl", *self._scope, *units, *options])
        if code != 0:
            hint = f"on the device: sudo usermod -aG systemd-journal {user_name()}"
            raise Refused("DeviceRefused", f"the journal cannot be read: {err}", hint)
        found = out.splitlines()
        end = cursor
        while found and found[-1].startswith("-- "):  # the cursor, and "No entries"
            line = found.pop()
            end = line[len("-- cursor: ") :].strip() if line.startswith("-- cursor: ") else end
        return found, end

    def _make_account(self) -> list[str]:
        """Who serves: may read what lies in ROOT, and owns nothing."""
        changed = []
        try:
            group = pwd.getpwnam(USER).pw_gid
        except KeyError:
            make = ["useradd", "--system", "--user-group", "--no-create-home", "--home-dir=/nonexistent"]
            code, _, err = run([*make, "--shell=/usr/sbin/nologin", f"--comment={ACCOUNT}", USER])
            if code != 0:
                raise Refused(
                    "DeviceError", f"the user {USER} cannot be made: {err}", "or use --service none"
                ) from None
            group = pwd.getpwnam(USER).pw_gid
            changed = [f"user {USER}"]
        os.chown(self.root, -1, group)
        os.chmod(self.root, 0o750)
        return changed

    def _show(self, unit: str, *names: str) -> dict[str, str]:
        out = self._systemctl("show", unit, *(f"--property={name}" for name in names))
        found = dict(line.split("=", 1) for line in out.splitlines() if "=" in line)
        return {name: found.get(name, "") for name in names}

    def _systemctl(self, *arguments: str, may_fail: bool = False, timeout_s: float = COMMAND_S) -> str:
        code, out, err = run(["systemctl", *self._scope, *arguments], timeout_s)
        if code != 0 and not may_fail:
            raise Refused("DeviceError", f"systemctl {arguments[0]} failed: {err}", "look at its journal: edgekit logs")
        return out


def why_not(kind: str) -> str:
    """Why this machine cannot keep a service of that kind for whoever logged in; "" if it can."""
    if not os.path.isdir(BOOTED):
        return "systemd is not running"
    if kind == "system":
        return "" if os.geteuid() == 0 else "the login user is not root"
    if os.geteuid() == 0:
        return "root has no use for user units"
    code, _, err = run(["systemctl", "--user", "show", "--property=Version"])
    return "" if code == 0 else f"the user's systemd does not answer ({err})"


def linger() -> list[str]:
    """The user's units run from boot on, logged in or not."""
    name = user_name()
    if os.path.exists(f"/var/lib/systemd/linger/{name}"):
        return []
    code, _, err = run(["loginctl", "enable-linger"])
    if code != 0:
        hint = f"on the device: sudo loginctl enable-linger {name}; or deploy with --service none"
        raise Refused("DeviceRefused", f"the runner would end with this login: {err}", hint)
    return [f"linger for {name}"]


def user_units() -> str:
    config = os.environ.get("XDG_CONFIG_HOME") or ""
    home = config if os.path.isabs(config) else os.path.join(os.path.expanduser("~"), ".config")
    return os.path.join(home, "systemd", "user")


def user_name() -> str:
    return pwd.getpwuid(os.geteuid()).pw_name


def may_make_namespaces() -> bool:
    """True if a user's systemd can build a sandbox here: some systems keep that from users."""
    return run(["unshare", "--user", "--map-root-user", "--mount", "--net", "true"])[0] == 0


def write_if_other(path: str, text: str) -> bool:
    """Puts the text there, and True, unless it is there already."""
    with contextlib.suppress(OSError), open(path, "rb") as stream:
        if stream.read() == text.encode():
            return False
    write_durably(path, text.encode())
    return True


def delegates_of(root: str) -> set[str]:
    """The delegates that any of its releases asks for: the one to go back to must still reach its device."""
    found: set[str] = set()
    releases = os.path.join(root, "releases")
    for name in os.listdir(releases) if os.path.isdir(releases) else ():
        try:
            with open(os.path.join(releases, name, "manifest.json"), "rb") as stream:
                manifest: Mapping[str, Any] = json.load(stream)
            for variant in manifest["variants"]:
                found |= {str(delegate["name"]) for delegate in variant["delegates"]}
        except (OSError, ValueError, LookupError, TypeError):
            continue
    return found
