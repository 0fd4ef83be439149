"""What the archive knows of versions: when they answered, how good they were, what an incident said first."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import msgspec
from sqlalchemy.orm import Session

from agents.archiving.dataset import connect
from agents.provenance.stints import HOUR_MS, Share
from schemas.durations import parse_count
from schemas.errors import SpecificationError, StateError
from schemas.windows import parse_window

WINDOWS = 5
_SHARES = f"""
SELECT event_time_ms // {HOUR_MS} AS hour, coalesce(external_version, version::VARCHAR) AS name,
       external_version IS NOT NULL AS elsewhere, count(*), min(event_time_ms), max(event_time_ms)
FROM predictions
WHERE problem IS NULL AND model = $model AND NOT coalesce(shadow, false) AND event_time_ms IS NOT NULL
GROUP BY ALL HAVING name IS NOT NULL ORDER BY ALL
"""
_MEASURED = f"""
SELECT window_end, segment, n, coverage, metrics FROM (
    FROM quality_metrics
    WHERE problem IS NULL AND model = $model AND version = $version AND "window" = $window
      AND NOT coalesce(estimated, false) AND state <> 'provisional'
    QUALIFY row_number() OVER (PARTITION BY segment, window_end ORDER BY revision DESC, "offset" DESC) = 1
)
QUALIFY dense_rank() OVER (ORDER BY window_end DESC) <= {WINDOWS} ORDER BY window_end DESC, segment
"""
_WINDOWS = """
SELECT DISTINCT "window" FROM quality_metrics
WHERE problem IS NULL AND model = $model AND version = $version AND NOT coalesce(estimated, false)
  AND state <> 'provisional'
"""
_FIRST_TOLD = """
SELECT incident_id, title, explanation FROM alerts WHERE problem IS NULL AND list_contains($ids, incident_id)
QUALIFY row_number() OVER (PARTITION BY incident_id ORDER BY "offset") = 1
"""


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """Metrics of one window that has closed, as they were last revised. `segment`: empty for overall."""

    window: str
    window_end: datetime
    segment: str
    n: int
    coverage: float
    metrics: dict[str, float | None]


class Archive:
    """An open connection to the archive. `problem`: why it cannot be read; then it knows nothing."""

    def __init__(self, connection: Any, problem: str = "") -> None:
        self._connection = connection
        self.problem = problem

    def shares(self, model: str) -> list[Share]:
        """Hours of the model's predictions by version; former champions' answers in shadow count as none.

        Notes
        -----
        Looks at every archived prediction of the model, at four narrow columns.
        """
        return [
            Share(hour, name if elsewhere else int(name), count, first, last)
            for hour, name, elsewhere, count, first, last in self._rows(_SHARES, model=model)
        ]

    def measured(self, model: str, version: int) -> list[Window]:
        """The version's last closed windows of the longest kind that it has any of, newest first, by segment."""
        names = [name for (name,) in self._rows(_WINDOWS, model=model, version=version)]
        if not names:
            return []
        window = min(names, key=_calm)
        return [
            Window(
                window=window,
                window_end=end.astimezone(UTC),
                segment=segment or "",
                n=n,
                coverage=coverage,
                metrics=json.loads(metrics),
            )
            for end, segment, n, coverage, metrics in self._rows(_MEASURED, model=model, version=version, window=window)
        ]

    def first_told(self, incidents: Sequence[str]) -> dict[str, tuple[str, str]]:
        """Title and explanation of incidents by id, as they were when they were opened."""
        if not incidents:
            return {}
        return {row[0]: (row[1], row[2]) for row in self._rows(_FIRST_TOLD, ids=list(incidents))}

    def _rows(self, query: str, **values: Any) -> list[tuple[Any, ...]]:
        if self._connection is None:
            return []
        found: list[tuple[Any, ...]] = self._connection.execute(query, values).fetchall()
        return found


def _calm(name: str) -> tuple[bool, int, str]:
    """Windows of time come before those of counts, the longest first."""
    count = parse_count(name)
    if count is not None:
        return True, -count, name
    try:
        return False, -parse_window(name).length_ms, name
    except SpecificationError:
        return True, 0, name  # of a release that names windows otherwise


@contextmanager
def opened(session: Session, archive: str) -> Iterator[Archive]:
    """The archive as the manifest has it now; one that lacks a file tells nothing, and says so."""
    try:
        connection = connect(session, archive)
    except StateError as error:
        yield Archive(None, f"the archive cannot be read: {error.what}")
        return
    with connection:
        yield Archive(connection)
