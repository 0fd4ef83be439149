"""What alerting decides: crossings become incidents and requests for a successor. Pure; time is event time.

An `AlertBook` holds what is open for one model. Crossings of one version, kind and segment are one incident; segments
join the overall incident while it is open; drift joins an open quality incident as its cause, and alone is an incident
only when the features that moved matter to the model. An incident closes after it was quiet for `HOLD_PANES` panes, and
the same trouble within the cool-down after that reopens it instead of raising a new one.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from agents.alerting import wording
from agents.alerting.crossing import DRIFT_KINDS, QUALITY_KINDS, Crossing, crossing_key, crossing_of, rank
from agents.alerting.incident import Effects, Incident
from agents.alerting.triggers import Ground, RetrainState, answered, asked, due
from agents.alerting.weight import (
    CALM,
    drift_kind,
    drift_matters,
    importance_moved,
    is_cause,
    lead_of,
    names,
    opens,
    worst_first,
)
from schemas.codec import derived_id, segment_key, segment_of, to_ms, utc
from schemas.events import Alert, Kind, ModelRefused, Observation, PaneClosed, Status
from schemas.specification import Specification

HOLD_PANES = 2
"""Panes without a crossing before an incident closes."""
_DAY_MS = 86_400_000


class AlertBook(msgspec.Struct, kw_only=True):
    """Everything alerting knows of one model.

    Parameters
    ----------
    model : str
    clock_ms : int
        Newest event time seen; never goes back.
    champion : int, optional
        Version in production, once the registry said so. Crossings of other versions are remembered, not alerted.
    crossings, incidents : dict
        Open crossings by key; open incidents and those closed within the cool-down by id.

    Notes
    -----
    Methods change the book and return what to send; they are deterministic in the order of calls. An event that was
    applied before must not be applied again (the agent's inbox sees to that).
    """

    model: str
    clock_ms: int = 0
    champion: int | None = None
    crossings: dict[str, Crossing] = msgspec.field(default_factory=dict)
    incidents: dict[str, Incident] = msgspec.field(default_factory=dict)
    retrain: RetrainState = msgspec.field(default_factory=RetrainState)

    def snapshot(self) -> bytes:
        """The book as JSON."""
        return msgspec.json.encode(self)

    @classmethod
    def from_snapshot(cls, data: bytes) -> AlertBook:
        """The book that `snapshot` wrote."""
        return msgspec.json.decode(data, type=cls)

    # ------------------------------------------------------------------------------------------ what comes in

    def observed(self, observation: Observation, spec: Specification | None) -> Effects:
        """Apply an observation: open, change or close a crossing, and the incidents it touches."""
        now = self._advance(to_ms(observation.observed_at))
        if self.champion is not None and observation.version < self.champion:
            return self._tick(now, spec)  # labels still arrive for what a retired version predicted
        key = crossing_key(
            observation.version,
            observation.kind,
            observation.subject,
            segment_key(observation.segment),
            observation.window,
        )
        if observation.status == "closed":
            self.crossings.pop(key, None)
        else:
            self.crossings[key] = self._crossing(key, observation)
        effects = Effects()
        if self.champion is None or observation.version == self.champion:
            effects.extend(self._settle(observation.version, now, spec))
        effects.extend(self._tick(now, spec))
        return effects

    def pane_closed(self, pane: PaneClosed, spec: Specification | None) -> Effects:
        """Event time moved on: send gathered updates, close what stayed quiet, ask for a successor when one is due."""
        now = self._advance(to_ms(pane.observed_at))
        effects = Effects()
        versions = {c.version for c in self.crossings.values()} if self.champion is None else {self.champion}
        for version in sorted(versions):
            effects.extend(self._settle(version, now, spec))
        for incident in self._open():
            if incident.dirty:
                effects.alerts.append(self._alert(incident, "updated"))
        effects.extend(self._tick(now, spec))
        if spec is not None and (request := due(self.retrain, self.model, spec, self._grounds(), now)):
            asked(self.retrain, request, now)
            effects.requests.append(request)
        return effects

    def champion_changed(self, version: int) -> Effects:
        """Another version answers now: incidents of the others end, with the reason."""
        self.champion = version
        self.crossings = {key: c for key, c in self.crossings.items() if c.version >= version}
        effects = Effects()
        for incident in self._open():
            if incident.version != version:
                incident.note = f"Version {version} took over from version {incident.version}."
                effects.alerts.append(self._close(incident, self.clock_ms))
        return effects

    def refused(self, event: ModelRefused) -> Effects:
        """Serving could not load or use a version: the last good one goes on, and somebody has to know."""
        now = self._advance(self.clock_ms or to_ms(event.at))
        key = crossing_key(event.version, "data-quality", "serving", "", "")
        known = next((i for i in self._open() if key in i.members), None)
        if known is not None:
            return Effects()
        crossing = Crossing(
            observation_id=event.event_id,
            version=event.version,
            kind="data-quality",
            subject="serving",
            segment="",
            severity="critical",
            window="",
            window_end="",
            value=None,
            reference=None,
            threshold=None,
            n=1,
            since_ms=now,
        )
        incident = self._new("serving", [crossing], "data-quality", now)
        incident.title = f"{self.model} v{event.version}: refused by serving"
        reason = next(iter(event.reason.strip().splitlines()), "no reason given")[:200].rstrip(". ")
        incident.note = f"Serving refused version {event.version}: {reason}. The last good version goes on."
        return Effects([self._alert(incident, "opened")])

    def recovered(self, version: int) -> Effects:
        """Serving holds `version` again: its refusals, and those of what it replaced, are over."""
        effects = Effects()
        for incident in self._open():
            if incident.group == "serving" and incident.version <= version:
                incident.note = f"Serving holds version {version}."
                effects.alerts.append(self._close(incident, self.clock_ms))
        return effects

    def run_ended(self) -> None:
        """A run finished, failed or was skipped: the next request may be sent after the cool-down."""
        answered(self.retrain)

    # ---------------------------------------------------------------------------------------------- decisions

    def _settle(self, version: int, now: int, spec: Specification | None) -> Effects:
        """Bring the incidents of `version` in line with its open crossings."""
        effects = Effects()
        mine = sorted((c for c in self.crossings.values() if c.version == version), key=lambda c: (c.since_ms, c.key))
        groups: dict[tuple[str, str], list[Crossing]] = {}
        for crossing in mine:
            if crossing.kind not in DRIFT_KINDS:
                groups.setdefault((crossing.kind, crossing.segment), []).append(crossing)
        # Overall comes before segments, so that they find the incident they belong to.
        for (kind, segment), members in sorted(groups.items(), key=lambda item: (item[0][1] != "", item[0])):
            alert = self._group(kind, segment, members, mine, now=now, spec=spec)
            if alert is not None:
                effects.alerts.append(alert)
        present = {c.key for c in mine}
        for incident in self._open():
            if incident.version == version and incident.group not in {"drift", "serving"}:
                incident.members = {key: self.crossings[key] for key in incident.members if key in present}
                if not incident.members and incident.quiet_since_ms is None:
                    incident.quiet_since_ms = now
        effects.extend(self._settle_drift(version, mine, now, spec))
        return effects

    def _group(
        self,
        kind: str,
        segment: str,
        members: Sequence[Crossing],
        mine: Sequence[Crossing],
        *,
        now: int,
        spec: Specification | None,
    ) -> tuple[str, Alert] | None:
        """Join `members` to their incident, reopen it or raise it."""
        version = members[0].version
        incident = self._find(kind, segment, version)
        if incident is not None:
            return self._join(incident, members, mine)
        serious = [c for c in members if opens(c)]
        if not serious:
            return None
        drifts = [c for c in mine if is_cause(c)] if kind in QUALITY_KINDS else []
        incident = self._lately_closed(kind, segment, version, now, spec)
        if incident is not None:
            return self._reopen(incident, members, drifts)
        incident = self._new(kind, members, serious[0].kind, now)
        incident.cause_subjects = names(drifts)
        return self._alert(incident, "opened")

    def _join(
        self, incident: Incident, members: Sequence[Crossing], mine: Sequence[Crossing]
    ) -> tuple[str, Alert] | None:
        """Add crossings to an open incident; tell at once only when it became more severe."""
        incident.members.update({c.key: c for c in members})
        incident.quiet_since_ms = None
        fresh = [name for name in names(members) if name not in incident.seen_subjects]
        if incident.kind in QUALITY_KINDS:
            drifts = names([c for c in mine if is_cause(c)])
            causes = [name for name in drifts if name not in incident.cause_subjects]
            incident.cause_subjects += causes
            fresh += causes
        incident.seen_subjects += [name for name in names(members) if name not in incident.seen_subjects]
        incident.dirty = incident.dirty or bool(fresh)
        worst = max((c.severity for c in members), key=rank)
        if rank(worst) > rank(incident.severity):
            incident.severity = worst
            return self._alert(incident, "updated")
        return None

    def _settle_drift(self, version: int, mine: Sequence[Crossing], now: int, spec: Specification | None) -> Effects:
        """Drift alone: an incident only when it matters, and never beside one of quality."""
        effects = Effects()
        drifts = [c for c in mine if c.kind in DRIFT_KINDS]
        quality = next((i for i in self._open() if i.version == version and i.kind in QUALITY_KINDS), None)
        incident = self._find("drift", "", version)
        if quality is not None:
            causes = [name for name in names([c for c in drifts if is_cause(c)]) if name not in quality.cause_subjects]
            if causes:
                quality.cause_subjects += causes
                quality.dirty = True
            if incident is not None:
                incident.note = f"Quality fell too: this goes on in incident {quality.incident_id}."
                effects.alerts.append(self._close(incident, now))
            return effects
        if incident is None:
            if not drift_matters(drifts, 1.0):
                return effects
            earlier = self._lately_closed("drift", "", version, now, spec)
            if earlier is not None:
                effects.alerts.append(self._reopen(earlier, drifts, []))
                return effects
            incident = self._new("drift", drifts, drift_kind(drifts), now)
            effects.alerts.append(self._alert(incident, "opened"))
            return effects
        incident.members = {c.key: c for c in drifts}
        if not drift_matters(drifts, CALM):
            if incident.quiet_since_ms is None:
                incident.quiet_since_ms = now
            return effects
        alert = self._join(incident, drifts, mine)
        if alert is not None:
            effects.alerts.append(alert)
        return effects

    def _tick(self, now: int, spec: Specification | None) -> Effects:
        """Close what was quiet long enough; forget what closed before the cool-down."""
        hold = HOLD_PANES * (spec.pane_ms if spec else _DAY_MS)
        effects = Effects()
        for incident in self._open():
            if incident.quiet_since_ms is not None and now >= incident.quiet_since_ms + hold:
                effects.alerts.append(self._close(incident, now))
        keep = _cool_down(spec)
        self.incidents = {
            key: i for key, i in self.incidents.items() if i.closed_ms is None or now < i.closed_ms + keep
        }
        return effects

    # ---------------------------------------------------------------------------------------------- incidents

    def _new(self, group: str, members: Sequence[Crossing], kind: Kind, now: int) -> Incident:
        lead = lead_of(members)
        segment = "" if group == "drift" else lead.segment
        incident = Incident(
            incident_id=derived_id("incident", self.model, lead.version, kind, lead.subject, segment, now),
            group=group,
            version=lead.version,
            kind=kind,
            subject=lead.subject,
            segment=segment,
            severity=max((c.severity for c in members), key=rank),
            opened_ms=now,
            members={c.key: c for c in members},
            title=wording.title(kind, self.model, lead.version, lead),
            seen_subjects=names(members),
        )
        self.incidents[incident.incident_id] = incident
        return incident

    def _reopen(self, incident: Incident, members: Sequence[Crossing], drifts: Sequence[Crossing]) -> tuple[str, Alert]:
        closed = utc(incident.closed_ms or 0)
        incident.closed_ms = None
        incident.quiet_since_ms = None
        incident.members = {c.key: c for c in members}
        incident.severity = max((c.severity for c in members), key=rank)
        incident.cause_subjects = names(drifts)
        incident.note = f"It is back: it had been closed at {wording.when(closed)}."
        return self._alert(incident, "updated")

    def _close(self, incident: Incident, now: int) -> tuple[str, Alert]:
        incident.closed_ms = now
        alert = self._alert(incident, "closed")
        incident.members = {}
        return alert

    def _alert(self, incident: Incident, status: Status) -> tuple[str, Alert]:
        """The alert of an incident as it stands, with the id that a repeat would carry too."""
        incident.sequence += 1
        incident.dirty = False
        members = sorted(incident.members.values(), key=worst_first)
        shown = ("value", "reference", "threshold", "n", "window")
        drifts = self._drifts(incident.version) if incident.kind in QUALITY_KINDS else []
        moved = importance_moved(drifts or [c for c in members if c.kind in DRIFT_KINDS])
        text = incident.note
        if members and incident.group != "serving":
            said = wording.explanation(incident.kind, members, drifts, moved)
            text = f"{incident.note} {said}".strip()
        elif not text:
            text = f"No crossing since {wording.when(utc(incident.quiet_since_ms or self.clock_ms))}."
        incident.note = ""
        lead = lead_of(members) if members else None
        numbers = lead.evidence() if lead is not None else {}
        alert = Alert(
            incident_id=incident.incident_id,
            model=self.model,
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
                **{name: numbers[name] for name in shown if name in numbers},
                "observations": [c.evidence() for c in members[:20]],
                "causes": [c.evidence() for c in drifts[:20]],
                "importance_moved": round(moved, 4),
            },
        )
        return derived_id("alert", incident.incident_id, incident.sequence), alert

    # ------------------------------------------------------------------------------------------------ look-ups

    def _advance(self, at_ms: int) -> int:
        self.clock_ms = max(self.clock_ms, at_ms)
        return self.clock_ms

    def _crossing(self, key: str, observation: Observation) -> Crossing:
        crossing = crossing_of(observation)
        before = self.crossings.get(key)
        return crossing if before is None else msgspec.structs.replace(crossing, since_ms=before.since_ms)

    def _open(self) -> list[Incident]:
        return sorted(
            (i for i in self.incidents.values() if i.closed_ms is None), key=lambda i: (i.opened_ms, i.incident_id)
        )

    def _find(self, group: str, segment: str, version: int) -> Incident | None:
        """The open incident that crossings of `group` and `segment` belong to; segments join the overall one."""
        found = [i for i in self._open() if i.group == group and i.version == version]
        return next((i for i in found if i.segment == segment), None) or next(
            (i for i in found if segment and not i.segment), None
        )

    def _lately_closed(
        self, group: str, segment: str, version: int, now: int, spec: Specification | None
    ) -> Incident | None:
        keep = _cool_down(spec)
        found = [
            i
            for i in self.incidents.values()
            if i.closed_ms is not None and now < i.closed_ms + keep
            if i.group == group and i.segment == segment and i.version == version
        ]
        return max(found, key=lambda i: (i.closed_ms or 0, i.incident_id), default=None)

    def _drifts(self, version: int) -> list[Crossing]:
        found = [c for c in self.crossings.values() if c.version == version and is_cause(c)]
        return sorted(found, key=lambda c: (-(c.importance or 0.0), c.since_ms, c.key))

    def _grounds(self) -> list[Ground]:
        return [
            Ground(incident_id=i.incident_id, kind=i.kind, segment=i.segment, title=i.title, opened_ms=i.opened_ms)
            for i in self._open()
            if i.quiet_since_ms is None and (self.champion is None or i.version == self.champion)
        ]


def _cool_down(spec: Specification | None) -> int:
    return spec.cool_down_ms if spec else 7 * _DAY_MS
