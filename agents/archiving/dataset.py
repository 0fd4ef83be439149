"""Reading the archive: predictions joined with their labels, and everything as SQL views.

Only files of the manifest count.
The join follows the rules of `streams.join`, in SQL: a parity test holds the two equal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pyarrow as pa
from sqlalchemy import ColumnElement, or_, select
from sqlalchemy.orm import Session

from agents.archiving import manifest
from agents.archiving.files import LocalFiles, RemoteFiles, missing_file, open_files
from agents.archiving.logic import ARCHIVED, SCHEMAS
from agents.archiving.manifest import TopicPartition
from agents.archiving.reading import locked
from agents.archiving.tables import ArchiveFileRow
from agents.subjects.keys import SubjectKeys
from agents.subjects.reading import teach
from agents.subjects.reading import view as private_view
from agents.subjects.sealing import ERASED, SUBJECT
from schemas.specification import Specification
from schemas.topics import GROUND_TRUTH, PREDICTIONS, QUALITY_METRICS

_TIME = pa.timestamp("us", tz="UTC")
META = ("_version", "_prediction", "_score")
"""Columns of `joined` beside those of the specification."""

_JOIN = """
WITH candidates AS (
    SELECT *, row_number() OVER (
        PARTITION BY prediction_id ORDER BY coalesce(shadow, false), "partition", "offset"
    ) AS nth
    FROM predictions
    WHERE problem IS NULL AND model = $model AND event_time_ms BETWEEN $from_ms AND $as_of_ms
),
predicted AS (SELECT * EXCLUDE (nth) FROM candidates WHERE nth = 1),
known AS (
    SELECT p.prediction_id, p.event_time_ms AS predicted_ms, l.event_time_ms, l.label, l.revision, l.withdrawn,
           l."partition", l."offset"
    FROM ground_truth AS l JOIN predicted AS p USING (prediction_id)
    WHERE l.problem IS NULL AND (l.event_time_ms IS NULL OR l.event_time_ms <= $as_of_ms)
      AND (l.event_time_ms IS NULL OR l.event_time_ms + $horizon_ms >= p.event_time_ms)
      AND (l.withdrawn OR {accepted})
),
begun AS (
    SELECT prediction_id, min("offset") AS first_offset,
           arg_min(greatest(event_time_ms, predicted_ms), "offset") AS first_ms
    FROM known WHERE event_time_ms <= predicted_ms + $delay_ms GROUP BY prediction_id
),
taken AS (
    SELECT k.* EXCLUDE (predicted_ms), b.first_ms FROM known AS k JOIN begun AS b USING (prediction_id)
    WHERE k."offset" >= b.first_offset
      AND (k.event_time_ms IS NULL OR k."offset" = b.first_offset OR k.event_time_ms <= b.first_ms + $horizon_ms)
),
cleared AS (
    SELECT prediction_id, max("offset") AS cleared_offset FROM taken WHERE event_time_ms IS NULL GROUP BY prediction_id
),
newest AS (
    SELECT t.prediction_id, arg_max(struct_pack(label := t.label, withdrawn := t.withdrawn, ms := t.event_time_ms),
                                    (t.revision, t."offset")) AS fact
    FROM taken AS t LEFT JOIN cleared AS c USING (prediction_id)
    WHERE t.event_time_ms IS NOT NULL AND t."offset" > coalesce(c.cleared_offset, -1)
    GROUP BY t.prediction_id
)
SELECT p.prediction_id, p.event_time_ms, p.version, p.prediction, p.probability, p.segment, p.features,
       CASE WHEN n.fact.withdrawn THEN NULL ELSE n.fact.label END AS label,
       CASE WHEN n.fact.withdrawn THEN NULL ELSE n.fact.ms END AS label_ms
FROM predicted AS p LEFT JOIN newest AS n USING (prediction_id)
ORDER BY p.event_time_ms, p.prediction_id
"""


def covers(session: Session, end_offsets: Mapping[TopicPartition, int]) -> bool:
    """Whether the archive has reached `end_offsets` (of archived topics, without prefix)."""
    reached = manifest.next_offsets(session)
    return all(reached.get(key, 0) >= end for key, end in end_offsets.items())


def connect(session: Session, archive: str, keys: SubjectKeys | None = None) -> Any:
    """A DuckDB connection with a view of each archived topic (``predictions``, ``ground_truth``, ``alerts`` …).

    Parameters
    ----------
    session : Session
        Its snapshot of the manifest is what the views show, also when files are added later.
    archive : str
        `Settings.archive`.
    keys : SubjectKeys, optional
        Opens what is sealed under the keys of people; without it that stays as it is.

    Returns
    -------
    duckdb.DuckDBPyConnection
        Cannot read anything but the manifest's files, nor load extensions. What it is asked to run should have
        passed `agents.archiving.reading.only_reads`.

    Raises
    ------
    StateError
        The manifest names a file that is gone.
    """
    connection = _open()
    files = open_files(archive)
    if keys is not None and not keys.any():
        keys = None
    readable = []
    for topic in ARCHIVED:
        paths = manifest.paths(session, topic)
        _view(connection, files, topic, paths, keys=keys)
        if isinstance(files, LocalFiles):
            readable += [files.root / path for path in paths]
    return locked(connection, readable)


def joined(
    session: Session,
    archive: str,
    spec: Specification,
    *,
    event_time_from_ms: int,
    as_of_ms: int,
    classes: Sequence[str] = (),
    until: Mapping[str, Mapping[str, int]] | None = None,
    keys: SubjectKeys | None = None,
) -> pa.Table:
    """Predictions of a model with the labels known at `as_of_ms`, one row a prediction_id.

    Parameters
    ----------
    session : Session
    archive : str
        `Settings.archive`.
    spec : Specification
        Names and types of the columns, and the limits on label delay and revisions.
    event_time_from_ms, as_of_ms : int
        Predictions with event times between them (inclusive); labels with an event time up to `as_of_ms`.
    classes : sequence of str, optional
        Binary models: class keys of the reference; labels of any other class are left out, as the join refuses them.
    until : mapping of str to mapping of str to int, optional
        `reached` of an earlier moment: the rows are those of then, whatever was archived or compacted since.
    keys : SubjectKeys, optional
        Where the specification names a subject: opens its rows.

    Returns
    -------
    pyarrow.Table
        Columns of the specification: id (string), event time (timestamp, UTC), features (float64, string or bool),
        segments, label (null: unknown, withdrawn or late), label time where the specification has one; then `META`:
        version, prediction, score (binary: probability of the positive class; multiclass: of the most probable one;
        regression: the prediction). Ordered by event time and id. Where the specification names a subject also that
        column, ``_subject`` (id of its key) and ``_erased``: then what is personal of the row is null.

    Notes
    -----
    Of several predictions of an id the first that answered somebody counts, as in the stream, where the first decides;
    one that was made in shadow, for a probation, only where there is no other. The first label must not be later than
    max_label_delay (nor older than the prediction by revision_horizon), corrections not later than revision_horizon
    after it or after the prediction; the highest (revision, offset) counts.

    Raises
    ------
    StateError
        The manifest names a file that is gone.
    """
    files = open_files(archive)
    row = ArchiveFileRow
    predictions = _chosen(
        session, PREDICTIONS, row.max_event_time_ms >= event_time_from_ms, row.min_event_time_ms <= as_of_ms
    )
    # A label may be older than its prediction, but not by more than the horizon: it would have been orphaned.
    in_time = (row.max_event_time_ms >= event_time_from_ms - spec.revision_horizon_ms) & (
        row.min_event_time_ms <= as_of_ms
    )
    labels = _chosen(session, GROUND_TRUTH, or_(row.timeless > 0, in_time))
    with _open() as connection:
        _view(connection, files, PREDICTIONS, predictions, until, keys=keys if spec.data.subject is not None else None)
        _view(connection, files, GROUND_TRUTH, labels, until)
        known = {
            "model": spec.name,
            "from_ms": event_time_from_ms,
            "as_of_ms": as_of_ms,
            "delay_ms": spec.max_label_delay_ms,
            "horizon_ms": spec.revision_horizon_ms,
        }
        query = _JOIN.format(accepted=_accepted(connection, spec, classes))
        try:
            rows = connection.sql(query, params=known).to_arrow_table()
            connection.register("rows", rows)
            return _columns(connection, rows, spec)
        except OSError as error:
            raise missing_file(archive, error) from error


def _open() -> Any:
    import duckdb

    return duckdb.connect(config={"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"})


def _chosen(session: Session, topic: str, *conditions: ColumnElement[bool]) -> list[str]:
    query = select(ArchiveFileRow.path).where(ArchiveFileRow.topic == topic, *conditions)
    return list(session.scalars(query.order_by(ArchiveFileRow.partition, ArchiveFileRow.first_offset)))


def reached(session: Session) -> dict[str, dict[str, int]]:
    """Next offset by topic and partition of what training tables are made from."""
    found: dict[str, dict[str, int]] = {PREDICTIONS: {}, GROUND_TRUTH: {}}
    for (topic, partition), offset in sorted(manifest.next_offsets(session).items()):
        if topic in found:
            found[topic][str(partition)] = offset
    return found


def _view(
    connection: Any,
    files: LocalFiles | RemoteFiles,
    topic: str,
    paths: list[str],
    until: Mapping[str, Mapping[str, int]] | None = None,
    *,
    keys: SubjectKeys | None = None,
) -> None:
    """Define the view of a topic over exactly `paths`; with `until`, its rows before those offsets."""
    name = topic.replace("-", "_")
    if keys is not None and topic == PREDICTIONS:
        teach(connection, keys)
        _whole_view(connection, files, topic, paths, f"{name}_sealed")
        connection.execute(private_view(f"{name}_whole" if until is not None else name, f"{name}_sealed"))
    else:
        _whole_view(connection, files, topic, paths, f"{name}_whole" if until is not None else name)
    if until is not None:
        # Numbers, not text: what is recorded cannot become SQL.
        ends = [f'("partition" = {int(one)} AND "offset" < {int(end)})' for one, end in until[topic].items()]
        connection.execute(f"CREATE VIEW {name} AS FROM {name}_whole WHERE {' OR '.join(ends) or 'false'}")


def _whole_view(connection: Any, files: LocalFiles | RemoteFiles, topic: str, paths: list[str], name: str) -> None:
    import duckdb

    if isinstance(files, LocalFiles) and paths:
        listed = f"[{', '.join(_quoted(str(files.root / path)) for path in paths)}]"
        try:
            # Older releases wrote fewer columns of predictions and of quality.
            union = "true" if topic in {PREDICTIONS, QUALITY_METRICS} else "false"
            source = f"FROM read_parquet({listed}, hive_partitioning = false, union_by_name = {union})"
            if topic in {PREDICTIONS, QUALITY_METRICS}:
                connection.register(f"{name}_columns", SCHEMAS[topic].empty_table())
                source = f"{source} UNION ALL BY NAME FROM {name}_columns"
            connection.execute(f"CREATE VIEW {name} AS {source}")
        except duckdb.IOException as error:
            raise missing_file(str(files.root), error) from error
        return
    if paths and isinstance(files, RemoteFiles):
        there = files.listed(topic)
        if gone := next((path for path in paths if path not in there), None):
            raise missing_file(topic, FileNotFoundError(gone))
        # A table that is read as it is asked: DuckDB itself reaches no network, and lets no SQL reach it.
        connection.register(f"{name}_files", files.dataset(paths, SCHEMAS[topic]))
        connection.execute(f"CREATE VIEW {name} AS FROM {name}_files")
        return
    connection.register(name, SCHEMAS[topic].empty_table())


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _pointer(name: str) -> str:
    """JSON pointer of a member, as a SQL literal."""
    return _quoted("/" + name.replace("~", "~0").replace("/", "~1"))


def _accepted(connection: Any, spec: Specification, classes: Sequence[str]) -> str:
    """SQL condition: the label is of the type the task needs."""
    if spec.task == "regression":
        return "try_cast(l.label AS DOUBLE) IS NOT NULL"
    if spec.task == "multiclass" or not classes:
        return "true"
    from streams.panes import class_key

    found = connection.execute("SELECT DISTINCT label FROM ground_truth WHERE label IS NOT NULL").fetchall()
    fitting = [text for (text,) in found if class_key(msgspec.json.decode(text)) in set(classes)]
    return f"l.label IN ({', '.join(map(_quoted, fitting))})" if fitting else "false"


def _columns(connection: Any, rows: pa.Table, spec: Specification) -> pa.Table:
    """The joined rows in the specification's names and types."""
    selected = []
    for name, kind in spec.features.items():
        text = f"json_extract_string(features, {_pointer(name)})"
        value = {"numeric": f"try_cast({text} AS DOUBLE)", "boolean": f"try_cast({text} AS BOOLEAN)"}.get(kind, text)
        selected.append(f"{value} AS {_identifier(name)}")
    for name in spec.data.segments:
        if name not in spec.features:
            selected.append(f"json_extract_string(segment, {_pointer(name)}) AS {_identifier(name)}")
    if spec.data.subject is not None:
        if spec.data.subject not in spec.features:
            subject = f"json_extract_string(features, {_pointer(spec.data.subject)})"
            selected.append(f"{subject} AS {_identifier(spec.data.subject)}")
        selected.append(f"json_extract_string(features, {_pointer(SUBJECT)}) AS _subject")
        selected.append(f"json_extract_string(features, {_pointer(ERASED)}) IS NOT NULL AS _erased")
    selected.append(f"{_score(spec)} AS _score")
    wide = connection.sql(f"SELECT {', '.join(selected)} FROM rows").to_arrow_table()
    columns: dict[str, Any] = {
        spec.data.id: rows["prediction_id"],
        spec.data.event_time: _timestamps(rows["event_time_ms"]),
    }
    for name in wide.column_names[:-1]:
        columns[name] = wide[name]
    columns[spec.data.label] = _values(rows["label"], spec)
    if spec.data.label_time is not None:
        columns[spec.data.label_time] = _timestamps(rows["label_ms"])
    columns["_version"] = rows["version"]
    columns["_prediction"] = _values(rows["prediction"], spec)
    columns["_score"] = wide["_score"]
    return pa.table(columns)


def _score(spec: Specification) -> str:
    if spec.task == "regression":
        return "try_cast(prediction AS DOUBLE)"
    if spec.task == "binary":
        from streams.panes import class_key

        positive = f"try_cast(json_extract_string(probability, {_pointer(class_key(spec.model.positive))}) AS DOUBLE)"
        return f"coalesce(try_cast(probability AS DOUBLE), {positive})"
    best = "list_max(list_transform(json_keys(probability), lambda name: try_cast(json_extract_string("
    best += "probability, '/' || replace(replace(name, '~', '~0'), '/', '~1')) AS DOUBLE)))"
    return f"coalesce(try_cast(probability AS DOUBLE), CASE WHEN json_type(probability) = 'OBJECT' THEN {best} END)"


def _timestamps(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(pa.timestamp("ms", tz="UTC")).cast(_TIME)


def _values(column: pa.ChunkedArray, spec: Specification) -> pa.Array:
    """JSON scalars as one typed column: bool, int64, float64, or string where types are mixed."""
    encoded = column.combine_chunks().dictionary_encode()
    values = [msgspec.json.decode(text) for text in encoded.dictionary.to_pylist()]
    kinds = {type(value) for value in values}
    if spec.task == "regression":
        typed = pa.array([_number(value) for value in values], pa.float64())
    elif kinds <= {bool}:
        typed = pa.array(values, pa.bool_() if kinds else pa.int64())
    elif kinds <= {bool, int, float}:
        whole = all(float(value).is_integer() and abs(value) < 2**53 for value in values)
        typed = pa.array([int(value) if whole else float(value) for value in values])
    elif kinds <= {str}:
        typed = pa.array(values, pa.string())
    else:
        from streams.panes import class_key

        typed = pa.array([class_key(value) for value in values], pa.string())
    return typed.take(encoded.indices)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
