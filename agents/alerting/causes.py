"""What moved, ranked: how far, and how much it matters to the model. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from agents.alerting.crossing import DRIFT_KINDS, Crossing
from agents.alerting.weight import worst_first

MOST_CAUSES = 20


class Cause(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that moved, over all windows and segments it moved in.

    Parameters
    ----------
    crossing : Crossing
        The one that speaks for it: overall before segments, then the farthest.
    segments : list of str
        Segments in which it moved too.
    weight : float
        Importance × how far it moved (0–1), 0 where it has no importance: what the ranking goes by.
    """

    crossing: Crossing
    segments: list[str]
    weight: float

    def evidence(self) -> dict[str, Any]:
        """As alerts carry it."""
        extra: dict[str, Any] = {"weight": round(self.weight, 4)}
        return {**self.crossing.evidence(), **({"segments": self.segments} if self.segments else {}), **extra}


def ranked(crossings: Iterable[Crossing]) -> list[Cause]:
    """Causes, the likeliest first: inputs by weight, then what only follows from them (predictions, labels).

    Notes
    -----
    A feature that is half the model and moved a little comes before one that moved far and hardly counts.
    """
    by_subject: dict[tuple[bool, str], list[Crossing]] = {}
    for crossing in crossings:
        by_subject.setdefault((crossing.kind in DRIFT_KINDS, crossing.subject), []).append(crossing)
    causes = []
    for found in by_subject.values():
        ordered = sorted(found, key=lambda c: (c.segment != "", -how_far(c), *worst_first(c)))
        lead = ordered[0]
        segments = sorted({c.segment for c in found if c.segment})
        causes.append(Cause(crossing=lead, segments=segments, weight=(lead.importance or 0.0) * how_far(lead)))
    return sorted(causes, key=_order)


def _order(cause: Cause) -> tuple[bool, float, float, int, str]:
    lead = cause.crossing
    return lead.feature is None, -cause.weight, -how_far(lead), lead.since_ms, lead.key


def how_far(crossing: Crossing) -> float:
    """How far something moved, from 0 (not at all) to 1.

    A PSI of 0.25 is a quarter of the way, of 2 nearly all of it; shares that were lost count as they are.
    """
    if crossing.value is None:
        return 0.0
    if crossing.kind in DRIFT_KINDS:
        return max(crossing.value, 0.0) / (1.0 + max(crossing.value, 0.0))
    return min(abs(crossing.value - (crossing.reference or 0.0)), 1.0)


def worst_segments(members: Sequence[Crossing]) -> list[str]:
    """Segments that crossed, those that lost the most first."""
    loss: dict[str, float] = {}
    for crossing in members:
        if crossing.segment and crossing.value is not None and crossing.reference is not None:
            loss[crossing.segment] = max(loss.get(crossing.segment, 0.0), abs(crossing.value - crossing.reference))
        elif crossing.segment:
            loss.setdefault(crossing.segment, 0.0)
    return sorted(loss, key=lambda segment: (-loss[segment], segment))
