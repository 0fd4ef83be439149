"""What alerting decides: crossings become incidents and requests for a successor. Pure; time is event time.

An `AlertBook` holds what is open for one model. Crossings of one version, group and segment are one incident (quality,
estimated quality and calibration are one group, coverage and label delay another, unusable values and skew of features
a third); segments join the overall incident while it is open; drift, unusable values and skew of features join an open
quality incident as its causes. Drift alone is an incident only when the features that moved matter to the model, and
never when the calendar explains it; drift and faults of the same feature are one incident, whichever came first. An
incident closes after it was quiet for `HOLD_PANES` panes, and the same trouble within the cool-down after that reopens
it instead of raising a new one. What many models have in common is one incident for all of them
(`agents.alerting.fleet`): the book goes on deciding, and is silent.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from agents.alerting import wording
from agents.alerting.budget import is_quiet
from agents.alerting.crossing import (
    DRIFT_KINDS,
    FEATURE,
    INPUT_KINDS,
    QUALITY_KINDS,
    Crossing,
    crossing_key,
    crossing_of,
    rank,
)
from agents.alerting.incident import INPUTS, PLACES, Effects, Incident
from agents.alerting.telling import alert_of
from agents.alerting.triggers import (
    Ground,
    Learnt,
    RetrainState,
    answered,
    asked,
    change_point,
    counted,
    due,
    replaced,
)
from agents.alerting.weight import (
    CALM,
    drift_kind,
    drift_matters,
    features_of,
    is_cause,
    is_input_fault,
    is_serious,
    lasting_windows,
    lead_of,
    names,
    opens,
    worst_first,
)
from schemas.codec import derived_id, segment_key, to_ms, utc
from schemas.events import Alert, Kind, ModelRefused, Observation, PaneClosed, Status
from schemas.specification import Specification

HOLD_PANES = 2
"""Panes without a crossing before an incident closes."""
GROUPS: dict[str, str] = {**dict.fromkeys(QUALITY_KINDS, "quality"), "label-delay": "coverage"}
"""Kinds that are one trouble; what is wrong with features is another (`INPUTS`), all others stand for themselves."""
SAME = "It is about the same features"
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
    previous : int, optional
        The champion before: it may be brought back, so what is open for it is remembered too.
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
    previous: int | None = None
    crossings: dict[str, Crossing] = msgspec.field(default_factory=dict)
    incidents: dict[str, Incident] = msgspec.field(default_factory=dict)
    retrain: RetrainState = msgspec.field(default_factory=RetrainState)

    def snapshot(self) -> bytes:
        """The book as JSON."""
        return msgspec.json.encode(self)

    @classmethod
    def from_snapshot(cls, data: bytes) -> AlertBook:
        """The book that `snapshot` wrote."""
        book = msgspec.json.decode(data, type=cls)
        for incident in book.incidents.values():
            # Earlier releases kept unusable values and skew of features apart.
            if incident.group in INPUT_KINDS and incident.subject.startswith(FEATURE):
                incident.group = INPUTS
        return book

    # ------------------------------------------------------------------------------------------ what comes in

    def observed(self, observation: Observation, spec: Specification | None, share: float | None = None) -> Effects:
        """Apply an observation: open, change or close a crossing, and the incidents it touches.

        Parameters
        ----------
        share : float, optional
            What this model may raise of the fleet's budget, in incidents per millisecond; None: it has only its own.
        """
        now = self._advance(to_ms(observation.observed_at))
        if self.champion is not None and self.previous != observation.version < self.champion:
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
            quiet = is_quiet(observation.evidence, spec, share)
            self.crossings[key] = self._crossing(key, observation, quiet=quiet)
        effects = Effects()
        if self.champion is None or observation.version == self.champion:
            effects.extend(self._settle(observation.version, now, spec))
        effects.extend(self._tick(now, spec))
        return effects

    def pane_closed(self, pane: PaneClosed, spec: Specification | None, learnt: Learnt | None = None) -> Effects:
        """Event time moved on: send gathered updates, close what stayed quiet, ask for a successor when one is due.

        `learnt`: what the champion was made from, where that is known.
        """
        now = self._advance(to_ms(pane.observed_at))
        if learnt is not None:
            replaced(self.retrain, learnt)
        counted(self.retrain, to_ms(pane.pane_start), pane.labelled)
        effects = Effects()
        versions = {c.version for c in self.crossings.values()} if self.champion is None else {self.champion}
        self.crossings = {key: c for key, c in self.crossings.items() if not c.over(now)}
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
        if version != self.champion:
            self.champion, self.previous = version, self.champion
        self.crossings = {k: c for k, c in self.crossings.items() if c.version >= version or c.version == self.previous}
        effects = Effects()
        for incident in self._open():
            if incident.version != version:
                incident.note = f"Version {version} took over from version {incident.version}."
                effects.alerts.append(self._close(incident, self.clock_ms))
        return effects

    def version_seen(self, version: int, external: str) -> Effects:
        """A version of a model that is served elsewhere appeared: what was open of earlier ones ends here.

        Notes
        -----
        Nobody says which version is in production there: each that has traffic is judged, and none is champion. Earlier
        ones that go on failing open incidents again.
        """
        self.crossings = {key: c for key, c in self.crossings.items() if c.version == version}
        effects = Effects()
        for incident in self._open():
            if incident.version != version:
                incident.note = f"Version {external} appeared, its number is {version}."
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

    # ---------------------------------------------------------------------------------------- with the fleet

    def folded(self, incident_id: str, fleet_id: str, why: str) -> Effects:
        """From now on a fleet incident speaks for this one; if it was told, it is told that it ends here."""
        incident = self.incidents[incident_id]
        incident.fleet = fleet_id
        if not incident.told or incident.closed_ms is not None:
            return Effects()
        incident.note = why
        event_id, alert = self._alert(incident, "closed")
        evidence = {**alert.evidence, "fleet_incident": fleet_id}
        return Effects(
            [
                (
                    event_id,
                    msgspec.structs.replace(alert, closed_at=utc(self.clock_ms), explanation=why, evidence=evidence),
                )
            ]
        )

    def spoken(self, effects: Effects) -> Effects:
        """What of `effects` is said aloud: nothing of incidents that a fleet incident speaks for.

        Notes
        -----
        What was never told opens with whatever is told first, and is never closed.
        """
        alerts = []
        for event_id, alert in effects.alerts:
            incident = self.incidents.get(alert.incident_id)
            if incident is None or (incident.told and not incident.fleet):
                alerts.append((event_id, alert))
            elif not incident.fleet and alert.status != "closed":
                incident.told = True
                alerts.append((event_id, msgspec.structs.replace(alert, status="opened")))
        return Effects(alerts, effects.requests)

    # ---------------------------------------------------------------------------------------------- decisions

    def _settle(self, version: int, now: int, spec: Specification | None) -> Effects:
        """Bring the incidents of `version` in line with its open crossings."""
        effects = Effects()
        mine = sorted((c for c in self.crossings.values() if c.version == version), key=lambda c: (c.since_ms, c.key))
        faults = [c for c in mine if is_input_fault(c)]
        effects.extend(self._settle_groups([c for c in mine if c.kind in QUALITY_KINDS], mine, now, spec))
        places = [c for c in mine if c.place]
        others = [
            c
            for c in mine
            if c.kind not in QUALITY_KINDS and c.kind not in DRIFT_KINDS and not is_input_fault(c) and not c.place
        ]
        quality = self._quality(version)
        if quality is not None:
            self._add_causes(quality, [c for c in faults if is_cause(c)])
            for incident in self._open():
                if incident.faults(version) and incident.members:
                    self._fold(incident, quality, "Quality fell too", now, effects)
        else:
            effects.extend(self._settle_groups(self._alone(version, faults), mine, now, spec))
        effects.extend(self._settle_groups(others, mine, now, spec))
        effects.extend(self._settle_places(version, places, mine, now, spec))
        present = {c.key for c in mine}
        for incident in self._open():
            if incident.version == version and incident.group not in {"drift", "serving"}:
                incident.members = {key: self.crossings[key] for key in incident.members if key in present}
                if not incident.members and incident.quiet_since_ms is None:
                    incident.quiet_since_ms = now
        effects.extend(self._settle_drift(version, mine, now, spec))
        return effects

    def _settle_groups(
        self, crossings: Sequence[Crossing], mine: Sequence[Crossing], now: int, spec: Specification | None
    ) -> Effects:
        effects = Effects()
        groups: dict[tuple[str, str], list[Crossing]] = {}
        for crossing in crossings:
            group = INPUTS if is_input_fault(crossing) else GROUPS.get(crossing.kind, crossing.kind)
            groups.setdefault((group, crossing.segment), []).append(crossing)
        # Overall comes before segments, so that they find the incident they belong to.
        for (group, segment), each in sorted(groups.items(), key=lambda item: (item[0][1] != "", item[0])):
            told = self._group(group, segment, each, mine, now=now, spec=spec)
            if told is not None:
                effects.alerts.append(told)
            whole = None if segment else self._find(group, "", each[0].version)
            for other in self._open() if whole is not None else []:
                if whole is not None and (other.group, other.version) == (group, whole.version) and other.segment:
                    self._fold(other, whole, "The whole is affected", now, effects)
        return effects

    def _settle_places(
        self, version: int, places: Sequence[Crossing], mine: Sequence[Crossing], now: int, spec: Specification | None
    ) -> Effects:
        """Silent segments are one incident: that of the whole, of the drift they make, or one of their own."""
        effects = Effects()
        opened = [i for i in self._open() if i.version == version]
        own = next((i for i in opened if i.group == PLACES), None)
        whole = next((i for i in opened if i.is_of_whole_volume()), None)
        drift = self._find("drift", "", version)
        if own is not None and whole is not None and own is not whole:
            self._fold(own, whole, "The whole is affected", now, effects)
        home = whole or own
        if own is not None and home is own:
            about = own.features()
            self._add_causes(own, [c for c in mine if is_cause(c) and c.feature in about])
        if home is None and drift is not None:
            # What the drift incident is about, it is told with.
            moved = drift.features()
            places = [c for c in places if c.place not in moved]
        if not places:
            return effects
        if home is not None:
            told = self._join(home, places, mine)
        else:
            told = self._places_open(version, places, mine, now, spec)
        if told is not None:
            effects.alerts.append(told)
        return effects

    def _places_open(
        self, version: int, places: Sequence[Crossing], mine: Sequence[Crossing], now: int, spec: Specification | None
    ) -> tuple[str, Alert] | None:
        serious = [c for c in places if opens(c)]
        if not serious:
            return None
        for segment in sorted({c.segment for c in serious}):
            earlier = self._lately_closed(PLACES, segment, version, now, spec)
            if earlier is not None:
                return self._reopen(earlier, places, [])
        return self._alert(self._new(PLACES, places, serious[0].kind, now), "opened")

    def _alone(self, version: int, faults: Sequence[Crossing]) -> list[Crossing]:
        """Faults that are not part of the open incident of drift: of features that did not move, or told before it."""
        drift = self._find("drift", "", version)
        if drift is None:
            return list(faults)
        moved = drift.features()
        untold = {c.key for c in self._untold(version, faults)}
        return [c for c in faults if c.key not in untold or c.feature not in moved]

    @staticmethod
    def _add_causes(incident: Incident, causes: Sequence[Crossing]) -> None:
        fresh = [name for name in names(causes) if name not in incident.cause_subjects]
        incident.cause_subjects += fresh
        incident.dirty = incident.dirty or bool(fresh)

    def _quality(self, version: int) -> Incident | None:
        return next((i for i in self._open() if i.version == version and i.group == "quality"), None)

    def _group(
        self,
        group: str,
        segment: str,
        members: Sequence[Crossing],
        mine: Sequence[Crossing],
        *,
        now: int,
        spec: Specification | None,
    ) -> tuple[str, Alert] | None:
        """Join `members` to their incident, reopen it or raise it."""
        version = members[0].version
        incident = self._find(group, segment, version)
        if incident is not None:
            return self._join(incident, members, mine)
        serious = [c for c in members if opens(c)]
        if not serious:
            return None
        drifts = [c for c in mine if is_cause(c)] if group == "quality" else []
        incident = self._lately_closed(group, segment, version, now, spec)
        if incident is not None:
            return self._reopen(incident, members, drifts)
        incident = self._new(group, members, min((c.kind for c in serious), key=_KIND_ORDER.index), now)
        incident.cause_subjects = names(drifts)
        return self._alert(incident, "opened")

    def _join(
        self, incident: Incident, members: Sequence[Crossing], mine: Sequence[Crossing]
    ) -> tuple[str, Alert] | None:
        """Add crossings to an open incident; tell at once only when it became more severe or labels confirm it."""
        known = incident.members.values()
        confirmed = incident.kind == "estimated-quality" and _confirms(members) and not _confirms(known)
        incident.members.update({c.key: c for c in members})
        incident.quiet_since_ms = None
        fresh = [name for name in names(members) if name not in incident.seen_subjects]
        if incident.group == "quality":
            self._add_causes(incident, [c for c in mine if is_cause(c)])
        incident.seen_subjects += [name for name in names(members) if name not in incident.seen_subjects]
        incident.dirty = incident.dirty or bool(fresh)
        worst = max((c.severity for c in members), key=rank)
        worse = rank(worst) > rank(incident.severity)
        incident.severity = worst if worse else incident.severity
        if confirmed:
            incident.note = "Labels confirm what had been estimated."
        return self._alert(incident, "updated") if worse or confirmed else None

    def _settle_drift(self, version: int, mine: Sequence[Crossing], now: int, spec: Specification | None) -> Effects:
        """Drift alone: an incident only when it matters, and never beside one of quality or of the same features."""
        effects = Effects()
        drifts = [c for c in mine if c.kind in DRIFT_KINDS and not c.seasonal]
        quality = self._quality(version)
        incident = self._find("drift", "", version)
        if quality is not None:
            self._add_causes(quality, [c for c in drifts if is_cause(c)])
            if incident is not None:
                self._fold(incident, quality, "Quality fell too", now, effects)
            return effects
        features, lasting = len(spec.features) if spec is not None else 0, lasting_windows(spec)
        moved = features_of(c for c in drifts if is_serious(c) and not c.quiet)
        faulty = next((i for i in self._open() if i.holds_inputs(version) and i.features() & moved), None)
        if faulty is not None and incident is not None:
            incident, faulty = self._one_of(incident, faulty, now, effects)
        home = incident or faulty
        going_on = home is not None and any(c.kind in DRIFT_KINDS for c in home.members.values())
        matters = drift_matters(drifts, CALM if going_on else 1.0, features, lasting)
        if home is None:
            if not matters:
                return effects
            effects.alerts.append(self._drift_opens(version, drifts, now, spec))
            home = self._find("drift", "", version)
            assert home is not None
        else:
            parts = [c for c in mine if (is_input_fault(c) or c.place) and c.key in home.members]
            if incident is not None:
                about = moved | home.features()
                parts += [c for c in self._untold(version, mine) if c.feature in about or c.place in about]
            effects.alerts += self._go_on(home, [*(drifts if matters else ()), *parts], mine, now)
        for other in self._open():
            if home.group == "drift" and other.faults(version) and other.segment and other.features() & home.features():
                self._fold(other, home, SAME, now, effects)
        return effects

    def _drift_opens(
        self, version: int, drifts: Sequence[Crossing], now: int, spec: Specification | None
    ) -> tuple[str, Alert]:
        earlier = self._lately_closed("drift", "", version, now, spec)
        if earlier is not None:
            return self._reopen(earlier, drifts, [])
        return self._alert(self._new("drift", drifts, drift_kind(drifts), now), "opened")

    def _go_on(
        self, home: Incident, members: Sequence[Crossing], mine: Sequence[Crossing], now: int
    ) -> list[tuple[str, Alert]]:
        """An open incident of inputs has exactly these crossings now."""
        home.members = {c.key: c for c in members}
        if not members:
            home.quiet_since_ms = now if home.quiet_since_ms is None else home.quiet_since_ms
            return []
        alert = self._join(home, members, mine)
        return [] if alert is None else [alert]

    def _one_of(
        self, drift: Incident, faulty: Incident, now: int, effects: Effects
    ) -> tuple[Incident | None, Incident | None]:
        """Two that turn out to be about the same feature: the younger ends in the elder."""
        elder, younger = sorted((drift, faulty), key=lambda i: (i.opened_ms, i.incident_id))
        kept = {**younger.members, **elder.members}
        self._fold(younger, elder, SAME, now, effects)
        elder.members = kept
        return (drift, None) if elder is drift else (None, faulty)

    def _fold(self, incident: Incident, into: Incident, why: str, now: int, effects: Effects) -> None:
        """One incident ends in another."""
        incident.note = f"{why}: this goes on in incident {into.incident_id}."
        effects.alerts.append(self._close(incident, now))

    def _untold(self, version: int, mine: Sequence[Crossing]) -> list[Crossing]:
        """Faults of features and silent segments that are in no open incident of their own."""
        told = {key for i in self._open() if i.version == version and i.group != "drift" for key in i.members}
        return [c for c in mine if (is_input_fault(c) or c.place) and c.key not in told]

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
        lead = lead_of([c for c in members if c.kind == kind])
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
            told=False,
        )
        self.incidents[incident.incident_id] = incident
        return incident

    def _reopen(self, incident: Incident, members: Sequence[Crossing], drifts: Sequence[Crossing]) -> tuple[str, Alert]:
        closed = utc(incident.closed_ms or 0)
        incident.closed_ms = None
        incident.quiet_since_ms = None
        incident.back_ms = self.clock_ms
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
        seasonal = self._seasonal(incident.version) if incident.group == "quality" else []
        moved = self._moved(incident, members)
        alert = alert_of(self.model, incident, status, members, moved, seasonal=seasonal, now_ms=self.clock_ms)
        incident.note = ""
        return derived_id("alert", incident.incident_id, incident.sequence), alert

    # ------------------------------------------------------------------------------------------------ look-ups

    def _advance(self, at_ms: int) -> int:
        self.clock_ms = max(self.clock_ms, at_ms)
        return self.clock_ms

    def _crossing(self, key: str, observation: Observation, *, quiet: bool) -> Crossing:
        crossing = msgspec.structs.replace(crossing_of(observation), quiet=quiet, heard_ms=self.clock_ms)
        before = self.crossings.get(key)
        if before is None:
            return crossing
        return msgspec.structs.replace(crossing, since_ms=before.since_ms, start_ms=before.start_ms)

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

    def causes_of(self, incident: Incident) -> list[Crossing]:
        """What moved beside an incident of quality; nothing for others."""
        return self._causes(incident.version) if incident.group == "quality" and incident.closed_ms is None else []

    def _moved(self, incident: Incident, members: Sequence[Crossing]) -> list[Crossing]:
        """What an alert ranks: what moved beside lost quality; of inputs, what is wrong with them."""
        if incident.group == "quality":
            return self._causes(incident.version)
        if incident.group == "drift":
            return list(members)
        if incident.group not in {INPUTS, PLACES}:
            return []
        # Drift of the same feature is told with its faults, also where it would be no reason to act.
        broken = incident.features()
        found = [*members, *(c for c in self._causes(incident.version) if c.feature in broken and c not in members)]
        return found if incident.group == INPUTS else [c for c in found if not c.place]

    def _causes(self, version: int) -> list[Crossing]:
        # Segments have no season of their own: what the calendar does to the whole, it does to them.
        seasonal = {c.subject for c in self._seasonal(version) if not c.segment}
        found = [
            c
            for c in self.crossings.values()
            if c.version == version and is_cause(c) and not (c.segment and c.subject in seasonal)
        ]
        return sorted(found, key=lambda c: (c.since_ms, c.key))

    def _seasonal(self, version: int) -> list[Crossing]:
        found = [c for c in self.crossings.values() if c.version == version and c.seasonal]
        return sorted(found, key=lambda c: (-(c.importance or 0.0), c.key))

    def _grounds(self) -> list[Ground]:
        return [
            Ground(
                incident_id=i.fleet or i.incident_id,
                kinds=frozenset({i.kind, *(c.kind for c in i.members.values() if c.kind in DRIFT_KINDS)}),
                segment=i.segment,
                title=i.title,
                opened_ms=i.opened_ms,
                changed_ms=change_point(i.members.values()),
            )
            for i in self._open()
            if i.quiet_since_ms is None and (self.champion is None or i.version == self.champion)
        ]


_KIND_ORDER: tuple[Kind, ...] = (
    "quality", "calibration", "estimated-quality", "coverage", "label-delay", "data-quality", "skew", "new-segment",
    "data-drift", "prediction-drift", "label-drift",
)  # fmt: skip
"""Which kind names an incident of several: measured before estimated."""


def _confirms(members: Iterable[Crossing]) -> bool:
    return any(c.kind in {"quality", "calibration"} for c in members)


def _cool_down(spec: Specification | None) -> int:
    return spec.alarm_cool_down_ms if spec else 7 * _DAY_MS
