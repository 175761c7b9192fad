"""On the device: ROOT as a folder: whose it is, how it is laid out, whose turn it is to change something in it.

Sent together with the agent; standard library only, Python >= 3.9.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time

from edgekit.deploy.disk import (
    ID,
    Refused,
    delete,
    make_folder,
    read_file,
    sync,
    write_durably,
)
from edgekit.deploy.journal import NAME as JOURNAL
from edgekit.deploy.journal import Journal, write_journal

LAYOUT = b"edgekit 2\n"
OLD_LAYOUT = b"edgekit 1\n"  # `current` and `previous` links, and no journal
FOLDERS = ("agent", "blobs", "incoming", "runtimes", "releases")
PATIENCE_S = 10.0  # for the lock: a change that needs no workstation is over by then


class Folder:
    """One ROOT. All paths are below it."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._lock: int | None = None

    def path(self, *parts: str) -> str:
        return os.path.join(self.root, *parts)

    def target_of(self, name: str) -> str | None:
        """The release that `current` points to, if it is there."""
        try:
            found = os.path.basename(os.readlink(self.path(name)))
        except OSError:
            return None
        return found if ID.fullmatch(found) and os.path.isdir(self.path("releases", found)) else None

    @property
    def is_locked(self) -> bool:
        return self._lock is not None

    def unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def lock(self, patience_s: float | None = None) -> None:
        """Until `unlock`, or the end of the process, only we change what lies here; half-made things are gone.

        Raises Refused if others are at it for longer than `patience_s`, or if the folder holds something else.
        """
        if self._lock is not None:
            return
        make_folder(self.root, 0o700)  # what runs on the board is nobody else's to change
        self.layout()
        self._lock = self._take_lock(PATIENCE_S if patience_s is None else patience_s)
        try:
            self._lay_out()
            self._sweep()
        except BaseException:
            self.unlock()
            raise

    def _take_lock(self, patience_s: float) -> int:
        deadline = time.monotonic() + patience_s
        while True:
            lock = os.open(self.path("lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(lock), os.stat(self.path("lock"))):  # not one just removed
                    with contextlib.suppress(OSError):  # a full disk must not keep anybody from making room on it
                        os.ftruncate(lock, 0)
                        os.write(lock, f"process {os.getpid()}".encode())
                    return lock
            except BlockingIOError:
                if time.monotonic() > deadline:
                    holder = os.read(lock, 100).decode(errors="replace").strip() or "another process"
                    os.close(lock)
                    raise Refused(
                        "DeviceBusy", f"a deployment is under way there ({holder})", "wait until it ends"
                    ) from None
                time.sleep(0.05)
            except FileNotFoundError:
                pass
            os.close(lock)

    def layout(self) -> bytes:
        """In which version the folder is laid out; b"" if it is empty. Anything else is Refused."""
        try:
            layout = read_file(self.path("layout"), 100)
        except FileNotFoundError:
            others = {"lock", ".tmp-layout", JOURNAL, ".tmp-" + JOURNAL}
            others = set(os.listdir(self.root)) - others
            if others:
                message = f"{self.root} holds something else already ({', '.join(sorted(others))[:100]})"
                raise Refused("DeviceRefused", message, "name a folder that is empty or not there yet") from None
            return b""
        if layout not in (LAYOUT, OLD_LAYOUT):
            message = f"{self.root} was laid out by another version of edgekit ({layout!r})"
            raise Refused("DeviceError", message, "use that version, or delete the folder on the device")
        return layout

    def check_folders(self) -> None:
        """Refused if one of ours leads elsewhere: what lies there is not ours to change. A way back must not ask for this."""
        for name in (*FOLDERS, "samples"):
            if os.path.islink(self.path(name)):
                message = f"{self.path(name)} is a symbolic link to {os.readlink(self.path(name))}"
                raise Refused("DeviceRefused", message, "on the device: find out who made it, and delete it")

    def _lay_out(self) -> None:
        layout = self.layout()
        if layout != LAYOUT:  # the journal first: a folder of this layout without one is damaged
            linked = {name: self.target_of(name) for name in ("current", "previous")} if layout else {}
            good, prev = linked.get("current"), linked.get("previous")
            write_journal(self.root, Journal(good=good, prev=None if prev == good else prev))
            write_durably(self.path("layout"), LAYOUT)
        delete(self.path("previous"))
        for name in FOLDERS:
            make_folder(self.path(name))

    def _sweep(self) -> None:
        for folder in ("", "agent", "runtimes", "releases"):
            if folder and os.path.islink(self.path(folder)):
                continue
            for name in os.listdir(self.path(folder)):
                if name.startswith(".tmp-"):
                    self._sweep_one(folder, name)

    def _sweep_one(self, folder: str, name: str) -> None:
        final = self.path(folder, name[len(".tmp-") : -len("-old")])
        if name.endswith("-old") and not os.path.lexists(final):  # protocol 1, dead between two renames
            os.rename(self.path(folder, name), final)
            sync(self.path(folder))
        else:
            delete(self.path(folder, name))
