"""Exact metrics of what was answered, over the whole replay and by window, for several ways to have answered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.backtest.answers import NONE, Answers
from agents.backtest.history import History
from agents.retraining.quality import metrics_of
from schemas.codec import iso, segment_of, utc
from schemas.durations import format_duration
from schemas.specification import Specification
from schemas.windows import TimeWindow
from streams.panes import class_key

Metrics = dict[str, float | None]
MOST_WINDOWS = 500
MOST_SEGMENTS = 50
"""Segments with metrics of their own, those with the most rows; what is left out is named in the remarks."""
LEAST_ROWS = 20
"""Windows with fewer labelled rows of a segment have no metrics of it."""


def names_of(spec: Specification) -> list[str]:
    """Metrics that are reported: the watched ones, and the cost where it has prices."""
    named = [*spec.watched, *(["cost"] if spec.metrics.cost and spec.task == "binary" else [])]
    # What describes delays and coverage is the aggregation's to say.
    return list(dict.fromkeys(name for name in named if name in spec.judged or name == "cost"))


@dataclass(frozen=True)
class Judged:
    """Rows whose labels counted: the join took them.

    Parameters
    ----------
    rows : array of int64
        In order of event time.
    labels : array
    classes : tuple of str
        Multiclass: of all labels and answers.
    """

    history: History
    rows: NDArray[np.int64]
    labels: NDArray[Any]
    classes: tuple[str, ...] = ()

    @classmethod
    def of(cls, history: History, first: int, end_ms: int, ways: Iterable[Answers]) -> Judged:
        """Rows from `first` on that every one of `ways` answered, and whose label came in time and before `end_ms`."""
        spec = history.spec
        told, times = history.label_ms, history.times_ms
        in_time = (told < end_ms) & (told <= times + spec.max_label_delay_ms)
        # A label that comes long before its event is forgotten before there is a prediction.
        in_time &= told > times - spec.revision_horizon_ms - 1
        in_time[:first] = False
        for answers in ways:
            in_time &= answers.versions != NONE
        rows = np.flatnonzero(in_time)
        labels = np.array([history.labels[row] for row in rows.tolist()], dtype=object)
        if spec.task == "regression":
            labels = labels.astype(np.float64)
        classes = (
            tuple(sorted({class_key(label) for label in set(labels.tolist())})) if spec.task == "multiclass" else ()
        )
        return cls(history, rows, labels, classes)

    @cached_property
    def segments(self) -> list[str]:
        """All segments, those with the most rows first."""
        rows: Counter[str] = Counter()
        for keys in self.history.segment_keys.values():
            rows.update(keys[self.rows].tolist())
        del rows[""]
        return sorted(rows, key=lambda key: (-rows[key], key))

    def metrics(self, answers: Answers, chosen: NDArray[np.int64] | None = None) -> Metrics:
        """Metrics over all rows, or over some of them (positions in `rows`)."""
        rows = self.rows if chosen is None else self.rows[chosen]
        labels = self.labels if chosen is None else self.labels[chosen]
        spec = self.history.spec
        found = metrics_of(spec, labels, answers.at(rows, self.classes), names_of(spec))
        return {name: None if value is None else round(value, 6) for name, value in found.items()}


def series_window(spec: Specification, span_ms: int) -> TimeWindow:
    """The window of the series: the longest time window, one after the other; a day where there is none.

    Over a long stretch as many in one that no more than `MOST_WINDOWS` come of it.
    """
    windows = sorted(spec.time_windows.values(), key=lambda window: window.length_ms)
    longest = windows[-1] if windows else TimeWindow("1d", spec.pane_ms)
    length = longest.length_ms * -(-span_ms // (longest.length_ms * MOST_WINDOWS))
    return TimeWindow(format_duration(length), length, length, longest.offset_ms % length)


def series(judged: Judged, by_name: Mapping[str, Answers], window: TimeWindow) -> Iterator[dict[str, Any]]:
    """Metrics window by window, overall and by segment, for each way to have answered, on the same rows."""
    history = judged.history
    times = history.times_ms[judged.rows]
    number = (times - window.offset_ms) // window.length_ms
    if not len(times):
        return
    starts = np.flatnonzero(np.concatenate([[True], number[1:] != number[:-1]]))
    bounds = [*map(int, starts), len(times)]
    for first, last in pairwise(bounds):
        start = int(number[first]) * window.length_ms + window.offset_ms
        for segment, chosen in _segments(judged, first, last):
            yield {
                "window_start": iso(utc(start)),
                "window_end": iso(utc(start + window.length_ms)),
                "segment": segment_of(segment),
                "n": len(chosen),
                **{name: judged.metrics(answers, chosen) for name, answers in by_name.items()},
            }


def _segments(judged: Judged, first: int, last: int) -> Iterator[tuple[str, NDArray[np.int64]]]:
    """Overall, then every segment that has enough rows; positions in `judged.rows`."""
    everything = np.arange(first, last)
    yield "", everything
    shown = set(judged.segments[:MOST_SEGMENTS])
    for keys in judged.history.segment_keys.values():
        mine = keys[judged.rows[first:last]]
        for key in sorted(shown.intersection(mine.tolist())):
            chosen = everything[mine == key]
            if len(chosen) >= LEAST_ROWS:
                yield key, chosen


def summary(judged: Judged, by_name: Mapping[str, Answers]) -> dict[str, Metrics]:
    """Metrics over all labelled rows."""
    return {name: judged.metrics(answers) for name, answers in by_name.items()}


def by_segment(judged: Judged, by_name: Mapping[str, Answers]) -> list[dict[str, Any]]:
    """Metrics over all labelled rows of each segment."""
    found: Sequence[tuple[str, NDArray[np.int64]]] = list(_segments(judged, 0, len(judged.rows)))[1:]
    return [
        {"segment": segment_of(key), "n": len(chosen), **{n: judged.metrics(a, chosen) for n, a in by_name.items()}}
        for key, chosen in found
    ]
