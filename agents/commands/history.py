"""`driftline alerts` and `driftline query`: what happened."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from agents.commands.output import Json, add, document, note, say, table


def alerts(
    *,
    model: Annotated[
        str, typer.Option("--model", help="Only incidents of this model, and those of many that name it.")
    ] = "",
    only_open: Annotated[bool, typer.Option("--open", help="Leave out what is closed.")] = False,
    as_json: Json = False,
) -> None:
    """List incidents with their explanations: open ones first, newest first. `driftline subscribe` follows them."""
    from agents.access.acting import acting
    from agents.bootstrap import kafka_config
    from agents.config import load_settings
    from agents.gateway.formats import segment
    from agents.gateway.logic import incident_rows, radius_names
    from agents.incident_lines import facts
    from schemas import codec, topics
    from schemas.events import FLEET, Alert
    from streams.kafka.reader import read_all

    settings = load_settings()
    acting(settings, "viewer", model or "*")
    records = read_all(kafka_config(settings), topics.ALERTS)
    found = [
        alert
        for alert in incident_rows(codec.decode(record.value or b"", Alert) for record in records)
        if (not model or alert.model == model or model in radius_names(alert))
        and not (only_open and alert.status == "closed")
    ]
    if as_json:
        document({"incidents": found})
        return
    if not found:
        say("no incident")
    for alert in found:
        until = f" – {alert.closed_at:%Y-%m-%d %H:%M}" if alert.closed_at else ""
        state = "closed" if alert.status == "closed" else alert.severity
        who = "many models" if alert.model == FLEET else f"{alert.model} {alert.version}"
        say(f"[{state}] {who}: {alert.title}")
        say(f"    {alert.kind}, {alert.subject}, {segment(alert.segment)}, {alert.opened_at:%Y-%m-%d %H:%M}{until}")
        say(f"    {alert.explanation}")
        for line in facts(alert.evidence):
            say(f"    {line}")
        say("")


def query(
    sql: Annotated[str, typer.Argument(help="SQL of DuckDB.", show_default=False)],
    *,
    limit: Annotated[int, typer.Option("--limit", min=0, help="Rows at most; 0: all.")] = 1000,
    as_json: Json = False,
) -> None:
    """Ask the archive: views predictions, ground_truth, quality_metrics, drift_metrics and alerts.

    One statement that reads. Only files of the manifest are read, nothing can be written, and neither other files
    nor the network can be reached from SQL.
    """
    import duckdb

    from agents.access.acting import acting
    from agents.archiving.dataset import connect
    from agents.archiving.reading import only_reads
    from agents.config import load_settings
    from agents.database.engine import session_factory
    from agents.database.migrate import migrated
    from agents.subjects.keys import SubjectKeys
    from schemas.errors import ConfigurationError

    settings = load_settings()
    acting(settings, "viewer", "*")  # SQL reaches every model
    engine = migrated(settings.database)
    with session_factory(engine, read_only=True)() as session:
        connection = connect(session, settings.archive, SubjectKeys.of(settings))
    try:
        answer = connection.execute(only_reads(connection, sql))
        columns = [column[0] for column in answer.description or []]
        rows = answer.fetchmany(limit + 1) if limit else answer.fetchall()
    except duckdb.Error as error:
        raise ConfigurationError(
            str(error).strip(),
            where="SQL",
            remedy="views: predictions, ground_truth, quality_metrics, drift_metrics, alerts; "
            '`driftline query "DESCRIBE predictions"` lists the columns of one',
        ) from error
    finally:
        connection.close()
    truncated = bool(limit) and len(rows) > limit
    rows = rows[:limit] if truncated else rows
    if as_json:
        document({"columns": columns, "rows": [list(map(_plain, row)) for row in rows], "truncated": truncated})
    else:
        table(columns, rows, empty="no rows")
    if truncated:
        note(f"only the first {limit} rows; --limit 0 gives all")


def _plain(value: Any) -> Any:
    """A value of DuckDB as JSON has it."""
    return value.hex() if isinstance(value, bytes) else value


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    add(app, "alerts", alerts, panel="Traffic")
    add(app, "query", query, panel="Traffic")
