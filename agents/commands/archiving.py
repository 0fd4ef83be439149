"""`driftline archiving`: fewer and larger files, what is old let go, and whether everything is there."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agents.commands.output import Command, Commands, Json, document, say, table

if TYPE_CHECKING:
    from agents.config import Settings
    from agents.database.engine import Sessions

DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]


def compact(dry_run: DryRun = False, as_json: Json = False) -> None:
    """Merge small files now. The archiving agent does so by itself, sixteen at a time; this takes every pair."""
    from agents.access.acting import acting
    from agents.archiving import manifest
    from agents.archiving.compaction import LARGEST, Compactor, choose_all
    from agents.archiving.files import open_files

    settings, sessions, readers = _places()
    acting(settings, "admin", "*")
    files = open_files(settings.archive)
    worker = Compactor(files, sessions, readers)
    with readers() as session:
        held = manifest.held(session)
    done: list[dict[str, Any]] = []
    for partition, claim in sorted(held.items()):
        while True:
            with readers() as session:
                listed = manifest.files_of(session, *partition)
            parts = choose_all(listed, LARGEST)
            if not parts:
                break
            if not dry_run and not worker.merge(partition, claim, parts, secrets.token_hex(4)):
                break
            rows = sum(part.rows for part in parts)
            done.append({"topic": partition[0], "partition": partition[1], "files": len(parts), "rows": rows})
            if dry_run:
                break
    files.close()
    if as_json:
        document({"merged": done, "dry_run": dry_run})
        return
    table(
        ["topic", "partition", "files", "rows"],
        [tuple(one.values()) for one in done],
        empty="nothing is worth merging",
    )


def expire(
    dry_run: DryRun = False,
    force: Annotated[
        bool, typer.Option("--force", help="Let go what versions need, too: they cannot be rebuilt.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Let files go whose retention is over, as the archiving agent does; what versions were made from stays."""
    import time

    from agents.access.acting import acting
    from agents.archiving.compaction import Compactor
    from agents.archiving.files import open_files
    from agents.archiving.retention import expire as let_go
    from agents.archiving.retention import plan, told
    from schemas.errors import ConfigurationError

    settings, sessions, readers = _places()
    by = acting(settings, "admin", "*")
    retention = settings.retention
    if not retention.keep_ms:
        raise ConfigurationError(
            "no retention is set: everything is kept",
            where="driftline archiving expire",
            remedy='set DRIFTLINE_ARCHIVE_RETENTION=400d, or [archive] retention = "400d" in config.toml',
        )
    with readers() as session:
        found = plan(session, retention, time.time_ns() // 1_000_000, force=force)
    if found.due and not dry_run:
        with sessions.begin() as session:
            let_go(session, found.due, by, reason="retention, although versions needed them" if force else "retention")
    if not dry_run:
        files = open_files(settings.archive)
        worker = Compactor(files, sessions, readers)
        for partition in sorted({(file.topic, file.partition) for file in [*found.due, *found.held]}):
            worker.clear(partition)
        files.close()
    said = told(found) | {"dry_run": dry_run}
    if as_json:
        document(said)
        return
    word = "would go" if dry_run else "let go"
    for topic, sums in said["expired"].items():
        say(f"{topic}: {sums['files']} files with {sums['rows']} rows {word}")
    for topic, sums in said["held"].items():
        say(f"{topic}: {sums['files']} files with {sums['rows']} rows are kept for {', '.join(found.by)} …")
    if not found.due and not found.held:
        say("nothing is older than its retention")


def verify(
    quick: Annotated[bool, typer.Option("--quick", help="Existence and size only.")] = False, as_json: Json = False
) -> None:
    """Compare every file with the manifest: bytes by SHA-256, rows, offsets. Exit code 1 where something is wrong."""
    from agents.access.acting import acting
    from agents.archiving.checking import verify as check
    from agents.archiving.files import open_files

    settings, _, readers = _places()
    acting(settings, "viewer", "*")
    files = open_files(settings.archive)
    with readers() as session:
        found = check(session, files, quick=quick)
    files.close()
    if as_json:
        document(found)
    else:
        for problem in found.problems:
            say(f"{problem.path}: {problem.what}: {problem.detail}")
        say(f"{found.files} files, {found.rows} rows, {found.bytes} bytes: {len(found.problems)} problems")
        if found.unnamed:
            say(f"{found.unnamed} files are not in the manifest: nobody reads them, the agent removes them")
    if found.problems:
        raise typer.Exit(1)


def _places() -> tuple[Settings, Sessions, Sessions]:
    from agents.config import load_settings
    from agents.database.engine import session_factory
    from agents.database.migrate import migrated

    settings = load_settings()
    engine = migrated(settings.database)
    return settings, session_factory(engine), session_factory(engine, read_only=True)


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(cls=Commands, help="The archive's files: merge, let go, verify.", no_args_is_help=True)
    for function in (compact, expire, verify):
        group.command(function.__name__, cls=Command)(function)
    app.add_typer(group, name="archiving", rich_help_panel="Traffic")
