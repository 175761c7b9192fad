"""Which git commit a file is of: the only place that asks git, which need not be there.

It is the last commit that changed the file or folder, not the repository's newest: a commit that changes something else
must not make another bundle of the same inputs. Only git's plumbing is called, which runs no hook, filter or pager that
a repository may bring along.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

CHANGED = "changed since"
TIMEOUT_S = 20.0
_POINTER = b"version https://git-lfs.github.com/spec/"  # what a repository holds of a file that git-lfs keeps elsewhere
_LARGEST_POINTER = 1024  # bytes, https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md


def revision(path: Path) -> str | None:
    """`<commit>`, or `<commit>, changed since` if a file or folder is not as that commit has it.

    None where it is in no repository, not committed, or git is not there or does not answer.
    """
    path = path.resolve()
    if not path.exists():
        return None
    commit = _git(path.parent, "rev-list", "-1", "HEAD", "--", path.name)
    listed = _git(path.parent, "ls-tree", "-r", "-z", "HEAD", "--", path.name) if commit else None
    if not commit or not listed:
        return None
    committed: dict[str, str] = {}
    for entry in listed.decode("utf-8", "surrogateescape").rstrip("\0").split("\0"):
        about, _, name = entry.partition("\t")
        committed[name] = about.split()[2]
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    names = {os.path.relpath(file, path.parent).replace(os.sep, "/"): file for file in files}
    same = names.keys() == committed.keys() and all(_is_blob(names[n], committed[n]) for n in committed)
    return commit.decode().strip() + ("" if same else f", {CHANGED}")


def _is_blob(file: Path, blob: str) -> bool:
    """Whether the file's content is that of git's object, itself, with other ends of lines, or through git-lfs."""
    content = file.read_bytes()
    if blob in (_blob(content, blob), _blob(content.replace(b"\r\n", b"\n"), blob)):
        return True
    size = _git(file.parent, "cat-file", "-s", blob)
    if not size or int(size) > _LARGEST_POINTER:
        return False
    pointer = _git(file.parent, "cat-file", "blob", blob) or b""
    return pointer.startswith(_POINTER) and f"oid sha256:{hashlib.sha256(content).hexdigest()}".encode() in pointer


def _blob(content: bytes, like: str) -> str:
    """The name that git gives to a content, in a repository with names of that length."""
    digest = hashlib.sha256() if len(like) == 64 else hashlib.sha1(usedforsecurity=False)
    digest.update(b"blob %d\0" % len(content) + content)
    return digest.hexdigest()


def _git(folder: Path, *words: str) -> bytes | None:
    """What git prints in `folder`; None if it is not there, fails, or takes too long."""
    # variables that git sets for hooks name another repository than the file's
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    kept = {name: os.environ[name] for name in ("GIT_CEILING_DIRECTORIES",) if name in os.environ}
    asked = {"GIT_NO_LAZY_FETCH": "1", "GIT_OPTIONAL_LOCKS": "0", "GIT_LITERAL_PATHSPECS": "1", "LC_ALL": "C"}
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words],
            env={**environment, **kept, **asked},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
