"""How results are shown: JSON for programs, tables for people, progress on stderr and only on a terminal."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click


def json_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--json`, the same on every command that prints a result."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")(function)


def show_json(value: Any) -> None:
    """Prints any result; dataclasses and paths included."""
    click.echo(json.dumps(value, default=_plain, indent=1))


def show_table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, title: str = "") -> None:
    """A table on stdout as wide as the terminal; numbers to the right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[index], (int, float)) for row in rows)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_text(cell) for cell in row))
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, width=max(console.width, 160))
    console.print(table)


def show_facts(facts: Sequence[tuple[str, object]]) -> None:
    """`name   value` lines."""
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        click.echo(f"{name:<{width}}  {_text(value)}")


@contextmanager
def showing_progress(quiet: bool) -> Iterator[Callable[..., None]]:
    """A function (stage, done=0, total=0) that draws a spinner or a bar of bytes on stderr, if that is a terminal."""
    if quiet or not sys.stderr.isatty():
        yield lambda stage, done=0, total=0: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(30),
        DownloadColumn(),
        TimeRemainingColumn(),
    )
    waiting = (SpinnerColumn(), TextColumn("{task.description}"))
    stages: dict[str, Any] = {}
    console = Console(stderr=True)
    with (
        Progress(*waiting, console=console, transient=True) as spinner,
        Progress(*columns, console=console, transient=True, auto_refresh=False) as bar,
    ):
        spinning = spinner.add_task("")

        def update(stage: str, done: int = 0, total: int = 0) -> None:
            spinner.update(spinning, description=stage)
            if total:
                task = stages.setdefault(stage, None) or stages.update({stage: bar.add_task(stage)}) or stages[stage]
                bar.update(task, completed=done, total=total, refresh=True)

        yield update


def mebibytes(count: int) -> str:
    """A size for a person: 25.4 KiB, 3.1 MiB."""
    if count < 1 << 20:
        return f"{count / 1024:.1f} KiB"
    return f"{count / (1 << 20):.1f} MiB"


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
