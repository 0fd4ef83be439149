"""`driftline flag` and `driftline predictions`: versions found faulty, and what they answered."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agents.commands.output import Json, add, document, note, say, table

if TYPE_CHECKING:
    from agents.archiving.affected import Affected
    from agents.config import Settings
    from agents.registry.flags import Flag

Actor = Annotated[str, typer.Option("--actor", help="Who decides; default: whose key it is, else this account.")]


def flag(
    model: Annotated[str, typer.Argument(help="Name of a registered model; without: list what is flagged.")] = "",
    version: Annotated[int, typer.Argument(help="Number of a version.", min=0)] = 0,
    *,
    faulty: Annotated[bool, typer.Option("--faulty", help="Flag it, and what descends from it.")] = False,
    withdraw: Annotated[bool, typer.Option("--withdraw", help="Withdraw its flag, or clear an inherited one.")] = False,
    dataset: Annotated[str, typer.Option("--dataset", help="With --faulty: versions this table went into.")] = "",
    commit: Annotated[str, typer.Option("--commit", help="With --faulty: versions made from this commit.")] = "",
    run: Annotated[str, typer.Option("--run", help="With --faulty: versions that this training run made.")] = "",
    reason: Annotated[str, typer.Option("--reason", help="Kept in the audit.")] = "",
    actor: Actor = "",
    as_json: Json = False,
) -> None:
    """Flag a version that was found faulty: it and its descendants cannot be promoted, approved or brought back.

    Where one of them is live, an incident is open until it is rolled back. Without --faulty and --withdraw: list.
    """
    from agents.access.acting import acting
    from agents.access.logic import acting_name
    from agents.access.teams import visible
    from agents.config import load_settings
    from agents.gateway.decisions import RegistryDecisions
    from schemas.errors import ConfigurationError

    settings = load_settings()
    things = {kind: sha for kind, sha in (("dataset", dataset), ("commit", commit), ("run", run)) if sha}
    changes = faulty or withdraw
    named = bool(model and version) + len(things)
    if (faulty and withdraw) or (changes and (named != 1 or not reason)) or (things and not faulty):
        raise ConfigurationError(
            "say what is faulty and why",
            where="driftline flag",
            remedy="driftline flag MODEL VERSION --faulty --reason TEXT (or --withdraw), or --dataset, --commit, --run",
        )
    by = acting(settings, "approver" if changes else "viewer", "*" if things else model or None)
    registry = RegistryDecisions.of(settings)
    if not changes:
        found = registry.flags(model or None)
        with registry.readers() as session:
            seen = visible(session, by, {one.model for one in found})
        _list([one for one in found if one.model in seen and version in {0, one.version}], as_json=as_json)
        return
    name = acting_name(by, actor)
    if withdraw:
        done = registry.withdraw_flag(model, version, by=by, actor=name, reason=reason)
    elif things:
        (kind, sha), *_ = things.items()
        done = registry.flag_made_from(kind, sha, by=by, actor=name, reason=reason)
    else:
        done = registry.flag(model, version, by=by, actor=name, reason=reason)
    if as_json:
        document({"withdrawn" if withdraw else "flagged": done})
        return
    for one in done:
        say(f"{one.model} version {one.version}: {'no longer ' if withdraw else ''}{one}")
    if not withdraw:
        note("what they answered: `driftline predictions MODEL --version N`")


def predictions(
    model: Annotated[str, typer.Argument(help="Name of a registered model.", show_default=False)],
    *,
    version: Annotated[int, typer.Option("--version", min=1, help="Which version made them.", show_default=False)],
    out: Annotated[Path | None, typer.Option("--out", help="Write them: a .parquet, .csv or .jsonl file.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=0, help="With --json: list so many; 0: all.")] = 0,
    as_json: Json = False,
) -> None:
    """Say which predictions a version made, exactly: every one that is archived, and how far the archive reaches."""
    from agents.access.acting import acting
    from agents.archiving import affected
    from agents.config import load_settings
    from agents.gateway.decisions import RegistryDecisions

    settings = load_settings()
    acting(settings, "viewer", model)
    registry = RegistryDecisions.of(settings)
    registry.info(model, version)
    with registry.readers() as session:
        found = affected.affected(session, settings.archive, model, version)
        made = affected.rows(session, settings.archive, model, version, 0 if out else limit) if out or as_json else None
    missing = _not_archived(settings, found)
    if out is not None:
        _write(made, out)
    if as_json:
        listed = {} if out is not None or made is None else {"rows": made.to_pylist()}
        import msgspec

        document({**msgspec.structs.asdict(found), "not_archived": missing, "file": out, **listed})
        return
    counted = f"{found.predictions:,} predictions ({found.ids:,} ids, {found.shadow:,} in shadow)"
    say(f"{model} version {version} made {counted}")
    if found.first is not None and found.last is not None:
        say(f"event time {found.first:%Y-%m-%d %H:%M:%S} – {found.last:%Y-%m-%d %H:%M:%S}")
    table(
        ["partition", "predictions", "first offset", "last offset", "archived until"],
        [
            (int(name), part["count"], part["first"], part["last"], found.archived_until.get(name))
            for name, part in found.partitions.items()
        ],
        empty="none is archived",
    )
    if missing is None:
        note("the broker does not answer: what is not archived yet is not known")
    elif missing:
        note(f"{missing:,} records of `predictions` are not archived yet: some may be of this version")
    if out is not None:
        say(f"wrote {out}")


def _list(found: list[Flag], *, as_json: bool) -> None:
    if as_json:
        document({"flags": found})
        return
    table(
        ["model", "version", "because of", "reason", "by", "at"],
        [(f.model, f.version, f.source, f.reason, f.actor, f"{f.at:%Y-%m-%d %H:%M}") for f in found],
        empty="nothing is flagged",
    )


def _not_archived(settings: Settings, found: Affected) -> int | None:
    """Records of `predictions` behind the archive; None where the broker does not say."""
    from agents.bootstrap import kafka_config
    from schemas.errors import DriftlineError
    from schemas.topics import PREDICTIONS
    from streams.kafka.admin import end_offsets

    try:
        ends = end_offsets(kafka_config(settings), [PREDICTIONS])
    except DriftlineError:
        return None
    return sum(max(0, end - found.archived_until.get(str(partition), 0)) for (_, partition), end in ends.items())


def _write(rows: Any, path: Path) -> None:
    """Write a table in the form that its name says. Raises `ConfigurationError`."""
    from schemas.errors import ConfigurationError

    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        pq.write_table(rows, path)
    elif path.suffix == ".csv":
        from pyarrow import csv

        csv.write_csv(rows, path)
    elif path.suffix in {".jsonl", ".ndjson"}:
        import msgspec

        with path.open("wb") as file:
            for batch in rows.to_batches():
                file.writelines(msgspec.json.encode(row) + b"\n" for row in batch.to_pylist())
    else:
        raise ConfigurationError(f"{path.name}: what form is that?", where="--out", remedy=".parquet, .csv or .jsonl")


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    add(app, "flag", flag, panel="Models")
    add(app, "predictions", predictions, panel="Traffic")
