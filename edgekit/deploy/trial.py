"""On the device: how one proven release follows another. Every way out of a trial but `confirm` leads back.

    begin       journal: trial (on the disk), guard started, then `current` -> the new release
    confirm     journal: idle, the new release is good
    give_up     `current` -> the release before (on the disk), then journal: idle
    recover     first act of every change, and at boot: a trial that is over or of an earlier boot is given up

The order in each is what a power cut between any two steps needs (tests/test_crash.py, scripts/crash).
Sent together with the agent; standard library only, Python >= 3.9.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Any

from edgekit.deploy.disk import Refused
from edgekit.deploy.journal import (
    Journal,
    Moment,
    begun,
    confirmed,
    damaged,
    exchanged,
    given_up,
    moment,
    read_journal,
    write_journal,
)
from edgekit.deploy.service import Service, find_service, other_services
from edgekit.deploy.store import Store


class Trials:
    """The releases of one ROOT as they follow one another. The store is locked by whoever changes something."""

    def __init__(
        self,
        store: Store,
        *,
        now: Callable[[], Moment] = moment,
        find: Callable[[str, str], Service] = find_service,
    ) -> None:
        self.store = store
        self.now = now
        self._find = find

    @property
    def journal(self) -> Journal:
        """What is recorded. Raises Refused if the record is damaged or gone."""
        found = read_journal(self.store.root)
        if found is None:
            raise damaged(self.store.root)
        return found

    def service(self, kind: str | None = None) -> Service:
        """The service of that kind; None: of the kind that was used last."""
        return self._find(self.store.root, self.journal.service if kind is None else kind)

    def needs_recovery(self) -> bool:
        """True if `recover` would change something."""
        found = self.journal
        if found.is_trial:
            return found.is_over(self.now())
        return self.store.target_of("current") != self._installed(found.good)

    def _installed(self, release: str | None) -> str | None:
        """The release itself if it is there: it is not in a folder that is being removed."""
        return release if release is not None and os.path.isdir(self.store.path("releases", release)) else None

    def recover(self) -> Journal:
        """What is recorded after what has to be put right has been: only a proven release, or one in its trial, is in use."""
        found = self.journal
        if found.is_over(self.now()):
            return self.give_up()
        good = self._installed(found.good)
        if not found.is_trial and self.store.target_of("current") != good:
            self.store.use(good)
            self.service().restart()
        return found

    def begin(
        self,
        release: str,
        agent_path: str,
        *,
        window_s: float,
        confirm: str,
        service: Service,
        signed: list[Any] | None,
    ) -> Journal:
        """The release is in use, on trial. Nothing is if this raises."""
        found = self.journal
        now = self.now()
        new = begun(found, release, now, window_s=window_s, confirm=confirm, service=service.kind, signed=signed)
        write_journal(self.store.root, new)
        try:
            service.start_guard(agent_path, release, window_s)
            self.store.use(release)
            service.restart()
        except Exception:
            self.give_up()
            raise
        return new

    def confirm(self, release: str) -> Journal:
        """The release is good, after a power cut too. May be repeated. Raises Refused if its trial is over."""
        found = self.journal
        if not found.is_trial and found.good == release:
            return found
        if not found.is_trial or found.to != release:
            raise over(release, found)
        if found.is_over(self.now()) or self.store.target_of("current") != release:
            raise over(release, self.give_up())
        new = confirmed(found)
        write_journal(self.store.root, new)
        self._dismiss(self.service(new.service), release)
        self._retire_others(new.service)
        return new

    def give_up(self) -> Journal:
        """What was good is in use again; may be repeated."""
        found = self.journal
        if not found.is_trial:
            return found
        service = self.service(found.service)
        self.store.use(found.before)
        new = given_up(found)
        try:
            if found.before is None:
                service.stop()
            else:
                service.restart()
        finally:  # whether it runs or not: it is what is in use
            write_journal(self.store.root, new)
        if found.to is not None:
            self._dismiss(service, found.to)
        return new

    def fail(self, begun: Journal) -> None:
        """What was begun is not well. Another one's trial is not ended: the guard, or systemd, may have been here first.

        Raises Refused if the time of that trial is over: what was seen then may be a server that was taken back.
        """
        found = self.journal
        if found.is_trial and (found.to, found.boot, found.until_s) == (begun.to, begun.boot, begun.until_s):
            found = self.give_up()
        if begun.to is not None and begun.is_over(self.now()):
            raise over(begun.to, found)

    def change_service(self, release: str, agent_path: str, kind: str, check: Callable[[Service], Any]) -> Any:
        """What is good is kept running by a service of that kind from now on, and what `check` found of it.

        The release stays what it is. If `check` raises, what kept it running before still does; so it is after a power cut.
        """
        found = self.journal
        if found.is_trial or found.good != release or self.store.target_of("current") != release:
            raise over(release, found)
        service = self.service(kind)
        try:
            service.install(self.store.root, agent_path)
            service.restart()
            health = check(service)
        except BaseException:
            if service.kind != found.service:
                service.remove()
            raise
        write_journal(self.store.root, found._replace(service=service.kind))
        self._retire_others(service.kind)
        return health

    def _retire_others(self, kind: str) -> None:
        """Nothing else that was installed for this ROOT runs any more."""
        for other in other_services(self.store.root, kind):
            with contextlib.suppress(Refused, OSError):  # it may be another user's to remove
                other.remove()

    def _dismiss(self, service: Service, release: str) -> None:
        with contextlib.suppress(Refused, OSError):  # a guard that stays finds nothing to do
            service.cancel_guard(release)

    def go_back(self) -> Journal:
        """A person's wish: the release before is in use again. In a trial, that is the one that was good."""
        found = self.journal
        if found.is_trial:
            return self.give_up()
        if found.prev is None:
            raise Refused(
                "NotInstalled", "there is no previous release to go back to", "deploy an older bundle instead"
            )
        self.store.check_intact("releases", found.prev)
        self.store.check_intact("runtimes", self.store.runtime_of(found.prev))
        new = exchanged(found)
        write_journal(self.store.root, new)
        self.store.use(new.good)
        self.service().restart()
        return new

    def adopt(self) -> Journal:
        """Takes what `current` points to as good, if every byte of it is as it was sent: for a journal that is gone."""
        current = self.store.target_of("current")
        self.store.check_intact("releases", current)
        if current is not None:
            self.store.check_intact("runtimes", self.store.runtime_of(current))
        new = Journal(good=current)
        write_journal(self.store.root, new)
        return new

    def kept(self) -> set[str]:
        """The releases that must not go: what is good, the one before, and those of a trial."""
        found = self.journal
        return {name for name in (found.good, found.prev, found.before, found.to) if name is not None}


def over(release: str, found: Journal) -> Refused:
    """What is said to who comes too late."""
    back = f"{found.good} is in use" if found.good else "nothing is in use"
    message = f"the trial of release {release} is over, it was not confirmed: {back}"
    return Refused("TrialOver", message, "deploy again; --window gives it more time")
