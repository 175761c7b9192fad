"""How results are shown: JSON for programs, tables for people, progress on stderr and only on a terminal."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any

import click

PIPED_WIDTH = 160  # characters of a line that nobody looks at on a terminal
NARROWEST = 10  # characters of a column that had to make room


def json_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--json`, the same on every command that prints a result."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")(function)


def show_json(value: Any) -> None:
    """Prints any result; dataclasses and paths included."""
    click.echo(json.dumps(value, default=_plain, indent=1))


def show_table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, right: Sequence[str] = ()) -> None:
    """A table on stdout, at most as wide as the terminal; numbers, and the columns named in `right`, to the right."""
    cells = [[_text(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    while sum(widths) + 2 * (len(widths) - 1) > _columns() and max(widths) > NARROWEST:
        widths[widths.index(max(widths))] -= 1
    to_right = [
        name in right or (bool(rows) and all(isinstance(row[index], (int, float, type(None))) for row in rows))
        for index, name in enumerate(columns)
    ]

    def lines(row: Sequence[str]) -> list[str]:
        wrapped = [textwrap.wrap(cell, width, break_on_hyphens=False) for cell, width in zip(row, widths, strict=True)]
        return [
            "  ".join(
                f"{part:{'>' if align else '<'}{width}}"
                for part, align, width in zip(parts, to_right, widths, strict=True)
            ).rstrip()
            for parts in zip_longest(*wrapped, fillvalue="")
        ]

    for line in lines(columns):
        click.secho(line, bold=True)
    click.echo("  ".join("─" * width for width in widths))
    for row in cells:
        for line in lines(row):
            click.echo(line)


def show_facts(facts: Sequence[tuple[str, object]]) -> None:
    """`name   value` lines; a value that is wider than the terminal goes on below its own beginning."""
    indent = max(len(name) for name, _ in facts) + 2
    for name, value in facts:
        width = max(_columns() - indent, NARROWEST)
        first, *rest = textwrap.wrap(_text(value), width, break_long_words=False, break_on_hyphens=False) or [""]
        click.echo(f"{name:<{indent}}{first}".rstrip())
        for line in rest:
            click.echo(f"{'':<{indent}}{line}")


def show_error(message: str, hint: str) -> None:
    """`edgekit: MESSAGE` and the hint below it, on stderr; broken between words where a terminal would break them anywhere."""
    for text, first, rest in ((f"edgekit: {message}", "", "         "), (hint, "  ", "  ")):
        for line in text.splitlines():
            width = shutil.get_terminal_size().columns if sys.stderr.isatty() else None
            wrapped = None if width is None else textwrap.wrap(
                line, max(width, 40), initial_indent=first, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
            )  # fmt: skip
            click.echo("\n".join(wrapped) if wrapped else first + line, err=True)


class ProgressLine:
    """One line on stderr: what is being done and for how long; while bytes are sent also a bar and the time left."""

    def __init__(self, progress: Any) -> None:
        self._progress = progress  # rich's; None: silent
        self._stage = ""
        self._task: Any = None

    def __call__(self, stage: str, done: int = 0, total: int = 0) -> None:
        """Shows `stage`, and `done` of `total` bytes if there is a total."""
        if self._progress is None:
            return
        if stage != self._stage:  # a task of its own, so that the time left is guessed from this stage's speed
            if self._task is not None:
                self._progress.remove_task(self._task)
            self._stage, self._task = stage, self._progress.add_task(stage, total=None)
        if total:
            self._progress.update(self._task, completed=done, total=total)

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """While open, the line is away: somebody is asked something."""
        if self._progress is None:
            yield
            return
        self._progress.stop()
        try:
            yield
        finally:
            self._progress.start()


@contextmanager
def showing_progress(quiet: bool) -> Iterator[ProgressLine]:
    """A line to report stages to; silent if stderr is no terminal, or for programs."""
    if quiet or not sys.stderr.isatty():
        yield ProgressLine(None)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        ProgressColumn,
        SpinnerColumn,
        Task,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    class WhileSending(ProgressColumn):
        """Another column, shown only where there is a total."""

        def __init__(self, column: ProgressColumn) -> None:
            super().__init__()
            self.column = column

        def render(self, task: Task) -> Any:
            return "" if task.total is None else self.column.render(task)

    sending = (BarColumn(24), DownloadColumn(binary_units=True), TimeRemainingColumn(compact=True))
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, *map(WhileSending, sending), console=Console(stderr=True), transient=True) as progress:
        yield ProgressLine(progress)


def limits_text(limits: Mapping[str, float]) -> str:
    """What a manifest allows a server to take, for a person."""
    said = [f"at most {size_text(int(limits['rss_bytes']))} of memory"] if "rss_bytes" in limits else []
    said += [f"95 of 100 answers within {limits['p95_ms']:g} ms"] if "p95_ms" in limits else []
    return ", ".join(said)


def size_text(count: int) -> str:
    """A size for a person: 812 B, 25.4 KiB, 3.1 MiB, 58.2 GiB."""
    if count < 1 << 10:
        return f"{count} B"
    for unit, size in (("KiB", 1 << 10), ("MiB", 1 << 20)):
        if count < size << 10:
            return f"{count / size:.1f} {unit}"
    return f"{count / (1 << 30):.1f} GiB"


def _columns() -> int:
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else PIPED_WIDTH


def _text(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    return (
        f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10000 else str(value)
    )


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, Path):
        return str(value)
    return value.tolist()  # a numpy number
