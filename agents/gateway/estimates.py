"""Estimates of quality as rows: what `status`, `report`, the page and `/metrics` show of them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from agents.gateway import formats
from agents.gateway.logic import ModelBoard, SeriesKey, ordered_windows


@dataclass(frozen=True)
class EstimateRow:
    """One metric of the newest estimated window of one series.

    Parameters
    ----------
    segment : str
        Key; empty: overall.
    n : int
        Predictions of the window.
    value, low, high : float
        Estimate, and where the realised value will lie 19 times of 20.
    trust : float or None
        0–1, of the model; None while nobody knows.
    realised : float or None
        What came true; None while labels are awaited.
    """

    model: str
    version: int
    segment: str
    window: str
    window_start: datetime
    window_end: datetime
    metric: str
    n: int
    value: float
    low: float
    high: float
    trust: float | None
    realised: float | None = None


def estimate_rows(board: ModelBoard) -> list[EstimateRow]:
    """The newest estimate of every metric, window, segment and version: newest versions first, overall first."""
    order = {name: at for at, name in enumerate(board.windows())}
    keys = sorted(
        (key for key in board.quality if key.estimated),
        key=lambda key: (-key.version, order.get(key.window, len(order)), key.segment),
    )
    return [row for key in keys for row in _rows(board, key)]


def _rows(board: ModelBoard, key: SeriesKey) -> Iterator[EstimateRow]:
    point = board.quality[key].newest()
    if point is None or point.estimate is None:
        return
    estimate = point.estimate
    for metric, value in point.values.items():
        interval = estimate.intervals.get(metric)
        if value is None or interval is None:
            continue
        yield EstimateRow(
            model=board.model,
            version=key.version,
            segment=key.segment,
            window=key.window,
            window_start=datetime.fromtimestamp(point.start / 1000, UTC),
            window_end=datetime.fromtimestamp(point.t / 1000, UTC),
            metric=metric,
            n=point.n,
            value=value,
            low=interval[0],
            high=interval[1],
            trust=estimate.trust,
            realised=None if estimate.realised is None else estimate.realised.get(metric),
        )


def headline(board: ModelBoard, metric: str = "") -> EstimateRow | None:
    """The estimate that stands for a model: overall, of its longest time window, of the champion where it has one.

    Parameters
    ----------
    metric : str
        Where it is not estimated, or empty: the first that is (the primary one comes first).
    """
    rows = [row for row in estimate_rows(board) if not row.segment]
    if not rows:
        return None
    version = max(rows, key=lambda row: (row.window_end, row.version)).version
    if board.champion is not None and any(row.version == board.champion for row in rows):
        version = board.champion
    window = ordered_windows({row.window for row in rows if row.version == version})[-1]
    shown = [row for row in rows if row.version == version and row.window == window]
    return next((row for row in shown if row.metric == metric), shown[0])


def in_words(row: EstimateRow) -> str:
    """Interval, trust, window and version of an estimate."""
    trust = "trust not known yet" if row.trust is None else f"trust {row.trust:.2f}"
    interval = f"{formats.figure(row.low)} – {formats.figure(row.high)}"
    return f"{interval}, {trust}, {formats.window(row.window)}, version {row.version}, n {row.n:,}"


def table_rows(rows: Iterable[EstimateRow]) -> list[tuple[object, ...]]:
    """Rows for people: see `COLUMNS`."""
    return [
        (
            row.model,
            row.version,
            row.segment or "overall",
            row.window,
            f"{row.window_end:%Y-%m-%d %H:%M}",
            row.metric,
            formats.figure(row.value),
            f"{formats.figure(row.low)} – {formats.figure(row.high)}",
            formats.DASH if row.trust is None else f"{row.trust:.2f}",
            formats.figure(row.realised),
            row.n,
        )
        for row in rows
    ]


COLUMNS = (
    *("model", "version", "segment", "window", "until", "metric", "estimated", "95 % interval", "trust"),
    *("realised", "predictions"),
)
