"""An open incident of one model as the fleet sees it: what it is about, since when, how large. Pure."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from agents.alerting.causes import worst_segments
from agents.alerting.crossing import FEATURE, QUALITY_KINDS, Crossing
from agents.alerting.logic import AlertBook
from agents.alerting.weight import is_cause, opens, worst_first
from schemas.events import Kind, Severity
from schemas.specification import Specification

DEFAULT_BUDGET_PER_MS = 1 / (30 * 86_400_000)


class Strand(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that an incident has in common with those of other models, with the crossing that shows it best.

    `theme`: ``feature:NAME``, ``quality``, ``labels``, ``prediction``, ``label``, or kind and subject.
    """

    theme: str
    kind: Kind
    statistic: str
    value: float | None
    reference: float | None
    importance: float | None


class Standing(msgspec.Struct, kw_only=True):
    """An incident of one model, while it is open and a while after.

    Parameters
    ----------
    since_ms, until_ms : int
        Event times at which it opened (or came back) and closed.
    events : int
        Most events in a window that crossed.
    chance : float
        False incidents that the model's budget tolerates in a millisecond.
    features : int
        Features of the model, over which its budget is spread.
    fleet : str
        The fleet incident it belongs to.
    """

    incident_id: str
    model: str
    version: int
    kind: Kind
    severity: Severity
    since_ms: int
    strands: list[Strand]
    segments: list[str]
    events: int
    chance: float
    features: int
    until_ms: int | None = None
    fleet: str = ""

    @property
    def themes(self) -> list[str]:
        """What it has in common with others."""
        return [strand.theme for strand in self.strands]

    def strand(self, theme: str) -> Strand | None:
        """What it shows of a theme."""
        return next((strand for strand in self.strands if strand.theme == theme), None)


def theme_of(crossing: Crossing) -> str:
    """What a crossing may have in common with those of other models."""
    if crossing.feature is not None:
        return f"{FEATURE}{crossing.feature}"
    if crossing.kind in QUALITY_KINDS:
        return "quality"
    if crossing.kind in {"coverage", "label-delay"}:
        return "labels"
    if crossing.kind in {"prediction-drift", "label-drift"}:
        return crossing.kind.removesuffix("-drift")
    return f"{crossing.kind}:{crossing.subject}"


def standings(book: AlertBook, spec: Specification | None, share: float | None = None) -> list[Standing]:
    """Incidents of a book, oldest first; what closed has its time of closing and no strands any more.

    Parameters
    ----------
    share : float, optional
        What the model may raise of the fleet's budget, in incidents per millisecond.

    Notes
    -----
    Refusals by serving are left out: they are about one artifact.
    """
    found = []
    chance = spec.budget_per_ms if spec is not None else DEFAULT_BUDGET_PER_MS
    chance = chance if share is None else min(chance, share)
    features = len(spec.features) if spec is not None else 1
    for incident in sorted(book.incidents.values(), key=lambda i: (i.opened_ms, i.incident_id)):
        if incident.group == "serving":
            continue
        members = list(incident.members.values())
        causes = book.causes_of(incident)
        found.append(
            Standing(
                incident_id=incident.incident_id,
                model=book.model,
                version=incident.version,
                kind=incident.kind,
                severity=incident.severity,
                since_ms=incident.opened_ms if incident.back_ms is None else incident.back_ms,
                strands=_strands([*members, *causes]),
                segments=worst_segments(members)[:10],
                events=max((c.n for c in members), default=0),
                chance=chance,
                features=max(features, 1),
                until_ms=incident.closed_ms,
                fleet=incident.fleet,
            )
        )
    return found


def _strands(crossings: Iterable[Crossing]) -> list[Strand]:
    """One strand a theme, of its worst crossing; only what is a reason to act or a cause."""
    best: dict[str, Crossing] = {}
    for crossing in crossings:
        if not (is_cause(crossing) if crossing.feature else opens(crossing)):
            continue
        theme = theme_of(crossing)
        if theme not in best or worst_first(crossing) < worst_first(best[theme]):
            best[theme] = crossing
    return [
        Strand(
            theme=theme,
            kind=crossing.kind,
            statistic=crossing.statistic,
            value=crossing.value,
            reference=crossing.reference,
            importance=crossing.importance,
        )
        for theme, crossing in sorted(best.items())
    ]
