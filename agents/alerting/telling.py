"""An incident as it stands becomes an alert: causes ranked, blast radius, words with numbers. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from agents.alerting import wording
from agents.alerting.causes import MOST_CAUSES, ranked, worst_segments
from agents.alerting.crossing import DRIFT_KINDS, Crossing
from agents.alerting.incident import Incident
from agents.alerting.weight import importance_moved, lead_of
from schemas.codec import segment_of, utc
from schemas.events import Alert, Status

MOST_OBSERVATIONS = 20
_LEAD = ("value", "reference", "threshold", "n", "window")


def alert_of(
    model: str,
    incident: Incident,
    status: Status,
    members: Sequence[Crossing],
    moved: Sequence[Crossing],
    *,
    seasonal: Sequence[Crossing],
    now_ms: int,
) -> Alert:
    """The alert of an incident.

    Parameters
    ----------
    members : sequence of Crossing
        Of the incident, worst first.
    moved : sequence of Crossing
        What its causes are ranked of.
    seasonal : sequence of Crossing
        What the calendar explains meanwhile.
    now_ms : int
        Event time.
    """
    causes = ranked(moved)
    share = importance_moved(moved or [c for c in members if c.kind in DRIFT_KINDS])
    text = incident.note
    if members and incident.group != "serving":
        said = wording.explanation(incident.kind, members, causes, share, seasonal)
        text = f"{incident.note} {said}".strip()
    elif not text:
        text = f"No crossing since {wording.when(utc(incident.quiet_since_ms or now_ms))}."
    lead = lead_of(members).evidence() if members else {}
    affected = {
        "model": model,
        "version": incident.version,
        "segments": worst_segments(members),
        "events": max((c.n for c in members), default=0),
    }
    return Alert(
        incident_id=incident.incident_id,
        model=model,
        version=incident.version,
        kind=incident.kind,
        subject=incident.subject,
        segment=segment_of(incident.segment),
        severity=incident.severity,
        status=status,
        opened_at=utc(incident.opened_ms),
        closed_at=utc(incident.closed_ms) if incident.closed_ms is not None else None,
        title=incident.title,
        explanation=text,
        evidence={
            **{name: lead[name] for name in _LEAD if name in lead},
            "observations": [c.evidence() for c in members[:MOST_OBSERVATIONS]],
            "causes": [cause.evidence() for cause in causes[:MOST_CAUSES]],
            "importance_moved": round(share, 4),
            "blast_radius": {"models": 1, "affected": [affected]},
        },
    )
