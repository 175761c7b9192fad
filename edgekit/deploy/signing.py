"""On the device: whose signature counts, and what a signed statement allows to run. `ssh-keygen -Y verify` decides.

A statement names every file of a release by its hash, the launcher, the runtimes and a `seq`; edgekit/deploy/sign.py
makes it, docs/signing.md has its form. Sent together with the agent (the workstation's `edgekit verify` asks the same
functions); standard library only, Python >= 3.9. Nothing is written: ssh-keygen reads nameless files.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import shlex
import stat
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from edgekit.deploy.disk import ID, SHA256, Refused, checked, read_file

BUNDLES, SIGNERS = "edgekit-bundle", "edgekit-signers"  # SSHSIG namespaces: a signature for one is none for the other
PYTHON = "@PYTHON@"  # stands in the signed launcher where the board's own Python comes
ALLOWED, REVOKED = "allowed_signers", "revoked_keys"  # under ROOT, in OpenSSH's own formats
STATEMENT = "signed.json"  # in a release, beside the signature with .sig behind it
LONGEST = 4 << 20  # bytes of a statement, of a signature's text or of a list of keys
LARGEST_SEQ = (1 << 53) - 1  # the last whole number that every JSON reader keeps exactly
VERIFY_S = 60.0

_OPENSSH = "signatures need OpenSSH >= 8.1 (ssh-keygen): sudo apt install openssh-client"


def check_signature(
    statement: bytes, signature: bytes, signers: str, revoked: str | None, namespace: str = BUNDLES
) -> dict[str, str]:
    """Who signed: {"principal": name, "key": SHA256 fingerprint}, if it is a key of the file `signers` and not one of `revoked`.

    Both are paths (ssh-keygen(1), ALLOWED SIGNERS; public keys or a KRL); `revoked` may be None or not there.
    """
    if len(statement) > LONGEST:
        raise _not_trusted("the signed statement is larger than one can be", "sign again with edgekit sign")
    key, made_for = _parse_signature(signature)
    name, allowed = fingerprint(key), read_keys(signers)
    if allowed is None:
        raise _not_trusted(f"{signers} is not there: no key is trusted", "name a file of signers")
    principal = _principal_of(allowed, key)
    if made_for != namespace:
        raise _not_trusted(f"the signature is for {made_for[:60]!r}, not for {namespace!r}", "sign with edgekit sign")
    if principal is None:
        raise _not_trusted(f"it is signed by {name}, which is not an enrolled key", "edgekit signers list shows those")
    arguments = ["-Y", "verify", "-n", namespace, "-I", principal]
    gone = read_keys(revoked) if revoked is not None else None
    if gone is not None and _has_key(gone, key):
        raise _not_trusted(f"{name}, the key that signed it, was revoked", "sign with a key that still counts")
    with contextlib.ExitStack() as stack:
        nameless = [("-f", allowed), ("-s", signature), *([("-r", gone)] if gone is not None else [])]
        files = [stack.enter_context(_nameless(content, signers)) for _, content in nameless]
        for (option, _), file in zip(nameless, files):
            arguments += [option, f"/dev/fd/{file}"]
        code = _ssh_keygen(arguments, statement, files)
    if code == 1:  # how it says that it does not know an option; a bad signature is 255
        raise Refused("DeviceUnsupported", "this ssh-keygen cannot verify signatures", _OPENSSH)
    if code != 0:
        raise _not_trusted(f"the signature of {principal} ({name}) does not fit", "what was signed has been changed")
    return {"principal": principal, "key": name}


def _ssh_keygen(arguments: list[str], data: bytes, files: list[int]) -> int:
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
    try:
        done = subprocess.run(
            ["ssh-keygen", *arguments],
            input=data,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
            pass_fds=files,
            timeout=VERIFY_S,
        )
    except (FileNotFoundError, PermissionError):
        raise Refused("DeviceUnsupported", "ssh-keygen is not there to verify signatures", _OPENSSH) from None
    except subprocess.TimeoutExpired:
        raise Refused("DeviceError", f"ssh-keygen did not end in {VERIFY_S:.0f} s", "is the board busy?") from None
    return done.returncode


@contextlib.contextmanager
def _nameless(content: bytes, beside: str) -> Iterator[int]:
    """A descriptor of a file without a name: in memory, or where Python was built without that, on `beside`'s disk."""
    with contextlib.ExitStack() as stack:
        if hasattr(os, "memfd_create"):
            stream: Any = stack.enter_context(os.fdopen(os.memfd_create("edgekit"), "w+b"))
        else:
            import tempfile

            stream = stack.enter_context(tempfile.TemporaryFile(dir=os.path.dirname(beside) or "."))
        stream.write(content)
        stream.seek(0)
        yield stream.fileno()


# -- keys


def fingerprint(key: bytes) -> str:
    """As ssh shows a public key: SHA256:..."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(key).digest()).decode().rstrip("=")


def read_keys(path: str) -> bytes | None:
    """The content of a file of keys, None if there is none. Refused if others than its owner, us or root, can change it."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Refused(
            "DeviceRefused", f"{path} cannot be read: {error.strerror}", "it has to be a plain file"
        ) from None
    with os.fdopen(handle, "rb") as stream:
        found = os.fstat(stream.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_size > LONGEST:
            raise Refused("DeviceRefused", f"{path} is no file of keys", "look at what lies there")
        if found.st_uid not in (0, os.geteuid()) or found.st_mode & 0o022:
            raise Refused("DeviceRefused", f"{path} can be changed by other users", f"chmod go-w {path}")
        return stream.read(LONGEST)


def key_lines(text: bytes) -> Iterator[tuple[str, str, bytes]]:
    """(first field, key type, key) of the lines of allowed_signers or of public keys; others are passed over."""
    for line in text.decode(errors="replace").splitlines():
        try:
            words = [] if line.startswith("#") else shlex.split(line)
        except ValueError:  # a quote that does not end: ssh-keygen does not take that line either
            continue
        for kind, encoded in zip(words, words[1:]):
            with contextlib.suppress(ValueError):
                key = base64.b64decode(encoded, validate=True)
                if key.startswith(struct.pack(">I", len(kind)) + kind.encode()):
                    yield words[0], kind, key
                    break


def _principal_of(allowed: bytes, key: bytes) -> str | None:
    """The name to ask ssh-keygen about; whether it counts is not decided here."""
    return next((first.split(",")[0] for first, _, found in key_lines(allowed) if found == key), None)


def _has_key(text: bytes, key: bytes) -> bool:
    return any(found == key for _, _, found in key_lines(text))


def _parse_signature(signature: bytes) -> tuple[bytes, str]:
    """Public key and namespace of an SSHSIG (OpenSSH's PROTOCOL.sshsig); they are claims until ssh-keygen agrees."""
    lines = signature.strip().splitlines()
    try:
        if len(signature) > LONGEST or lines[0] != b"-----BEGIN SSH SIGNATURE-----":
            raise ValueError
        blob = base64.b64decode(b"".join(lines[1:-1]), validate=True)
        if blob[:10] != b"SSHSIG\0\0\0\1":
            raise ValueError
        key, rest = _take_string(blob[10:])
        made_for, _ = _take_string(rest)
        kind, _ = _take_string(key)
    except (ValueError, IndexError, struct.error):
        raise _not_trusted("what should be a signature is none", "sign again with edgekit sign") from None
    if b"-cert-" in kind:  # a new certificate would be a new key, with a ratchet of its own
        raise _not_trusted("it is signed with a certificate", "sign with a plain key, and enrol that")
    return key, made_for.decode(errors="replace")


def _take_string(data: bytes) -> tuple[bytes, bytes]:
    (size,) = struct.unpack(">I", data[:4])
    if len(data) < 4 + size:
        raise ValueError
    return data[4 : 4 + size], data[4 + size :]


# -- statements


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
        raise _not_trusted("the signed statement does not fit its format", "sign again with edgekit sign")
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
        raise _not_trusted(f"the signed statement has no {version!r}", "sign again with edgekit sign") from None
    if type(known) is not int or known != 1 or found.keys() != keys:
        raise _not_trusted("the signed statement has another format", "sign and deploy with one version of edgekit")
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
        raise _not_trusted(f"{what} ({ours[0]})", "deploy with that edgekit, or have the bundle signed again")
    facts = {"name": statement["name"], "edgekit": statement["edgekit"], "bundle": statement["files"]["manifest.json"]}
    differing += [key for key, value in facts.items() if release.get(key) != value]
    if differing:
        raise _not_trusted(f"{differing[0]!r} is not what was signed", "deploy the bundle that was signed, as it was")


def check_runtime(statement: Mapping[str, Any], name: Any, text: bytes | None) -> None:
    """Nothing, if that runtime was signed too; by its list of files where it is there already, else by its id alone."""
    checked(ID, name)
    known = any(sha256.startswith(name) for sha256 in statement["runtimes"])
    if not known or (text is not None and hashlib.sha256(text).hexdigest() not in statement["runtimes"]):
        signed = ", ".join(sorted(map(str, statement["runtimes"].values()))) or "none"
        message = f"the runtime for this device's Python was not signed (signed: {signed[:200]})"
        raise _not_trusted(message, "edgekit sign BUNDLE --device DEVICE (or --target) signs it too")


def check_seq(statement: Mapping[str, Any], key: str, min_seq: Mapping[str, int]) -> None:
    """Nothing, unless that key has signed something newer that this device has confirmed."""
    least = min_seq.get(key, 0)
    if max(statement["seq"], statement["downgrade_from"] or 0) < least:
        message = f"it was signed as number {statement['seq']}, and this device has had {least} from the same key"
        raise _not_trusted(message, "sign it again to install an older bundle on purpose (edgekit sign)")


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
        raise _not_trusted(
            "this device takes signed releases only", "edgekit sign BUNDLE, or deploy with --sign KEY (or --unsigned)"
        )
    try:
        text, signature = signed["statement"].encode(), signed["signature"].encode()
    except (TypeError, KeyError, AttributeError, UnicodeError):
        raise _not_trusted("what should be a signed statement is none", "sign again with edgekit sign") from None
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


def _not_trusted(message: str, hint: str) -> Refused:
    return Refused("NotTrusted", message, hint)
