"""On the device: the systemd units of a runner, as text. What a unit says is decided here, what systemd does in service.py.

    edgekit-recover.service    once a boot, before the runner: a release that was on trial when the power went is not started
    edgekit-runner.service     serves ROOT/current; restarted when it fails or hangs, and given up after a few times
    edgekit-rollback.service   what giving up starts: the release before becomes current again
    edgekit-guard@ID.service   ends the trial of a release, also when nobody is connected any more

The sandbox is what an inference needs and no more (systemd.exec(5)); `systemd-analyze security` scores it in the tests.
Sent together with the agent; standard library only, Python >= 3.9.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import NamedTuple

from edgekit.deploy.disk import Refused

RUNNER, RECOVER, ROLLBACK = "edgekit-runner.service", "edgekit-recover.service", "edgekit-rollback.service"
GUARD = "edgekit-guard@.service"
USER = "edgekit"  # who serves where root deploys: may read the releases, and write nothing
SYSTEM_SOCKET = "/run/edgekit/edgekit.sock"
# No character of these means anything to systemd: no space, quote, backslash, %, $, : or control character
_PLAIN_PATH = re.compile(r"(?:/[A-Za-z0-9_.+@~,=-]+)+")
_HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # noqa: S108  by ProtectHome and PrivateTmp
_LATEST_START_S = 600  # the golden check of the slowest board comes first
_TURN_S = 5400  # the agent waits for its turn, then for the runner


class Needs(NamedTuple):
    """What the units are about."""

    kind: str  # "system" or "user"
    root: str
    agent: str  # its source on the device
    python: str  # that runs the agent
    visible: tuple[str, ...]  # folders that a Python outside of /usr needs
    devices: frozenset[str]  # of DEVICES: what its releases ask for
    groups: frozenset[str]  # that exist here
    namespaces: bool  # the login user may make them


class Accelerator(NamedTuple):
    """What a delegate has to reach."""

    groups: tuple[str, ...]
    allow: tuple[str, ...]  # systemd's names of device nodes
    families: tuple[str, ...]
    makes_code: bool  # memory that is written, then run


DEVICES = {
    # netlink: libusb hears of devices from udev; the USB stick comes back as another device after its firmware is loaded
    "edgetpu": Accelerator(("plugdev", "apex"), ("char-usb_device rw", "char-apex rw"), ("AF_NETLINK",), False),
    "gpu": Accelerator(("render", "video"), ("char-drm rw",), (), True),
}


CACHE = (  # what trials of delegates found, packed weights, shaders: a start without it takes longer
    "CacheDirectory=edgekit",
    "CacheDirectoryMode=0700",
    "Environment=XDG_CACHE_HOME=/var/cache/edgekit",
)
_WALLS = (
    "CapabilityBoundingSet=",
    "AmbientCapabilities=",
    "ProtectSystem=strict",
    "PrivateMounts=yes",
    "PrivateNetwork=yes",
    "PrivateIPC=yes",
    "IPAddressDeny=any",
    "ProtectProc=invisible",
    "ProtectKernelTunables=yes",
    "ProtectKernelModules=yes",
    "ProtectControlGroups=yes",
    "ProtectClock=yes",
    "ProtectHostname=yes",
    "KeyringMode=private",
)


def unit_files(needs: Needs) -> dict[str, str]:
    """Name -> text of each unit. Raises Refused for a path that cannot be written into one as it is."""
    for path in (needs.root, needs.agent, needs.python, *needs.visible):
        check_path(path)
    verbs = {
        RECOVER: ("recover", "Takes back an edgekit release that was on trial when this machine stopped"),
        ROLLBACK: ("failed", "Takes back an edgekit release that does not run"),
    }
    files = {RUNNER: _runner(needs), GUARD: _guard(needs)}
    for name, (verb, about) in verbs.items():
        files[name] = _agent_unit(needs, name, about, agent_command(needs.python, needs.agent, verb))
    return files


def agent_command(python: str, agent: str, verb: str, *more: str) -> list[str]:
    """How the agent's file is run on the device, without a workstation; it knows its ROOT by where it lies."""
    return [python, "-I", agent, verb, *more]


def check_path(path: str) -> str:
    """`path` itself, if systemd reads it as it is written."""
    if not _PLAIN_PATH.fullmatch(path) or {".", ".."} & set(path.split("/")):
        hint = "deploy into a folder with a plain name, or with --service none"
        raise Refused("DeviceRefused", f"{path!r} cannot be named in a systemd unit", hint)
    return path


def socket_path(kind: str, root: str) -> str:
    """Where the runner listens."""
    return SYSTEM_SOCKET if kind == "system" else f"{root}/run/edgekit.sock"


def root_of(unit: str) -> str | None:
    """The ROOT that the text of a unit of ours is about."""
    found = re.search(r"^X-EdgekitRoot=(.+)$", unit, re.MULTILINE)
    return found.group(1) if found else None


def _head(needs: Needs, about: str, *more: str) -> str:
    lines = ["# written by edgekit deploy, again with each deployment: change it with a drop-in (systemctl edit)"]
    return "\n".join([*lines, "[Unit]", f"Description={about}", f"X-EdgekitRoot={needs.root}", *more])


def _agent_unit(needs: Needs, name: str, about: str, command: Sequence[str]) -> str:
    at_boot = name == RECOVER
    more = [f"Before={RUNNER}"] if at_boot else []
    service = [
        "[Service]",
        "Type=oneshot",
        f"ExecStart={' '.join(command)}",
        "UMask=0022",
        f"TimeoutStartSec={_TURN_S}",
    ]
    if at_boot:
        service += ["RemainAfterExit=yes", "", "[Install]", f"RequiredBy={RUNNER}"]
    return "\n".join([_head(needs, about, *more), "", *service, ""])


def _guard(needs: Needs) -> str:
    """Not a timer made by systemd-run, which needs a session bus that small systems lack: the agent itself counts the time,
    and has all its code in memory when it is needed."""
    command = " ".join(agent_command(needs.python, needs.agent, "guard", "%i"))
    service = ["[Service]", "Type=exec", f"ExecStart={command}", "UMask=0022", "Restart=on-failure", "RestartSec=1"]
    return "\n".join([_head(needs, "Ends the trial of edgekit release %i"), "", *service, ""])


def _runner(needs: Needs) -> str:
    limits = ("StartLimitIntervalSec=600", "StartLimitBurst=5", f"OnFailure={ROLLBACK}")
    there = f"ConditionPathExists={needs.root}/current/run"  # not after the first release of all was given up
    command = f"/bin/sh {needs.root}/current/run serve --socket {socket_path(needs.kind, needs.root)}"
    service = [
        "[Service]",
        "Type=notify",
        "SyslogIdentifier=edgekit",  # or it would be `sh`
        "NotifyAccess=main",
        f"ExecStart={command}",
        # else `run` would look first, and want to change what this user may not: here that is edgekit-recover's part
        "Environment=EDGEKIT_RECOVERED=1",
        "Restart=on-failure",
        "RestartSec=2",
        "RestartPreventExitStatus=3 5",  # a damaged model, wrong answers: the next start would say the same
        "WatchdogSec=30",
        f"TimeoutStartSec={_LATEST_START_S}",
        "TimeoutStopSec=20",
        "KillMode=mixed",
        *_sandbox(needs),
    ]
    wanted_by = "multi-user.target" if needs.kind == "system" else "default.target"
    head = _head(needs, "edgekit runner", f"After={RECOVER}", there, *limits)
    return "\n".join([head, "", *service, "", "[Install]", f"WantedBy={wanted_by}", ""])


def _sandbox(needs: Needs) -> list[str]:
    """A user's own manager can limit system calls, memory and families; walls only where users may make namespaces."""
    accelerators = [DEVICES[name] for name in sorted(needs.devices)]
    families = sorted({"AF_UNIX", *(family for one in accelerators for family in one.families)})
    lines = [
        "UMask=0077",
        "NoNewPrivileges=yes",
        "RestrictNamespaces=yes",
        "RestrictRealtime=yes",
        "RestrictSUIDSGID=yes",
        "LockPersonality=yes",
        "SystemCallArchitectures=native",
        "SystemCallFilter=@system-service",
        "SystemCallFilter=~@privileged @resources @mount @clock @debug @reboot @swap @raw-io @module @cpu-emulation @obsolete",
        "SystemCallFilter=mbind",  # of the interpreter's allocator; in @resources, which goes otherwise
        "SystemCallErrorNumber=EPERM",
        f"RestrictAddressFamilies={' '.join(families)}",
        *([] if any(one.makes_code for one in accelerators) else ["MemoryDenyWriteExecute=yes"]),
        "LimitCORE=0",
        "TasksMax=128",
        "MemoryMax=75%",
        "OOMScoreAdjust=500",  # sshd must survive the runner
    ]
    identity = _identity(needs, accelerators) if needs.kind == "system" else []
    return [*identity, *lines, *_walls(needs, accelerators)]


def _identity(needs: Needs, accelerators: Sequence[Accelerator]) -> list[str]:
    groups = sorted({group for one in accelerators for group in one.groups} & needs.groups)
    return [
        f"User={USER}",
        f"Group={USER}",
        *([f"SupplementaryGroups={' '.join(groups)}"] if groups else []),
        "RuntimeDirectory=edgekit",
        "RuntimeDirectoryMode=0750",  # whoever is in the group may ask the runner
        *CACHE,
    ]


def _walls(needs: Needs, accelerators: Sequence[Accelerator]) -> list[str]:
    """Not ProcSubset=pid: the interpreter reads /proc/cpuinfo to choose its kernels. Nor for accelerators PrivateUsers=,
    which ends the groups' access to their devices, and without which a user's manager can put up no wall at all."""
    allowed = [f"DeviceAllow={node}" for one in accelerators for node in one.allow]
    devices = ["DevicePolicy=closed", *(allowed if accelerators else ("PrivateDevices=yes", "PrivateUsers=yes"))]
    seen = sorted({path for path in (needs.root, *needs.visible) if is_hidden(path)})
    if needs.kind == "system":
        binds = [f"BindReadOnlyPaths={path}" for path in seen]
        own = ["ProtectHome=tmpfs", "PrivateTmp=yes", *binds, "ProtectKernelLogs=yes", "RemoveIPC=yes"]
    elif accelerators or not needs.namespaces:
        return []
    else:  # its manager listens in /run/user, which ProtectHome=tmpfs hides
        writes = f"ReadWritePaths={needs.root}/run -{needs.root}/cache"
        own = ["ProtectHome=read-only", writes, "InaccessiblePaths=-%h/.ssh -%h/.gnupg"]
    return [*_WALLS, *own, *devices]


def is_hidden(path: str) -> bool:
    """True for what the sandbox would not see without a mount of its own."""
    return any(path == place or path.startswith(place + "/") for place in _HIDDEN)


def known_devices(delegates: Collection[str]) -> frozenset[str]:
    """Those of DEVICES that releases with these delegates need."""
    return frozenset(delegates) & DEVICES.keys()
