"""On the workstation: statements about what a board may run, signed by ssh-keygen (files, ssh-agent, FIDO keys).

A statement lies beside its bundle as BUNDLE.signed.json, the signature as BUNDLE.signed.json.sig, as ssh-keygen names
it: `ssh-keygen -Y sign -n edgekit-bundle -f KEY BUNDLE.signed.json` makes the same. docs/signing.md has the form.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import edgekit
from edgekit import errors
from edgekit.bundle import Bundle
from edgekit.deploy.address import Address
from edgekit.deploy.disk import Refused
from edgekit.deploy.release import plan_release, read_content
from edgekit.deploy.runtime import Tree, build_runtime
from edgekit.deploy.session import open_session
from edgekit.deploy.signing import LARGEST_SEQ, PYTHON, check_covers, read_statement
from edgekit.deploy.sshsig import BUNDLES, LONGEST, check_signature, fingerprint, key_lines
from edgekit.deploy.touch import is_on_token, tell_to_touch
from edgekit.deploy.transport import AskHostKey
from edgekit.errors import DeviceUnsupported, EdgekitError, InputError, NotTrusted
from edgekit.platforms import Platform, choose_runtime
from edgekit.target import Target

Signer = Callable[[bytes], bytes]  # statement -> signature

_NOT_IN_NAMES = str.maketrans(dict.fromkeys('"\\*?!,#', "_"))  # what means something in allowed_signers
_PLUGGED_IN = "is the token plugged in? an old one makes ecdsa-sk only"
_OPENSSH = "signing needs OpenSSH >= 8.1: sudo apt install openssh-client"


@dataclass(frozen=True)
class Signed:
    """A statement and its signature, as they are sent."""

    statement: bytes
    signature: bytes

    @property
    def frame(self) -> dict[str, str]:
        """As a request to the agent holds it."""
        return {
            "statement": self.statement.decode(errors="replace"),
            "signature": self.signature.decode("ascii", "replace"),
        }


def statement_path(bundle: Bundle) -> Path:
    """Where the statement about a bundle lies: beside it, for a bundle is never changed."""
    place = bundle.path.resolve()
    return place.with_name(place.name + ".signed.json")


def make_statement(
    bundle: Bundle, trees: Sequence[Tree], *, seq: int | None, downgrade_from: int | None = None
) -> bytes:
    """What is signed: every file of the release by its hash, the launcher, the runtimes, and `seq`.

    `seq` None: seconds since 1970 on this workstation, which only grow, so nobody has to keep a counter. A device refuses
    what is below the greatest that it has confirmed from the same key, but for `downgrade_from` at least that.
    """
    for number in (seq, downgrade_from):
        if number is not None and not 0 < number <= LARGEST_SEQ:
            raise InputError(f"{number} cannot be a sequence number", hint=f"give one from 1 to {LARGEST_SEQ}")
    release = plan_release(bundle, "", PYTHON, [])
    files = {name: file["sha256"] for name, file in json.loads(release.text)["files"].items()}
    launcher = read_content(release.contents[files.pop("run")])
    fields = {
        "edgekit_signature": 1,
        "name": bundle.manifest.name,
        "edgekit": edgekit.__version__,
        "seq": int(time.time()) if seq is None else seq,
        "downgrade_from": downgrade_from,
        "run": launcher.decode(),
        "files": files,
        "runtimes": {hashlib.sha256(tree.text.encode()).hexdigest(): " ".join(tree.requirements) for tree in trees},
    }
    return (json.dumps(fields, indent=1, sort_keys=True) + "\n").encode()


def trees_of(target: Target, *, with_pillow: bool = False, compiled: bool = False) -> dict[str, Tree]:
    """The runtimes that the target's systems get, by id; a system whose Python has none is left out."""
    found = {}
    for system in target.systems:
        major, minor = (int(part) for part in system.python.split(".")[:2])
        platform = Platform((major, minor), target.arch, f"glibc {system.glibc}", None)
        with contextlib.suppress(DeviceUnsupported):
            tree = build_runtime(platform, choose_runtime(platform, compiled=compiled), with_pillow=with_pillow)
            found[tree.id] = tree
    if not found:
        raise DeviceUnsupported(
            f"no runtime could be had for any system of {target.name}", hint="name a device instead: --device DEVICE"
        )
    return found


def tree_for(address: Address, *, python: str, with_pillow: bool, compiled: bool, ask: AskHostKey) -> Tree:
    """The runtime that this device's Python gets."""
    with open_session(address, python=python, ask=ask) as session:
        platform = session.hello.platform
    return build_runtime(platform, choose_runtime(platform, compiled=compiled), with_pillow=with_pillow)


def sign_with(key: Path, namespace: str = BUNDLES) -> Signer:
    """Signs with a private key, or with a public one whose private half is in the ssh-agent or in a FIDO token.

    ssh-keygen itself asks for a passphrase or a touch, at the terminal. Raises InputError if it does not sign.
    """

    def sign(statement: bytes) -> bytes:
        if not key.is_file():
            raise InputError(f"{key} is not there", hint="name a key: edgekit keygen makes one")
        if is_on_token(key):
            tell_to_touch("sign")
        done = _ssh_keygen(["-Y", "sign", "-n", namespace, "-f", str(key)], statement)
        if done.returncode != 0 or not done.stdout.startswith(b"-----BEGIN SSH SIGNATURE-----"):
            reason = _last_line(done.stderr) or "ssh-keygen says why above"
            raise InputError(f"{key} did not sign: {reason}", hint=f"is it a key that works (ssh-add -l)? {_OPENSSH}")
        return done.stdout

    return sign


def _ssh_keygen(arguments: list[str], data: bytes | None) -> subprocess.CompletedProcess[bytes]:
    """Its own questions (passphrase, touch) go to the terminal, if there is one."""
    try:
        return subprocess.run(
            ["ssh-keygen", *arguments],
            input=data,
            stdout=subprocess.PIPE,
            stderr=None if sys.stderr.isatty() else subprocess.PIPE,
        )
    except OSError as error:
        raise InputError(f"ssh-keygen cannot be run: {error.strerror}", hint=_OPENSSH) from error


def _last_line(text: bytes | None) -> str:
    lines = [line for line in (text or b"").decode(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""


def make_key(path: Path, *, kind: str, comment: str, passphrase: bool) -> str:
    """Makes a key pair PATH and PATH.pub with ssh-keygen, which asks for a passphrase unless not wanted; its fingerprint."""
    if path.exists() or path.with_name(path.name + ".pub").exists():
        raise InputError(f"{path} exists", hint="choose another name: a key is never overwritten")
    if passphrase and not sys.stdin.isatty():
        raise InputError("a passphrase is asked for, and nobody is there to type it", hint="add --no-passphrase")
    arguments = ["-q", "-t", kind, "-C", comment, "-f", str(path), *([] if passphrase else ["-N", ""])]
    on_token = kind.endswith("-sk")
    if on_token:
        tell_to_touch("make the key")
    done = _ssh_keygen(arguments, None)
    if done.returncode != 0:
        reason = _last_line(done.stderr) or "ssh-keygen says why above"
        raise InputError(f"no key was made: {reason}", hint=_PLUGGED_IN if on_token else _OPENSSH)
    return fingerprint(read_public_key(path.with_name(path.name + ".pub"))[1])


def read_public_key(path: Path) -> tuple[str, bytes, str]:
    """(line without its comment, the key itself, its comment) of a .pub file."""
    try:
        text = path.read_bytes()[:LONGEST]
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}", hint="name a public key, a .pub file") from error
    found = [(kind, key) for first, kind, key in key_lines(text) if first == kind]
    if len(found) != 1:
        raise InputError(
            f"{path} is not a public key", hint="name the .pub file that edgekit keygen or ssh-keygen wrote"
        )
    kind, key = found[0]
    comment = text.decode(errors="replace").split(None, 2)[2:]
    return f"{kind} {base64.b64encode(key).decode()}", key, comment[0].strip() if comment else ""


def write_signed(path: Path, signed: Signed) -> None:
    """The statement at `path` and the signature at `path`.sig; an empty signature is none yet."""
    sig = path.with_name(path.name + ".sig")
    try:
        for place, content in ((sig, b""), (path, signed.statement), (sig, signed.signature)):
            if content:
                aside = place.with_name(f".{place.name}-{os.urandom(4).hex()}")
                try:
                    aside.write_bytes(content)
                    aside.replace(place)
                finally:
                    aside.unlink(missing_ok=True)
            else:
                place.unlink(missing_ok=True)  # never an old signature beside a new statement
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}", hint="may you write there?") from error


def read_signed(path: Path) -> Signed | None:
    """The statement at `path` with its signature; None if there is no statement. InputError if only half is there."""
    if not path.exists():
        return None
    sig = path.with_name(path.name + ".sig")
    try:
        statement, signature = path.read_bytes(), sig.read_bytes()
    except OSError as error:
        raise InputError(
            f"{error.filename} cannot be read: {error.strerror}",
            hint=f"sign it: ssh-keygen -Y sign -n {BUNDLES} -f KEY {path}",
        ) from error
    if len(statement) + len(signature) > LONGEST:
        raise InputError(f"{path} is too large for what it should be", hint="sign again with edgekit sign")
    return Signed(statement, signature)


@contextlib.contextmanager
def trusting(key: Path | None, signers: Path | None, revoked: Path | None) -> Iterator[tuple[str, str | None]]:
    """Files for `check_signature`, of a public key or a file of signers, and of revoked keys: copies that nobody changes."""
    with tempfile.TemporaryDirectory() as folder:
        allowed, gone = Path(folder, "allowed_signers"), Path(folder, "revoked_keys")
        try:
            if key is not None:
                line, _, comment = read_public_key(key)
                words = comment.split() or [key.stem]
                allowed.write_text(f'"{words[0].translate(_NOT_IN_NAMES)}" {line}\n', "utf-8")
            elif signers is not None:
                allowed.write_bytes(signers.read_bytes())
            if revoked is not None:
                gone.write_bytes(revoked.read_bytes())
        except OSError as error:
            raise InputError(
                f"{error.filename} cannot be read: {error.strerror}", hint="name a file of keys"
            ) from error
        for path in (allowed, gone):
            with contextlib.suppress(FileNotFoundError):
                path.chmod(0o600)
        yield str(allowed), None if revoked is None else str(gone)


def verify_signed(bundle: Bundle, signed: Signed, allowed: str, revoked: str | None) -> dict[str, Any]:
    """Who signed this bundle and with which `seq`, as a device would judge it. Raises NotTrusted.

    The runner has to be that of this edgekit, as it would be in a deployment from here.
    """
    with _refusals():
        who = check_signature(signed.statement, signed.signature, allowed, revoked)
        statement = read_statement(signed.statement)
        check_covers(statement, json.loads(plan_release(bundle, "", sys.executable, []).text))
    keys = ("name", "edgekit", "seq", "downgrade_from", "runtimes")
    return {**who, **{key: statement[key] for key in keys}}


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """What the device's side refuses, as the error that it names."""
    try:
        yield
    except Refused as error:
        kind = getattr(errors, error.reply["error"], NotTrusted)
        if not (isinstance(kind, type) and issubclass(kind, EdgekitError)) or issubclass(kind, errors.DeviceError):
            kind = NotTrusted  # no device was asked
        raise kind(error.reply["message"], hint=error.reply["hint"]) from error
