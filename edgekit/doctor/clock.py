"""The wall clock: edgekit does not need it, TLS and logs do."""

from __future__ import annotations

import time
from collections.abc import Iterator

from edgekit.doctor.finding import CannotTell, Command, Evidence, Found, as_root, check, install
from edgekit.doctor.snapshot import Snapshot

TIME_ERROR = 5  # of adjtimex(2): the clock is not synchronized
BAD_S, WRONG_S = 86_400, 60  # against the workstation
UNSET_S = 1_577_836_800  # 2020: a clock without a battery starts in 1970, 2000, or when its image was made


def _date(seconds: int) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))
    except (OverflowError, OSError, ValueError):
        return f"{seconds} s"


def _property(board: Snapshot, name: str) -> str:
    ran = board.ran("timedatectl")
    lines = (line.partition("=") for line in (ran.out if ran else "").splitlines())
    return next((value for key, _, value in lines if key == name), "")


def _start_ntp(board: Snapshot) -> tuple[Command, ...]:
    """What has the time fetched from the network from now on."""
    can = _property(board, "CanNTP")
    if can == "yes":
        return (as_root(board, "timedatectl", "set-ntp", "true"),)
    return install(board, "systemd-timesyncd") if can == "no" else ()


@check(
    "clock-wrong",
    ("error", "warning"),
    "Its clock tells the same time as this workstation's",
    reason="With a wrong date TLS refuses every certificate (apt, pip, MQTT) and logs cannot be put in order. "
    "edgekit itself counts from boot and does not need the time.",
    source="compared with the workstation's clock while the snapshot was taken",
)
def clock_wrong(board: Snapshot) -> Iterator[Found | CannotTell]:
    if board.time_s is None or board.asked_s is None:
        yield CannotTell("it did not say what time it is")
        return
    off = board.time_s - board.asked_s
    if abs(off) < WRONG_S:
        return
    what = f"{abs(off)} s" if abs(off) < 2 * BAD_S else f"{abs(off) // 86_400} days"
    yield Found(
        f"its clock is {what} {'behind' if off < 0 else 'ahead'}",
        (Evidence("clock", _date(board.time_s)), Evidence("this workstation's clock", _date(board.asked_s))),
        (as_root(board, "date", "-u", "-s", f"@{board.asked_s}"), *_start_ntp(board)),
        severity="error" if abs(off) >= BAD_S else "warning",
    )


@check(
    "clock-free",
    "warning",
    "Its clock is kept by NTP",
    reason="A board's crystal drifts by seconds a day, and without a battery the clock stands still while the power is off.",
    source="adjtimex(2), TIME_ERROR; timedatectl(1)",
)
def clock_free(board: Snapshot) -> Iterator[Found | CannotTell]:
    if board.is_container:  # the clock is its host's
        return
    if board.adjtimex is None:
        yield CannotTell("the kernel did not say whether the clock is synchronized")
        return
    if board.adjtimex != TIME_ERROR:
        return
    evidence = [Evidence("adjtimex", "TIME_ERROR: not synchronized")]
    ntp = _property(board, "NTP")
    if ntp:
        evidence.append(Evidence("timedatectl show", f"NTP={ntp}"))
    if not board.paths("/sys/class/rtc/rtc*/name"):
        evidence.append(Evidence("/sys/class/rtc", "no clock that runs without power"))
    if ntp == "yes":
        yield Found(
            "NTP is switched on, but has not synchronized its clock",
            tuple(evidence),
            by_hand="is UDP port 123 let through? In a closed network name your own server: NTP= in /etc/systemd/timesyncd.conf",
        )
    else:
        yield Found(
            "nothing keeps its clock",
            tuple(evidence),
            _start_ntp(board),
            "" if _start_ntp(board) else "start systemd-timesyncd or chrony, or install one of them",
        )


@check(
    "rtc-unset",
    "note",
    "The clock that runs without power is set",
    reason="A Raspberry Pi 5 has such a clock, but its battery is bought apart: after a power cut it starts in 1970.",
    source="raspberrypi/documentation (Real Time Clock)",
)
def rtc_unset(board: Snapshot) -> Iterator[Found]:
    for path in board.paths("/sys/class/rtc/rtc*/since_epoch"):
        seconds = board.number(path)
        if seconds is not None and seconds < UNSET_S:
            yield Found(
                f"{path.split('/')[4]} says {_date(seconds)}",
                (Evidence(path, str(seconds)),),
                (as_root(board, "hwclock", "--systohc"),) if board.adjtimex not in (None, TIME_ERROR) else (),
                by_hand="it lasts only with a battery at its connector",
            )


CHECKS = (clock_wrong, clock_free, rtc_unset)
