"""The `edgekit` command: finds the subcommand, runs it, and turns what edgekit raises into two lines and an exit code."""

from __future__ import annotations

import importlib
import signal
import sys
from collections.abc import Sequence

try:
    import click
except ImportError:  # installed without the host extra: on a board, say
    sys.exit("edgekit: the command line needs a few more libraries\n  pip install 'edgekit[host]'")

from edgekit import __version__
from edgekit.errors import EdgekitError

# subcommand -> module that defines it; imported when it is used, so that `edgekit --help` answers at once
COMMANDS = {
    "convert": "edgekit.cli.convert",
    "inspect": "edgekit.cli.inspect",
    "compare": "edgekit.cli.compare",
    "diff": "edgekit.cli.compare",
    "lint": "edgekit.cli.lint",
    "join": "edgekit.cli.join",
    "sbom": "edgekit.cli.sbom",
    "deploy": "edgekit.cli.deploy",
    "status": "edgekit.cli.device",
    "rollback": "edgekit.cli.device",
    "adopt": "edgekit.cli.device",
    "remove": "edgekit.cli.device",
    "logs": "edgekit.cli.logs",
    "host-key": "edgekit.cli.host_key",
    "keygen": "edgekit.cli.sign",
    "sign": "edgekit.cli.sign",
    "verify": "edgekit.cli.sign",
    "signers": "edgekit.cli.signers",
    "samples": "edgekit.cli.samples",
    "power": "edgekit.cli.power",
    "doctor": "edgekit.cli.doctor",
    "edgetpu": "edgekit.cli.compile_edgetpu",
    "bench": "edgekit.cli.bench",
    "tune": "edgekit.cli.bench",
    "targets": "edgekit.cli.targets",
    "completion": "edgekit.cli.completion",
}
HELP = {
    "convert": "Make a bundle: a Keras model or SavedModel becomes full int8.",
    "inspect": "Show what is in a bundle or a .tflite file.",
    "compare": "Compare two forms of one model, layer by layer.",
    "diff": "Say what differs between two bundles or .tflite files.",
    "lint": "Tell what in a model costs accuracy in int8, or will not run.",
    "join": "Make one bundle of several, a family of variants for a goal.",
    "sbom": "Print what a bundle is made of, as CycloneDX.",
    "deploy": "Put a bundle on a device, prove it there, try it, confirm it.",
    "status": "Show what is installed on a device.",
    "rollback": "Make a device's previous release current again.",
    "adopt": "Take over what an older edgekit deployed, or what lost its journal.",
    "remove": "Take everything of edgekit's off a device.",
    "logs": "Show what a device's runner said.",
    "host-key": "Show a device's host key; replace it on file when it changed.",
    "keygen": "Make a key that signs bundles.",
    "sign": "Sign all that boards will run of a bundle.",
    "verify": "Tell who signed a bundle, and whether it is what was signed.",
    "signers": "Say whose signature a device asks for.",
    "samples": "Fetch the inputs that a device recorded, to convert with them.",
    "power": "Show what a device draws, measure its operating points, judge goals.",
    "doctor": "Find what is wrong with a device, and fix it with --fix.",
    "edgetpu": "Compile a bundle's int8 variants for Coral's Edge TPU.",
    "bench": "Measure a bundle's variants, delegates and threads.",
    "tune": "Find the best of them, and write it into the bundle.",
    "targets": "List the kinds of board edgekit knows.",
    "completion": "Print the completion script for your shell.",
}
EPILOG = """\b
Examples:
  edgekit convert model.keras -o bundle --samples samples.npz --target rpi4
  edgekit inspect bundle
  edgekit deploy bundle pi@raspberrypi.local
  edgekit deploy bundle local:./device       this machine as the device
  edgekit status pi@raspberrypi.local --json

\b
Exit codes: 0 fine, 1 other error, 2 a file or option, 3 bundle, 4 device,
5 installed but unhealthy (not in use), 6 conversion or int8 too bad,
130 interrupted. edgekit diff: 1 is different. edgekit doctor: warnings 10,
errors 20.
"""


class _Lazy(click.Group):
    """A group whose help needs none of its subcommands."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(COMMANDS[cmd_name])
        command = getattr(module, f"{cmd_name.replace('-', '_')}_command")
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(HELP.items()))


@click.group(
    cls=_Lazy, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="edgekit", message="%(prog)s %(version)s")
def cli() -> None:
    """Put neural networks on small computers and keep them running there."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line and returns its exit code; without `argv` the process's own."""
    if argv is None:
        for number in (signal.SIGTERM, signal.SIGHUP):  # a stopped service, a closed terminal: clean up as on Ctrl-C
            signal.signal(number, _interrupt)
    typed = list(sys.argv[1:] if argv is None else argv)
    try:
        result = cli.main(args=typed, prog_name="edgekit", standalone_mode=False, obj=typed)
    except EdgekitError as error:
        from edgekit.cli.show import show_error

        show_error(str(error), error.hint)
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("edgekit: interrupted", err=True)
        return 130
    except BrokenPipeError:  # the reader of our output went away: `| head`
        sys.stderr.close()
        return 1
    return result if isinstance(result, int) else 0


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
