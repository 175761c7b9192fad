"""`edgekit keygen`, `sign` and `verify`."""

from __future__ import annotations

import getpass
import socket
from pathlib import Path

import click

from edgekit.cli.device import ask_beside
from edgekit.cli.show import json_option, show_facts, show_json, showing_progress

KEY_HELP = """\b
KEY is a private key, or the .pub of one that the ssh-agent or a FIDO token
holds. ssh-keygen signs (OpenSSH >= 8.1); it asks for passphrase or touch.
"""


@click.command(
    "keygen", epilog="\b\nExamples:\n  edgekit keygen release_key\n  edgekit keygen token_key --type ed25519-sk"
)
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--type",
    "kind",
    type=click.Choice(["ed25519", "ed25519-sk", "ecdsa", "ecdsa-sk"]),
    default="ed25519",
    show_default=True,
    help="The -sk ones are in a FIDO token.",
)
@click.option("--comment", help="Who it is; default: you at this machine.")
@click.option("--no-passphrase", is_flag=True, help="Do not protect it: for a build machine.")
@json_option
def keygen_command(path: Path, kind: str, comment: str | None, no_passphrase: bool, as_json: bool) -> None:
    """Make a key that signs bundles: PATH, and PATH.pub to enrol on devices."""
    from edgekit.deploy.sign import make_key

    comment = comment or f"{getpass.getuser()}@{socket.gethostname()}"
    found = make_key(path, kind=kind, comment=comment, passphrase=not no_passphrase)
    public = f"{path}.pub"
    if as_json:
        show_json({"key": found, "private": path, "public": public})
        return
    show_facts([("key", found), ("private", path), ("public", public)])
    click.echo(f"next: edgekit signers add DEVICE {public}")


@click.command(
    "sign",
    epilog=KEY_HELP + "\n\b\nExamples:\n  edgekit sign bundle --key release_key --target rpi4\n"
    "  edgekit sign bundle --key ~/.ssh/id_ed25519.pub --device pi@rpi.local\n"
    "  edgekit sign bundle --prepare          sign it elsewhere, with ssh-keygen",
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--key", type=click.Path(path_type=Path), metavar="KEY", help="What signs.")
@click.option("--prepare", is_flag=True, help="Only write what has to be signed.")
@click.option(
    "--target", "targets", multiple=True, metavar="NAME", help="Boards that get it; default: the bundle's target."
)
@click.option("--device", "devices", multiple=True, metavar="DEVICE", help="Boards that are asked for their Python.")
@click.option("--python", default="python3", show_default=True, help="The Python of those devices.")
@click.option("--with-pillow", is_flag=True, help="For deployments with --with-pillow.")
@click.option("--seq", type=int, metavar="N", help="Its number; default: seconds since 1970, by this machine's clock.")
@click.option("--downgrade-from", type=int, metavar="N", help="May replace what was signed with numbers up to N.")
@json_option
def sign_command(
    bundle: Path,
    key: Path | None,
    prepare: bool,
    targets: tuple[str, ...],
    devices: tuple[str, ...],
    python: str,
    with_pillow: bool,
    seq: int | None,
    downgrade_from: int | None,
    as_json: bool,
) -> None:
    """Sign all that boards will run of BUNDLE: its files, this edgekit's runner, the runtimes.

    The statement and its signature lie beside it (BUNDLE.signed.json and .sig); deploy takes them along. A device
    refuses what has a lower number than the last one it confirmed from the same key.
    """
    from edgekit.bundle import read_bundle, verify_bundle
    from edgekit.deploy.address import parse_address
    from edgekit.deploy.sign import Signed, make_statement, sign_with, statement_path, tree_for, trees_of, write_signed
    from edgekit.errors import InputError
    from edgekit.target import load_target

    found = read_bundle(bundle)
    verify_bundle(found)
    if (key is None) != prepare:
        raise InputError("who signs?", hint="give --key KEY, or --prepare to sign it elsewhere")
    if not targets and not devices:
        if found.manifest.target is None:
            raise InputError("which boards will get it?", hint="name them: --target rpi4, or --device DEVICE")
        targets = (found.manifest.target,)
    with showing_progress(as_json) as progress:
        progress("building the runtimes")
        trees = {}
        for name in targets:
            trees.update(trees_of(load_target(name), with_pillow=with_pillow, compiled=found.manifest.needs_compiled))
        for device in devices:
            address, ask = parse_address(device), lambda *asked: ask_beside(progress, *asked)
            compiled = found.manifest.needs_compiled
            tree = tree_for(address, python=python, with_pillow=with_pillow, compiled=compiled, ask=ask)
            trees[tree.id] = tree
    statement = make_statement(found, list(trees.values()), seq=seq, downgrade_from=downgrade_from)
    path = statement_path(found)
    write_signed(path, Signed(statement, b"" if key is None else sign_with(key)(statement)))
    runtimes = {tree.id: " ".join(tree.requirements) for tree in trees.values()}
    if as_json:
        show_json({"statement": path, "signed": not prepare, "bundle": found.id, "runtimes": runtimes})
        return
    facts: list[tuple[str, object]] = [("bundle", f"{bundle} ({found.id})"), ("statement", path)]
    show_facts(facts + [("runtime", f"{name} ({what})") for name, what in runtimes.items()])
    if prepare:
        click.echo(f"next: ssh-keygen -Y sign -n edgekit-bundle -f KEY {path}")


@click.command(
    "verify",
    epilog="\b\nExamples:\n  edgekit verify bundle --key release_key.pub\n  edgekit verify bundle --signers allowed_signers",
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--key", type=click.Path(path_type=Path), metavar="KEY.pub", help="The public key that must have signed.")
@click.option("--signers", type=click.Path(path_type=Path), metavar="FILE", help="Or a file of them (allowed_signers).")
@click.option(
    "--revoked", type=click.Path(path_type=Path), metavar="FILE", help="Keys that do not count: .pub lines or a KRL."
)
@json_option
def verify_command(bundle: Path, key: Path | None, signers: Path | None, revoked: Path | None, as_json: bool) -> None:
    """Tell who signed BUNDLE, and that it is, with this edgekit's runner, what was signed; exit 3 if not."""
    from edgekit.bundle import read_bundle, verify_bundle
    from edgekit.deploy.sign import read_signed, statement_path, trusting, verify_signed
    from edgekit.errors import InputError, NotTrusted

    if (key is None) == (signers is None):
        raise InputError("whose signature counts?", hint="give --key KEY.pub, or --signers FILE")
    found = read_bundle(bundle)
    verify_bundle(found)
    signed = read_signed(statement_path(found))
    if signed is None:
        raise NotTrusted(f"{bundle} is not signed", hint=f"edgekit sign {bundle} --key KEY")
    with trusting(key, signers, revoked) as files:
        who = verify_signed(found, signed, *files)
    if as_json:
        show_json({"bundle": found.id, **who})
        return
    facts = [
        ("bundle", f"{bundle} ({found.id})"),
        ("signed by", f"{who['principal']} ({who['key']})"),
        ("number", who["seq"]),
    ]
    facts += [("runtime", f"{sha256[:16]} ({what})") for sha256, what in who["runtimes"].items()]
    show_facts(facts)
