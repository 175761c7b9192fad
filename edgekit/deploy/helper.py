"""On the device: edgekit-powerd, the one part that runs as root, as a unit of systemd's. Installed only when a person said so.

    edgekit-powerd.service              sets clock caps for whoever serves ROOT, and takes them back
    /var/lib/edgekit-powerd/powerd.py   its one file, where only root writes; copied from the release that is good, by its hash

Needs root: the login is root, or `sudo` lets it start this agent's file without a password.
Sent together with the agent; standard library only, Python >= 3.9.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pwd
import stat
import sys
from collections.abc import Callable
from typing import NamedTuple

from edgekit.deploy.command import run
from edgekit.deploy.disk import Refused, delete, make_folder, read_file, read_listing, sync, write_durably
from edgekit.deploy.systemd import SYSTEM_UNITS
from edgekit.deploy.units import RUNNER, USER, agent_command, check_path, root_of

UNIT = "edgekit-powerd.service"
FOLDER = "/var/lib/edgekit-powerd"
FILE = "edgekit/runner/power/powerd.py"  # in a release
SOCKET = "/run/edgekit-powerd/powerd.sock"  # as the runner knows it
CHANGE_S = 120.0
_BY_HAND = (
    "on the device, as root: systemctl disable --now edgekit-powerd; rm -r /var/lib/edgekit-powerd {folder}/" + UNIT
)


class Place(NamedTuple):
    """Where the helper lies; other paths than these are for tests."""

    units: str = SYSTEM_UNITS
    folder: str = FOLDER

    @property
    def unit(self) -> str:
        return os.path.join(self.units, UNIT)

    @property
    def script(self) -> str:
        return os.path.join(self.folder, "powerd.py")


HERE = Place()


def helper_state(root: str, place: Place = HERE) -> dict[str, bool]:
    """Whether the helper is installed for this ROOT, and runs."""
    installed = installed_for(place) == root
    return {"installed": installed, "active": installed and run(["systemctl", "is-active", "--quiet", UNIT])[0] == 0}


def installed_for(place: Place = HERE) -> str | None:
    """The ROOT that the installed helper is for."""
    try:
        return root_of(read_file(place.unit).decode(errors="replace"))
    except OSError:
        return None


def why_no_helper(root: str, place: Place = HERE) -> str:
    """Why it cannot be installed for this ROOT now; "" if it can."""
    owner = installed_for(place)
    if owner not in (None, root):
        return f"a power helper of {owner} is installed there already"
    if not os.path.isdir("/run/systemd/system"):
        return "systemd is not running there"
    if os.geteuid() != 0 and run(["sudo", "-n", "true"])[0] != 0:
        return "it needs root: the login is not, and sudo is not there or wants a password"
    return "" if trusted_python() else "no Python there is one that only root can change"


def change_helper(root: str, agent: str, what: str) -> list[str]:
    """`install` or `remove`, as root: here, or by sudo through the agent's own file; what was changed, in words."""
    if os.geteuid() == 0:
        return install_helper(root) if what == "install" else remove_helper(root)
    code, out, err = run(["sudo", "-n", *agent_command(sys.executable, agent, "power", what)], CHANGE_S)
    if code != 0:
        hint = "log in as root, or let sudo do without a password there"
        raise Refused("DeviceRefused", f"the power helper is not changed: {err}", hint)
    return out.split("\n")[:-1]


def install_helper(root: str, place: Place = HERE, *, call: Callable[..., tuple[int, str, str]] = run) -> list[str]:
    """As root: the file of the release in use, the unit, and it runs. May be repeated. Raises Refused if it does not start."""
    owner = installed_for(place)
    if owner not in (None, root):
        hint = f"remove that one first, or deploy to {owner}"
        raise Refused("DeviceRefused", f"a power helper of {owner} is installed here already", hint)
    python, user = trusted_python(), _who_serves(root)
    if python is None:
        hint = "install the system's own python3 package"
        raise Refused("DeviceUnsupported", "no Python here is one that only root can change", hint)
    source = _source(root)
    text = unit_text(root, python, place, user).encode()
    make_folder(place.folder, 0o755)
    changed = []
    for path, content in ((place.script, source), (place.unit, text)):
        if not _is(path, content):
            write_durably(path, content)
            changed.append(path)
    if changed:
        _systemctl(call, "daemon-reload")
    _systemctl(call, "enable", "--quiet", UNIT)
    _systemctl(call, "restart" if changed else "start", UNIT)
    return changed


def remove_helper(root: str, place: Place = HERE, *, call: Callable[..., tuple[int, str, str]] = run) -> list[str]:
    """As root: everything that `install` did is gone, and clocks are as before. Nothing if it is for another ROOT."""
    if installed_for(place) != root:
        return []
    call(["systemctl", "disable", "--quiet", "--now", UNIT])  # ends it: it puts everything back
    delete(place.unit)
    sync(place.units)
    delete(place.folder)
    call(["systemctl", "daemon-reload"])
    call(["systemctl", "reset-failed", "--quiet", UNIT])
    return [place.unit, place.folder]


def remaining_helper(root: str, keep_agent: Callable[[], str]) -> str:
    """Takes the helper away with its ROOT; what a person has to do if that cannot be, else ""."""
    if installed_for() != root:
        return ""
    with contextlib.suppress(Refused, OSError):
        change_helper(root, keep_agent(), "remove")
    return "" if installed_for() != root else _BY_HAND.format(folder=SYSTEM_UNITS)


def unit_text(root: str, python: str, place: Place, user: str) -> str:
    """The unit. It may write below /sys/devices (caps are there), /run and what nvpmodel keeps, and nothing else."""
    for path in (root, python, place.script):
        check_path(path)
    start = f"{python} -I {place.script} --socket {SOCKET}"
    return f"""# written by edgekit deploy --power: change it with a drop-in (systemctl edit)
[Unit]
Description=edgekit power helper: clock caps, taken back when nobody wants them any more
X-EdgekitRoot={root}

[Service]
Type=notify
NotifyAccess=main
ExecStart={start} --user {user}
ExecStopPost={start} --restore
Restart=on-failure
RestartSec=2
WatchdogSec=60
TimeoutStopSec=20
RuntimeDirectory=edgekit-powerd
RuntimeDirectoryMode=0755
RuntimeDirectoryPreserve=restart
UMask=0077
CapabilityBoundingSet=CAP_CHOWN
AmbientCapabilities=
NoNewPrivileges=yes
ProtectSystem=strict
ReadOnlyPaths=/sys
ReadWritePaths=-/sys/devices -/var/lib/nvpmodel
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
PrivateMounts=yes
PrivateNetwork=yes
PrivateIPC=yes
IPAddressDeny=any
RestrictAddressFamilies=AF_UNIX
ProtectProc=invisible
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
KeyringMode=private
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
RemoveIPC=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@resources @mount @clock @debug @reboot @swap @raw-io @module @cpu-emulation @obsolete @keyring
SystemCallErrorNumber=EPERM
LimitCORE=0
TasksMax=16
MemoryMax=64M

[Install]
WantedBy=multi-user.target
"""


def trusted_python() -> str | None:
    """A Python that nobody but root can change, nor any folder on its way; None: there is none."""
    for path in (sys.executable, "/usr/bin/python3"):
        if path and _only_roots(os.path.realpath(path)):
            return os.path.realpath(path)
    return None


def _only_roots(path: str) -> bool:
    while True:
        try:
            found = os.lstat(path)
        except OSError:
            return False
        if found.st_uid != 0 or stat.S_IMODE(found.st_mode) & 0o022:
            return False
        if path == "/":
            return True
        path = os.path.dirname(path)


def _who_serves(root: str) -> str:
    """Whose runner it is for: the account of the system's service where there is one for this ROOT, else whose folder it is."""
    with contextlib.suppress(OSError):
        if root_of(read_file(os.path.join(SYSTEM_UNITS, RUNNER)).decode(errors="replace")) == root:
            return USER
    return pwd.getpwuid(os.stat(root).st_uid).pw_name


def _source(root: str) -> bytes:
    """The helper of the release in use, as its list says: read once, and what was read is what was hashed."""
    release = os.path.realpath(os.path.join(root, "current"))
    try:
        text = read_file(os.path.join(release, "release.json")).decode(errors="replace")
        listed = read_listing(os.path.basename(release), text, "edgekit_release")["files"]
        content = read_file(os.path.join(release, FILE))
        if hashlib.sha256(content).hexdigest() == listed[FILE]["sha256"]:
            return content
    except (OSError, LookupError):
        pass
    hint = "edgekit deploy BUNDLE DEVICE --power --verify"
    raise Refused("DeviceDamaged", f"no release in use at {root} has a whole power helper", hint)


def _is(path: str, content: bytes) -> bool:
    try:
        return read_file(path) == content
    except OSError:
        return False


def _systemctl(call: Callable[..., tuple[int, str, str]], *arguments: str) -> None:
    code, _, err = call(["systemctl", *arguments])
    if code != 0:
        raise Refused(
            "DeviceError", f"systemctl {arguments[0]} {UNIT} failed: {err}", f"on the device: journalctl -u {UNIT}"
        )
