"""Deployments to a device that has signers: what gets there, what does not, and what it remembers."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from devices import refused, world
from keys import fingerprint_of, make_key, public, ssh_agent, ssh_sign, why_no_ssh_keygen
from sshd import Sshd

from edgekit.bundle import Bundle, read_bundle
from edgekit.deploy.address import Local
from edgekit.deploy.install import deploy, rollback
from edgekit.deploy.session import open_session
from edgekit.deploy.sign import Signed, make_statement, sign_with
from edgekit.errors import NotTrusted

pytestmark = [
    pytest.mark.skipif(bool(why_no_ssh_keygen()), reason=why_no_ssh_keygen()),
    pytest.mark.usefixtures("small_runtime"),
]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return make_key(tmp_path, "alice")


@pytest.fixture
def enrolled(device: Local, key: Path, command: Run) -> Local:
    """A device where alice is enrolled and nothing is installed."""
    code, _, err = command("signers", "add", device, f"{key}.pub")
    assert code == 0, err
    return device


def signed(bundle: Bundle, key: Path, **more: object) -> Signed:
    """What `edgekit sign` would write for this machine."""
    from devices import this_platform

    from edgekit.deploy.runtime import build_runtime
    from edgekit.platforms import choose_runtime

    tree = build_runtime(this_platform(), choose_runtime(this_platform()))
    statement = make_statement(bundle, [tree], **{"seq": 100, **more})  # type: ignore[arg-type]
    return Signed(statement, sign_with(key)(statement))


def journal(device: Local) -> dict:
    return json.loads((device.root / "journal.json").read_text())


def test_what_was_signed_beforehand_is_installed_and_its_number_remembered(
    enrolled: Local, tiny_bundle: Bundle, key: Path
) -> None:
    done = deploy(tiny_bundle, enrolled, signed=signed(tiny_bundle, key))

    assert done.changed
    assert done.signed_by == f"alice ({fingerprint_of(key)})"
    assert journal(enrolled)["min_seq"] == {fingerprint_of(key): 100}
    assert (enrolled.root / "current" / "signed.json").exists()
    assert not deploy(tiny_bundle, enrolled).changed  # it is there already: nobody has to sign anything


@pytest.mark.slow
def test_signed_at_deployment_and_by_a_file_beside_the_bundle(
    enrolled: Local, tiny_bundle: Bundle, other_bundle: Bundle, key: Path, tmp_path: Path, command: Run
) -> None:
    code, out, err = command("deploy", tiny_bundle.folder, enrolled, "--sign", key)
    assert code == 0, err
    assert f"alice ({fingerprint_of(key)})" in out

    other = Path(shutil.copytree(other_bundle.folder, tmp_path / "other"))
    assert command("deploy", other, enrolled)[0] == 3
    assert command("sign", other, "--key", key, "--device", enrolled)[0] == 0
    code, out, err = command("deploy", other, enrolled, "--json")
    assert code == 0, err
    assert json.loads(out)["signed_by"] == f"alice ({fingerprint_of(key)})"

    code, out, _ = command("signers", "list", enrolled, "--json")
    assert json.loads(out)["signers"][0]["min_seq"] == json.loads((tmp_path / "other.signed.json").read_text())["seq"]


def test_without_a_signature_nothing_is_even_sent(enrolled: Local, tiny_bundle: Bundle, command: Run) -> None:
    before = world(enrolled.root)

    code, _, err = command("deploy", tiny_bundle.folder, enrolled)
    dry, _, _ = command("deploy", tiny_bundle.folder, enrolled, "--dry-run")

    assert (code, dry) == (3, 3)
    assert "--unsigned" in err
    assert world(enrolled.root) == before


@pytest.mark.slow
def test_unsigned_has_to_be_said_each_time(
    enrolled: Local, tiny_bundle: Bundle, other_bundle: Bundle, key: Path
) -> None:
    done = deploy(tiny_bundle, enrolled, unsigned=True)

    assert done.changed and done.signed_by is None
    assert journal(enrolled)["min_seq"] == {}
    with refused(NotTrusted, 3):
        deploy(other_bundle, enrolled)


def test_a_bundle_that_was_changed_on_its_way_is_refused_before_anything_is_sent(
    enrolled: Local, tiny_bundle: Bundle, other_bundle: Bundle, key: Path
) -> None:
    before = world(enrolled.root)

    with refused(NotTrusted, 3) as caught:
        deploy(other_bundle, enrolled, signed=signed(tiny_bundle, key))

    assert "golden.npz" in str(caught.value) or "manifest.json" in str(caught.value)
    assert world(enrolled.root) == before


def test_another_runner_than_the_signed_one_is_refused_and_named(
    enrolled: Local, tiny_bundle: Bundle, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proof = signed(tiny_bundle, key)
    statement = json.loads(proof.statement)
    statement["files"]["edgekit/runner/check.py"] = hashlib.sha256(b"of yesterday").hexdigest()
    statement["edgekit"] = "0.0.1"
    text = json.dumps(statement).encode()

    with refused(NotTrusted, 3) as caught:
        deploy(tiny_bundle, enrolled, signed=Signed(text, ssh_sign(key, text)))

    assert "0.0.1" in str(caught.value)
    assert "sign" in caught.value.hint


def test_a_runtime_that_was_not_signed_is_refused(enrolled: Local, tiny_bundle: Bundle, key: Path) -> None:
    statement = make_statement(tiny_bundle, [], seq=1)

    with refused(NotTrusted, 3) as caught:
        deploy(tiny_bundle, enrolled, signed=Signed(statement, ssh_sign(key, statement)))

    assert "--device" in caught.value.hint


def test_a_strangers_signature_is_refused(enrolled: Local, tiny_bundle: Bundle, tmp_path: Path) -> None:
    with refused(NotTrusted, 3):
        deploy(tiny_bundle, enrolled, sign=sign_with(make_key(tmp_path, "mallory")))


@pytest.mark.slow
def test_an_old_bundle_is_replayed_in_vain_and_rolled_back_to_all_the_same(
    enrolled: Local, tiny_bundle: Bundle, other_bundle: Bundle, key: Path
) -> None:
    old = deploy(tiny_bundle, enrolled, signed=signed(tiny_bundle, key, seq=41))
    new = deploy(other_bundle, enrolled, signed=signed(other_bundle, key, seq=43))

    with refused(NotTrusted, 3):
        deploy(tiny_bundle, enrolled, signed=signed(tiny_bundle, key, seq=41))
    assert rollback(enrolled)["current"] == old.release
    assert rollback(enrolled)["current"] == new.release
    with refused(NotTrusted, 3):
        deploy(tiny_bundle, enrolled, signed=signed(tiny_bundle, key, seq=42))

    # on purpose: with the field that says so, signed
    assert deploy(tiny_bundle, enrolled, signed=signed(tiny_bundle, key, seq=41, downgrade_from=43)).changed
    assert journal(enrolled)["min_seq"] == {fingerprint_of(key): 43}


@pytest.mark.slow
def test_a_release_that_lies_there_is_not_put_to_use_past_its_signature(
    enrolled: Local, tiny_bundle: Bundle, other_bundle: Bundle, key: Path
) -> None:
    """The last step asked for on its own, with the old release still on the disk as the one before."""
    old = deploy(tiny_bundle, enrolled, signed=signed(tiny_bundle, key, seq=41))
    deploy(other_bundle, enrolled, signed=signed(other_bundle, key, seq=43))
    before = os.readlink(enrolled.root / "current")

    with refused(NotTrusted, 3), open_session(enrolled) as session:
        session.request("trial", id=old.release, window_s=60, confirm="workstation")

    assert os.readlink(enrolled.root / "current") == before


def test_a_release_is_not_even_run_for_its_golden_vectors_without_a_signature(
    enrolled: Local, tiny_bundle: Bundle, key: Path
) -> None:
    """The middle step asked for on its own, after a plan for something that was signed."""
    from devices import Here, release, send

    mark = enrolled.root.parent / "it ran"
    hostile = release("hostile", run=f"#!/bin/sh\ntouch '{mark}'\necho '{{}}'\n".encode())
    here = Here(enrolled.root)
    for sha256, data in hostile.blobs.items():
        here.put(sha256, data, answer=True)

    with refused(NotTrusted, 3):
        here.request("release", id=hostile.id, text=hostile.text)
    with refused(NotTrusted, 3):
        send(here, hostile)

    assert not mark.exists()
    here.put(next(iter(hostile.blobs)), next(iter(hostile.blobs.values())), answer=True)  # what failed was cleaned up


@pytest.mark.slow
def test_keys_are_rotated_from_the_command_line(
    enrolled: Local, tiny_bundle: Bundle, key: Path, tmp_path: Path, command: Run
) -> None:
    deploy(tiny_bundle, enrolled, signed=signed(tiny_bundle, key, seq=(1 << 53) - 1))  # a thief ran it up to the end
    new = make_key(tmp_path, "new")

    code, _, err = command("signers", "replace", enrolled, f"{key}.pub", f"{new}.pub")
    assert (code, "--sign" in err) == (3, True)
    assert command("signers", "replace", enrolled, f"{key}.pub", f"{new}.pub", "--sign", new)[0] == 3
    code, out, err = command("signers", "replace", enrolled, "alice", f"{new}.pub", "--sign", key)
    assert code == 0, err
    assert "revoked" in out

    from tiny_model import tiny_bundle as make

    third = make(tmp_path / "third", seed=3)
    with refused(NotTrusted, 3):
        deploy(third, enrolled, signed=signed(third, key, seq=(1 << 53) - 1))
    assert deploy(third, enrolled, signed=signed(third, new, seq=1)).changed


def test_a_change_that_was_signed_elsewhere_is_handed_to_a_device_twice(
    enrolled: Local, key: Path, tmp_path: Path, command: Run
) -> None:
    new = make_key(tmp_path, "new")
    change = tmp_path / "change.json"
    assert command("signers", "prepare", change, "--add", f"{new}.pub")[0] == 0
    assert command("signers", "apply", enrolled, change)[0] == 2  # it is not signed yet
    (tmp_path / "change.json.sig").write_bytes(ssh_sign(key, change.read_bytes(), "edgekit-signers"))

    for _ in range(2):
        code, out, err = command("signers", "apply", enrolled, change, "--json")
        assert code == 0, err
    assert [row["name"] for row in json.loads(out)["signers"]] == ["alice", "new"]


def test_a_lost_key_is_replaced_over_the_login_if_that_is_said(
    enrolled: Local, key: Path, tmp_path: Path, command: Run
) -> None:
    new = make_key(tmp_path, "new")
    code, _, err = command(
        "signers", "replace", enrolled, fingerprint_of(key), f"{new}.pub", "--unsigned", "--name", "bob"
    )

    assert code == 0, err
    assert public(new) in (enrolled.root / "allowed_signers").read_text()
    assert public(key) in (enrolled.root / "revoked_keys").read_text()


def test_names_that_mean_no_key_or_two_are_refused(enrolled: Local, tmp_path: Path, command: Run) -> None:
    assert command("signers", "revoke", enrolled, "nobody", "--unsigned")[0] == 2
    assert command("signers", "add", enrolled, tmp_path / "absent.pub")[0] == 2
    assert command("signers", "add", enrolled, make_key(tmp_path, "x"))[0] == 2  # a private key is not shown around


@pytest.mark.slow
def test_remove_takes_the_signers_along(enrolled: Local, tiny_bundle: Bundle, command: Run) -> None:
    deploy(tiny_bundle, enrolled, unsigned=True)
    assert command("remove", enrolled, "--yes")[0] == 0

    assert not enrolled.root.exists()
    code, out, _ = command("signers", "list", enrolled)
    assert (code, "no signers" in out) == (0, True)


@pytest.mark.slow
def test_enrolling_does_not_disturb_what_is_there(device: Local, tiny_bundle: Bundle, key: Path, command: Run) -> None:
    first = deploy(tiny_bundle, device)
    before = world(device.root)
    assert command("signers", "add", device, f"{key}.pub", "--name", "a.b@example.org")[0] == 0
    after = world(device.root)

    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {"allowed_signers"}
    assert not deploy(tiny_bundle, device).changed
    assert read_bundle(device.root / "current").id == first.bundle


@pytest.mark.slow
def test_an_ssh_agent_signs_a_deployment(
    enrolled: Local, tiny_bundle: Bundle, key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only = tmp_path / "only"
    only.mkdir()
    shutil.copy(f"{key}.pub", only / "alice.pub")
    with ssh_agent(tmp_path, key) as socket:
        monkeypatch.setenv("SSH_AUTH_SOCK", socket)
        done = deploy(tiny_bundle, enrolled, sign=sign_with(only / "alice.pub"))

    assert done.signed_by == f"alice ({fingerprint_of(key)})"


@pytest.mark.slow
def test_over_ssh_too_a_stranger_is_refused_and_the_enrolled_key_is_not(
    sshd: Sshd, tiny_bundle: Bundle, key: Path, tmp_path: Path, command: Run
) -> None:
    stranger = make_key(tmp_path, "mallory")
    assert command("signers", "add", "board", f"{key}.pub")[0] == 0
    before = world(sshd.root)

    for options in ([], ["--sign", stranger]):
        code, out, err = command("deploy", tiny_bundle.folder, "board", *options)
        assert (code, out, len(err.splitlines())) == (3, "", 2)
        assert world(sshd.root) == before
    code, out, err = command("deploy", tiny_bundle.folder, "board", "--sign", key, "--service", "none", "--json")
    assert code == 0, err
    assert json.loads(out)["signed_by"] == f"alice ({fingerprint_of(key)})"
