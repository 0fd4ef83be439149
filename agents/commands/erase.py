"""`driftline erase`: destroy what is kept of a person."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from agents.commands.output import Json, add, document, note, say


def erase(
    subject: Annotated[
        str,
        typer.Argument(
            help="Whose data: what the column holds that `subject` names in driftline.toml; - reads a line.",
            show_default=False,
        ),
    ],
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would happen.")] = False,
    as_json: Json = False,
) -> None:
    """Destroy a person's key: what was encrypted under it (topics, archive, datasets, dead letters) is gone for good.

    The audit keeps the proof under a pseudonym, and the versions are named that learnt from the person's rows.
    """
    from agents.access.acting import acting
    from agents.config import load_settings
    from agents.subjects.erasure import Eraser

    subject = sys.stdin.readline().rstrip("\n") if subject == "-" else subject
    settings = load_settings()
    by = acting(settings, "admin", "*")
    found = Eraser.of(settings)(subject, by, dry_run=dry_run)
    if as_json:
        document(found)
        return
    if not found.keys:
        say(f"erased before, at {found.at:%Y-%m-%d %H:%M:%S} UTC (audit row {found.epoch})")
    else:
        say("would be erased" if dry_run else f"erased (audit row {found.epoch}, pseudonym {found.subject[:16]}…)")
    trained = [f"{model} {', '.join(map(str, versions))}" for model, versions in found.trained.items()]
    if trained:
        say("versions that learnt from these rows, and keep what they learnt:")
        for line in trained:
            say(f"  {line}")
    for place in found.left:
        note(f"a copy of the key may be left in {place}; run this again")


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    add(app, "erase", erase, panel="Models")
