"""A file system in memory that loses its power: what may be on the disk afterwards, and the agent's own code on top of it.

Two models of what a disk keeps that was not synced. "any", the worst that POSIX allows: any subset of the changes to folders,
each file's content old, new, half or zeros; fsync of a file says nothing about its name. "ext4": folders change in the order
of one journal, of which some beginning is kept, and any fsync keeps all before it; contents as above. sync(2) keeps nothing:
POSIX lets it return early. A rename within a folder, and a symbolic link, are whole or not there.
"""

from __future__ import annotations

import builtins
import errno
import itertools
import os
import posixpath
import random
import sys
import time
import types
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit.deploy.parts import AGENT

ROOT = 1  # the number of the root folder
EXHAUSTIVE = 7  # changes of folders: every subset of up to that many, a choice of more
SOURCES = Path(sys.modules["edgekit.deploy.parts"].__file__ or "").parent
CODE = {name: compile((SOURCES / f"{name}.py").read_text("utf-8"), f"{name}.py", "exec") for name in AGENT}


@dataclass
class Node:
    """A file, a folder or a symbolic link."""

    kind: str
    data: bytes = b""
    entries: dict[str, int] = field(default_factory=dict)
    target: str = ""

    def copy(self) -> Node:
        return Node(self.kind, self.data, dict(self.entries), self.target)


Change = tuple[int, str, "int | None"]  # folder, name, node (None: the name goes)


class PowerCut(BaseException):
    """The process that does file operations is gone."""


class Disk:
    """The state now, what of it is on the disk, and the system calls that change it."""

    def __init__(self, nodes: dict[int, Node] | None = None, *, ext4: bool = False) -> None:
        self.ext4 = ext4
        self.nodes = nodes or {ROOT: Node("folder")}
        self.kept = {number: node.copy() for number, node in self.nodes.items()}
        self.pending: list[list[Change]] = []  # changes of folders, each whole or not there, in order
        self.next = max(self.nodes) + 1
        self.handles: dict[int, tuple[int, int]] = {}  # descriptor -> node, position
        self.paths: dict[int, str] = {}
        self.operations = 0
        self.after: Callable[[str], None] = lambda what: None  # called after each change
        self.left_out = ""  # the fsync with this label does nothing
        self.labels: dict[str, int] = {}

    # -- finding

    def find(self, path: str, *, follow: bool = True) -> int:
        number, parts, depth = ROOT, [part for part in path.split("/") if part], 0
        stack = [ROOT]
        while parts:
            part = parts.pop(0)
            if part == "..":
                if len(stack) > 1:
                    stack.pop()
                number = stack[-1]
                continue
            node = self.nodes[number]
            if node.kind != "folder":
                raise NotADirectoryError(errno.ENOTDIR, "not a folder", path)
            if part not in node.entries:
                raise FileNotFoundError(errno.ENOENT, "not there", path)
            found = node.entries[part]
            if self.nodes[found].kind == "link" and (parts or follow):
                depth += 1
                assert depth < 20
                parts = [p for p in self.nodes[found].target.split("/") if p] + parts
                continue
            number = found
            stack.append(number)
        return number

    def place(self, path: str) -> tuple[int, str]:
        folder, name = posixpath.split(path)
        number = self.find(folder)
        if self.nodes[number].kind != "folder":
            raise NotADirectoryError(errno.ENOTDIR, "not a folder", path)
        return number, name

    # -- changing

    def new(self, node: Node) -> int:
        self.nodes[self.next] = node
        self.next += 1
        return self.next - 1

    def change(self, what: str, *changes: Change) -> None:
        for folder, name, number in changes:
            if number is None:
                del self.nodes[folder].entries[name]
            else:
                self.nodes[folder].entries[name] = number
        folders = {folder for folder, _, _ in changes}
        if self.ext4 or len(folders) == 1:
            self.pending.append(list(changes))
        else:  # two folders: each may be kept without the other
            self.pending += [[change] for change in changes]
        self.done(what)

    def done(self, what: str) -> None:
        self.operations += 1
        self.after(what)

    def sync(self, number: int) -> None:
        if self.nodes[number].kind == "file":
            self.kept.setdefault(number, Node("file")).data = self.nodes[number].data
        wanted = self.pending if self.ext4 else []
        if not self.ext4 and self.nodes[number].kind == "folder":
            wanted = [changes for changes in self.pending if changes[0][0] == number]
        keep(self.kept, self.nodes, wanted)
        self.pending = [changes for changes in self.pending if not any(changes is one for one in wanted)]

    # -- what may be there after a power cut

    def images(self, chance: random.Random) -> Iterator[dict[int, Node]]:
        """Every state that the disk may be in if the power goes now, or a choice of them where they are too many."""
        for chosen in self.subsets(chance):
            kept = {number: node.copy() for number, node in self.kept.items()}
            keep(kept, self.nodes, [self.pending[index] for index in chosen])
            yield from self.contents(reachable(kept), chance)

    def subsets(self, chance: random.Random) -> Iterable[tuple[int, ...]]:
        count = len(self.pending)
        everything = tuple(range(count))
        if self.ext4:
            return [everything[:length] for length in range(count + 1)]
        if count <= EXHAUSTIVE:
            return [c for size in range(count + 1) for c in itertools.combinations(everything, size)]
        chosen = {everything[:length] for length in range(count + 1)}
        chosen |= {(index,) for index in everything}
        chosen |= {everything[:index] + everything[index + 1 :] for index in everything}
        chosen |= {tuple(i for i in everything if chance.random() < 0.5) for _ in range(64)}
        return sorted(chosen)

    def contents(self, kept: dict[int, Node], chance: random.Random) -> Iterator[dict[int, Node]]:
        """The same with every file that was not synced old, new, half or zeros."""
        open_files = []
        for number, node in kept.items():
            new = self.nodes[number].data
            if node.kind == "file" and new != node.data:
                open_files.append((number, [node.data, new, new[: len(new) // 2], bytes(len(new))]))
        if len(open_files) <= 2:
            choices = list(itertools.product(*(range(4) for _ in open_files)))
        else:
            choices = [(kind,) * len(open_files) for kind in range(4)]
            choices += [tuple(chance.randrange(4) for _ in open_files) for _ in range(8)]
        for choice in choices:
            image = dict(kept)
            for (number, contents), kind in zip(open_files, choice, strict=True):
                image[number] = Node("file", contents[kind])
            yield image


def keep(kept: dict[int, Node], nodes: dict[int, Node], groups: Iterable[list[Change]]) -> None:
    """Puts changes of folders onto the disk."""
    for changes in groups:
        for folder, name, number in changes:
            entries = kept.setdefault(folder, Node("folder")).entries
            if number is None:
                entries.pop(name, None)
            else:
                entries[name] = number
                if number not in kept:
                    node = nodes[number]
                    kept[number] = Node(node.kind, b"", {}, node.target)


def reachable(nodes: dict[int, Node]) -> dict[int, Node]:
    """What a start of the machine finds: nothing without a name."""
    found, todo = {}, [ROOT]
    while todo:
        number = todo.pop()
        if number not in found:
            found[number] = nodes.get(number) or Node("folder")
            todo += found[number].entries.values()
    return found


def tree(nodes: dict[int, Node], number: int = ROOT) -> tuple[Any, ...]:
    """The same for disks on which the same can be read."""
    node = nodes[number]
    if node.kind == "folder":
        return ("folder", tuple((name, tree(nodes, entry)) for name, entry in sorted(node.entries.items())))
    return (node.kind, node.data, node.target)


# -- the system calls, as `import os` gives them to the agent


class Os:
    """What the agent uses of `os`, on a Disk."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self.environ: dict[str, str] = {}
        self.path = types.SimpleNamespace(
            **{n: getattr(posixpath, n) for n in ("join", "dirname", "basename", "split", "samestat", "abspath")},
            isdir=lambda path: self._kind(path) == "folder",
            isfile=lambda path: self._kind(path) == "file",
            islink=lambda path: self._kind(path, follow=False) == "link",
            lexists=lambda path: self._kind(path, follow=False) != "",
            realpath=self._realpath,
        )

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("O_", "ST_", "SEEK_")) or name in ("getpid", "umask"):
            return getattr(os, name)
        raise AttributeError(f"the model has no os.{name}")

    def _kind(self, path: str, follow: bool = True) -> str:
        try:
            return self.disk.nodes[self.disk.find(path, follow=follow)].kind
        except OSError:
            return ""

    def _realpath(self, path: str) -> str:
        while self._kind(path, follow=False) == "link":
            path = posixpath.normpath(posixpath.join(posixpath.dirname(path), self.readlink(path)))
        return path

    def open(self, path: str, flags: int, mode: int = 0o777) -> int:
        disk = self.disk
        try:
            number = disk.find(path, follow=not flags & os.O_NOFOLLOW)
            if disk.nodes[number].kind == "link":
                raise OSError(errno.ELOOP, "a link", path)
        except FileNotFoundError:
            if not flags & os.O_CREAT:
                raise
            folder, name = disk.place(path)
            number = disk.new(Node("file"))
            disk.change(f"create {path}", (folder, name, number))
        if flags & os.O_TRUNC and disk.nodes[number].data:
            disk.nodes[number].data = b""
            disk.done(f"truncate {path}")
        handle = max(disk.handles, default=100) + 1
        disk.handles[handle] = (number, 0)
        disk.paths[handle] = path
        return handle

    def close(self, handle: int) -> None:
        del self.disk.handles[handle]

    def read(self, handle: int, count: int) -> bytes:
        number, position = self.disk.handles[handle]
        data = self.disk.nodes[number].data[position : position + count]
        self.disk.handles[handle] = (number, position + len(data))
        return data

    def write(self, handle: int, content: bytes) -> int:
        number, position = self.disk.handles[handle]
        node, content = self.disk.nodes[number], bytes(content)
        node.data = node.data[:position].ljust(position, b"\0") + content + node.data[position + len(content) :]
        self.disk.handles[handle] = (number, position + len(content))
        self.disk.done(f"write {self.disk.paths[handle]}")
        return len(content)

    def lseek(self, handle: int, position: int, whence: int) -> int:
        self.disk.handles[handle] = (self.disk.handles[handle][0], position)
        return position

    def ftruncate(self, handle: int, size: int) -> None:
        self.disk.nodes[self.disk.handles[handle][0]].data = b""

    def fsync(self, handle: int) -> None:
        label = self._label(handle)
        self.disk.labels[label] = self.disk.labels.get(label, 0) + 1
        if label != self.disk.left_out:
            self.disk.sync(self.disk.handles[handle][0])
            self.disk.done(f"fsync {self.disk.paths[handle]}")

    def _label(self, handle: int) -> str:
        """Which fsync of the agent's this is: the functions that it is called from, and of what."""
        names, frame = [], sys._getframe(2)
        while frame is not None and frame.f_code.co_filename[:-3] in AGENT:
            names.append(frame.f_code.co_name)
            frame = frame.f_back  # type: ignore[assignment]
        chain = [
            name for name in reversed(names) if name not in ("reply_to", "answer", "<lambda>", "sync", "_act", "main")
        ]
        return " > ".join(chain) + (" (folder)" if self._kind(self.disk.paths[handle]) == "folder" else " (file)")

    def sync(self) -> None:
        """Keeps nothing: POSIX lets it return before it has."""

    def rename(self, old: str, new: str) -> None:
        (source, name), (sink, other) = self.disk.place(old), self.disk.place(new)
        number = self.disk.nodes[source].entries.get(name)
        if number is None:
            raise FileNotFoundError(errno.ENOENT, "not there", old)
        there = self.disk.nodes[sink].entries.get(other)
        if there is not None and self.disk.nodes[there].entries:
            raise OSError(errno.ENOTEMPTY, "not empty", new)
        self.disk.change(f"rename {old} {new}", (sink, other, number), (source, name, None))

    def link(self, old: str, new: str) -> None:
        folder, name = self.disk.place(new)
        if name in self.disk.nodes[folder].entries:
            raise FileExistsError(errno.EEXIST, "there", new)
        self.disk.change(f"link {new}", (folder, name, self.disk.find(old, follow=False)))

    def symlink(self, target: str, path: str) -> None:
        folder, name = self.disk.place(path)
        if name in self.disk.nodes[folder].entries:
            raise FileExistsError(errno.EEXIST, "there", path)
        self.disk.change(f"symlink {path}", (folder, name, self.disk.new(Node("link", target=target))))

    def mkdir(self, path: str, mode: int = 0o777) -> None:
        folder, name = self.disk.place(path)
        if name in self.disk.nodes[folder].entries:
            raise FileExistsError(errno.EEXIST, "there", path)
        self.disk.change(f"mkdir {path}", (folder, name, self.disk.new(Node("folder"))))

    def unlink(self, path: str) -> None:
        folder, name = self.disk.place(path)
        if self.disk.nodes[self.disk.find(path, follow=False)].kind == "folder":
            raise IsADirectoryError(errno.EISDIR, "a folder", path)
        self.disk.change(f"unlink {path}", (folder, name, None))

    def rmdir(self, path: str) -> None:
        folder, name = self.disk.place(path)
        if self.disk.nodes[self.disk.find(path, follow=False)].entries:
            raise OSError(errno.ENOTEMPTY, "not empty", path)
        self.disk.change(f"rmdir {path}", (folder, name, None))

    def listdir(self, path: str) -> list[str]:
        node = self.disk.nodes[self.disk.find(path)]
        if node.kind != "folder":
            raise NotADirectoryError(errno.ENOTDIR, "not a folder", path)
        return list(node.entries)

    def readlink(self, path: str) -> str:
        node = self.disk.nodes[self.disk.find(path, follow=False)]
        if node.kind != "link":
            raise OSError(errno.EINVAL, "not a link", path)
        return node.target

    def chmod(self, path: str, mode: int) -> None:
        self.disk.find(path)

    def lstat(self, path: str) -> Any:
        return self._status(self.disk.find(path, follow=False))

    def stat(self, path: str) -> Any:
        return self._status(self.disk.find(path))

    def fstat(self, handle: int) -> Any:
        return self._status(self.disk.handles[handle][0])

    def _status(self, number: int) -> Any:
        node = self.disk.nodes[number]
        links = 1
        if node.kind == "file":
            links = sum(
                list(other.entries.values()).count(number) for other in self.disk.nodes.values() if other.entries
            )
        mode = {"file": 0o100644, "folder": 0o040755, "link": 0o120777}[node.kind]
        return types.SimpleNamespace(st_mode=mode, st_size=len(node.data), st_nlink=links, st_ino=number, st_dev=1)

    def statvfs(self, path: str) -> Any:
        return types.SimpleNamespace(f_flag=0, f_bavail=1 << 30, f_frsize=4096, f_files=0, f_favail=0)


class Program:
    """The agent's modules as they are sent, with a Disk under them. One program serves many disks."""

    def __init__(self) -> None:
        self.modules: dict[str, types.ModuleType] = {}
        self.os = Os(Disk())
        outside = {
            "os": self.os,
            "fcntl": types.SimpleNamespace(flock=lambda *_: None, LOCK_EX=0, LOCK_NB=0),
            "time": types.SimpleNamespace(monotonic=time.monotonic, sleep=lambda _: None),
        }

        def import_(name: str, *rest: Any) -> Any:
            short = name.rpartition(".")[2]
            if name.startswith("edgekit.deploy."):
                return self.modules[short]
            return outside.get(name) or builtins.__import__(name, *rest)

        for name, code in CODE.items():
            module = self.modules[name] = types.ModuleType(f"crashing.{name}")
            module.__dict__["__builtins__"] = {**vars(builtins), "__import__": import_}
            exec(code, module.__dict__)
        # commands are not what this model is about: every runner is healthy, every guard starts
        self.intake.golden_check = lambda *_: {"variants": []}
        self.service.start_process = lambda *_: None

    def __getattr__(self, name: str) -> Any:
        return self.modules[name]

    def on(self, disk: Disk) -> Program:
        """The same on that disk."""
        self.os.disk = disk
        disk.handles.clear()
        return self
