"""`driftline live` and `driftline why`: which version was live at a moment, and why a version came and went."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from agents.commands.output import Json, add, document, say

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agents.provenance.words import Section

AnyModel = Annotated[str, typer.Argument(help="Name of a registered model.", show_default=False)]


def live(
    model: AnyModel,
    *,
    at: Annotated[str, typer.Option("--at", help="Moment, ISO 8601; default: now.")] = "",
    as_json: Json = False,
) -> None:
    """Say which version was live at a moment, since when and until when, who let it, and what it was made of.

    By the system's clock (who was champion) and by event time (who answered, as far as the archive has it).
    """
    from agents.access.acting import acting
    from agents.commands.lines import moment
    from agents.config import load_settings
    from agents.provenance import words
    from agents.provenance.answers import Provenance
    from schemas.codec import utc

    settings = load_settings()
    acting(settings, "viewer", model)
    found = Provenance.of(settings).live(model, utc(moment(at)) if at else None)
    if as_json:
        document(found)
    else:
        _tell(words.live(found))


def why(
    model: AnyModel,
    version: Annotated[int, typer.Argument(help="Number of a version.", show_default=False)],
    *,
    as_json: Json = False,
) -> None:
    """Say why a version came, what was decided about it with which numbers, how good it was, and why it went."""
    from agents.access.acting import acting
    from agents.config import load_settings
    from agents.provenance import words
    from agents.provenance.answers import Provenance

    settings = load_settings()
    acting(settings, "viewer", model)
    found = Provenance.of(settings).why(model, version)
    if as_json:
        document(found)
    else:
        _tell(words.why(found))


def _tell(sections: Iterable[Section]) -> None:
    for number, section in enumerate(sections):
        if number:
            say("")
        say(section.title)
        width = max(len(label) for label, _ in section.lines)
        for label, text in section.lines:
            say(f"  {label:<{width}}  {text}")


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    add(app, "live", live, panel="Models")
    add(app, "why", why, panel="Models")
