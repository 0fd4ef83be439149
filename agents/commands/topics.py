"""`driftline topics`: create what is missing, or only say what would be done."""

from __future__ import annotations

from typing import Annotated

import typer

from agents.commands.output import Json, add, document, table

DAY_MS = 86_400_000


def topics(
    plan: Annotated[
        bool, typer.Option("--plan", help="Only list the topics; needs no broker, changes nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Create the topics that are missing and list them all; a topic of the wrong shape is an error.

    `--plan` prints what an administrator has to create where Driftline may not do so itself.
    """
    from agents.config import load_settings
    from schemas.topics import CATALOGUE

    settings = load_settings()
    if not plan:
        from agents.bootstrap import kafka_config
        from streams.kafka.admin import ensure_topics

        ensure_topics(kafka_config(settings), settings.partitions)
    listed = [
        {
            "topic": settings.prefix + topic.name,
            "key": topic.key,
            "partitions": topic.partitions(settings.partitions),
            "settings": topic.settings(),
            "purpose": topic.purpose,
        }
        for topic in CATALOGUE.values()
    ]
    if as_json:
        document({"applied": not plan, "topics": listed})
        return
    table(
        ["topic", "partitions", "key", "kept", "purpose"],
        [
            (
                settings.prefix + t.name,
                t.partitions(settings.partitions),
                t.key,
                _kept(t.retention_ms, t.compacted),
                t.purpose,
            )
            for t in CATALOGUE.values()
        ],
    )


def _kept(retention_ms: int, compacted: bool) -> str:
    if compacted:
        return "latest per key"
    return "for ever" if retention_ms < 0 else f"{retention_ms // DAY_MS} days"


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    add(app, "topics", topics, panel="System")
