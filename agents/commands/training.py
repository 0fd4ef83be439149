"""`driftline runs` and `driftline retrain`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agents.commands.output import Json, add, document, say, table

if TYPE_CHECKING:
    from datetime import datetime

    from streams.kafka.config import KafkaConfig

Model = Annotated[str, typer.Argument(help="Name of a registered model.", show_default=False)]


def runs(model: Model, as_json: Json = False) -> None:
    """List a model's training runs: why they were started and what became of them."""
    from agents.access.acting import acting
    from agents.config import load_settings
    from agents.database.engine import session_factory
    from agents.database.migrate import migrated
    from agents.retraining.jobs import list_runs

    settings = load_settings()
    acting(settings, "viewer", model)
    engine = migrated(settings.database)
    with session_factory(engine, read_only=True)() as session:
        found = list_runs(session, model)
    if as_json:
        document({"model": model, "runs": found})
        return
    table(
        ["run", "status", "trigger", "as of", "rows", "version", "decision", "what became of it"],
        [
            (r.run_id[:8], r.status, r.trigger, r.as_of.date(), r.rows, r.version, r.decision, r.outcome or r.reason)
            for r in found
        ],
        empty=f"{model} has had no training run",
    )


def retrain(
    model: Model,
    *,
    project: Annotated[
        Path | None, typer.Option("--project", help="Train this folder instead of the champion's own project.")
    ] = None,
    reason: Annotated[str, typer.Option("--reason", help="Kept with the run.")] = "asked for by a person",
    as_of: Annotated[
        str, typer.Option("--as-of", help="Use only what was known at this event time; default: how far it has come.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Ask for a successor. The retraining agent trains it, the gate compares it with the champion."""
    import uuid

    from agents.access.acting import acting
    from agents.access.signatures import CommandSigner
    from agents.bootstrap import kafka_config
    from agents.commands.lines import moment
    from agents.config import load_settings
    from agents.gateway.decisions import RegistryDecisions
    from schemas import codec, topics
    from schemas.events import RetrainRequest
    from streams.kafka.producer import EventProducer

    settings = load_settings()
    by = acting(settings, "producer", model)
    kafka = kafka_config(settings)
    registry = RegistryDecisions.of(settings)
    registry.specification(model)  # an unknown model is told here, not in a dead letter
    packed = None
    if project is not None:
        registry.refuse_watched(model, "trained from a project")
        from agents.artifacts import ArtifactStore
        from agents.retraining.packing import pack_project

        packed = pack_project(ArtifactStore.of(settings), project)
    request = RetrainRequest(
        request_id=uuid.uuid4().hex,
        model=model,
        trigger="manual",
        reason=reason,
        as_of=codec.utc(moment(as_of)) if as_of else event_time(kafka),
        requested_by=by.name,
        project=packed,
    )
    headers = codec.cloudevent_headers(request, event_id=request.request_id, source="/driftline/cli", at=request.as_of)
    value, key = codec.encode(request), model.encode()
    headers += CommandSigner.of(settings.home, kafka, topics.RETRAIN_REQUESTS).headers(key, value)
    with EventProducer(kafka) as producer:
        producer.send(topics.RETRAIN_REQUESTS, value, key, headers)
    if as_json:
        document({"request": request})
    else:
        say(
            f"asked for a successor of {model} as of {codec.iso(request.as_of)}; watch it with `driftline runs {model}`"
        )


def event_time(kafka: KafkaConfig) -> datetime:
    """How far event time has come: the newest watermark of the join; the clock where nothing was joined yet.

    Notes
    -----
    Replayed history is older than the clock says. A training window counted back from the clock would hold nothing.
    """
    from datetime import UTC, datetime

    from schemas import codec, topics
    from schemas.events import JournalRecord
    from streams.kafka.reader import newest

    def journal(record: object) -> bool:
        return (getattr(record, "key", None) or b"").startswith(b"join-")

    found = newest(kafka, topics.MONITORING_JOURNAL, wanted=journal).values()
    marks = [codec.decode(record.value or b"", JournalRecord).watermark_ms for record in found]
    now = datetime.now(UTC)
    reached = [mark for mark in marks if mark > 0]
    return min(now, codec.utc(max(reached))) if reached else now


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    add(app, "runs", runs, panel="Models")
    add(app, "retrain", retrain, panel="Models")
