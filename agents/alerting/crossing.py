"""A crossing as the alert book remembers it: one open observation of the aggregation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from schemas.codec import iso, segment_key, to_ms
from schemas.events import Kind, Observation, Severity

SEVERITIES: tuple[Severity, ...] = ("info", "warning", "critical")
QUALITY_KINDS = frozenset({"quality", "estimated-quality", "calibration"})
INPUT_KINDS = frozenset({"data-quality", "skew"})
"""Kinds that are a cause of lost quality where they are about a feature."""
FEATURE = "feature:"
MOST_NOTES = 12
REPEATED = frozenset({"partitioner", "duplicates"})
"""Subjects of data quality that are said again while they go on, because nobody may be there to say that they ended."""
UNHEARD_MS = 2 * 86_400_000
"""Event time after which what is not said again is over; it is said twice a day."""
VOLUME = "volume"
"""Subject of data quality: predictions that stay away."""
DRIFT_KINDS = frozenset({"data-drift", "prediction-drift", "label-drift"})


class Crossing(msgspec.Struct, frozen=True, kw_only=True):
    """What of an open observation matters to incidents.

    `segment` is ``""`` for overall, else ``name=value``; `importance` the feature's share of the model's, None where
    it is not about a feature or nobody knows; `seasonal`: the calendar explains it; `start_ms`: start of the window in
    which it was first seen, for a cumulative sum of its excursion, which is the best guess at when things changed.
    """

    observation_id: str
    version: int
    kind: Kind
    subject: str
    segment: str
    severity: Severity
    window: str
    window_end: str
    value: float | None
    reference: float | None
    threshold: float | None
    n: int
    since_ms: int
    statistic: str = ""
    importance: float | None = None
    seasonal: bool = False
    quiet: bool = False
    """Beyond its model's budget, but not beyond the model's share of the fleet's: it opens no incident."""
    notes: dict[str, float | str] = msgspec.field(default_factory=dict)
    start_ms: int | None = None
    heard_ms: int = 0
    """Event time at which it was heard of last."""

    @property
    def feature(self) -> str | None:
        """Name of the feature it is about, if it is about one."""
        name = self.subject.removeprefix(FEATURE)
        return None if name == self.subject else name

    @property
    def place(self) -> str | None:
        """What tells the segments apart of which it says that one fell silent; None where it says no such thing."""
        silent = self.kind == "data-quality" and self.subject == VOLUME and self.segment
        return self.segment.partition("=")[0] if silent else None

    def over(self, now_ms: int) -> bool:
        """Whether nobody says it any more."""
        repeated = self.kind == "data-quality" and self.subject in REPEATED
        return repeated and now_ms >= self.heard_ms + UNHEARD_MS

    @property
    def key(self) -> str:
        """What the crossing is about; at most one is open for each."""
        return crossing_key(self.version, self.kind, self.subject, self.segment, self.window)

    def evidence(self) -> dict[str, Any]:
        """The numbers as an alert carries them: aggregates only, never a raw feature value."""
        known = msgspec.to_builtins(self)
        del known["since_ms"], known["start_ms"], known["heard_ms"]
        return {name: value for name, value in known.items() if value not in (None, {}) and value is not False}


def crossing_key(version: int, kind: str, subject: str, segment: str, window: str) -> str:
    """Key of a crossing within one model."""
    return f"v{version}|{kind}|{subject}|{segment}|{window}"


def rank(severity: Severity) -> int:
    """Severities in order: 0 info, 1 warning, 2 critical."""
    return SEVERITIES.index(severity)


def crossing_of(observation: Observation) -> Crossing:
    """The crossing that an observation opens or changes."""
    share = observation.evidence.get("importance")
    statistic = observation.evidence.get("statistic", "")
    return Crossing(
        observation_id=observation.observation_id,
        version=observation.version,
        kind=observation.kind,
        subject=observation.subject,
        segment=segment_key(observation.segment),
        severity=observation.severity,
        window=observation.window,
        window_end=iso(observation.window_end),
        value=observation.value,
        reference=observation.reference,
        threshold=observation.threshold,
        n=observation.n,
        since_ms=to_ms(observation.observed_at),
        statistic=statistic if isinstance(statistic, str) else "",
        importance=float(share) if isinstance(share, int | float) and not isinstance(share, bool) else None,
        seasonal=observation.evidence.get("seasonal") is True,
        notes=_notes(observation.evidence),
        start_ms=to_ms(observation.window_start),
    )


def _notes(evidence: Mapping[str, Any]) -> dict[str, float | str]:
    """The numbers behind an observation that explanations may name; and the season, which is a name."""
    # As numbers of one kind: a book that was stored and read again has to say the same.
    found: dict[str, float | str] = {
        name: float(value)
        for name, value in evidence.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and name != "importance"
    }
    season = evidence.get("season")
    named: dict[str, float | str] = {"season": season} if isinstance(season, str) else {}
    return named | dict(list(found.items())[:MOST_NOTES])
