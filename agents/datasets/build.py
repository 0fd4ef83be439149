"""Datasets: rows chosen by SQL out of the archive as of a moment, or taken from a file; kept by their hash."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from msgspec import UNSET
from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from agents.archiving import dataset as archive
from agents.archiving.logic import ARCHIVED
from agents.archiving.reading import only_reads
from agents.archiving.tables import ArchiveFileRow
from agents.artifacts import ArtifactStore
from agents.database.engine import Sessions
from agents.datasets.catalog import find, load, newest
from agents.datasets.manifest import (
    KIND,
    MANIFEST_KIND,
    Column,
    Manifest,
    Parent,
    SourceFile,
    check_name,
)
from agents.datasets.parents import Source, reached
from agents.datasets.private import SUBJECT, discreet, of_people, packed, readable
from agents.datasets.rows import rows_of
from agents.datasets.statistics import described, moved, oddities
from agents.datasets.tables import DatasetParentRow, DatasetRow
from agents.subjects.keys import SubjectKeys
from agents.subjects.sending import rules_of
from schemas.codec import encode, iso, utc
from schemas.errors import ConfigurationError, ConflictError
from schemas.specification import Specification


class Chosen(NamedTuple):
    """Rows, and where they are from."""

    table: pa.Table
    files: list[SourceFile]
    query: str | None = None
    as_of_ms: int | None = None
    model: str | None = None
    visible: frozenset[str] | None = None
    """Of people's rows: the columns that are not encrypted."""
    parents: Sequence[Parent] = ()


class Wish(NamedTuple):
    """What a dataset is to be.

    Parameters
    ----------
    name : str
    key : sequence of str
        Columns that tell rows apart.
    checks : sequence of str
        SQL conditions over the table ``dataset`` that must hold: ``count(*) > 1000``, ``max(x) < 5``.
    """

    name: str
    actor: str
    key: Sequence[str] = ()
    checks: Sequence[str] = ()
    description: str = ""


def choose(
    session: Session,
    url: str,
    query: str,
    *,
    as_of_ms: int | None = None,
    spec: Specification | None = None,
    keys: SubjectKeys | None = None,
    aggregate: bool = False,
    sources: Sequence[Source] = (),
) -> Chosen:
    """Run a query over the archive as it stood at a moment of event time, and over other datasets.

    Parameters
    ----------
    session : Session
        Its snapshot of the archive's manifest is what is read.
    url : str
        `Settings.archive`.
    query : str
        SQL of DuckDB over the views of `driftline query`.
    as_of_ms : int, optional
        Records with a later event time are not seen, and labels that were not known yet.
    spec : Specification, optional
        Of a model whose predictions joined with their labels are at hand as ``joined``.
    keys : SubjectKeys, optional
        Where that specification names a subject: ``joined`` is opened, and what the query gives of it has to keep the
        column ``_subject``, under whose keys it is kept.
    aggregate : bool
        What the query gives is about nobody: it does not say whose it is, and is kept as it is.
    sources : sequence of Source
        Datasets (`agents.datasets.parents.sources`) that are at hand as views. Where one holds people's rows, the same
        is asked of the query as of ``joined``.

    Raises
    ------
    ConfigurationError
        The query is wrong, gives no table, or gives people's rows that do not say whose they are.
    StateError
        A file of the archive is gone.
    """
    import duckdb

    tables = {}
    private = spec is not None and spec.data.subject is not None and keys is not None
    if spec is not None:
        until = as_of_ms if as_of_ms is not None else _now_ms()
        tables["joined"] = archive.joined(
            session, url, spec, event_time_from_ms=0, as_of_ms=until, keys=keys if private else None
        )
    connection = archive.connect(session, url)
    try:
        if as_of_ms is not None:
            for topic in ARCHIVED:
                _cut(connection, topic, as_of_ms)
        for name, table in (*tables.items(), *((one.parent.view, one.rows) for one in sources)):
            connection.register(name, table)
        table = _answer(connection, query)
    except duckdb.Error as error:
        raise ConfigurationError(
            str(error).strip(),
            where="--sql",
            remedy='`driftline query "DESCRIBE predictions"` lists the columns of a view; --model M adds joined',
        ) from error
    finally:
        connection.close()
    if not table.column_names or len(set(table.column_names)) != len(table.column_names):
        raise ConfigurationError(
            "the columns of the answer do not have names of their own", where="--sql", remedy="name each with AS"
        )
    files = _files(session, query, joined=spec is not None, as_of_ms=as_of_ms)
    moment = reached(sources, None if as_of_ms is None else utc(as_of_ms), alone=not files)
    chosen = Chosen(
        table,
        files,
        query,
        None if moment is None else round(moment.timestamp() * 1000),
        spec.name if spec is not None else None,
        parents=[one.parent for one in sources],
    )
    open_columns = [one.visible for one in sources if one.visible is not None]
    if spec is not None and private:
        open_columns.append(_visible(spec))
    if keys is None or not open_columns or aggregate:
        return chosen
    if SUBJECT not in table.column_names:
        whose = [spec.name] if spec is not None and private else []
        whose += [one.parent.dataset for one in sources if one.visible is not None]
        raise ConfigurationError(
            f"the rows of {', '.join(whose)} are people's, and the answer does not say whose",
            where="--sql",
            remedy=f"add {SUBJECT} to what is selected; with --aggregate where no row is about one person",
        )
    # What is open in one and sealed in another stays sealed.
    return chosen._replace(table=readable(table, keys), visible=frozenset.intersection(*open_columns))


def given(
    session: Session,
    table: pa.Table,
    where: str,
    *,
    spec: Specification | None = None,
    keys: SubjectKeys | None = None,
    aggregate: bool = False,
) -> Chosen:
    """Rows of a file, encrypted where they are people's.

    Parameters
    ----------
    session : Session
    table : pa.Table
    where : str
        The file.
    spec : Specification, optional
        Of the model that the rows are of; says whose they are and what of them is personal.
    keys : SubjectKeys, optional
    aggregate : bool
        No row is about one person.

    Raises
    ------
    ConfigurationError
        Some model here names a subject, and nothing says whether these rows are people's; or they do not say whose.
    """
    if spec is None and not aggregate and (private := sorted(rules_of(session))):
        others = " (others, too)" if private[1:] else ""
        raise ConfigurationError(
            f"{private[0]} names a subject{others}, and nothing says whether these rows are people's",
            where=where,
            remedy="--model M where they are rows of M: they are encrypted if M names a subject; --aggregate where no "
            "row is about one person",
        )
    if spec is None or spec.data.subject is None or aggregate or keys is None:
        return Chosen(table, [], model=None if spec is None else spec.name)
    return Chosen(of_people(table, spec, keys, where), [], model=spec.name, visible=_visible(spec))


def _visible(spec: Specification) -> frozenset[str]:
    return frozenset({SUBJECT, spec.data.id, spec.data.event_time, *spec.open_names})


def create(
    sessions: Sessions, artifacts: ArtifactStore, chosen: Chosen, wish: Wish, keys: SubjectKeys | None = None
) -> Manifest:
    """Check, describe and keep rows as the next version of a dataset; returns its manifest.

    Parameters
    ----------
    keys : SubjectKeys, optional
        Needed for people's rows.

    Raises
    ------
    ConfigurationError
        The name cannot be one, a key column is missing, or a condition is wrong.
    ConflictError
        A condition does not hold, or the rows are those of the newest version. Nothing is kept.
    """
    name, table = check_name(wish.name), chosen.table
    if missing := [column for column in wish.key if column not in table.column_names]:
        raise ConfigurationError(
            f"no column {', '.join(missing)}", where="--key", remedy=f"columns: {', '.join(table.column_names)}"
        )
    _hold(table, wish.checks)
    columns = described(table)
    visible = chosen.visible
    if visible is not None and keys is not None:
        columns = discreet(columns, visible)
        data = artifacts.put(packed(table, visible, keys), KIND)
    else:
        data = artifacts.put(_parquet(table), KIND)
    with sessions.begin() as session:
        before = newest(session, name)
        if before is not None and before.data == data:
            raise ConflictError(
                f"holds these very rows already, as version {before.version}",
                where=f"dataset {name}",
                remedy=f"use {name}@{before.version}",
            )
        drift = {}
        if before is not None:
            known, old = _known(artifacts, before, keys)
            drift = moved(old, table, known)
        manifest = Manifest(
            name=name,
            version=1 if before is None else before.version + 1,
            query=chosen.query,
            as_of=None if chosen.as_of_ms is None else iso(utc(chosen.as_of_ms)),
            model=chosen.model,
            data=data,
            rows=table.num_rows,
            key=list(wish.key),
            columns=columns,
            files=chosen.files,
            checks=list(wish.checks),
            problems=oddities(table, columns, wish.key),
            previous=None if before is None else before.version,
            drift=drift,
            made_with={"pyarrow": pa.__version__},
            sealed=UNSET if visible is None else [name for name in table.column_names if name not in visible],
            parents=list(chosen.parents),
        )
        row = DatasetRow(
            name=name,
            version=manifest.version,
            manifest=artifacts.put(encode(manifest), MANIFEST_KIND),
            data=data,
            rows=manifest.rows,
            description=wish.description,
            actor=wish.actor,
            created_at=datetime.now(UTC),
        )
        session.add(row)
        session.flush()
        parents = {find(session, one.dataset).id for one in chosen.parents}
        session.add_all(DatasetParentRow(child=row.id, parent=id) for id in sorted(parents))
    return manifest


# ------------------------------------------------------------------------------------------------------ inside


def statistics_of(manifest: Manifest, rows: pa.Table) -> Mapping[str, Column]:
    """Statistics of a dataset's columns; of people's rows, of which none are kept, of those that are left."""
    return manifest.columns if manifest.sealed is UNSET else described(rows)


def _known(
    artifacts: ArtifactStore, row: DatasetRow, keys: SubjectKeys | None
) -> tuple[Mapping[str, Column], pa.Table]:
    rows = rows_of(artifacts, row.data, keys)
    return statistics_of(load(artifacts, row.manifest), rows), rows


def _answer(connection: Any, query: str) -> pa.Table:
    """The rows of one statement that gives rows. Raises `ConfigurationError`."""
    relation = connection.sql(only_reads(connection, query))
    if relation is None:
        raise ConfigurationError("the statement gives no rows", where="--sql", remedy="write one SELECT")
    return relation.to_arrow_table()


def _cut(connection: Any, topic: str, as_of_ms: int) -> None:
    """Let a view show only what had happened.

    Views over files get a temporary view of the same name before them; tables at hand are such a view themselves, and
    are replaced.
    """
    import duckdb

    name = topic.replace("-", "_")
    columns = {row[0] for row in connection.execute(f"DESCRIBE {name}").fetchall()}
    if "event_time_ms" in columns:
        condition = f"event_time_ms IS NULL OR event_time_ms <= {as_of_ms:d}"
    else:
        at = next(column for column in ("window_end", "opened_at") if column in columns)
        condition = f"{at} <= make_timestamp({as_of_ms * 1000:d})::TIMESTAMPTZ"
    try:
        connection.execute(f"CREATE TEMP VIEW {name} AS SELECT * FROM memory.main.{name} WHERE {condition}")
    except duckdb.CatalogException:
        rows = connection.sql(f"SELECT * FROM {name} WHERE {condition}").to_arrow_table()
        connection.unregister(name)
        connection.register(name, rows)


def _files(session: Session, query: str, *, joined: bool, as_of_ms: int | None) -> list[SourceFile]:
    """Files that the query could read: of the views that it names."""
    named = [topic for topic in ARCHIVED if re.search(rf"\b{topic.replace('-', '_')}\b", query, re.IGNORECASE)]
    if joined:
        named += [topic for topic in ("predictions", "ground-truth") if topic not in named]
    row = ArchiveFileRow
    statement = select(row).where(row.topic.in_(named)).order_by(row.topic, row.partition, row.first_offset)
    if as_of_ms is not None:
        statement = statement.where(or_(row.timeless > 0, row.min_event_time_ms <= as_of_ms))
    return [
        SourceFile(
            topic=file.topic,
            partition=file.partition,
            first_offset=file.first_offset,
            last_offset=file.last_offset,
            rows=file.rows,
            path=file.path,
            sha256=file.sha256,
        )
        for file in session.scalars(statement)
    ]


def _hold(table: pa.Table, checks: Sequence[str]) -> None:
    """Ask every condition of the rows. Raises `ConfigurationError`, `ConflictError`."""
    import duckdb

    with duckdb.connect(config={"enable_external_access": "false"}) as connection:
        connection.register("dataset", table)
        for check in checks:
            try:
                answer = connection.execute(f"SELECT ({check})::BOOLEAN FROM dataset").fetchall()
            except duckdb.Error as error:
                raise ConfigurationError(
                    str(error).strip(), where=f"--check {check!r}", remedy="write a condition such as count(*) > 1000"
                ) from error
            if not all(row[0] for row in answer):
                raise ConflictError(
                    f"{check} does not hold",
                    where="--check",
                    remedy="nothing was kept; mend the query or the condition",
                )


def _parquet(table: pa.Table) -> bytes:
    # Metadata of the table's maker (pandas' index, DuckDB's types) would be part of the hash.
    sink = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(None), sink, compression="zstd")
    return sink.getvalue()


def _now_ms() -> int:
    return round(datetime.now(UTC).timestamp() * 1000)
