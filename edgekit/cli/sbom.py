"""`edgekit sbom`."""

from __future__ import annotations

from pathlib import Path

import click

from edgekit.cli.show import show_json

EXAMPLES = """\b
Examples:
  edgekit sbom bundle > sbom.json
  edgekit sbom bundle --python 3.11 --glibc 2.36 --arch aarch64
"""


@click.command("sbom", epilog=EXAMPLES)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--python", metavar="X.Y", help="The device's Python: lists the runtime that it gets too.")
@click.option("--glibc", metavar="X.Y", default="2.36", show_default=True, help="The device's C library.")
@click.option("--arch", help="The device's processor; default: the bundle's, or x86_64.")
def sbom_command(bundle: Path, python: str | None, glibc: str, arch: str | None) -> None:
    """Print what is in a bundle, and in a device's runtime, as a CycloneDX 1.6 document (JSON)."""
    from edgekit.bundle import read_bundle, verify_bundle
    from edgekit.deploy.sbom import make_sbom
    from edgekit.platforms import Platform

    found = read_bundle(bundle)
    verify_bundle(found)
    platform = None
    if python is not None:
        platform = Platform(_version(python), arch or found.manifest.arch or "x86_64", f"glibc {glibc}", None)
    show_json(make_sbom(found, platform))


def _version(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    if not (major.isdecimal() and minor.isdecimal()):
        raise click.BadParameter(f"{text!r} is not like 3.11", param_hint="--python")
    return int(major), int(minor)
