"""How commands speak: one JSON document with `--json`, tables without, errors on standard error.

An error says what, where and what to do on standard error; with `--json`, standard output carries
``{"error": {"type", "what", "where", "remedy"}}`` as its one document. The exit code is the error's own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from schemas.errors import DriftlineError

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]


class Command(TyperCommand):
    """A command whose `DriftlineError`s become a message and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except DriftlineError as error:
            report(error, as_json=bool(ctx.params.get("as_json")))
            raise typer.Exit(error.exit_code) from error


class Commands(TyperGroup):
    """A group that lists its commands in the order they were added."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.commands)


def add(app: typer.Typer, name: str, function: Callable[..., None], *, panel: str) -> None:
    """Add `function` to `app` under `name`, in the help panel `panel`."""
    app.command(name, cls=Command, rich_help_panel=panel)(function)


def report(error: DriftlineError, *, as_json: bool) -> None:
    """Say an error: what, where, remedy."""
    if as_json:
        body = {"type": type(error).__name__, "what": error.what, "where": error.where, "remedy": error.remedy}
        document({"error": body})
    print(f"driftline: {error}", file=sys.stderr)


def document(value: object) -> None:
    """Print the one JSON document of a command. Structs, datetimes and paths are understood; NaN becomes null."""
    import msgspec

    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(value, enc_hook=str), indent=2) + b"\n")
    sys.stdout.flush()


def line(value: object) -> None:
    """Print one JSON line at once."""
    import msgspec

    sys.stdout.buffer.write(msgspec.json.encode(value, enc_hook=str) + b"\n")
    sys.stdout.flush()


def say(text: str) -> None:
    """Print a line for people, on standard output."""
    typer.echo(text)


def note(text: str) -> None:
    """Print a line for people, on standard error: never part of a document."""
    typer.echo(text, err=True)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str = "", empty: str = "") -> None:
    """Print rows as a table; `empty` is said where there is none. None shows as a dash."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    listed = list(rows)
    if not listed and empty:
        say(empty)
        return
    grid = Table(title=title or None, title_justify="left", box=None, header_style="bold", pad_edge=False)
    for position, column in enumerate(columns):
        numeric = bool(listed) and all(isinstance(row[position], int | float | None) for row in listed)
        grid.add_column(column, justify="right" if numeric else "left", overflow="fold", no_wrap=position == 0)
    for row in listed:
        grid.add_row(*(Text("–" if cell is None else str(cell)) for cell in row))
    # A pipe has no width: nothing is folded there, so that `grep` and `awk` see whole lines.
    Console(width=None if sys.stdout.isatty() else 10_000).print(grid)
