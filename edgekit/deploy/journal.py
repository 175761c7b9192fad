"""On the device: journal.json, the one record of which release is proven and which one is on trial.

    idle    `good` is in use, and stays
    trial   `to` is in use or about to be; until it is confirmed, whatever happens ends with `before` in use

It is replaced whole and durably. Changes are functions from a journal to a journal; trial.py puts them into effect.
Time is that since the start of the board, with the kernel's name for this start: a board may have no clock of its own.
Sent together with the agent; standard library only, Python >= 3.9.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from typing import Any, NamedTuple, Optional

from edgekit.deploy.disk import ID, Refused, read_file, write_durably

NAME = "journal.json"
FORMAT = 2
JUDGE_S = 900.0  # for the device to make up its own mind, on the slowest board
MOST_FAILED = 8  # ids of releases that did not pass their trial, the last one last
_LARGEST = 1 << 20  # bytes


class Moment(NamedTuple):
    """When it is, as a board without a clock can tell."""

    boot: str  # the kernel's random name for this start of the machine
    seconds: float  # since it started, sleep included


class Journal(NamedTuple):
    """What is recorded. None means that there is no such release."""

    phase: str = "idle"
    good: Optional[str] = None  # the last release that was confirmed
    prev: Optional[str] = None  # the one that was good before
    before: Optional[str] = None  # on trial: what to go back to; it was `good` when the trial began
    to: Optional[str] = None  # on trial: the release that is tried
    boot: Optional[str] = None  # on trial: the start of the machine in which it began
    until_s: float = 0.0  # on trial: when its time is over, in seconds since that start
    window_s: float = 0.0
    confirm: str = "workstation"  # or "device": who says that the trial went well
    service: str = "none"  # what keeps the release running: a service's kind
    signed: Optional[list[Any]] = None  # on trial: [key, seq] of the release that is tried
    min_seq: Mapping[str, int] = {}  # of each signing key: nothing older is taken
    failed: tuple[str, ...] = ()

    @property
    def is_trial(self) -> bool:
        """True while a release is neither proven nor given up."""
        return self.phase == "trial"

    @property
    def decide_s(self) -> float:
        """When the guard decides on a trial that nobody has confirmed, in seconds since the start of the machine."""
        return self.until_s - (JUDGE_S if self.confirm == "device" else 0.0)

    def is_over(self, now: Moment) -> bool:
        """True for a trial that nobody can confirm any more."""
        return self.is_trial and (self.boot != now.boot or now.seconds >= self.until_s)


def moment() -> Moment:
    """Now."""
    boot = read_file("/proc/sys/kernel/random/boot_id").decode().strip()
    return Moment(boot, time.clock_gettime(time.CLOCK_BOOTTIME))


# -- what may become of a journal


def begun(
    old: Journal, to: str, now: Moment, *, window_s: float, confirm: str, service: str, signed: list[Any] | None
) -> Journal:
    """`to` is on trial. What to go back to is what was proven last, whatever is in use now."""
    judge_s = JUDGE_S if confirm == "device" else 0.0
    return old._replace(
        phase="trial",
        before=old.good,
        to=to,
        boot=now.boot,
        until_s=round(now.seconds + window_s + judge_s, 3),
        window_s=window_s,
        confirm=confirm,
        service=service,
        signed=signed,
    )


def confirmed(old: Journal) -> Journal:
    """The trial went well: `to` is good, and what was good before stays as the one to go back to."""
    min_seq = dict(old.min_seq)
    if old.signed is not None:
        key, seq = old.signed
        min_seq[key] = max(seq, min_seq.get(key, 0))
    prev = old.prev if old.before in (None, old.to) else old.before
    failed = tuple(name for name in old.failed if name != old.to)
    return _idle(old)._replace(good=old.to, prev=prev, min_seq=min_seq, failed=failed)


def given_up(old: Journal) -> Journal:
    """The trial did not go well: what was good is."""
    failed = [name for name in old.failed if name != old.to] + ([] if old.to in (None, old.before) else [old.to])
    return _idle(old)._replace(good=old.before, failed=tuple(failed[-MOST_FAILED:]))


def exchanged(old: Journal) -> Journal:
    """Good and the one before it change places."""
    return old._replace(good=old.prev, prev=old.good)


def _idle(old: Journal) -> Journal:
    return old._replace(phase="idle", before=None, to=None, boot=None, until_s=0.0, window_s=0.0, signed=None)


# -- as a file

_TEXTS = {"before": "from"}  # a word that Python keeps for itself


def write_journal(root: str, journal: Journal) -> None:
    """Replaces the journal; when this returns it is on the disk."""
    fields = {_TEXTS.get(name, name): value for name, value in journal._asdict().items()}
    # one line with these separators: the launcher (release.py) looks for `"phase": "trial"` in the first line
    text = json.dumps({"edgekit_journal": FORMAT, **fields}) + "\n"
    write_durably(os.path.join(root, NAME), text.encode())


def read_journal(root: str) -> Journal | None:
    """The journal; None if there is none. Raises Refused for a damaged one, or one of another version."""
    try:
        text = read_file(os.path.join(root, NAME), _LARGEST)
    except FileNotFoundError:
        return None
    try:
        fields = dict(json.loads(text))
        version = fields.pop("edgekit_journal")
    except (ValueError, TypeError, KeyError, RecursionError):
        raise damaged(root) from None
    if version != FORMAT:
        message = f"{root} was laid out by another version of edgekit (journal {version!r})"
        raise Refused("DeviceError", message, "use that version, or delete the folder on the device")
    names = {_TEXTS.get(name, name): name for name in Journal._fields}
    if fields.keys() != names.keys():
        raise damaged(root)
    journal = Journal(**{names[key]: value for key, value in fields.items()})
    if not _is_sound(journal):
        raise damaged(root)
    return journal._replace(failed=tuple(journal.failed))


def damaged(root: str) -> Refused:
    """Nobody but a person can say what is proven, if the record of it is gone."""
    message = f"{os.path.join(root, NAME)} is damaged or gone"
    return Refused("DeviceDamaged", message, "look what is in use there, then: edgekit adopt DEVICE")


def _is_sound(journal: Journal) -> bool:
    ids = [journal.good, journal.prev, journal.before, journal.to]
    times = (journal.until_s, journal.window_s)
    signed, min_seq, failed = journal.signed, journal.min_seq, journal.failed
    return (
        journal.phase in ("idle", "trial")
        and all(one is None or is_id(one) for one in ids)
        and journal.confirm in ("workstation", "device")
        and isinstance(journal.service, str)
        and all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in times)
        and (journal.boot is None or isinstance(journal.boot, str))
        and (not journal.is_trial or (is_id(journal.to) and isinstance(journal.boot, str)))
        and isinstance(min_seq, dict)
        and all(type(seq) is int for seq in min_seq.values())
        and (signed is None or (isinstance(signed, list) and [type(part) for part in signed] == [str, int]))
        and isinstance(failed, list)
        and all(is_id(one) for one in failed)
    )


def is_id(name: Any) -> bool:
    """True for something that can be the id of a release."""
    return isinstance(name, str) and ID.fullmatch(name) is not None
