"""systemd: whether a runner is kept running, at boot and when nobody is logged in."""

from __future__ import annotations

from collections.abc import Iterator

from edgekit.doctor.finding import CannotTell, Evidence, Found, as_root, check, install, install_by_hand
from edgekit.doctor.snapshot import Snapshot
from edgekit.doctor.text import cited


def runs_systemd(board: Snapshot) -> bool:
    return board.text("/proc/1/comm") == "systemd"


@check(
    "no-systemd",
    "note",
    "systemd keeps services running there",
    reason="Without systemd as the first process edgekit installs and checks releases, but keeps no server running.",
    source="proc(5), /proc/1/comm",
)
def no_systemd(board: Snapshot) -> Iterator[Found | CannotTell]:
    first = board.text("/proc/1/comm")
    if first is None:
        yield CannotTell("what its first process is")
    elif first != "systemd":
        yield Found(
            f"its first process is {cited(first)}, not systemd",
            (Evidence("/proc/1/comm", cited(first)),),
            by_hand="start ROOT/current/run serve with what starts services there",
        )


@check(
    "user-manager",
    "warning",
    "The login user has a systemd of its own",
    reason="Without root a runner is a unit of the user's own systemd, which pam_systemd starts at login.",
    source="pam_systemd(8); Debian packages libpam-systemd, dbus-user-session",
)
def user_manager(board: Snapshot) -> Iterator[Found]:
    if not runs_systemd(board) or board.uid in (0, None):
        return
    ran = board.ran("user_manager")
    if board.named(f"/run/user/{board.uid}/systemd/private") or (
        ran is not None and ran.out.strip() in ("running", "degraded")
    ):
        return
    missing = [name for name in ("libpam-systemd", "dbus-user-session") if not board.package(name)]
    said = cited((ran.err or ran.out) if ran else "") or "no answer"
    yield Found(
        f"systemd does not run for {board.user}",
        (
            Evidence("systemctl --user is-system-running", said),
            Evidence(f"/run/user/{board.uid}/systemd/private", "not there"),
        ),
        install(board, *missing) if missing else (),
        by_hand=install_by_hand(board, *missing) if missing else "UsePAM yes in /etc/ssh/sshd_config",
        after="log in again",
    )


@check(
    "linger",
    "warning",
    "The login user's services run while nobody is logged in",
    reason="A user's systemd ends with the last login and does not start at boot, unless the user lingers. edgekit "
    "deploy asks for it too when it sets up a service.",
    source="loginctl(1), enable-linger; Debian's polkit lets a user do so for itself",
)
def linger(board: Snapshot) -> Iterator[Found]:
    if not runs_systemd(board) or board.uid in (0, None):
        return
    if f"/var/lib/systemd/linger/{board.user}" not in board.names:
        yield Found(
            f"the services of {board.user} end at logout and do not start at boot",
            (Evidence(f"/var/lib/systemd/linger/{board.user}", "not there"),),
            (as_root(board, "loginctl", "enable-linger", board.user),),
        )


@check(
    "failed-units",
    "note",
    "No unit of systemd's has failed",
    reason="A failed unit is often the reason of another finding: networking, time, a module that did not load.",
    source="systemctl(1), --failed",
)
def failed_units(board: Snapshot) -> Iterator[Found]:
    ran = board.ran("failed_units")
    names = [line.split()[0] for line in (ran.out if ran else "").splitlines() if line.split()]
    if runs_systemd(board) and names:
        yield Found(
            f"failed: {cited(', '.join(names[:5]))}{' and more' if len(names) > 5 else ''}",
            (Evidence("systemctl --failed", cited(" ".join(names))),),
            by_hand="systemctl status UNIT tells why",
        )


CHECKS = (no_systemd, user_manager, linger, failed_units)
