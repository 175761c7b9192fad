"""`edgekit edgetpu`, and the same at the end of `edgekit convert --target coral-*`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.edgetpu import show_compiled
from edgekit.cli.show import json_option, show_facts, show_json, showing_progress

if TYPE_CHECKING:
    from edgekit.bundle import Bundle
    from edgekit.edgetpu.compile import Compilation

COMPILER = click.option(
    "--compiler",
    metavar="PROGRAM|docker:IMAGE|podman:IMAGE",
    help="Of the Edge TPU; default: edgetpu_compiler on PATH.",
)


@click.command(
    "edgetpu",
    epilog="\b\nExamples:\n  edgekit edgetpu bundle\n"
    "  edgekit edgetpu bundle --compiler docker:edgetpu-compiler\n"
    "  edgekit edgetpu bundle --compiled int8_edgetpu.tflite",
)
@click.argument("bundle", type=click.Path(path_type=Path), metavar="BUNDLE")
@COMPILER
@click.option(
    "--compiled", type=click.Path(path_type=Path), help="A file that was compiled elsewhere from the bundle's."
)
@click.option("--variant", "variants", multiple=True, help="Only this one; default: all that are int8.")
@click.option("--device", metavar="usb:0|pci:0|:0", help="Which Edge TPU of the board; default: any.")
@click.option(
    "--performance", type=click.Choice(["Low", "Medium", "High", "Max"]), help="Its clock: 63, 125, 250, 500 MHz."
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write the bundle here. Default: BUNDLE itself.")
@json_option
def edgetpu_command(
    bundle: Path,
    compiler: str | None,
    compiled: Path | None,
    variants: tuple[str, ...],
    device: str | None,
    performance: str | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Compile BUNDLE's int8 variants for Coral's Edge TPU, and put it in front of their delegates.

    With Google's compiler, here or in a container; what it says replaces what was predicted. Without it nothing is written:
    how to get it is printed. A compiled file is accepted only if something in it is for an Edge TPU.
    """
    from edgekit.bundle import check_replaceable, read_bundle
    from edgekit.delegates import misfit
    from edgekit.errors import InputError
    from edgekit.manifest import Delegate

    place = output or bundle
    read = read_bundle(bundle)
    check_replaceable(place)
    named = {"device": device, "performance": performance}
    options = {key: value for key, value in named.items() if value is not None}
    why = misfit(Delegate("edgetpu", options))
    if why:
        raise InputError(why)
    with showing_progress(as_json) as progress:
        found = compilations_of(read, compiler, compiled, variants, progress=progress)
    if found is None:
        from edgekit.errors import MissingLibrary

        raise MissingLibrary(f"there is no edgetpu_compiler on PATH; nothing was written to {place}", hint=recipe(read))
    from edgekit.edgetpu.bundled import with_compiled

    made = with_compiled(read, found, options, place)
    if as_json:
        show_json({"bundle": made.folder, "id": made.id, "compiled": {n: _plain(each) for n, each in found.items()}})
        return
    click.echo(f"{made.folder} is bundle {made.id} now")
    for name, each in found.items():
        show_compilation(name, each)


def compilations_of(
    bundle: Bundle, compiler: str | None, compiled: Path | None, variants: tuple[str, ...], *, progress: Any
) -> Mapping[str, Compilation] | None:
    """The bundle's int8 variants, compiled, by name; None where there is no compiler."""
    from edgekit.edgetpu.bundled import compilable
    from edgekit.edgetpu.compile import accept, compile_model, find_compiler
    from edgekit.edgetpu.predict import predict_file
    from edgekit.errors import InputError

    chosen = compilable(bundle, variants)
    if compiled is not None:
        if len(chosen) != 1:
            raise InputError("--compiled is one file, for one variant", hint="name it with --variant")
        return {chosen[0].name: accept(compiled, predict_file(bundle.file(chosen[0].file)), None)}
    start = find_compiler(compiler)
    if start is None:
        return None
    found = {}
    for variant in chosen:
        progress(f"compile {variant.name} for the Edge TPU")
        found[variant.name] = compile_model(bundle.file(variant.file), start)
    return found


def recipe(bundle: Bundle) -> str:
    """How to get a compiled file, for a person."""
    from edgekit.edgetpu.bundled import compilable
    from edgekit.edgetpu.compile import RECIPE

    file = compilable(bundle)[0].file
    return RECIPE.format(bundle=bundle.path, file=file, stem=Path(file).stem)


def show_compilation(name: str, compilation: Compilation) -> None:
    """What the compiler did with one variant, and in what the prediction was wrong."""
    log = compilation.log
    if log is not None:
        left = ", ".join(f"{count} x {kind} ({status})" for (kind, status), count in log.left.items())
        version = f"compiler {log.version}" if log.version else "compiler"
        show_facts([(name, f"{log.mapped} operators on the Edge TPU ({version}); on the CPU: {left or 'none'}")])
    for line in compilation.differs:
        show_facts([("predicted otherwise", line)])
    show_compiled(compilation.compiled)


def _plain(compilation: Compilation) -> dict[str, Any]:
    log = compilation.log
    rows = [] if log is None else [{"operator": o, "status": s, "count": n} for (o, s), n in log.counts.items()]
    fields = {"compiler": log and log.version, "log": rows, "differs": compilation.differs}
    return {**fields, "compiled": compilation.compiled}


def finish(
    bundle: Bundle, target: str | None, delegates: tuple[str, ...], compiler: str | None, *, quiet: bool
) -> Bundle:
    """At the end of a conversion: compiled where an Edge TPU is meant and its compiler is there; else said what to do."""
    from edgekit.delegates import parse_delegate
    from edgekit.target import load_target

    listed: list[Any] = [*map(parse_delegate, delegates)] or list(load_target(target).delegates if target else ())
    wanted = next((each for each in listed if each.name == "edgetpu" and "file" not in each.options), None)
    if wanted is None or not any(v.quantization == "int8" for v in bundle.manifest.variants):
        return bundle
    with showing_progress(quiet) as progress:
        found = compilations_of(bundle, compiler, None, (), progress=progress)
    if found is None:
        click.secho(
            "warning: the bundle has no Edge TPU file: there is no edgetpu_compiler on PATH", err=True, fg="yellow"
        )
        click.echo(f"  {recipe(bundle)}", err=True)
        return bundle
    from edgekit.edgetpu.bundled import with_compiled

    made = with_compiled(bundle, found, dict(wanted.options), bundle.path)
    if not quiet:
        for name, each in found.items():
            show_compilation(name, each)
    return made
