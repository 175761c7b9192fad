"""Deployments on a disk that is recorded: what the power is cut in, and what is known of the device at each moment of it."""

from __future__ import annotations

import contextlib
import json
import os
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import recorded_disk as disk
from after_a_cut import Known, Listings, listings_of, read_journal, start_own
from devices import PYTHON, Parcel, begin, keep_small_runtime, parcel, release, send
from recorded_disk import Entry, Recording

from edgekit.bundle import read_bundle
from edgekit.deploy.address import Local
from edgekit.deploy.install import deploy
from edgekit.deploy.session import Session, open_session

MOUNT = "commit=1"  # s between ext4's own commits, 5 by itself: more of them that nobody's fsync has asked for
SETTLE_S = 2.5  # after the last answer: by then what nobody synced is half written, names without content
Pair = tuple[Parcel, Parcel]


def small(label: str, number: int) -> Pair:
    """A runtime and a release of some 25 files."""
    blocks = [random.Random(name).randbytes(90_000) for name in (label, f"runtime {number}")]  # do not pack
    runtime = parcel("runtime", {"numpy/core.so": blocks[1], "numpy/empty.py": b""})
    files = {
        f"runner/{n}.py": f"x = '{label} {n}'\n".encode() * 20 for n in range(22)
    }  # more than are synced one by one
    model = {"models/model.tflite": blocks[0], "same": b"in all releases"}
    return runtime, release(label, runtime=runtime.id, **files, **model)


A, B, C = small("A", 1), small("B", 1), small("C", 2)


class Device:
    """A root on some disk, the real agent there, and what its answers promise."""

    def __init__(
        self, root: Path, known: Known, mark: Callable[[], int] = lambda: 0, agent: bytes | None = None
    ) -> None:
        self.root = root
        self.known = [known]
        self._mark, self._agent = mark, agent

    @contextlib.contextmanager
    def session(self) -> Iterator[Session]:
        with open_session(Local(self.root), python=PYTHON, agent=self._agent) as session:
            yield session

    def bring(self, pair: Pair) -> None:
        """A deployment up to its trial."""
        with self.session() as session:
            send(session, *pair)
            for one in pair:
                session.request(one.kind, id=one.id, text=one.text)
            begin(session, pair[1], window_s=86400)

    def deploy(self, pair: Pair) -> None:
        self.bring(pair)
        with self.session() as session:
            self.ask(session, pair[1].id, "confirm", id=pair[1].id)

    def deploy_bundle(self, name: str) -> None:
        """The whole of `edgekit deploy`."""

        def progress(stage: str, *_: object) -> None:
            if stage == "confirm":  # a second session is about to ask
                self._may_become(str((read_journal(self.root) or {})["to"]))

        bundle = read_bundle(Path(os.environ["XDG_CACHE_HOME"]) / name)
        done = deploy(bundle, Local(self.root), service="none", progress=progress, python=PYTHON)
        self._is(done.release)

    def ask(self, session: Session, to: str | None, operation: str, **arguments: Any) -> None:
        """Between question and answer, either release may come back; from the answer on only `to`."""
        self._may_become(to)
        session.request(operation, **arguments)
        self._is(to)

    def _may_become(self, release: str | None) -> None:
        last = self.known[-1]
        self.known.append(Known(self._mark(), last.allowed | {release}, last.proven | {release}))

    def _is(self, release: str | None) -> None:
        self.known.append(Known(self._mark(), frozenset({release}), self.known[-1].proven | {release}))

    def rollback(self, to: Pair) -> None:
        with self.session() as session:
            self.ask(session, to[1].id, "rollback")

    def remove(self) -> None:
        with self.session() as session:
            self.ask(session, None, "remove")

    def tidied(self) -> None:
        """What an agent does after its answer is over when another has the lock."""
        with self.session() as session:
            session.request("plan", files={}, volatile=True)


Step = Callable[[Device], None]


def give_up(device: Device) -> None:
    """What systemd starts when a runner dies again and again: the agent's own file."""
    device.bring(C)
    start_own(device.root, "failed")


def begin_again(device: Device) -> None:
    """The workstation dies in the trial; another deploys the next release."""
    device.bring(B)
    device.deploy(C)


def remove_and_deploy(device: Device) -> None:
    device.remove()
    device.deploy(C)


@dataclass(frozen=True)
class Script:
    """What was there before, what the power is cut in, and what is done from wherever that stopped."""

    before: tuple[Step, ...]
    act: Step
    again: Step = lambda device: device.deploy(C)


def with_a(device: Device) -> None:
    device.deploy(A)


SCRIPTS = {
    "first deployment": Script((), with_a),
    "deployment that takes the oldest away": Script((with_a, lambda d: d.deploy(B)), lambda d: d.deploy(C)),
    "trial that is given up": Script((with_a,), give_up),
    "deployment in a trial": Script((with_a,), begin_again),
    "rollback": Script((with_a, lambda d: d.deploy(C)), lambda d: d.rollback(A)),
    "remove": Script((with_a, lambda d: d.deploy(C)), Device.remove, remove_and_deploy),
    "edgekit deploy": Script(
        (lambda d: d.deploy_bundle("one"),),
        lambda d: d.deploy_bundle("two"),
        lambda d: d.deploy_bundle("two"),
    ),
}


def make_bundles(cache: Path) -> None:
    """What `edgekit deploy` deploys: two bundles of a tiny model, and a small runtime that needs no building."""
    from tiny_model import tiny_bundle

    os.environ["XDG_CACHE_HOME"] = str(cache)
    keep_small_runtime(cache)
    for seed, name in enumerate(("one", "two")):
        tiny_bundle(cache / name, seed=seed, title=name)


# -- what is written


@dataclass(frozen=True)
class Recorded:
    """What a disk was before an act, all that was written meanwhile, and what was known when."""

    image: Path
    entries: list[Entry]
    known: list[Known]
    listings: Listings

    def known_at(self, end: int) -> Known:
        return [known for known in self.known if known.mark <= end][-1]


def record(folder: Path, script: Script, *, agent: bytes | None = None, options: str = MOUNT) -> Recorded:
    """Does what the script does, with that agent, on a disk that the real one has prepared."""
    known, image = Known(0, frozenset({None}), frozenset({None})), disk.new_disk(folder / "before")
    with disk.mounted(image, folder / "prepared") as place:
        device = Device(place / "device", known)
        for step in script.before:
            step(device)
            device.tidied()
        listings = listings_of(device.root)
    with Recording(folder, image, options) as recording:
        device = Device(recording.place / "device", replace(device.known[-1], mark=0), recording.mark, agent)
        script.act(device)
        listings |= listings_of(device.root)
        time.sleep(SETTLE_S)
        entries = disk.read_log(recording.log)  # before the disk is unmounted, which is no power cut
    return Recorded(
        image, entries, device.known, {**listings, **{one.id: json.loads(one.text) for one in (*A, *B, *C)}}
    )
