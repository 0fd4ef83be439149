"""`driftline audit`: whether the record of decisions holds, and the record itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agents.commands.output import Command, Json, document, note, say

if TYPE_CHECKING:
    from agents.config import Settings
    from agents.registry.audit import AuditVerdict, Published


def verify(
    *,
    file: Annotated[Path | None, typer.Option("--file", help="An export, verified by itself.")] = None,
    published: Annotated[
        bool | None,
        typer.Option(
            "--published/--unpublished",
            help="Compare with the topic registry-events, or do not; default: where the broker answers.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Find any edited, removed, inserted or reordered row of the audit; exit code 1 where there is one.

    Everything that is asked every day is compared with it, too: versions, aliases, approvals, reviews, tags, flags,
    erasures.
    """
    if file is not None:
        _tell(_of_file(file), "the export", as_json=as_json)
        return
    from agents.access.acting import acting
    from agents.config import load_settings
    from agents.database.engine import session_factory
    from agents.database.migrate import migrated
    from agents.registry.agreement import compare_tables
    from agents.registry.audit import compare_published, verify_audit

    settings = load_settings()
    acting(settings, "viewer", "*")
    # The topic first: what is decided meanwhile is in the database before it is on the topic.
    events = None if published is False else _published(settings, needed=published is True)
    engine = migrated(settings.database)
    with session_factory(engine, read_only=True)() as session:
        verdict = compare_tables(session, verify_audit(session))
        if events is not None:
            verdict = compare_published(session, verdict, events)
    _tell(verdict, "the audit", as_json=as_json)


def export(
    *,
    model: Annotated[str, typer.Option("--model", help="Only rows of this model.")] = "",
    since: Annotated[str, typer.Option("--from", help="Only rows recorded from this time on.")] = "",
    until: Annotated[str, typer.Option("--to", help="Only rows recorded before this time.")] = "",
    output: Annotated[Path | None, typer.Option("--output", help="File to write; default: standard output.")] = None,
) -> None:
    """Write the audit as JSON lines, which `audit verify --file` can check without this installation."""
    import sys

    from agents.access.acting import acting
    from agents.commands.lines import moment
    from agents.config import load_settings
    from agents.database.engine import session_factory
    from agents.database.migrate import migrated
    from agents.registry.audit import exported
    from schemas.codec import utc
    from schemas.errors import ConfigurationError

    bounds = [utc(moment(text)) if text else None for text in (since, until)]
    settings = load_settings()
    acting(settings, "viewer", model or "*")
    engine = migrated(settings.database)
    count = 0
    try:
        target = sys.stdout.buffer if output is None else output.open("wb")
    except OSError as error:
        raise ConfigurationError(f"cannot be written: {error.strerror}", where=str(output)) from error
    try:
        with session_factory(engine, read_only=True)() as session:
            for line in exported(session, model=model or None, since=bounds[0], until=bounds[1]):
                target.write(line + b"\n")
                count += 1
    finally:
        target.flush() if output is None else target.close()
    note(f"{count} rows")


def _of_file(file: Path) -> AuditVerdict:
    from agents.registry.audit import verify_export
    from schemas.errors import ConfigurationError

    try:
        with file.open("rb") as lines:
            return verify_export(lines)
    except OSError as error:
        raise ConfigurationError(
            f"cannot be read: {error.strerror}",
            where=str(file),
            remedy="`driftline audit export --output FILE` writes one",
        ) from error


def _published(settings: Settings, *, needed: bool) -> list[Published] | None:
    """Events on the topic; None where the broker cannot be reached and need not be."""
    import msgspec

    from agents.bootstrap import kafka_config
    from agents.database.outbox import AUDIT_HASH
    from agents.registry.audit import Published
    from schemas.codec import decode
    from schemas.errors import BrokerError, TopicError
    from schemas.topics import REGISTRY_EVENTS
    from streams.kafka.reader import read_all

    class Numbered(msgspec.Struct):
        epoch: int

    try:
        records = read_all(kafka_config(settings), REGISTRY_EVENTS, timeout_s=30.0)
    except (BrokerError, TopicError) as error:
        if needed:
            raise
        note(f"not compared with what was published: {error}")
        return None
    found = []
    for record in records:
        value = record.value or b""
        sent = dict(record.headers or ()).get(AUDIT_HASH)
        found.append(Published(decode(value, Numbered).epoch, value, sent.decode() if sent else None))
    return found


def _tell(verdict: AuditVerdict, what: str, *, as_json: bool) -> None:
    if as_json:
        document({"holds": verdict.problem is None, "rows": verdict.rows, "head": verdict.head,
                  "problem": verdict.problem, "published": verdict.published})  # fmt: skip
    elif verdict.problem is None:
        say(f"{what} holds: {verdict.rows} rows, head {verdict.head}")
        if verdict.published is not None:
            say(f"{verdict.published} published events say the same")
    else:
        say(f"{what} does not hold: {verdict.problem}; {verdict.rows} rows do")
    if verdict.problem is not None:
        raise typer.Exit(1)


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(no_args_is_help=True, help="The record of every decision: verified, exported.")
    for function in (verify, export):
        group.command(function.__name__, cls=Command)(function)
    app.add_typer(group, name="audit", rich_help_panel="Models")
