"""Probation: a promoted version beside the one before, on the same live rows, until one thing is clear. Pure.

After a promotion the previous champion goes on answering every request in shadow, so both versions have closed windows
over the same predictions and labels. Window by window the difference of their metrics is free of what both share (the
day, its traffic, its weather): that is what is tested. Windows do not overlap, so none counts twice.

How much such a difference moves by chance is known before the first window: the gate measured it on the holdout. A few
windows alone would say it badly, so both are joined in one estimate of variance, and Student's t does the rest. Looks
after every window, and segments beside the whole, share one chance of a false alarm, `FALSE_ALARM`: a version that is
as good as the one before is sent back that rarely over its whole probation.

References
----------
Smyth (2004), Linear models and empirical Bayes methods for assessing differential expression (moderated t);
Jennison and Turnbull (1999), Group Sequential Methods.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple

import msgspec
from scipy import special

from agents.retraining.gate import OTHERS
from schemas.codec import iso, segment_key, to_ms, utc
from schemas.durations import format_duration
from schemas.events import QualityMetric
from schemas.metrics import loss
from schemas.specification import Specification
from schemas.windows import TimeWindow, parse_window

FALSE_ALARM: Final = 0.05
"""Chance of sending back a version that is exactly as good, over its whole probation (beyond the tolerance: rarer)."""
PRIOR_FREEDOM: Final = 4.0
"""How many windows the gate's estimate of chance is worth."""
LEAST_LABELLED: Final = 30
UNEQUAL: Final = 0.02
"""Windows whose labelled counts differ by more hold different rows (the one of the swap): they are not compared."""
MOST_WAITING: Final = 32
"""Windows of one segment that wait for the other version's; older ones are dropped."""
_NORMAL_95: Final = 1.6448536269514722


class Subject(msgspec.Struct, kw_only=True):
    """One thing that is compared: a metric, overall or of a segment (``name=value``).

    `variance` is what one row adds to the variance of the difference, by the gate; 0: not known. `tolerance` may be
    lost; `chance` is spent at each look. The sums are over windows, weighted by labelled rows.
    """

    metric: str
    segment: str
    tolerance: float
    chance: float
    variance: float = 0.0
    windows: int = 0
    rows: int = 0
    harm: float = 0.0
    squares: float = 0.0
    mine: float = 0.0
    theirs: float = 0.0
    until_ms: int = 0

    def add(self, mine: float, theirs: float, rows: int, end_ms: int) -> None:
        """A window in which this version had `mine` and the one before had `theirs`."""
        harm = loss(self.metric, mine) - loss(self.metric, theirs)
        self.windows += 1
        self.rows += rows
        self.harm += rows * harm
        self.squares += rows * harm * harm
        self.mine += rows * mine
        self.theirs += rows * theirs
        self.until_ms = end_ms

    def test(self) -> Test | None:
        """How far this version is worse; None before that can be said."""
        known = PRIOR_FREEDOM if self.variance > 0 else 0.0
        freedom = known + self.windows - 1
        if not self.windows or freedom <= 0:
            return None
        mean = self.harm / self.rows
        between = max(self.squares - self.rows * mean * mean, 0.0)
        error = math.sqrt((known * self.variance + between) / freedom / self.rows)
        limit = float(-special.stdtrit(freedom, self.chance)) * error
        return Test(mean, error, self.tolerance + limit, self.rows, self.windows)


class Test(NamedTuple):
    """`harm`: this version's loss minus the other's, on average; beyond `limit` it goes back."""

    harm: float
    error: float
    limit: float
    rows: int
    windows: int


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a probation. `at`: event time at which it was known; `report`: the numbers."""

    decision: Literal["rolled-back", "passed"]
    reason: str
    at: datetime
    report: dict[str, Any]


class _Half(msgspec.Struct):
    """A closed window of one of the two versions that waits for the other's."""

    version: int
    values: dict[str, float]
    rows: int


class Probation(msgspec.Struct, kw_only=True):
    """The state of one probation, small enough for a database row.

    Parameters
    ----------
    model : str
    version, previous : int
        The promoted version and the champion before it, which shadows.
    window : str
        Name of the time window that is compared.
    length_ms, duration_ms, label_delay_ms : int
        Length of the window, of the probation, and how long after its end a window closes.

    Notes
    -----
    Feed closed quality metrics in the order of their topic with `take`. What was taken before is ignored, so a repeat
    changes nothing; revisions come too late to count. The outcome is a function of the sequence of closed windows.
    """

    model: str
    version: int
    previous: int
    window: str
    length_ms: int
    duration_ms: int
    label_delay_ms: int
    subjects: list[Subject]
    until_ms: int | None = None
    halves: dict[str, _Half] = msgspec.field(default_factory=dict)

    @classmethod
    def begin(
        cls, spec: Specification, *, version: int, previous: int, report: Mapping[str, Any] | None = None
    ) -> Probation | None:
        """The probation of a version that was just promoted; None where its specification wants none.

        Parameters
        ----------
        spec : Specification
            Of the promoted version.
        report : mapping, optional
            Its validation report: how sure the gate was, and which segments it judged.
        """
        windows = spec.time_windows.values()
        if not spec.probation_ms or not windows:
            return None
        window = min(windows, key=lambda one: (one.length_ms, one.name))
        # The window of the promotion is looked at too where the swap fell on its edge.
        looks = -(-spec.probation_ms // window.length_ms) + 1
        return cls(
            model=spec.name,
            version=version,
            previous=previous,
            window=window.name,
            length_ms=window.length_ms,
            duration_ms=spec.probation_ms,
            label_delay_ms=spec.max_label_delay_ms,
            subjects=_subjects(spec, report or {}, looks),
        )

    def snapshot(self) -> bytes:
        """The state as JSON."""
        return msgspec.json.encode(self)

    @classmethod
    def from_snapshot(cls, data: bytes) -> Probation:
        """The state that `snapshot` wrote."""
        return msgspec.json.decode(data, type=cls)

    def take(self, metric: QualityMetric) -> Outcome | None:
        """Take in a window; the outcome, once there is one."""
        end = to_ms(metric.window_end)
        wanted = metric.state == "closed" and not metric.estimated and metric.window == self.window
        if not wanted or metric.version not in (self.version, self.previous) or not self._apart(end):
            return None
        segment = segment_key(metric.segment)
        mine = [subject for subject in self.subjects if subject.segment == segment]
        if not mine or end <= max(subject.until_ms for subject in mine):
            return None
        if metric.version == self.version and not segment and self.until_ms is None:
            self.until_ms = end + self.duration_ms
        found = self._paired(metric, segment, end, mine)
        if found is not None or segment or self.until_ms is None:
            return found
        # A day beyond the end there is nothing to wait for: the other version did not answer.
        over = self.until_ms if mine[0].until_ms == end else self.until_ms + self.length_ms
        return self._outcome("passed", mine[0], end) if end >= over else None

    def _paired(self, metric: QualityMetric, segment: str, end: int, subjects: list[Subject]) -> Outcome | None:
        key = f"{end}|{segment}"
        values = {
            subject.metric: value
            for subject in subjects
            if (value := metric.metrics.get(subject.metric)) is not None and math.isfinite(value)
        }
        half = self.halves.get(key)
        if half is None or half.version == metric.version:
            self.halves[key] = _Half(metric.version, values, metric.n)
            waiting = sorted((name for name in self.halves if name.partition("|")[2] == segment), key=_end_of)
            for name in waiting[:-MOST_WAITING]:
                del self.halves[name]
            return None
        # What is older and still waits will not be answered any more.
        self.halves = {
            name: one for name, one in self.halves.items() if name.partition("|")[2] != segment or _end_of(name) > end
        }
        rows = min(half.rows, metric.n)
        same = abs(half.rows - metric.n) <= UNEQUAL * max(half.rows, metric.n)
        for subject in subjects:
            one, other = values.get(subject.metric), half.values.get(subject.metric)
            subject.until_ms = end
            if not same or rows < LEAST_LABELLED or one is None or other is None:
                continue
            mine, theirs = (one, other) if metric.version == self.version else (other, one)
            subject.add(mine, theirs, rows, end)
            test = subject.test()
            if test is not None and test.harm > test.limit:
                return self._outcome("rolled-back", subject, end)
        return None

    def _apart(self, end_ms: int) -> bool:
        """Whether the window ends where one does that overlaps with none of the others."""
        window: TimeWindow = parse_window(self.window)
        return (end_ms - window.offset_ms) % self.length_ms == 0

    def _outcome(self, decision: Literal["rolled-back", "passed"], subject: Subject, end_ms: int) -> Outcome:
        return Outcome(
            decision=decision,
            reason=self._words(subject),
            at=utc(end_ms + self.label_delay_ms),
            report={
                "version": self.version,
                "previous": self.previous,
                "window": self.window,
                "until": iso(utc(end_ms)),
                "compared": [_numbers(one) for one in self.subjects if one.windows],
            },
        )

    def _words(self, subject: Subject) -> str:
        probation = f"probation of {format_duration(self.duration_ms)}"
        if not subject.windows:
            return f"{probation}: no window of {self.window} could be compared with version {self.previous}"
        mean = subject.harm / subject.rows
        side = "worse" if mean > 0 else "better"
        where = f" in segment {subject.segment}" if subject.segment else ""
        words = (
            f"{probation}: {subject.metric}{where} {subject.mine / subject.rows:.4f} against "
            f"{subject.theirs / subject.rows:.4f} of version {self.previous} on the same {subject.rows} labelled "
            f"predictions in {subject.windows} window{'s' * (subject.windows > 1)} of {self.window}: "
            + (f"{side} by {abs(mean):.4f}" if mean else "equal")
        )
        test = subject.test()
        return words if test is None else f"{words} (more than {test.limit:.4f} goes back)"


def _subjects(spec: Specification, report: Mapping[str, Any], looks: int) -> list[Subject]:
    """The primary metric, the cost, and the segments that the gate could judge; half of the chance is the primary's."""
    tolerance = spec.validation.tolerance
    judged: Mapping[str, Any] = report.get("segments") or {}
    segments = {key: numbers for key, numbers in judged.items() if not key.endswith(f"={OTHERS}")}
    costly = bool(spec.metrics.cost) and spec.task == "binary" and spec.metrics.primary != "cost"
    others = len(segments) + costly
    chance = FALSE_ALARM / looks
    primary = spec.metrics.primary
    half = chance / 2 if others else chance
    found = [
        Subject(
            metric=primary,
            segment="",
            tolerance=tolerance.overall,
            chance=half,
            variance=_variance(report.get("primary")),
        )
    ]
    share = chance / 2 / max(others, 1)
    if costly:
        found.append(
            Subject(metric="cost", segment="", tolerance=0.0, chance=share, variance=_variance(report.get("cost")))
        )
    found += [
        Subject(metric=primary, segment=key, tolerance=tolerance.segment, chance=share, variance=_variance(numbers))
        for key, numbers in sorted(segments.items())
    ]
    return found


def _variance(numbers: Mapping[str, Any] | None) -> float:
    """What one row adds to the variance of the difference: from the 90 % interval of the gate."""
    if not numbers or not {"low", "high", "n"} <= set(numbers):
        return 0.0
    error = (float(numbers["high"]) - float(numbers["low"])) / (2 * _NORMAL_95)
    return error * error * float(numbers["n"])


def _end_of(key: str) -> int:
    return int(key.partition("|")[0])


def _numbers(subject: Subject) -> dict[str, Any]:
    test = subject.test()
    return {
        "metric": subject.metric,
        "segment": subject.segment,
        "value": round(subject.mine / subject.rows, 6),
        "previous": round(subject.theirs / subject.rows, 6),
        "harm": round(subject.harm / subject.rows, 6),
        "limit": None if test is None else round(test.limit, 6),
        "windows": subject.windows,
        "rows": subject.rows,
    }
