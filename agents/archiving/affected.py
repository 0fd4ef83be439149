"""Every prediction that a version made: exactly, from the archive.

A prediction carries the version that made it, and a batch is answered by one version: the archive's rows of a version
are its predictions, before a swap and after it, however often it was brought back. What is in the log and not in the
archive yet is said beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
from sqlalchemy.orm import Session

from agents.archiving import manifest
from agents.archiving.dataset import connect
from schemas.topics import PREDICTIONS

COLUMNS = (
    *("prediction_id", "event_time", "prediction", "probability", "segment", "features"),
    *("shadow", "partition", "offset"),
)
_MADE = """
SELECT prediction_id, make_timestamp(event_time_ms * 1000) AS event_time, event_time_ms, prediction, probability,
       segment, features, coalesce(shadow, false) AS shadow, "partition", "offset"
FROM predictions WHERE problem IS NULL AND model = $model AND version = $version
"""


class Affected(msgspec.Struct, frozen=True, kw_only=True):
    """What a version predicted, as far as it is archived.

    Parameters
    ----------
    predictions : int
        How many records; `shadow` of them answered nobody (a probation).
    ids : int
        How many different prediction ids: a request that was sent twice is answered twice.
    first, last : datetime or None
        Event time of the first and the last.
    partitions : mapping of str to mapping
        By partition of `predictions`: ``count``, ``first`` and ``last`` offset.
    archived_until : mapping of str to int
        By partition the offset up to which (exclusive) everything is in the archive.
    """

    model: str
    version: int
    predictions: int
    ids: int
    shadow: int
    first: datetime | None
    last: datetime | None
    partitions: Mapping[str, Mapping[str, int]]
    archived_until: Mapping[str, int]


def affected(session: Session, archive: str, model: str, version: int) -> Affected:
    """Count what a version predicted.

    Raises
    ------
    StateError
        The manifest names a file that is gone.
    """
    with connect(session, archive) as connection:
        named = {"model": model, "version": version}
        grouped = connection.execute(
            f'SELECT "partition", count(*), min("offset"), max("offset"), count(*) FILTER (shadow),'
            f" min(event_time_ms), max(event_time_ms) FROM ({_MADE}) GROUP BY 1 ORDER BY 1",
            named,
        ).fetchall()
        ids = connection.execute(f"SELECT count(DISTINCT prediction_id) FROM ({_MADE})", named).fetchone()[0]
    return Affected(
        model=model,
        version=version,
        predictions=sum(row[1] for row in grouped),
        ids=ids,
        shadow=sum(row[4] for row in grouped),
        first=min((_moment(row[5]) for row in grouped), default=None),
        last=max((_moment(row[6]) for row in grouped), default=None),
        partitions={str(row[0]): {"count": row[1], "first": row[2], "last": row[3]} for row in grouped},
        archived_until={
            str(partition): end
            for (topic, partition), end in sorted(manifest.next_offsets(session).items())
            if topic == PREDICTIONS
        },
    )


def rows(session: Session, archive: str, model: str, version: int, limit: int = 0) -> Any:
    """The predictions, by event time and id: a `pyarrow.Table` with `COLUMNS`.

    Parameters
    ----------
    limit : int
        How many at most; 0: all.
    """
    with connect(session, archive) as connection:
        chosen = ", ".join(f'"{name}"' for name in COLUMNS)
        query = f'SELECT {chosen} FROM ({_MADE}) ORDER BY event_time_ms, prediction_id, "partition", "offset"'
        query += f" LIMIT {int(limit)}" if limit else ""
        return connection.sql(query, params={"model": model, "version": version}).to_arrow_table()


def _moment(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)
