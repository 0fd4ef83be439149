"""Windows worked out from a plain list of events, as one would on paper: sort, slice, count.

Shares no code with `streams` or the specification: windows are given by their numbers, metrics are sums over rows.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

TOMBSTONE = -(10**30)
"""Revision of a label that is a null record: it has no event time, and takes back whatever is there."""
MOST_PANES = 96
"""A count window reaches no further back."""


class Guess(NamedTuple):
    """One prediction. `segments`: the overall one (empty) and those it counts in."""

    key: str
    model: str
    version: int
    at_ms: int
    decision: Any
    score: Any
    segments: tuple[str, ...]


class Told(NamedTuple):
    """One label; None withdraws."""

    key: str
    at_ms: int
    label: Any
    revision: int = 0


class Span(NamedTuple):
    """A time window by its numbers. `step_ms` 0: it ends with every pane that has predictions."""

    length_ms: int
    step_ms: int = 0
    offset_ms: int = 0


class Rules(NamedTuple):
    """What a version's specification says. `windows`: a span of time, or a number of labelled events."""

    task: str
    pane_ms: int
    delay_ms: int
    horizon_ms: int
    windows: Mapping[str, Span | int]


class Row(NamedTuple):
    """A labelled prediction within a window."""

    decision: Any
    score: Any
    label: Any
    delay_ms: int


class Content(NamedTuple):
    """What a window shows."""

    start_ms: int
    labelled: int
    predicted: int
    metrics: dict[str, float]


Key = tuple[str, int, str, str, int]
"""(model, version, segment, window, end)."""


# -------------------------------------------------------------------------------------------------- labels


class Known(NamedTuple):
    """A prediction's label over time: (since when, label), and the delay of the first one."""

    changes: list[tuple[int, Any]]
    delay_ms: int

    def label(self, before_ms: float) -> Any:
        """The label as it was known from events before that time."""
        held = None
        for since, label in self.changes:
            if since >= before_ms:
                break
            held = label
        return held


def outcome(
    guesses: Sequence[Guess], told: Sequence[Told], rules: Mapping[tuple[str, int], Rules]
) -> tuple[list[Known], Counter[str]]:
    """What the labels of one id come to, for each of its predictions, and how many were of which kind.

    `guesses` and `told` stand in the order they came, duplicates left out. The first prediction decides which labels
    count, the others take those that are in time for them.
    """
    count: Counter[str] = Counter()
    first, of = guesses[0], rules[guesses[0].model, guesses[0].version]
    taken: list[Told] = []
    for label in told:
        null = label.revision == TOMBSTONE
        if null and taken:
            label = Told(label.key, taken[-1].at_ms, None, TOMBSTONE)  # noqa: PLW2901 - the time of what it takes back
        limit = max(taken[0].at_ms, first.at_ms) + of.horizon_ms if taken else first.at_ms + of.delay_ms
        if (null and not taken) or label.at_ms > first.at_ms + of.delay_ms + of.horizon_ms:
            count["orphaned"] += 1
        elif taken and (label == taken[-1] or (label.revision < taken[-1].revision and not null)):
            count["duplicate"] += 1
        elif label.at_ms > limit:
            count["late"] += 1
        else:
            count["matched"] += 1
            taken.append(label)
    found = []
    for guess in guesses:
        own = rules[guess.model, guess.version]
        changes: list[tuple[int, Any]] = []
        until, since, delay_ms, revised = guess.at_ms + own.delay_ms, guess.at_ms, 0, False
        for label in taken:
            if label.at_ms > until:
                continue
            if not changes:
                until = max(label.at_ms, guess.at_ms) + own.horizon_ms
                delay_ms = max(label.at_ms - guess.at_ms, 0)
            before = changes[-1][1] if changes else label.label
            revised = revised or before != label.label
            count["withdrawn"] += before is not None and label.label is None
            since = max(since, label.at_ms)
            changes.append((since, label.label))
        count["revised"] += revised
        count["labelled" if changes and changes[-1][1] is not None else "expired"] += 1
        found.append(Known(changes, delay_ms))
    return found, count


# ------------------------------------------------------------------------------------------------- windows


def stories(
    guesses: Sequence[Guess], told: Sequence[Told], rules: Mapping[tuple[str, int], Rules]
) -> tuple[dict[Key, list[tuple[int, Content]]], Counter[str]]:
    """Everything each window is to show, with the event time from which on: when it closes, and when labels change it.

    Returns
    -------
    dict, Counter
        The windows; how many predictions and labels came to what.
    """
    by_key: dict[str, tuple[list[Guess], list[Told]]] = defaultdict(lambda: ([], []))
    for guess in guesses:
        by_key[guess.key][0].append(guess)
    for label in told:
        by_key[label.key][1].append(label)
    count: Counter[str] = Counter()
    of_version: dict[tuple[str, int], list[tuple[Guess, Known]]] = defaultdict(list)
    for predicted, labels in by_key.values():
        if not predicted:
            count["orphaned"] += len(labels)
            continue
        found, counted = outcome(predicted, labels, rules)
        count += counted
        for guess, known in zip(predicted, found, strict=True):
            of_version[guess.model, guess.version].append((guess, known))
    windows: dict[Key, list[tuple[int, Content]]] = {}
    for identity, rows in of_version.items():
        of = rules[identity]
        for segment in sorted({segment for guess, _ in rows for segment in guess.segments}):
            own = [row for row in rows if segment in row[0].segments]
            for name in of.windows:
                for end in _ends(of, of.windows[name], [guess.at_ms for guess, _ in rows]):
                    story = _story(of, of.windows[name], end, own)
                    if story:
                        windows[(*identity, segment, name, end)] = story
    return windows, count


def _up(at_ms: int, pane_ms: int) -> int:
    """End of the pane that holds `at_ms`."""
    return (at_ms // pane_ms + 1) * pane_ms


def _ends(of: Rules, window: Span | int, times: Sequence[int]) -> Iterable[int]:
    if isinstance(window, int) or not window.step_ms:
        return sorted({_up(at, of.pane_ms) for at in times})
    first = min(times) + (window.offset_ms - min(times)) % window.step_ms
    return range(first, max(times) + window.length_ms + 1, window.step_ms)


def _story(of: Rules, window: Span | int, end: int, rows: Sequence[tuple[Guess, Known]]) -> list[tuple[int, Content]]:
    # No label in time can come after end + delay; effects are told pane by pane.
    closes = -(-(end + of.delay_ms) // of.pane_ms) * of.pane_ms
    moments = {closes} | {_up(since, of.pane_ms) for _, known in rows for since, _ in known.changes}
    told: list[tuple[int, Content]] = []
    for moment in sorted(moment for moment in moments if moment >= closes):
        content = look(of, window, end, rows, moment)
        if content is not None and (not told or told[-1][1] != content):
            told.append((moment, content))
    return told


def look(
    of: Rules, window: Span | int, end: int, rows: Sequence[tuple[Guess, Known]], before_ms: float
) -> Content | None:
    """A window as events before a time make it; None where it holds no prediction."""
    if isinstance(window, Span):
        start = end - window.length_ms
    else:
        within = [(g, known) for g, known in rows if end - MOST_PANES * of.pane_ms <= g.at_ms < end]
        labelled = sorted(guess.at_ms for guess, known in within if known.label(before_ms) is not None)
        oldest = min((guess.at_ms for guess, _ in within), default=end)
        start = (labelled[-window] if len(labelled) >= window else oldest) // of.pane_ms * of.pane_ms
    inside = [(guess, known) for guess, known in rows if start <= guess.at_ms < end]
    if not inside:
        return None
    seen = [
        Row(guess.decision, guess.score, label, known.delay_ms)
        for guess, known in inside
        if (label := known.label(before_ms)) is not None
    ]
    return Content(start, len(seen), len(inside), metrics(of.task, seen))


# ------------------------------------------------------------------------------------------------- metrics

Metric = Callable[[Sequence[Row]], float | None]


def _mean(values: Iterable[float]) -> float | None:
    listed = list(values)
    return math.fsum(listed) / len(listed) if listed else None


def _share(of: float, whole: float) -> float | None:
    return of / whole if whole else None


def _count(rows: Sequence[Row], decision: Any, label: Any) -> int:
    return sum(row.decision == decision and row.label == label for row in rows)


def _auc(rows: Sequence[Row]) -> float | None:
    pairs = [(p.score, n.score) for p in rows if p.label == 1 for n in rows if n.label == 0]
    return _mean((p > n) + (p == n) / 2 for p, n in pairs)


def _average_precision(rows: Sequence[Row]) -> float | None:
    positives = sum(row.label for row in rows)
    found = {s: (sum(r.label for r in rows if r.score >= s), sum(r.score >= s for r in rows)) for s in _scores(rows)}
    total, before = 0.0, 0
    for score in sorted(found, reverse=True):
        hits, decided = found[score]
        total += (hits - before) * hits / decided
        before = hits
    return _share(total, positives)


def _calibration(promised: Callable[[Row], float], kept: Callable[[Row], bool]) -> Metric:
    """Fifteen bins of the promised probability: how far hits and promises lie apart in each, by its share of events."""

    def of(rows: Sequence[Row]) -> float | None:
        bins: dict[int, list[Row]] = defaultdict(list)
        for row in rows:
            bins[min(int(promised(row) * 15), 14)].append(row)
        gaps = [abs(math.fsum(kept(row) - promised(row) for row in held)) for held in bins.values()]
        return _share(math.fsum(gaps), len(rows))

    return of


def _scores(rows: Sequence[Row]) -> set[float]:
    return {row.score for row in rows}


BINARY: Mapping[str, Metric] = {
    "accuracy": lambda rows: _mean(row.decision == row.label for row in rows),
    "precision": lambda rows: _share(_count(rows, 1, 1), sum(row.decision == 1 for row in rows)),
    "recall": lambda rows: _share(_count(rows, 1, 1), sum(row.label == 1 for row in rows)),
    "f1": lambda rows: _share(2 * _count(rows, 1, 1), 2 * _count(rows, 1, 1) + _count(rows, 1, 0) + _count(rows, 0, 1)),
    "roc_auc": _auc,
    "pr_auc": _average_precision,
    "brier": lambda rows: _mean((row.score - row.label) ** 2 for row in rows),
    "log_loss": lambda rows: _mean(-math.log(row.score if row.label else 1 - row.score) for row in rows),
    "calibration_error": _calibration(lambda row: row.score, lambda row: row.label == 1),
    "cost": lambda rows: _mean(5.0 * (row.decision < row.label) + 1.0 * (row.decision > row.label) for row in rows),
    "true_positives": lambda rows: _count(rows, 1, 1) if rows else None,
    "false_positives": lambda rows: _count(rows, 1, 0) if rows else None,
    "true_negatives": lambda rows: _count(rows, 0, 0) if rows else None,
    "false_negatives": lambda rows: _count(rows, 0, 1) if rows else None,
}


def _by_class(rate: Callable[[int, int, int], float | None], *, weighted: bool = False) -> Metric:
    """`rate` takes hits, decisions and truths of a class."""

    def of(rows: Sequence[Row]) -> float | None:
        names = {row.decision for row in rows} | {row.label for row in rows}
        truths = Counter(row.label for row in rows)
        decisions = Counter(row.decision for row in rows)
        rates = [
            (rate(_count(rows, name, name), decisions[name], truths[name]) or 0.0, truths[name] if weighted else 1)
            for name in names
        ]
        return _share(math.fsum(value * weight for value, weight in rates), sum(weight for _, weight in rates))

    return of


def _precision(hits: int, decided: int, _: int) -> float | None:
    return _share(hits, decided)


def _recall(hits: int, _: int, true: int) -> float | None:
    return _share(hits, true)


def _f1(hits: int, decided: int, true: int) -> float | None:
    return _share(2 * hits, decided + true)


MULTICLASS: Mapping[str, Metric] = {
    "accuracy": BINARY["accuracy"],
    "precision_macro": _by_class(_precision),
    "recall_macro": _by_class(_recall),
    "f1_macro": _by_class(_f1),
    "precision_weighted": _by_class(_precision, weighted=True),
    "recall_weighted": _by_class(_recall, weighted=True),
    "f1_weighted": _by_class(_f1, weighted=True),
    "calibration_error": _calibration(lambda row: row.score[row.decision], lambda row: row.decision == row.label),
    "recall[a]": lambda rows: _share(_count(rows, "a", "a"), sum(row.label == "a" for row in rows)),
    "top_2_accuracy": lambda rows: _mean(
        row.label in sorted(row.score, key=lambda name: -row.score[name])[:2] for row in rows
    ),
    "log_loss": lambda rows: _mean(-math.log(row.score[row.label]) for row in rows),
    "brier": lambda rows: _mean(
        math.fsum((value - (name == row.label)) ** 2 for name, value in row.score.items()) for row in rows
    ),
}


def _r2(rows: Sequence[Row]) -> float | None:
    mean = _mean(row.label for row in rows)
    spread = math.fsum((row.label - mean) ** 2 for row in rows)
    return 1 - math.fsum((row.score - row.label) ** 2 for row in rows) / spread if spread else None


REGRESSION: Mapping[str, Metric] = {
    "mae": lambda rows: _mean(abs(row.score - row.label) for row in rows),
    "bias": lambda rows: _mean(row.score - row.label for row in rows),
    "rmse": lambda rows: math.sqrt(_mean((row.score - row.label) ** 2 for row in rows) or 0.0) if rows else None,
    "mape": lambda rows: _mean(abs(row.score - row.label) / row.label for row in rows if row.label),
    "quantile_loss[0.9]": lambda rows: _mean(
        max(0.9 * (row.label - row.score), -0.1 * (row.label - row.score)) for row in rows
    ),
    "r2": _r2,
}

DELAYS: Mapping[str, Metric] = {"label_delay_mean_s": lambda rows: _mean(row.delay_ms // 1000 for row in rows)}

OF_TASK: Mapping[str, Mapping[str, Metric]] = {
    "binary": BINARY | DELAYS,
    "multiclass": MULTICLASS | DELAYS,
    "regression": REGRESSION | DELAYS,
}


def metrics(task: str, rows: Sequence[Row]) -> dict[str, float]:
    """All metrics that the rows define."""
    return {name: value for name, of in OF_TASK[task].items() if (value := of(rows)) is not None}
