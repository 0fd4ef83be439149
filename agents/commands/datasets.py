"""`driftline datasets`: rows that are named, versioned and never change."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agents.commands.output import Command, Commands, Json, document, say, table

if TYPE_CHECKING:
    import pyarrow as pa

    from agents.access.logic import Principal, Role
    from agents.artifacts import ArtifactStore
    from agents.config import Settings
    from agents.database.engine import Sessions
    from agents.datasets.build import Chosen
    from agents.datasets.manifest import Manifest

Reference = Annotated[str, typer.Argument(help="NAME (the newest) or NAME@VERSION.", show_default=False)]


def overview(context: typer.Context, as_json: Json = False) -> None:
    """Datasets: rows that are named, versioned and never change. Without a command: list them."""
    if context.invoked_subcommand is not None:
        return
    from agents.datasets.catalog import listed

    _allowed("viewer")
    _, sessions, _ = _places()
    with sessions() as session:
        rows = listed(session)
    if as_json:
        document({"datasets": [_row(row) for row in rows]})
        return
    table(
        ["dataset", "versions", "rows", "made", "by", "description"],
        [
            (row.name, row.version, row.rows, f"{row.created_at:%Y-%m-%d %H:%M}", row.actor, row.description)
            for row in rows
        ],
        empty='no dataset: `driftline datasets create NAME --sql "SELECT …"`',
    )


def create(
    name: Annotated[str, typer.Argument(help="What to call it.", show_default=False)],
    *,
    sql: Annotated[str, typer.Option("--sql", help="SQL of DuckDB over the archive, as in `driftline query`.")] = "",
    data: Annotated[Path | None, typer.Option("--data", help="Instead: a Parquet or CSV file.")] = None,
    as_of: Annotated[str, typer.Option("--as-of", help="See only what had happened at this event time.")] = "",
    model: Annotated[
        str,
        typer.Option(
            "--model", help="With --sql add the view joined, this model's rows; with --data say they are its."
        ),
    ] = "",
    source: Annotated[
        list[str] | None,
        typer.Option("--from", help="Add a view of another dataset: NAME, NAME@3 or view=NAME@3; repeatable."),
    ] = None,
    key: Annotated[list[str] | None, typer.Option("--key", help="Column that tells rows apart; repeatable.")] = None,
    check: Annotated[
        list[str] | None, typer.Option("--check", help="Condition that must hold, as 'count(*) > 1000'; repeatable.")
    ] = None,
    aggregate: Annotated[
        bool, typer.Option("--aggregate", help="No row is about one person: keep rows that do not say whose they are.")
    ] = False,
    description: Annotated[str, typer.Option("--description", help="What it is for.")] = "",
    as_json: Json = False,
) -> None:
    """Keep the rows of a query (or a file) as the next version of a dataset."""
    from agents.access.logic import acting_name
    from agents.datasets.build import Wish
    from agents.datasets.build import create as make
    from agents.subjects.keys import SubjectKeys
    from schemas.errors import ConfigurationError

    if bool(sql) == (data is not None):
        raise ConfigurationError(
            "rows come from a query or from a file", where="driftline datasets create", remedy="give --sql or --data"
        )
    if data is not None and (as_of or source):
        raise ConfigurationError(
            "--as-of and --from go with --sql", where="driftline datasets create", remedy="leave them out"
        )
    by = _allowed("producer")
    if data is not None:
        chosen = _of_file(data, model, aggregate=aggregate)
    else:
        chosen = _of_query(sql, as_of, model, source or (), aggregate=aggregate)
    settings, sessions, artifacts = _places()
    wish = Wish(name, acting_name(by, ""), tuple(key or ()), tuple(check or ()), description)
    manifest = make(sessions, artifacts, chosen, wish, SubjectKeys.of(settings))
    if as_json:
        document(manifest)
        return
    say(f"{manifest.name}@{manifest.version}: {manifest.rows} rows, {len(manifest.columns)} columns")
    for problem in manifest.problems:
        say(f"note: {problem}")
    for column, found in manifest.drift.items():
        if found.moved:
            far = "no value is left" if found.psi is None else f"PSI {found.psi:.3f}, p {found.p_value:.2g}"
            say(f"{column} moved since version {manifest.previous}: {far}")


def show(reference: Reference, *, as_json: Json = False) -> None:
    """What a dataset is made of and what its columns are like."""
    import msgspec

    from agents.datasets.rows import rows_of
    from agents.subjects.keys import SubjectKeys
    from agents.subjects.rows import Losses

    manifest, losses = _manifest(reference), Losses()
    if manifest.sealed is not msgspec.UNSET:
        settings, _, artifacts = _places()
        rows_of(artifacts, manifest.data, SubjectKeys.of(settings), losses)
    if as_json:
        told = msgspec.to_builtins(manifest)
        document(told if manifest.sealed is msgspec.UNSET else {**told, "erased": losses.erased})
        return
    say(f"{manifest.name}@{manifest.version}: {manifest.rows} rows, SHA-256 {manifest.data}")
    if losses.erased:
        say(f"{losses.erased} rows cannot be read any more: they were erased")
    if manifest.query:
        say(manifest.query)
    table(
        ["column", "type", "empty", "distinct", "from", "to", "mean"],
        [
            (name, c.type, c.nulls, c.distinct, c.least, c.most, "" if c.mean is None else f"{c.mean:.6g}")
            for name, c in manifest.columns.items()
        ],
    )
    for problem in manifest.problems:
        say(f"note: {problem}")
    for parent in manifest.parents:
        say(f"{parent.rows} rows of {parent.dataset} as {parent.view}")
    say(f"{len(manifest.files)} files of the archive")


def diff(
    a: Annotated[str, typer.Argument(help="The older: NAME or NAME@VERSION.", show_default=False)],
    b: Annotated[str, typer.Argument(help="The newer: NAME or NAME@VERSION.", show_default=False)],
    *,
    as_json: Json = False,
) -> None:
    """What differs between two datasets: schema, rows, how far columns moved, files."""
    from agents.datasets.diff import difference
    from agents.datasets.rows import rows_of
    from agents.subjects.keys import SubjectKeys

    settings, _, artifacts = _places()
    one, other = _manifest(a), _manifest(b)
    keys = SubjectKeys.of(settings)
    found = difference(one, other, rows_of(artifacts, one.data, keys), rows_of(artifacts, other.data, keys))
    if as_json:
        document(found)
        return
    if found["equal"]:
        say(f"{found['a']} and {found['b']} hold the same rows")
        return
    rows, schema = found["rows"], found["schema"]
    changed = f", {rows['changed']} changed" if "changed" in rows else ""
    say(f"rows: {rows['a']} → {rows['b']}: {rows['added']} added, {rows['removed']} removed{changed}")
    for word in ("added", "removed"):
        if schema[word]:
            say(f"columns {word}: {', '.join(schema[word])}")
    for name, (old, new) in schema["changed"].items():
        say(f"{name}: {old} → {new}")
    table(
        ["column", "empty", "distinct", "mean", "PSI", "JS", "KS", "Wasserstein", "p", "moved"],
        [
            (
                *(name, _both(entry["nulls"]), _both(entry["distinct"]), _both(entry.get("mean", ["", ""]))),
                *(_short(entry.get(value)) for value in ("psi", "jensen_shannon", "ks", "wasserstein", "p_value")),
                "yes" if entry.get("moved") else "",
            )
            for name, entry in found["columns"].items()
        ],
    )
    files = found["files"]
    say(f"files: {len(files['added'])} added, {len(files['removed'])} removed, {files['shared']} shared")


def write(
    reference: Reference,
    file: Annotated[Path, typer.Argument(help="Where to: .parquet or .csv.", show_default=False)],
    *,
    as_json: Json = False,
) -> None:
    """Write a dataset's rows to a file."""
    import pyarrow.csv
    import pyarrow.parquet

    from agents.datasets.rows import rows_of
    from agents.subjects.keys import SubjectKeys
    from agents.subjects.rows import Losses
    from schemas.errors import ConfigurationError

    if file.suffix not in {".parquet", ".csv"}:
        raise ConfigurationError(f"{file.name} says no format", where=str(file), remedy="name it .parquet or .csv")
    settings, _, artifacts = _places()
    manifest, losses = _manifest(reference), Losses()
    rows = rows_of(artifacts, manifest.data, SubjectKeys.of(settings), losses)
    try:
        if file.suffix == ".csv":
            pyarrow.csv.write_csv(rows, file)
        else:
            pyarrow.parquet.write_table(rows, file, compression="zstd")
    except OSError as error:
        raise ConfigurationError(f"cannot be written: {error}", where=str(file)) from error
    told = {"dataset": f"{manifest.name}@{manifest.version}", "rows": rows.num_rows, "file": str(file)}
    if losses.erased:
        told["erased"] = losses.erased
    without = f", without {losses.erased} that were erased" if losses.erased else ""
    document(told) if as_json else say(f"{rows.num_rows} rows{without}")


def _places() -> tuple[Settings, Sessions, ArtifactStore]:
    from agents.artifacts import ArtifactStore
    from agents.config import load_settings
    from agents.database.engine import session_factory
    from agents.database.migrate import migrated

    settings = load_settings()
    engine = migrated(settings.database)
    return settings, session_factory(engine), ArtifactStore.of(settings)


def _allowed(role: Role) -> Principal:
    """Who acts, once that one may: rows of every model may be in a dataset. Raises `ForbiddenError` and the like."""
    from agents.access.acting import acting
    from agents.config import load_settings

    return acting(load_settings(), role, "*")


def _manifest(reference: str) -> Manifest:
    from agents.datasets.catalog import find, load

    _allowed("viewer")
    _, sessions, artifacts = _places()
    with sessions() as session:
        return load(artifacts, find(session, reference).manifest)


def _of_query(sql: str, as_of: str, model: str, references: Sequence[str], *, aggregate: bool) -> Chosen:
    from agents.commands.lines import moment
    from agents.datasets.build import choose
    from agents.datasets.parents import sources
    from agents.registry.service import Registry
    from agents.subjects.keys import SubjectKeys

    settings, sessions, artifacts = _places()
    with sessions() as session:
        spec = Registry(sessions, artifacts).specification(session, model) if model else None
        until = moment(as_of) if as_of else None
        keys = SubjectKeys.of(settings)
        return choose(
            session,
            settings.archive,
            sql,
            as_of_ms=until,
            spec=spec,
            keys=keys,
            aggregate=aggregate,
            sources=sources(session, artifacts, references, keys),
        )


def _of_file(path: Path, model: str, *, aggregate: bool) -> Chosen:
    from agents.datasets.build import given
    from agents.registry.service import Registry
    from agents.subjects.keys import SubjectKeys

    rows = _read(path)
    settings, sessions, artifacts = _places()
    with sessions() as session:
        spec = Registry(sessions, artifacts).specification(session, model) if model else None
        return given(session, rows, str(path), spec=spec, keys=SubjectKeys.of(settings), aggregate=aggregate)


def _read(path: Path) -> pa.Table:
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    from schemas.errors import ConfigurationError

    try:
        if path.suffix in {".parquet", ".pq"}:
            return pyarrow.parquet.read_table(path)
        if path.suffix == ".csv" or path.name.endswith(".csv.gz"):
            return pyarrow.csv.read_csv(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise ConfigurationError(f"cannot be read: {error}", where=str(path)) from error
    raise ConfigurationError(
        f"{path.suffix or 'a file without suffix'} is not accepted",
        where=str(path),
        remedy="accepted: .parquet, .csv, .csv.gz",
    )


def _row(row: Any) -> dict[str, Any]:
    names = ("name", "version", "rows", "data", "manifest", "actor", "created_at", "description")
    return {name: getattr(row, name) for name in names}


def _both(pair: Any) -> str:
    return " → ".join(dict.fromkeys(_short(value) for value in pair))


def _short(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(cls=Commands, invoke_without_command=True, callback=overview)
    for function in (create, show, diff, write):
        group.command(function.__name__, cls=Command)(function)
    app.add_typer(group, name="datasets", rich_help_panel="Traffic")
