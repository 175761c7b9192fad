"""On the device: what a signed statement allows to run.

A statement names every file of a release by its hash, the launcher, the runtimes and a `seq`; edgekit/deploy/sign.py
makes it, docs/signing.md has its form, sshsig.py says whose it is. Sent together with the agent; standard library only,
Python >= 3.9.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import sys
from collections.abc import Mapping
from typing import Any

from edgekit.deploy.disk import ID, SHA256, checked, read_file
from edgekit.deploy.sshsig import LONGEST, check_signature, not_trusted

PYTHON = "@PYTHON@"  # stands in the signed launcher where the board's own Python comes
ALLOWED, REVOKED = "allowed_signers", "revoked_keys"  # under ROOT, in OpenSSH's own formats
STATEMENT = "signed.json"  # in a release, beside the signature with .sig behind it
LARGEST_SEQ = (1 << 53) - 1  # the last whole number that every JSON reader keeps exactly


def read_statement(text: bytes) -> dict[str, Any]:
    """A signed statement about a release: its version is read first, an unknown one refused, and every value has its type."""
    found = read_fields(
        text, "edgekit_signature", {"name", "edgekit", "seq", "downgrade_from", "run", "files", "runtimes"}
    )
    files, runtimes = found["files"], found["runtimes"]
    fits = all(isinstance(found[key], str) for key in ("name", "edgekit", "run"))
    fits = fits and is_seq(found["seq"]) and (found["downgrade_from"] is None or is_seq(found["downgrade_from"]))
    fits = fits and isinstance(files, dict) and "manifest.json" in files and "run" not in files
    if not fits or not isinstance(runtimes, dict):
        raise not_trusted("the signed statement does not fit its format", "sign again with edgekit sign")
    for sha256 in [*files.values(), *runtimes]:
        checked(SHA256, sha256)
    return found


def read_fields(text: bytes, version: str, keys: set[str]) -> dict[str, Any]:
    """A JSON object with version 1 and exactly these keys, each once."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise ValueError("a key twice")
        return dict(pairs)

    try:
        found = json.loads(text, object_pairs_hook=once)
        known = found.pop(version)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise not_trusted(f"the signed statement has no {version!r}", "sign again with edgekit sign") from None
    if type(known) is not int or known != 1 or found.keys() != keys:
        raise not_trusted("the signed statement has another format", "sign and deploy with one version of edgekit")
    return dict(found)


def is_seq(value: Any) -> bool:
    """Whether it is a number that can be a `seq`."""
    return type(value) is int and 0 < value <= LARGEST_SEQ


def check_covers(statement: Mapping[str, Any], release: Mapping[str, Any]) -> None:
    """Nothing, if the release (as `read_listing` gives it) holds what the statement names, to the byte, and nothing else."""
    launcher = str(statement["run"]).replace(PYTHON, shlex.quote(sys.executable))
    wanted = {**statement["files"], "run": hashlib.sha256(launcher.encode()).hexdigest()}
    found = {path: file["sha256"] for path, file in release["files"].items()}
    differing = sorted(path for path in wanted.keys() | found.keys() if wanted.get(path) != found.get(path))
    ours = [path for path in differing if path == "run" or path.startswith("edgekit/")]
    if differing and differing == ours:
        what = f"the runner of edgekit {statement['edgekit']} was signed, this is that of {release.get('edgekit')}"
        raise not_trusted(f"{what} ({ours[0]})", "deploy with that edgekit, or have the bundle signed again")
    facts = {"name": statement["name"], "edgekit": statement["edgekit"], "bundle": statement["files"]["manifest.json"]}
    differing += [key for key, value in facts.items() if release.get(key) != value]
    if differing:
        raise not_trusted(f"{differing[0]!r} is not what was signed", "deploy the bundle that was signed, as it was")


def check_runtime(statement: Mapping[str, Any], name: Any, text: bytes | None) -> None:
    """Nothing, if that runtime was signed too; by its list of files where it is there already, else by its id alone."""
    checked(ID, name)
    known = any(sha256.startswith(name) for sha256 in statement["runtimes"])
    if not known or (text is not None and hashlib.sha256(text).hexdigest() not in statement["runtimes"]):
        signed = ", ".join(sorted(map(str, statement["runtimes"].values()))) or "none"
        message = f"the runtime for this device's Python was not signed (signed: {signed[:200]})"
        raise not_trusted(message, "edgekit sign BUNDLE --device DEVICE (or --target) signs it too")


def check_seq(statement: Mapping[str, Any], key: str, min_seq: Mapping[str, int]) -> None:
    """Nothing, unless that key has signed something newer that this device has confirmed."""
    least = min_seq.get(key, 0)
    if max(statement["seq"], statement["downgrade_from"] or 0) < least:
        message = f"it was signed as number {statement['seq']}, and this device has had {least} from the same key"
        raise not_trusted(message, "sign it again to install an older bundle on purpose (edgekit sign)")


def is_enforced(root: str) -> bool:
    """Whether somebody is enrolled: only signed releases are taken then."""
    return os.path.lexists(os.path.join(root, ALLOWED))


def admit(
    root: str, release: Mapping[str, Any], signed: Any, *, unsigned: bool, min_seq: Mapping[str, int], whole: bool
) -> dict[str, Any] | None:
    """Who signed this release, with its `seq`; None where nobody is enrolled, or if `unsigned`. Else it is Refused.

    `signed` is {"statement": text, "signature": text} or None; `whole`: the runtime has to be there already.
    """
    if unsigned or not is_enforced(root):
        return None
    if signed is None:
        raise not_trusted(
            "this device takes signed releases only", "edgekit sign BUNDLE, or deploy with --sign KEY (or --unsigned)"
        )
    try:
        text, signature = signed["statement"].encode(), signed["signature"].encode()
    except (TypeError, KeyError, AttributeError, UnicodeError):
        raise not_trusted("what should be a signed statement is none", "sign again with edgekit sign") from None
    who = check_signature(text, signature, os.path.join(root, ALLOWED), os.path.join(root, REVOKED))
    statement = read_statement(text)
    check_seq(statement, who["key"], min_seq)
    check_covers(statement, release)
    name = checked(ID, release.get("runtime"))
    try:
        with open(os.path.join(root, "runtimes", name + ".json"), "rb") as stream:
            listing: bytes | None = stream.read()
    except FileNotFoundError:
        if whole:
            raise
        listing = None
    check_runtime(statement, name, listing)
    return {**who, "seq": statement["seq"]}


def signature_files(signed: Any) -> dict[str, bytes]:
    """What is kept of it beside the release, by name; `admit` has looked at it before."""
    if signed is None:
        return {}
    return {STATEMENT: str(signed["statement"]).encode(), STATEMENT + ".sig": str(signed["signature"]).encode()}


def kept_signature(release: str) -> dict[str, str] | None:
    """The same as it lies in the release's folder; None if it came without."""
    try:
        found = [read_file(os.path.join(release, name), LONGEST).decode() for name in (STATEMENT, STATEMENT + ".sig")]
    except (OSError, ValueError):
        return None
    return {"statement": found[0], "signature": found[1]}
