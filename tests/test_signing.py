"""Whose signature counts, and what a signed statement allows: against real keys and the real ssh-keygen."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keys import fingerprint_of, make_key, public, ssh_agent, ssh_sign, why_no_ssh_keygen

from edgekit.deploy import signing
from edgekit.deploy.disk import Refused
from edgekit.deploy.signers import change_signers, list_signers
from edgekit.deploy.signing import admit, read_statement
from edgekit.deploy.sshsig import check_signature

pytestmark = pytest.mark.skipif(bool(why_no_ssh_keygen()), reason=why_no_ssh_keygen())

STATEMENT = b'{"edgekit_signature": 1}'


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the key pairs alice, bob and mallory."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("alice", "bob", "mallory"):
        make_key(folder, name)
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A device's ROOT where alice is enrolled."""
    return tmp_path


@pytest.fixture
def enrolled(root: Path, keys: Path) -> Path:
    enrol(root, alice=keys / "alice")
    return root


def enrol(root: Path, **who: Path) -> None:
    change = {"edgekit_signers": 1, "add": {name: public(key) for name, key in who.items()}, "revoke": []}
    change_signers(str(root), json.dumps(change), None, unsigned=True)


def change(add: Mapping[str, Path], revoke: tuple[Path, ...] = ()) -> str:
    added = {name: public(key) for name, key in add.items()}
    return json.dumps({"edgekit_signers": 1, "add": added, "revoke": [public(key) for key in revoke]})


def check(root: Path, statement: bytes, signature: bytes, **more: Any) -> dict[str, str]:
    return check_signature(statement, signature, str(root / "allowed_signers"), str(root / "revoked_keys"), **more)


@contextmanager
def refusal(kind: str = "NotTrusted") -> Iterator[list[str]]:
    """The message of the Refused that the block ends with."""
    said: list[str] = []
    with pytest.raises(Refused) as caught:
        yield said
    reply = caught.value.reply
    assert reply["error"] == kind, reply
    assert reply["hint"]
    said.append(reply["message"])


# -- signatures


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_what_an_enrolled_key_signed_is_believed_and_the_key_is_named_as_ssh_names_it(
    tmp_path: Path, kind: str
) -> None:
    key = make_key(tmp_path, "key", kind)
    enrol(tmp_path, carol=key)

    assert check(tmp_path, STATEMENT, ssh_sign(key, STATEMENT)) == {"principal": "carol", "key": fingerprint_of(key)}


def test_a_statement_with_one_bit_changed_is_not_believed(enrolled: Path, keys: Path) -> None:
    signature = ssh_sign(keys / "alice", STATEMENT)

    for index in range(0, 8 * len(STATEMENT), 13):
        changed = bytearray(STATEMENT)
        changed[index // 8] ^= 1 << index % 8
        with refusal() as said:
            check(enrolled, bytes(changed), signature)

        assert "does not fit" in said[0]


def test_a_signature_for_another_purpose_is_not_believed(enrolled: Path, keys: Path) -> None:
    for namespace in ("file", "git", "edgekit-signers", "edgekit-bundle2"):
        with refusal() as said:
            check(enrolled, STATEMENT, ssh_sign(keys / "alice", STATEMENT, namespace))

        assert namespace in said[0]


def test_a_namespace_that_only_the_armour_claims_is_not_believed(enrolled: Path, keys: Path) -> None:
    lines = ssh_sign(keys / "alice", STATEMENT, "edgekit-signers").splitlines()
    blob = base64.b64decode(b"".join(lines[1:-1]))
    forged = blob.replace(struct.pack(">I", 15) + b"edgekit-signers", struct.pack(">I", 14) + b"edgekit-bundle")
    armoured = b"\n".join([lines[0], base64.b64encode(forged), lines[-1], b""])

    assert forged != blob
    with refusal() as said:
        check(enrolled, STATEMENT, armoured)
    assert "does not fit" in said[0]


def test_a_stranger_is_not_believed_even_where_the_claimed_key_is_an_enrolled_one(enrolled: Path, keys: Path) -> None:
    honest, strange = (ssh_sign(keys / name, STATEMENT) for name in ("alice", "mallory"))
    with refusal() as said:
        check(enrolled, STATEMENT, strange)
    assert fingerprint_of(keys / "mallory") in said[0]

    blobs = [base64.b64decode(b"".join(text.splitlines()[1:-1])) for text in (honest, strange)]
    mixed = blobs[0][:-64] + blobs[1][-64:]  # alice's key, mallory's signature
    lines = honest.splitlines()
    with refusal() as said:
        check(enrolled, STATEMENT, b"\n".join([lines[0], base64.b64encode(mixed), lines[-1], b""]))
    assert "does not fit" in said[0]


def test_a_revoked_key_is_not_believed(enrolled: Path, keys: Path) -> None:
    enrol(enrolled, bob=keys / "bob")
    signature = ssh_sign(keys / "alice", STATEMENT)
    check(enrolled, STATEMENT, signature)

    change_signers(str(enrolled), change({}, (keys / "alice",)), None, unsigned=True)

    with refusal() as said:
        check(enrolled, STATEMENT, signature)
    assert "revoked" in said[0]
    check(enrolled, STATEMENT, ssh_sign(keys / "bob", STATEMENT))


def test_a_key_revocation_list_of_openssh_counts_too(enrolled: Path, keys: Path) -> None:
    subprocess.run(
        ["ssh-keygen", "-q", "-k", "-f", enrolled / "revoked_keys", keys / "alice.pub"], check=True, capture_output=True
    )

    with refusal():
        check(enrolled, STATEMENT, ssh_sign(keys / "alice", STATEMENT))
    with refusal() as said:  # and what somebody keeps with OpenSSH's tools is not broken with ours
        change_signers(str(enrolled), change({"bob": keys / "bob"}, (keys / "alice",)), None, unsigned=True)
    assert "KRL" in said[0]


def test_a_line_that_is_for_another_namespace_does_not_count(root: Path, keys: Path) -> None:
    (root / "allowed_signers").write_text(f'alice namespaces="git" {public(keys / "alice")}\n')

    with refusal():
        check(root, STATEMENT, ssh_sign(keys / "alice", STATEMENT))


def test_files_of_signers_that_people_write_are_understood(root: Path, keys: Path) -> None:
    (root / "allowed_signers").write_text(
        f"# the release team\n\n'\"broken\n*@example.org {public(keys / 'bob')} bob\n"
        f'alice@example.org,al namespaces="git,edgekit-bundle" {public(keys / "alice")} alice at home\n'
    )

    found = [check(root, STATEMENT, ssh_sign(keys / name, STATEMENT))["principal"] for name in ("alice", "bob")]

    assert found == ["alice@example.org", "*@example.org"]


def test_a_certificate_is_no_key(root: Path, keys: Path, tmp_path: Path) -> None:
    person = make_key(tmp_path, "person")
    subprocess.run(
        ["ssh-keygen", "-q", "-s", keys / "bob", "-I", "person", "-n", "person", f"{person}.pub"],
        check=True,
        capture_output=True,
    )
    (root / "allowed_signers").write_text(f"person cert-authority {public(keys / 'bob')}\n")
    with ssh_agent(tmp_path, person) as socket, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSH_AUTH_SOCK", socket)
        signature = ssh_sign(tmp_path / "person-cert.pub", STATEMENT)

    with refusal() as said:
        check(root, STATEMENT, signature)
    assert "certificate" in said[0]


@pytest.mark.parametrize("place", ["allowed_signers", "revoked_keys"])
def test_a_list_of_keys_that_others_can_change_is_not_used(
    enrolled: Path, keys: Path, place: str, tmp_path_factory
) -> None:
    signature = ssh_sign(keys / "alice", STATEMENT)
    path = enrolled / place
    path.touch()
    path.chmod(0o664)
    with refusal("DeviceRefused"):
        check(enrolled, STATEMENT, signature)

    elsewhere = tmp_path_factory.mktemp("elsewhere") / place
    path.chmod(0o644)
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    with refusal("DeviceRefused"):
        check(enrolled, STATEMENT, signature)

    path.unlink()
    os.mkfifo(path, 0o600)
    with refusal("DeviceRefused"):
        check(enrolled, STATEMENT, signature)


def test_without_ssh_keygen_it_says_what_to_install(enrolled: Path, keys: Path, monkeypatch, tmp_path: Path) -> None:
    signature = ssh_sign(keys / "alice", STATEMENT)
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(Refused) as caught:
        check(enrolled, STATEMENT, signature)

    assert caught.value.reply["error"] == "DeviceUnsupported"
    assert "OpenSSH >= 8.1" in caught.value.reply["hint"]


def test_an_ssh_keygen_that_knows_no_signatures_is_named_and_believed_in_nothing(
    enrolled: Path, keys: Path, monkeypatch, tmp_path: Path
) -> None:
    signature = ssh_sign(keys / "alice", STATEMENT)
    old = tmp_path / "bin" / "ssh-keygen"  # as OpenSSH 7.9 ends when it is given -Y
    old.parent.mkdir()
    old.write_text("#!/bin/sh\necho 'unknown option -- Y' >&2\nexit 1\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", f"{old.parent}:{os.environ['PATH']}")

    with refusal("DeviceUnsupported"):
        check(enrolled, STATEMENT, signature)


def test_a_key_in_a_real_ssh_agent_signs(enrolled: Path, keys: Path, tmp_path: Path, monkeypatch) -> None:
    from edgekit.deploy.sign import sign_with

    only_public = tmp_path / "alice.pub"
    only_public.write_bytes((keys / "alice.pub").read_bytes())
    with ssh_agent(tmp_path, keys / "alice") as socket:
        monkeypatch.setenv("SSH_AUTH_SOCK", socket)
        signature = sign_with(only_public)(STATEMENT)

    assert check(enrolled, STATEMENT, signature)["principal"] == "alice"


def test_a_fido_token_counts_with_its_touch(tmp_path: Path) -> None:
    """A token in software: what it signs is in PROTOCOL.u2f, and the real ssh-keygen judges it."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    def string(data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + data

    private, kind = Ed25519PrivateKey.generate(), b"sk-ssh-ed25519@openssh.com"
    raw = private.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    key = string(kind) + string(raw) + string(b"ssh:")
    line = f"{kind.decode()} {base64.b64encode(key).decode()}"
    change_signers(
        str(tmp_path), json.dumps({"edgekit_signers": 1, "add": {"token": line}, "revoke": []}), None, unsigned=False
    )

    def signed(flags: int) -> bytes:
        inner = b"SSHSIG" + string(b"edgekit-bundle") + string(b"") + string(b"sha512")
        inner += string(hashlib.sha512(STATEMENT).digest())
        counter = struct.pack(">I", 7)
        touched = hashlib.sha256(b"ssh:").digest() + bytes([flags]) + counter + hashlib.sha256(inner).digest()
        signature = string(kind) + string(private.sign(touched)) + bytes([flags]) + counter
        blob = b"SSHSIG" + struct.pack(">I", 1) + string(key) + string(b"edgekit-bundle") + string(b"")
        blob += string(b"sha512") + string(signature)
        body = base64.b64encode(blob)
        return b"-----BEGIN SSH SIGNATURE-----\n" + body + b"\n-----END SSH SIGNATURE-----\n"

    assert check(tmp_path, STATEMENT, signed(1))["principal"] == "token"
    with refusal():
        check(tmp_path, STATEMENT + b" ", signed(1))
    with refusal() as said:  # ssh-keygen itself takes it
        check(tmp_path, STATEMENT, signed(0))
    assert "nobody touched" in said[0]


@pytest.mark.parametrize("held_by", ["file", "agent"])
def test_what_a_token_signed_through_ssh_is_believed_if_its_key_is_enrolled(
    root: Path, token: Path, held_by: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgekit.deploy.sign import sign_with

    folder = tmp_path_factory.mktemp("token")
    key, other = (make_key(folder, name, "ed25519-sk") for name in ("mine", "other"))
    if held_by == "file":
        signature = sign_with(key)(STATEMENT)
    else:
        only_public = root / "mine.pub"
        only_public.write_bytes(key.with_name("mine.pub").read_bytes())
        with ssh_agent(folder, key, token=token) as socket:
            monkeypatch.setenv("SSH_AUTH_SOCK", socket)
            signature = sign_with(only_public)(STATEMENT)

    enrol(root, other=other)
    with refusal() as said:
        check(root, STATEMENT, signature)
    assert "not an enrolled key" in said[0]
    enrol(root, mine=key)
    assert check(root, STATEMENT, signature) == {"principal": "mine", "key": fingerprint_of(key)}
    with refusal() as said:
        check(root, STATEMENT + b" ", signature)
    assert "does not fit" in said[0]


def test_without_its_key_file_and_without_an_agent_a_token_signs_nothing(tmp_path: Path, token: Path) -> None:
    from edgekit.deploy.sign import sign_with
    from edgekit.errors import InputError

    key = make_key(tmp_path, "mine", "ed25519-sk")
    key.unlink()

    with pytest.raises(InputError, match="did not sign"):
        sign_with(key.with_name("mine.pub"))(STATEMENT)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_bytes_in_place_of_a_signature_are_believed_or_break_anything(enrolled: Path, keys: Path, data: Any) -> None:
    lines = ssh_sign(keys / "alice", STATEMENT).splitlines()
    blob = bytearray(base64.b64decode(b"".join(lines[1:-1])))
    if data.draw(st.booleans()):
        for _ in range(data.draw(st.integers(1, 4))):
            blob[data.draw(st.integers(0, len(blob) - 1))] ^= data.draw(st.integers(1, 255))
    else:
        blob = bytearray(data.draw(st.binary(max_size=200)))
    original = base64.b64decode(b"".join(lines[1:-1]))
    armoured = b"\n".join([lines[0], base64.b64encode(bytes(blob)), lines[-1], b""])

    if bytes(blob) != original:
        with refusal():
            check(enrolled, STATEMENT, armoured)
    with refusal():
        check(enrolled, STATEMENT, bytes(blob))


# -- statements


FILES = {"manifest.json": b"{}", "models/int8.tflite": b"TFL3", "edgekit/runner/check.py": b"print()", "run": b""}
LAUNCHER = "#!/bin/sh\nexec @PYTHON@ -s -c 'main'\n"


def make_release(files: Mapping[str, bytes] = FILES, **fields: Any) -> dict[str, Any]:
    contents = {**files, "run": LAUNCHER.replace("@PYTHON@", sys.executable).encode()}
    listed = {name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)} for name, data in contents.items()}
    facts = {"name": "digits", "edgekit": "1.2.3", "bundle": listed["manifest.json"]["sha256"], "runtime": RUNTIME[:16]}
    return {"edgekit_release": 1, **facts, "files": listed, **fields}


RUNTIME_TEXT = b'{"edgekit_runtime": 1, "files": {}}'
RUNTIME = hashlib.sha256(RUNTIME_TEXT).hexdigest()


def make_statement(release: Mapping[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    files = {name: file["sha256"] for name, file in (release or make_release())["files"].items() if name != "run"}
    found = {"edgekit_signature": 1, "name": "digits", "edgekit": "1.2.3", "seq": 100, "downgrade_from": None}
    return {**found, "run": LAUNCHER, "files": files, "runtimes": {RUNTIME: "numpy==1"}, **fields}


def signed_by(key: Path, statement: Any) -> dict[str, str]:
    text = json.dumps(statement)
    return {"statement": text, "signature": ssh_sign(key, text.encode()).decode()}


@pytest.fixture
def ask(enrolled: Path, keys: Path) -> Callable[..., Any]:
    """Whether the device would take a release with that statement by alice."""
    (enrolled / "runtimes").mkdir()
    (enrolled / "runtimes" / f"{RUNTIME[:16]}.json").write_bytes(RUNTIME_TEXT)

    def ask(
        statement: Any = None,
        release: Mapping[str, Any] | None = None,
        min_seq: Mapping[str, int] | None = None,
        key: str = "alice",
        **more: Any,
    ) -> Any:
        signed = signed_by(keys / key, make_statement() if statement is None else statement)
        asked = {"unsigned": False, "whole": True, **more}
        return admit(
            str(enrolled), release or make_release(), asked.pop("signed", signed), min_seq=min_seq or {}, **asked
        )

    return ask


def test_a_release_that_was_signed_to_the_byte_is_admitted(ask, keys: Path) -> None:
    assert ask() == {"principal": "alice", "key": fingerprint_of(keys / "alice"), "seq": 100}


@pytest.mark.parametrize("name", [name for name in FILES if name != "run"])
def test_every_file_that_the_board_would_run_is_covered(ask, name: str) -> None:
    for files in ({**FILES, name: b"changed"}, {other: FILES[other] for other in FILES if other != name}):
        with refusal():
            ask(release=make_release({"manifest.json": b"", **files}))
    with refusal() as said:
        ask(release=make_release({**FILES, f"{name}2": b"one more"}))

    assert name in said[0] or "runner" in said[0]


def test_the_launcher_is_covered_but_for_the_path_of_the_boards_own_python(ask) -> None:
    ask(statement=make_statement(run=LAUNCHER))

    for launcher in (LAUNCHER + "rm -r /\n", LAUNCHER.replace("@PYTHON@", "/tmp/python")):
        with refusal() as said:
            ask(statement=make_statement(run=launcher))
        assert "runner" in said[0]


def test_the_runtime_is_covered_by_its_whole_list_and_not_only_by_its_name(ask, enrolled: Path) -> None:
    lookalike = RUNTIME[:16] + "0" * 48  # a list with the same id as far as ids go
    for runtimes in ({}, {"0" * 64: "numpy==1"}, {lookalike: "numpy==1"}):
        with refusal() as said:
            ask(statement=make_statement(runtimes=runtimes))
        assert "runtime" in said[0]

    (enrolled / "runtimes" / f"{RUNTIME[:16]}.json").unlink()

    assert ask(whole=False)["seq"] == 100  # before it is sent, its name is all there is
    with refusal():
        ask(statement=make_statement(runtimes={}), whole=False)
    with pytest.raises(OSError, match="runtimes"):
        ask(whole=True)


@pytest.mark.parametrize("runtime", [None, "", "../../x", 5])
def test_a_release_with_no_runtime_or_a_strange_one_is_refused(ask, runtime: Any) -> None:
    with pytest.raises(Refused):
        ask(release=make_release(runtime=runtime))


@pytest.mark.parametrize("fact", ["name", "edgekit", "bundle"])
def test_what_status_would_show_is_covered_too(ask, fact: str) -> None:
    with refusal() as said:
        ask(release=make_release(**{fact: "another"}))
    assert fact in said[0]


def test_an_older_statement_is_replayed_in_vain(ask, keys: Path) -> None:
    alice = fingerprint_of(keys / "alice")

    assert ask(min_seq={alice: 100})["seq"] == 100  # the one that it has: deployed again
    with refusal() as said:
        ask(min_seq={alice: 101})
    assert "100" in said[0] and "101" in said[0]


def test_a_downgrade_needs_its_signed_field_and_goes_no_further_than_that_says(ask, keys: Path) -> None:
    alice = fingerprint_of(keys / "alice")
    downgrade = make_statement(downgrade_from=105)

    assert ask(downgrade, min_seq={alice: 105})["seq"] == 100
    with refusal():  # once something newer was confirmed, it cannot be replayed either
        ask(downgrade, min_seq={alice: 106})


def test_each_key_has_a_ratchet_of_its_own(ask, enrolled: Path, keys: Path) -> None:
    enrol(enrolled, bob=keys / "bob")
    ahead = {fingerprint_of(keys / "alice"): signing.LARGEST_SEQ}  # somebody had alice's key and ran her number up

    with refusal():
        ask(min_seq=ahead)
    assert ask(min_seq=ahead, key="bob")["seq"] == 100


def test_an_unsigned_release_is_refused_once_somebody_is_enrolled_unless_it_is_asked_for(
    ask, root: Path, tmp_path: Path
) -> None:
    with refusal() as said:
        ask(signed=None)
    assert "signed releases only" in said[0]
    assert ask(signed=None, unsigned=True) is None

    nobody = tmp_path / "nobody"
    assert admit(str(nobody), make_release(), None, unsigned=False, min_seq={}, whole=True) is None


def test_an_empty_list_of_signers_trusts_nobody(ask, enrolled: Path) -> None:
    (enrolled / "allowed_signers").write_text("")

    with refusal():
        ask()


@pytest.mark.parametrize(
    "signed", [[], {}, "x", {"statement": 1, "signature": 2}, {"statement": "\ud800", "signature": ""}]
)
def test_what_is_no_signed_statement_is_refused(ask, signed: Any) -> None:
    with refusal():
        ask(signed=signed)


@pytest.mark.parametrize(
    "fields",
    [
        {"edgekit_signature": 2},
        {"edgekit_signature": True},
        {"edgekit_signature": 1.0},
        {"seq": 0},
        {"seq": -1},
        {"seq": True},
        {"seq": "9"},
        {"seq": 1 << 60},
        {"downgrade_from": 1.5},
        {"files": []},
        {"files": {}},
        {"files": {"manifest.json": "abc"}},
        {"files": {"manifest.json": None}},
        {"runtimes": {"abc": ""}},
        {"run": None},
        {"more": 1},
    ],
)
def test_a_signed_statement_of_another_form_is_refused(ask, fields: dict[str, Any]) -> None:
    with pytest.raises(Refused):
        ask(statement=make_statement(**fields))


def test_a_key_given_twice_is_refused_although_it_is_signed() -> None:
    text = json.dumps(make_statement()).replace('"seq": 100', '"seq": 100, "seq": 999')

    with refusal():
        read_statement(text.encode())


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(make_statement())), json_values), st.integers(0, 3))
def test_any_statement_is_read_or_refused_and_nothing_else(changes: dict[str, Any], left_out: int) -> None:
    fields = {**make_statement(), **changes}
    for key in sorted(fields)[:left_out]:
        del fields[key]
    try:
        found = read_statement(json.dumps(fields).encode())
    except Refused:
        return

    assert signing.is_seq(found["seq"])
    assert set(found) == set(make_statement()) - {"edgekit_signature"}


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_refused_as_a_statement(text: bytes) -> None:
    with refusal():
        read_statement(text)


# -- signers


def test_the_first_key_is_enrolled_by_whoever_may_log_in(root: Path, keys: Path) -> None:
    change_signers(str(root), change({"alice": keys / "alice"}), None, unsigned=False)

    found = list_signers(str(root), {fingerprint_of(keys / "alice"): 7})

    assert found["enforced"]
    assert [(row["name"], row["key"], row["min_seq"], row["revoked"]) for row in found["signers"]] == [
        ("alice", fingerprint_of(keys / "alice"), 7, False)
    ]


def test_a_device_without_signers_says_so(root: Path) -> None:
    assert list_signers(str(root), {}) == {"enforced": False, "signers": []}


def test_once_enrolled_a_change_needs_a_signature_or_to_be_asked_for_without(enrolled: Path, keys: Path) -> None:
    before = (enrolled / "allowed_signers").read_bytes()
    text = change({"mallory": keys / "mallory"})
    for signature in (None, "", ssh_sign(keys / "mallory", text.encode(), "edgekit-signers").decode()):
        with refusal():
            change_signers(str(enrolled), text, signature, unsigned=False)
    with refusal():  # a signature for a bundle is none for this
        change_signers(str(enrolled), text, ssh_sign(keys / "alice", text.encode()).decode(), unsigned=False)

    assert (enrolled / "allowed_signers").read_bytes() == before

    change_signers(str(enrolled), text, None, unsigned=True)

    assert [row["name"] for row in list_signers(str(enrolled), {})["signers"]] == ["alice", "mallory"]


def test_keys_are_rotated_by_the_old_one_once_or_twice(enrolled: Path, keys: Path) -> None:
    text = change({"alice": keys / "bob"}, (keys / "alice",))
    signature = ssh_sign(keys / "alice", text.encode(), "edgekit-signers").decode()

    change_signers(str(enrolled), text, signature, unsigned=False)
    after = [(enrolled / name).read_bytes() for name in ("allowed_signers", "revoked_keys")]
    with refusal():  # the key that signed it does not count any more
        change_signers(str(enrolled), text, signature, unsigned=False)

    assert [(enrolled / name).read_bytes() for name in ("allowed_signers", "revoked_keys")] == after
    check(enrolled, STATEMENT, ssh_sign(keys / "bob", STATEMENT))
    with refusal():
        check(enrolled, STATEMENT, ssh_sign(keys / "alice", STATEMENT))


def test_a_rotation_that_the_power_cut_in_half_is_finished_by_the_next_attempt(
    enrolled: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgekit.deploy import signers

    text = change({"alice": keys / "bob"}, (keys / "alice",))
    signature = ssh_sign(keys / "alice", text.encode(), "edgekit-signers").decode()
    written: list[str] = []

    def cut(path: str, content: bytes) -> None:
        if written:
            raise OSError("the power is gone")
        written.append(path)
        real(path, content)

    real = signers.write_durably
    with monkeypatch.context() as patch:
        patch.setattr(signers, "write_durably", cut)
        with pytest.raises(OSError, match="power"):
            change_signers(str(enrolled), text, signature, unsigned=False)

    check(enrolled, STATEMENT, ssh_sign(keys / "bob", STATEMENT))  # at no time is there nobody
    change_signers(str(enrolled), text, signature, unsigned=False)
    with refusal():
        check(enrolled, STATEMENT, ssh_sign(keys / "alice", STATEMENT))


def test_a_replayed_change_does_not_bring_a_revoked_key_back(enrolled: Path, keys: Path) -> None:
    adds_bob = change({"bob": keys / "bob"})
    signature = ssh_sign(keys / "alice", adds_bob.encode(), "edgekit-signers").decode()
    change_signers(str(enrolled), adds_bob, signature, unsigned=False)
    change_signers(str(enrolled), change({}, (keys / "bob",)), None, unsigned=True)

    for unsigned in (False, True):
        with refusal() as said:
            change_signers(str(enrolled), adds_bob, signature, unsigned=unsigned)
        assert "revoked" in said[0]


def test_the_last_key_is_not_revoked_by_accident(enrolled: Path, keys: Path) -> None:
    text = change({}, (keys / "alice",))
    signature = ssh_sign(keys / "alice", text.encode(), "edgekit-signers").decode()

    with refusal() as said:
        change_signers(str(enrolled), text, signature, unsigned=False)
    assert "no key would be left" in said[0]
    assert not (enrolled / "revoked_keys").exists()


hostile_names = st.sampled_from(["", "*", "a b", "a,b", '"', "a\nb", "-f", "..", "a" * 65, "é", "a\0", "!a", "#a"])
hostile_keys = st.sampled_from(
    [
        "",
        "ssh-ed25519",
        "ssh-ed25519 AAAA",
        "ssh-dss AAAAB3NzaC1kc3M=",
        "cert-authority ssh-ed25519 {}",
        5,
        None,
        [],
        "x\nssh-ed25519 {}",
    ]
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(hostile_names | st.text(max_size=6), hostile_keys | json_values, st.booleans())
def test_no_line_can_be_smuggled_into_the_list_of_signers(
    enrolled: Path, keys: Path, name: str, key: Any, good: bool
) -> None:
    before = (enrolled / "allowed_signers").read_bytes()
    encoded = public(keys / "mallory").split()[1]
    key = public(keys / "mallory") if good else key.format(encoded) if isinstance(key, str) and "{}" in key else key
    text = json.dumps({"edgekit_signers": 1, "add": {name: key}, "revoke": []})
    try:
        change_signers(str(enrolled), text, None, unsigned=True)
    except Refused:
        assert (enrolled / "allowed_signers").read_bytes() == before
        return

    after = (enrolled / "allowed_signers").read_text().splitlines()
    (enrolled / "allowed_signers").write_bytes(before)
    assert len(after) == 2
    assert after[1] == f'{name} namespaces="edgekit-bundle,edgekit-signers" {public(keys / "mallory")}'
