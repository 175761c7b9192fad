"""On the device: the Python of a release or a runtime, compiled by the Python there when it is installed.

Left to itself Python leaves such files beside the sources in passing. Nobody hashes or syncs those, and of one that a power cut
halved only the header is looked at before it runs: the import fails for as long as it lies there. Ours are made of what
was hashed just then, and are blobs and listed files like those that were sent; the launcher has Python write none itself.
Sent together with the agent; standard library only, Python >= 3.9.
"""

from __future__ import annotations

import json
import marshal
import os
import sys
from _frozen_importlib_external import MAGIC_NUMBER
from collections.abc import Callable, Mapping
from typing import Any

from edgekit.deploy.disk import SHA256, Refused, check_files, checked, intact, is_listable, read_file

LIST = ".bytecode.json"  # beside the files; none that is sent can have that name
UNCHECKED = (1).to_bytes(4, "little")  # PEP 552: the source is not looked at, which the list of files vouches for

Compiled = dict[str, dict[str, Any]]  # path -> {sha256, size, source: the sha256 of what it was made of}


def compile_files(
    blobs: str, files: Mapping[str, Mapping[str, Any]], known: Compiled, keep: Callable[[bytes], dict[str, Any]]
) -> Compiled:
    """The bytecode of the sources among `files`, as `keep` made blobs of it, or as it is in `known` already.

    What does not compile, being for another Python, is left out, and what would have too long a name.
    """
    tag, made = sys.implementation.cache_tag, {}
    before = {file["source"]: file for path, file in known.items() if path.endswith(f".{tag}.pyc")}
    for path, file in files.items():
        folder, name = os.path.split(path)
        place = os.path.join(folder, "__pycache__", f"{name[:-3]}.{tag}.pyc")
        if not tag or not name.endswith(".py") or place in files or not is_listable(place):
            continue
        found = before.get(file["sha256"])
        if found is None or not intact(os.path.join(blobs, found["sha256"]), found["sha256"], found["size"]):
            content = _compile(read_file(os.path.join(blobs, file["sha256"])), path)
            if content is None:
                continue
            found = {**keep(content), "source": file["sha256"]}
        made[place] = found
    return made


def _compile(source: bytes, path: str) -> bytes | None:
    """As importlib reads it, which puts the source's real path where `path` is; None if it is not this Python's."""
    import warnings
    from importlib.util import source_hash

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            code = marshal.dumps(compile(source, path, "exec", dont_inherit=True))
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # the last ones: nested too deep for it
        return None
    return MAGIC_NUMBER + UNCHECKED + source_hash(source) + code


def as_list(compiled: Compiled) -> bytes:
    """The content of LIST."""
    return json.dumps({"edgekit_bytecode": 1, "files": compiled}, sort_keys=True).encode()


def read_list(folder: str) -> Compiled:
    """The bytecode in that folder, as LIST has it; none where none was made. Raises Refused if the list is damaged."""
    try:
        found = json.loads(read_file(os.path.join(folder, LIST)))
        files = found["files"].items() if found["edgekit_bytecode"] == 1 else None
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        files = None
    if files is None:
        raise Refused("DeviceDamaged", f"the list of bytecode in {folder} is damaged", "deploy again with --verify")
    check_files(files)
    for _, file in files:
        checked(SHA256, file.get("source"))
    return dict(files)
