"""Signing on the workstation, as a person does it: keygen, sign, verify, signers; with real keys, and OpenSSH as the judge."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from devices import runtime_folder
from keys import fingerprint_of, make_key, public, ssh_agent, ssh_sign, why_no_ssh_keygen

from edgekit.bundle import Bundle
from edgekit.deploy.address import Local

pytestmark = [
    pytest.mark.skipif(bool(why_no_ssh_keygen()), reason=why_no_ssh_keygen()),
    pytest.mark.usefixtures("small_runtime"),
]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def bundle(tiny_bundle: Bundle, tmp_path: Path) -> Path:
    """A bundle of this test's own: a statement is written beside it."""
    return Path(shutil.copytree(tiny_bundle.folder, tmp_path / "bundle"))


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return make_key(tmp_path, "alice")


@pytest.fixture
def signed(bundle: Path, key: Path, device: Local, command: Run) -> Path:
    code, _, err = command("sign", bundle, "--key", key, "--device", device)
    assert code == 0, err
    return bundle


def test_keygen_makes_a_key_that_ssh_knows_and_never_overwrites_one(tmp_path: Path, command: Run) -> None:
    path = tmp_path / "release_key"
    code, out, _ = command("keygen", path, "--no-passphrase", "--comment", "the release team", "--json")
    again, _, err = command("keygen", path, "--no-passphrase")

    assert code == 0
    assert json.loads(out)["key"] == fingerprint_of(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "release_key.pub").read_text().split(None, 2)[2].strip() == "the release team"
    assert (again, "never overwritten" in err) == (2, True)


def test_keygen_asks_nobody_who_is_not_there(tmp_path: Path, command: Run) -> None:
    code, _, err = command("keygen", tmp_path / "key")

    assert (code, "--no-passphrase" in err) == (2, True)
    assert not (tmp_path / "key").exists()


def test_a_key_on_a_token_signs_a_bundle(
    bundle: Path, device: Local, tmp_path: Path, token: Path, command: Run
) -> None:
    made, out, err = command("keygen", tmp_path / "key", "--type", "ed25519-sk", "--no-passphrase", "--json")
    assert (made, err) == (0, "edgekit: you may need to touch the FIDO token to make the key\n")
    assert json.loads(out)["key"] == fingerprint_of(tmp_path / "key")
    assert public(tmp_path / "key").startswith("sk-ssh-ed25519@openssh.com ")

    code, _, err = command("sign", bundle, "--key", tmp_path / "key", "--device", device)
    verified, out, _ = command("verify", bundle, "--key", tmp_path / "key.pub", "--json")

    assert (code, err) == (0, "edgekit: you may need to touch the FIDO token to sign\n")
    assert (verified, json.loads(out)["key"]) == (0, fingerprint_of(tmp_path / "key"))


def test_a_token_that_cannot_make_the_key_is_asked_about(tmp_path: Path, token: Path, command: Run) -> None:
    code, _, err = command(
        "keygen", tmp_path / "key", "--type", "ecdsa-sk", "--no-passphrase"
    )  # this one has ed25519 only

    assert (code, "is the token plugged in?" in err) == (2, True)
    assert not (tmp_path / "key").exists()


@pytest.mark.parametrize("what", ["make the key", "sign", "sign with the agent"])
def test_a_person_is_told_to_touch_the_token_before_it_waits(
    what: str, tmp_path: Path, token: Path, finger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finger.touch()
    key = make_key(tmp_path, "key", "ed25519-sk")
    with ExitStack() as stack:
        if what == "sign with the agent":
            monkeypatch.setenv("SSH_AUTH_SOCK", stack.enter_context(ssh_agent(tmp_path, key, token=token)))
        finger.unlink()
        signs = "import sys; from pathlib import Path; from edgekit.deploy.sign import sign_with"
        words = [
            "-c",
            f"{signs}; sys.stdout.buffer.write(sign_with(Path(sys.argv[1]))(b'{{}}'))",
            key.with_suffix(".pub"),
        ]
        if what == "make the key":
            words = ["-m", "edgekit.cli.main", "keygen", tmp_path / "new", "--type", "ed25519-sk", "--no-passphrase"]
        process = stack.enter_context(
            subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
        assert process.stderr is not None
        told = process.stderr.readline()
        waits = process.poll() is None
        finger.touch()
        out, err = process.communicate(timeout=60)

    assert told == f"edgekit: you may need to touch the FIDO token to {what.removesuffix(' with the agent')}\n"
    assert waits
    assert (process.returncode, err) == (0, "")
    assert "-----BEGIN SSH SIGNATURE-----" in out or fingerprint_of(tmp_path / "new") in out


def test_the_statement_names_every_file_that_a_board_gets(signed: Path, tiny_bundle: Bundle) -> None:
    statement = json.loads((signed.parent / "bundle.signed.json").read_text())
    package = Path(__file__).parents[1] / "edgekit"
    runner = {f"edgekit/{path.relative_to(package)}": path for path in (package / "runner").rglob("*.py")}
    files = {name: tiny_bundle.file(name) for name in [*tiny_bundle.manifest.files, "manifest.json"]}

    for name, path in {**files, **runner}.items():
        assert statement["files"][name] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert statement["files"].keys() >= {"edgekit/__init__.py", "edgekit/manifest.py", "edgekit/preprocess/image.py"}
    assert "@PYTHON@ -s -c" in statement["run"]
    assert statement["downgrade_from"] is None
    assert abs(statement["seq"] - time.time()) < 600


def test_a_signature_is_what_plain_ssh_keygen_verifies(signed: Path, key: Path, tmp_path: Path) -> None:
    (tmp_path / "allowed").write_text(f"alice {public(key)}\n")
    statement = signed.parent / "bundle.signed.json"

    done = subprocess.run(
        [
            "ssh-keygen",
            "-Y",
            "verify",
            "-f",
            tmp_path / "allowed",
            "-I",
            "alice",
            "-n",
            "edgekit-bundle",
            "-s",
            f"{statement}.sig",
        ],
        input=statement.read_bytes(),
        capture_output=True,
    )

    assert done.returncode == 0, done.stderr


def test_the_runtime_is_signed_by_the_whole_hash_of_its_list(signed: Path, small_cache: Path) -> None:
    text = (runtime_folder(small_cache) / "runtime.json").read_bytes()
    statement = json.loads((signed.parent / "bundle.signed.json").read_text())

    assert list(statement["runtimes"]) == [hashlib.sha256(text).hexdigest()]


def test_verify_names_who_signed(signed: Path, key: Path, tmp_path: Path, command: Run) -> None:
    code, out, _ = command("verify", signed, "--key", f"{key}.pub", "--json")
    (tmp_path / "allowed_signers").write_text(f"# ours\ncarol@example.org {public(key)}\n")
    (tmp_path / "allowed_signers").chmod(0o664)  # as files are on many workstations
    listed, table, _ = command("verify", signed, "--signers", tmp_path / "allowed_signers")

    assert code == 0
    assert {key: json.loads(out)[key] for key in ("principal", "key")} == {
        "principal": "alice",
        "key": fingerprint_of(key),
    }
    assert listed == 0
    assert f"carol@example.org ({fingerprint_of(key)})" in table


def test_verify_refuses_what_is_not_as_it_was_signed(signed: Path, key: Path, tmp_path: Path, command: Run) -> None:
    stranger = make_key(tmp_path, "mallory")
    assert command("verify", signed, "--key", f"{stranger}.pub")[0] == 3
    assert command("verify", signed, "--key", f"{key}.pub", "--revoked", f"{key}.pub")[0] == 3

    statement = signed.parent / "bundle.signed.json"
    original = statement.read_text()
    statement.write_text(original.replace('"seq": 1', '"seq": 2'))
    code, _, err = command("verify", signed, "--key", f"{key}.pub")
    assert (code, "does not fit" in err) == (3, True)

    statement.write_text(original)
    manifest = signed / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"name": "tiny"', '"name": "evil"'))
    code, _, err = command("verify", signed, "--key", f"{key}.pub")
    assert (code, "manifest.json" in err) == (3, True)


def test_verify_says_what_is_missing(bundle: Path, key: Path, command: Run) -> None:
    assert command("verify", bundle, "--key", f"{key}.pub")[0] == 3
    assert command("verify", bundle)[0] == 2
    (bundle.parent / "bundle.signed.json").write_text("{}")
    code, _, err = command("verify", bundle, "--key", f"{key}.pub")
    assert (code, "ssh-keygen -Y sign" in err) == (2, True)
    (bundle.parent / "bundle.signed.json.sig").write_text("")
    assert command("verify", bundle, "--key", bundle / "nothing.pub")[0] == 2
    assert command("verify", bundle, "--key", f"{key}.pub")[0] == 3


def test_what_is_prepared_here_is_signed_elsewhere_by_plain_ssh_keygen(
    bundle: Path, key: Path, device: Local, command: Run
) -> None:
    code, out, _ = command("sign", bundle, "--prepare", "--device", device, "--seq", 7)
    statement = bundle.parent / "bundle.signed.json"
    assert (code, f"-f KEY {statement}" in out) == (0, True)
    assert not Path(f"{statement}.sig").exists()

    Path(f"{statement}.sig").write_bytes(ssh_sign(key, statement.read_bytes()))

    code, out, _ = command("verify", bundle, "--key", f"{key}.pub", "--json")
    assert (code, json.loads(out)["seq"]) == (0, 7)


def test_a_key_that_cannot_sign_leaves_nothing_half_made(
    bundle: Path, tmp_path: Path, device: Local, command: Run
) -> None:
    (tmp_path / "nonsense").write_text("no key\n")
    for name in ("nonsense", "absent"):
        code, _, err = command("sign", bundle, "--key", tmp_path / name, "--device", device)
        assert code == 2
        assert name in err

    assert sorted(path.name for path in tmp_path.iterdir() if "signed" in path.name) == []


def test_signing_asks_for_which_boards(bundle: Path, key: Path, command: Run) -> None:
    code, _, err = command("sign", bundle, "--key", key)

    assert (code, "--target" in err) == (2, True)
    assert command("sign", bundle, "--device", "local:x")[0] == 2  # and by whom


@pytest.mark.parametrize("number", [0, -1, 1 << 53])
def test_a_number_that_cannot_be_one_is_refused(
    bundle: Path, key: Path, device: Local, command: Run, number: int
) -> None:
    for option in ("--seq", "--downgrade-from"):
        assert command("sign", bundle, "--key", key, "--device", device, option, number)[0] == 2


def test_an_ssh_agent_signs_where_only_the_public_key_lies(
    bundle: Path, key: Path, device: Local, tmp_path: Path, command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    only = tmp_path / "only"
    only.mkdir()
    shutil.copy(f"{key}.pub", only / "alice.pub")
    with ssh_agent(tmp_path, key) as socket:
        monkeypatch.setenv("SSH_AUTH_SOCK", socket)
        assert command("sign", bundle, "--key", only / "alice.pub", "--device", device)[0] == 0

    assert command("verify", bundle, "--key", only / "alice.pub")[0] == 0


def test_the_systems_of_a_target_are_signed_for(
    bundle: Path, key: Path, tmp_path: Path, command: Run, monkeypatch
) -> None:
    from edgekit.deploy import sign
    from edgekit.deploy.runtime import Tree

    asked = []

    def build(platform, runtime, *, with_pillow):
        asked.append((platform.python, platform.arch))
        text = json.dumps([runtime.requirements])
        return Tree(hashlib.sha256(text.encode()).hexdigest()[:16], text, runtime.requirements, {}, Path(), {})

    monkeypatch.setattr(sign, "build_runtime", build)  # which would download 200 MB
    code, out, err = command("sign", bundle, "--key", key, "--target", "rpi4", "--json")

    assert code == 0, err
    assert asked == [((3, 13), "aarch64"), ((3, 11), "aarch64"), ((3, 9), "aarch64")]
    assert len(json.loads(out)["runtimes"]) == 3
