"""On the device: whether an enrolled key made a signature (OpenSSH's SSHSIG). `ssh-keygen -Y verify` decides.

Sent together with the agent (the workstation's `edgekit verify` asks the same functions); standard library only,
Python >= 3.9. Nothing is written: ssh-keygen reads nameless files.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import shlex
import stat
import struct
import subprocess
from collections.abc import Iterator
from typing import Any

from edgekit.deploy.disk import Refused

BUNDLES, SIGNERS = "edgekit-bundle", "edgekit-signers"  # SSHSIG namespaces: a signature for one is none for the other
LONGEST = 4 << 20  # bytes of a statement, of a signature's text or of a list of keys
VERIFY_S = 60.0
USER_PRESENT = 1  # a FIDO token's flags behind its signature

_OPENSSH = "signatures need OpenSSH >= 8.1 (ssh-keygen): sudo apt install openssh-client"


def check_signature(
    statement: bytes, signature: bytes, signers: str, revoked: str | None, namespace: str = BUNDLES
) -> dict[str, str]:
    """Who signed: {"principal": name, "key": SHA256 fingerprint}, if it is a key of the file `signers` and not one of `revoked`.

    Both are paths (ssh-keygen(1), ALLOWED SIGNERS; public keys or a KRL); `revoked` may be None or not there.
    """
    if len(statement) > LONGEST:
        raise not_trusted("the signed statement is larger than one can be", "sign again with edgekit sign")
    key, made_for, touched = _parse_signature(signature)
    name, allowed = fingerprint(key), read_keys(signers)
    if allowed is None:
        raise not_trusted(f"{signers} is not there: no key is trusted", "name a file of signers")
    principal = _principal_of(allowed, key)
    if made_for != namespace:
        raise not_trusted(f"the signature is for {made_for[:60]!r}, not for {namespace!r}", "sign with edgekit sign")
    if principal is None:
        raise not_trusted(f"it is signed by {name}, which is not an enrolled key", "edgekit signers list shows those")
    arguments = ["-Y", "verify", "-n", namespace, "-I", principal]
    gone = read_keys(revoked) if revoked is not None else None
    if gone is not None and _has_key(gone, key):
        raise not_trusted(f"{name}, the key that signed it, was revoked", "sign with a key that still counts")
    with contextlib.ExitStack() as stack:
        nameless = [("-f", allowed), ("-s", signature), *([("-r", gone)] if gone is not None else [])]
        files = [stack.enter_context(_nameless(content, signers)) for _, content in nameless]
        for (option, _), file in zip(nameless, files):
            arguments += [option, f"/dev/fd/{file}"]
        code = _ssh_keygen(arguments, statement, files)
    if code == 1:  # how it says that it does not know an option; a bad signature is 255
        raise Refused("DeviceUnsupported", "this ssh-keygen cannot verify signatures", _OPENSSH)
    if code != 0:
        raise not_trusted(f"the signature of {principal} ({name}) does not fit", "what was signed has been changed")
    if not touched:  # software on the workstation could have asked the token for it; sshd takes no such login either
        hint = "sign with a key that wants a touch (made without -O no-touch-required)"
        raise not_trusted(f"{principal} ({name}) is on a FIDO token, which nobody touched", hint)
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


def _parse_signature(signature: bytes) -> tuple[bytes, str, bool]:
    """Public key and namespace of an SSHSIG (OpenSSH's PROTOCOL.sshsig), and whether a FIDO token was touched (PROTOCOL.u2f).

    They are claims until ssh-keygen agrees. Other keys count as touched.
    """
    lines = signature.strip().splitlines()
    try:
        if len(signature) > LONGEST or lines[0] != b"-----BEGIN SSH SIGNATURE-----":
            raise ValueError
        blob = base64.b64decode(b"".join(lines[1:-1]), validate=True)
        if blob[:10] != b"SSHSIG\0\0\0\1":
            raise ValueError
        key, rest = _take_string(blob[10:])
        made_for, rest = _take_string(rest)
        kind, _ = _take_string(key)
        for _ in ("reserved", "hash"):
            _, rest = _take_string(rest)
        _, rest = _take_string(_take_string(rest)[0])
        _, rest = _take_string(rest)
        touched = not kind.startswith(b"sk-") or bool(rest[0] & USER_PRESENT)
    except (ValueError, IndexError, struct.error):
        raise not_trusted("what should be a signature is none", "sign again with edgekit sign") from None
    if b"-cert-" in kind:  # a new certificate would be a new key, with a ratchet of its own
        raise not_trusted("it is signed with a certificate", "sign with a plain key, and enrol that")
    return key, made_for.decode(errors="replace"), touched


def _take_string(data: bytes) -> tuple[bytes, bytes]:
    (size,) = struct.unpack(">I", data[:4])
    if len(data) < 4 + size:
        raise ValueError
    return data[4 : 4 + size], data[4 + size :]


def not_trusted(message: str, hint: str) -> Refused:
    return Refused("NotTrusted", message, hint)
