"""`driftline rebuild`: make a version again and compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agents.commands.output import Json, add, document, say


def rebuild(
    model: Annotated[str, typer.Argument(help="Name of a registered model.", show_default=False)],
    version: Annotated[int, typer.Argument(help="Number of a version.", show_default=False)],
    *,
    here: Annotated[
        bool, typer.Option("--here", help="Train in this environment, where it equals the recorded one.")
    ] = False,
    python: Annotated[
        Path | None, typer.Option("--python", help="Interpreter to make the fresh environment with.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a version again from its recorded code, rows, packages and seed, and say what comes out differently.

    Exit code 0 only where the new model answers every recorded row with the same bits. Nothing is registered.
    """
    from agents.access.acting import acting
    from agents.config import load_settings
    from agents.retraining import rebuild as rebuilding

    settings = load_settings()
    acting(settings, "viewer", model)
    found = rebuilding.rebuild(settings, model, version, here=here, python=python)
    if as_json:
        document(found)
    elif found.erased:
        say(f"{model} version {version}: {found.differences[0]}")
    else:
        rows, place = (
            found.predictions["rows"],
            "a fresh environment" if found.environment["fresh"] else "this environment",
        )
        say(f"{model} version {version} in {place}, {found.seconds:g} s:")
        say(f"  predictions: {_same(found.predictions['identical'])} on all {rows} rows")
        say(f"  artifact:    {_same(found.artifact['identical'])} ({found.artifact['rebuilt'][:12]}…)")
        for line in found.differences:
            say(f"  {line}")
        say("reproduced" if found.reproduced else "not reproduced")
    if not found.reproduced:
        raise typer.Exit(1)


def _same(identical: bool) -> str:
    return "identical" if identical else "different"


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    add(app, "rebuild", rebuild, panel="Models")
