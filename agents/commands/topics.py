"""`driftline topics`: create what is missing, or only say what would be done."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from agents.commands.output import Json, add, document, note, table

if TYPE_CHECKING:
    from agents.config import Settings

DAY_MS = 86_400_000


def topics(
    plan: Annotated[bool, typer.Option("--plan", help="Only say what would be done; works without a broker.")] = False,
    as_json: Json = False,
) -> None:
    """Create the topics that are missing, and list all; a topic with the wrong partition count is an error.

    `--plan` changes nothing. It prints what an administrator has to create where Driftline may not do so itself.
    """
    from agents.bootstrap import kafka_config
    from agents.config import load_settings
    from schemas.topics import CATALOGUE

    settings = load_settings()
    if not plan:
        from streams.kafka.admin import ensure_topics

        ensure_topics(kafka_config(settings), settings.partitions)
    actions = planned(settings)
    listed = [
        {
            "topic": settings.prefix + topic.name,
            "key": topic.key,
            "partitions": topic.partitions(settings.partitions),
            "settings": topic.settings(),
            "purpose": topic.purpose,
            "action": actions.get(settings.prefix + topic.name, "unknown"),
        }
        for topic in CATALOGUE.values()
    ]
    if as_json:
        document({"applied": not plan, "topics": listed})
        return
    if not actions:
        note("no broker answers: whether a topic exists is not known")
    table(
        ["topic", "action", "partitions", "key", "kept", "purpose"],
        [
            (
                settings.prefix + t.name,
                actions.get(settings.prefix + t.name, "?"),
                t.partitions(settings.partitions),
                t.key,
                _kept(t.retention_ms, t.compacted),
                t.purpose,
            )
            for t in CATALOGUE.values()
        ],
    )


def planned(settings: Settings) -> dict[str, str]:
    """What there is to do with each topic (keep, create, alter, refuse); empty where no broker answers."""
    from agents.bootstrap import kafka_config
    from schemas.errors import BrokerUnreachableError
    from streams.kafka.admin import plan_topics

    try:
        found = plan_topics(kafka_config(settings), settings.partitions, timeout_s=5.0)
    except BrokerUnreachableError:
        return {}
    return {topic.name: f"{topic.action}: {topic.reason}" if topic.reason else topic.action for topic in found}


def _kept(retention_ms: int, compacted: bool) -> str:
    if compacted:
        return "latest per key"
    return "for ever" if retention_ms < 0 else f"{retention_ms // DAY_MS} days"


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    add(app, "topics", topics, panel="System")
