"""What many models have in common becomes one incident: the same feature, labels that stay away, quality. Pure.

Every model's book (`agents.alerting.logic`) decides by itself whether it has a reason to act. A `FleetBook` sees these
incidents of all models. When as many models as chance cannot explain have an incident about the same thing within
`TOGETHER_MS` of each other, one fleet incident opens; theirs, and those of every model that joins later, go on silently
as its parts. It closes when none of them is open any more.

Everything is counted in event time, from when each incident opened: which models belong together, when it opened and
under which id do not depend on the order in which the models' records arrive, as long as they are out of order by less
than `TOGETHER_MS`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

import msgspec
from scipy import special

from agents.alerting import fleet_wording
from agents.alerting.crossing import FEATURE, rank
from agents.alerting.standing import Standing
from schemas.codec import derived_id, segment_of, utc
from schemas.events import FLEET, Alert, Kind, Severity, Status

DAY_MS: Final = 86_400_000
TOGETHER_MS: Final = DAY_MS
"""Incidents that opened within this of each other may be one."""
LEAST_MODELS: Final = 3
CHANCE: Final = 1e-3
"""How unlikely so many incidents within `TOGETHER_MS` have to be if every model only spent its false-alarm budget."""
AGAIN_MS: Final = 7 * DAY_MS
"""The same within this after the end reopens the incident instead of raising a new one."""


class FleetIncident(msgspec.Struct, kw_only=True):
    """An incident of many models. `needed`: models it took to open; `expected`: what chance alone would bring."""

    fleet_id: str
    theme: str
    kind: Kind
    severity: Severity
    opened_ms: int
    first_ms: int
    needed: int
    expected: float
    closed_ms: int | None = None
    sequence: int = 0
    told_ms: int = 0
    told_models: int = 0
    dirty: bool = False
    note: str = ""


@dataclass
class FleetEffects:
    """Alerts with their event ids, and incidents that are silent from now on."""

    alerts: list[tuple[str, Alert]] = field(default_factory=list)
    folded: list[tuple[str, str, str]] = field(default_factory=list)
    """Model, incident id, fleet incident id."""


def needed_models(expected: float) -> int:
    """How many models it takes, where chance brings `expected` of them on average.

    Examples
    --------
    >>> needed_models(0.0), needed_models(0.5), needed_models(30.0)
    (3, 5, 49)
    """
    count = LEAST_MODELS
    while float(special.pdtrc(count - 1, expected)) > CHANCE:
        count += 1
    return count


def milestone(models: int) -> int:
    """The largest of 1, 3, 10, 30, 100, … that `models` reached: growth is told at once only when it passes one.

    Examples
    --------
    >>> milestone(9), milestone(10), milestone(299)
    (3, 10, 100)
    """
    reached = step = 1
    while step <= models:
        reached = step
        step = step * 3 if str(step)[0] == "1" else step // 3 * 10
    return reached


class FleetBook:
    """Incidents of all models, and what they are part of.

    Parameters
    ----------
    models : int
        Models that alerting knows.

    Notes
    -----
    `changed` and `gone` say which records (`standing:…`, `fleet:…`, `ordinal:…`, `clock:`) are to be written or
    deleted; the caller empties them. An observation costs time in proportion to the incidents that share its theme and
    are not part of a fleet incident yet; joining an open one costs a constant, telling about it goes over its members.
    """

    def __init__(self, models: int = 0) -> None:
        self.models = models
        self.clock_ms = 0
        self.standings: dict[str, Standing] = {}
        self.incidents: dict[str, FleetIncident] = {}
        self.ordinals: dict[str, int] = {}
        self.changed: set[str] = set()
        self.gone: set[str] = set()
        self._free: dict[str, set[str]] = {}
        self._members: dict[str, set[str]] = {}
        self._active: dict[str, dict[str, set[str]]] = {}
        self._worst: dict[str, Severity] = {}
        self._of_model: dict[str, set[str]] = {}
        self._swept_ms = 0

    # ------------------------------------------------------------------------------------------------ what comes in

    def restore(
        self,
        standings: Iterable[Standing],
        incidents: Iterable[FleetIncident],
        ordinals: dict[str, int],
        clock_ms: int,
    ) -> None:
        """Take up what was written."""
        self.incidents = {incident.fleet_id: incident for incident in incidents}
        self.ordinals = dict(ordinals)
        for standing in standings:
            self._put(standing)
        self.clock_ms = self._swept_ms = clock_ms
        self._worst.clear()
        self.changed.clear()
        self.gone.clear()

    def observed(self, model: str, found: Sequence[Standing], now_ms: int) -> FleetEffects:
        """Take in the incidents of one model as they stand.

        Parameters
        ----------
        model : str
        found : sequence of Standing
            All its incidents that its book remembers.
        now_ms : int
            Event time of the model's book.
        """
        if now_ms > self.clock_ms:
            self.clock_ms = now_ms
            self.changed.add("clock:")
        effects = FleetEffects()
        touched: set[str] = set()
        given = {standing.incident_id for standing in found}
        for gone in self._of_model.get(model, set()) - given:
            known = self.standings[gone]
            if known.until_ms is None:  # its book forgot it: it cannot come back
                self._put(msgspec.structs.replace(known, until_ms=now_ms))
                touched.add(known.fleet)
        for standing in found:
            fleet = self._take(standing)
            touched.add(fleet)
        for standing in found:
            stored = self.standings[standing.incident_id]
            if stored.until_ms is None and not stored.fleet:
                touched.add(self._place(stored, effects))
        for fleet_id in sorted(touched - {""}):
            self._look_at(self.incidents[fleet_id], effects)
        self._tick(effects)
        return effects

    # ---------------------------------------------------------------------------------------------------- decisions

    def _take(self, new: Standing) -> str:
        """Store an incident as it stands; returns the fleet incident it belongs to."""
        old = self.standings.get(new.incident_id)
        if old is None:
            self._put(msgspec.structs.replace(new, fleet=""))
            return ""
        fleet = old.fleet
        if old.until_ms is not None and new.until_ms is None and fleet and self.incidents[fleet].closed_ms is not None:
            fleet = ""  # it came back after the fleet incident was over
        kept = new if new.strands else msgspec.structs.replace(new, strands=old.strands, segments=old.segments)
        kept = msgspec.structs.replace(kept, fleet=fleet, events=max(new.events, old.events))
        if kept == old:
            return ""
        self._put(kept)
        if fleet and (kept.themes, kept.version, kept.until_ms) != (old.themes, old.version, old.until_ms):
            self.incidents[fleet].dirty = True
            self.changed.add(f"fleet:{fleet}")
        return fleet

    def _place(self, standing: Standing, effects: FleetEffects) -> str:
        """Find the fleet incident that an incident belongs to, or open one; returns its id or nothing."""
        running = [
            incident
            for incident in self.incidents.values()
            if incident.closed_ms is None
            and incident.theme in standing.themes
            and standing.since_ms >= incident.first_ms - TOGETHER_MS
        ]
        if running:
            chosen = min(running, key=lambda i: (_generic(i.theme), -len(self._active[i.fleet_id]), i.theme))
            self._join(chosen, [standing], effects)
            return chosen.fleet_id
        options = []
        for theme in standing.themes:
            cluster, expected = self._cluster(theme, standing)
            needed = needed_models(expected)
            if reached_at(cluster, needed) is not None:
                weight = sum(strand.importance or 0.0 for s in cluster if (strand := s.strand(theme)) is not None)
                models = len({s.model for s in cluster})
                options.append((_generic(theme), -models, -weight, theme, needed, expected, cluster))
        if not options:
            return ""
        *_, theme, needed, expected, cluster = min(options, key=lambda option: option[:4])
        return self._open(theme, needed, expected, cluster, effects)

    def _cluster(self, theme: str, standing: Standing) -> tuple[list[Standing], float]:
        """Incidents with `theme` that opened in one chain of time with this one, and how many chance would bring."""
        free = [self.standings[key] for key in self._free.get(theme, ())]
        free.sort(key=_age)
        chain: list[Standing] = free[:1]
        for before, after in pairwise(free):
            if after.since_ms - before.since_ms > TOGETHER_MS:
                if standing in chain:
                    break
                chain = []
            chain.append(after)
        share = sum(s.chance / (s.features if theme.startswith(FEATURE) else 1) for s in chain) / max(len(chain), 1)
        return chain, share * TOGETHER_MS * max(self.models, len(chain))

    def _open(self, theme: str, needed: int, expected: float, cluster: list[Standing], effects: FleetEffects) -> str:
        lately = [
            i
            for i in self.incidents.values()
            if i.theme == theme and i.closed_ms is not None and cluster[-1].since_ms < i.closed_ms + AGAIN_MS
        ]
        if lately:
            incident = max(lately, key=lambda i: (i.closed_ms or 0, i.fleet_id))
            incident.note = f"It is back: it had been closed at {fleet_wording.day(incident.closed_ms or 0)}."
            incident.closed_ms = None
        else:
            ordinal = self.ordinals.get(theme, 0) + 1
            self.ordinals[theme] = ordinal
            self.changed.add(f"ordinal:{theme}")
            incident = FleetIncident(
                fleet_id=derived_id("incident", FLEET, theme, ordinal),
                theme=theme,
                kind=fleet_wording.kind_of(theme, cluster),
                severity="info",
                opened_ms=reached_at(cluster, needed) or cluster[-1].since_ms,
                first_ms=cluster[0].since_ms,
                needed=needed,
                expected=expected,
            )
            self.incidents[incident.fleet_id] = incident
        self._members.setdefault(incident.fleet_id, set())
        self._active.setdefault(incident.fleet_id, {})
        self._join(incident, cluster, effects)
        return incident.fleet_id

    def _join(self, incident: FleetIncident, joining: Sequence[Standing], effects: FleetEffects) -> None:
        for standing in joining:
            self._put(msgspec.structs.replace(standing, fleet=incident.fleet_id))
            effects.folded.append((standing.model, standing.incident_id, incident.fleet_id))
        incident.dirty = True
        incident.first_ms = min(incident.first_ms, *(s.since_ms for s in joining))
        if any(s.since_ms < incident.opened_ms for s in joining):
            reached = reached_at(self.members(incident.fleet_id), incident.needed)
            incident.opened_ms = incident.opened_ms if reached is None else reached
        self.changed.add(f"fleet:{incident.fleet_id}")

    def _look_at(self, incident: FleetIncident, effects: FleetEffects) -> None:
        """Tell what has to be told at once: that it opened, grew, became worse or ended."""
        if incident.closed_ms is not None:
            return
        fleet_id = incident.fleet_id
        models = len(self._active[fleet_id])
        worst = self._worst.pop(fleet_id, incident.severity)
        worse = rank(worst) > rank(incident.severity)
        if worse:
            incident.severity = worst
            self.changed.add(f"fleet:{fleet_id}")
        if not models and incident.sequence:
            incident.closed_ms = max(s.until_ms or 0 for s in self.members(fleet_id))
            effects.alerts.append(self._alert(incident, "closed"))
        elif not incident.sequence:
            effects.alerts.append(self._alert(incident, "opened"))
        elif worse or incident.note or milestone(models) > milestone(incident.told_models):
            effects.alerts.append(self._alert(incident, "updated"))

    def _tick(self, effects: FleetEffects) -> None:
        """Once event time moved on: gathered updates; forget what is over."""
        if self.clock_ms <= self._swept_ms:
            return
        self._swept_ms = self.clock_ms
        for incident in list(self.incidents.values()):
            if incident.closed_ms is None and incident.dirty and self.clock_ms > incident.told_ms:
                effects.alerts.append(self._alert(incident, "updated"))
            elif incident.closed_ms is not None and self.clock_ms >= incident.closed_ms + AGAIN_MS:
                for key in list(self._members.get(incident.fleet_id, ())):
                    self._drop(key)
                del self.incidents[incident.fleet_id]
                self._members.pop(incident.fleet_id, None)
                self._active.pop(incident.fleet_id, None)
                self.gone.add(f"fleet:{incident.fleet_id}")
        over = [
            s.incident_id
            for s in self.standings.values()
            if not s.fleet and s.until_ms is not None and self.clock_ms > s.until_ms + TOGETHER_MS
        ]
        for key in over:
            self._drop(key)

    def _alert(self, incident: FleetIncident, status: Status) -> tuple[str, Alert]:
        """The alert of a fleet incident as it stands, with the id that a repeat would carry too."""
        incident.sequence += 1
        incident.dirty = False
        incident.told_ms = self.clock_ms
        members = self.members(incident.fleet_id)
        active = [s for s in members if s.until_ms is None]
        # The most that were told: a count that swings around a mark is not told every time.
        incident.told_models = max(incident.told_models, len({s.model for s in active}))
        self.changed.add(f"fleet:{incident.fleet_id}")
        said = fleet_wording.told(incident.theme, incident.kind, members, status=status, known=self.models)
        segments = {tuple(s.segments) for s in members}
        only = next(iter(segments)) if len(segments) == 1 else ()
        took = fleet_wording.took(incident.needed, incident.expected, incident.opened_ms)
        text = " ".join(part for part in (incident.note, said.explanation, took) if part)
        incident.note = ""
        alert = Alert(
            incident_id=incident.fleet_id,
            model=FLEET,
            version=0,
            kind=incident.kind,
            subject=incident.theme,
            segment=segment_of(only[0]) if len(only) == 1 else None,
            severity=incident.severity,
            status=status,
            opened_at=utc(incident.opened_ms),
            closed_at=None if incident.closed_ms is None else utc(incident.closed_ms),
            title=said.title,
            explanation=text,
            evidence={
                **said.evidence,
                "needed_models": incident.needed,
                "expected_by_chance": round(incident.expected, 3),
            },
        )
        return derived_id("alert", incident.fleet_id, incident.sequence), alert

    # ----------------------------------------------------------------------------------------------------- look-ups

    def members(self, fleet_id: str) -> list[Standing]:
        """Incidents that are or were part of a fleet incident, by age."""
        return sorted((self.standings[key] for key in self._members.get(fleet_id, ())), key=_age)

    def affected(self, fleet_id: str) -> int:
        """Models that have an open incident in a fleet incident; costs nothing, however many there are."""
        return len(self._active.get(fleet_id, ()))

    def _put(self, standing: Standing) -> None:
        key = standing.incident_id
        self._unlink(key)
        self.standings[key] = standing
        self._of_model.setdefault(standing.model, set()).add(key)
        if standing.fleet:
            self._members.setdefault(standing.fleet, set()).add(key)
            active = self._active.setdefault(standing.fleet, {})
            if standing.until_ms is None:
                active.setdefault(standing.model, set()).add(key)
                worst = self._worst.get(standing.fleet, "info")
                self._worst[standing.fleet] = max(worst, standing.severity, key=rank)
        else:
            for theme in standing.themes:
                self._free.setdefault(theme, set()).add(key)
        self.changed.add(f"standing:{key}")
        self.gone.discard(f"standing:{key}")

    def _unlink(self, key: str) -> None:
        old = self.standings.get(key)
        if old is None:
            return
        for theme in old.themes:
            if key in (free := self._free.get(theme, set())):
                free.remove(key)
                if not free:
                    del self._free[theme]
        if old.fleet:
            self._members[old.fleet].discard(key)
            active = self._active[old.fleet]
            if key in active.get(old.model, ()):
                active[old.model].remove(key)
                if not active[old.model]:
                    del active[old.model]

    def _drop(self, key: str) -> None:
        self._unlink(key)
        standing = self.standings.pop(key)
        of_model = self._of_model[standing.model]
        of_model.discard(key)
        if not of_model:
            del self._of_model[standing.model]
        self.changed.discard(f"standing:{key}")
        self.gone.add(f"standing:{key}")


def reached_at(found: Sequence[Standing], needed: int) -> int | None:
    """Event time at which `needed` models had opened an incident within `TOGETHER_MS`; None: they never did.

    Parameters
    ----------
    found : sequence of Standing
        By age.
    """
    recent: list[Standing] = []
    for standing in found:
        recent = [s for s in recent if standing.since_ms - s.since_ms <= TOGETHER_MS and s.model != standing.model]
        recent.append(standing)
        if len(recent) >= needed:
            return standing.since_ms
    return None


def _age(standing: Standing) -> tuple[int, str, str]:
    return standing.since_ms, standing.model, standing.incident_id


def _generic(theme: str) -> bool:
    """A feature names a cause; that quality fell, or predictions moved, only a symptom."""
    return not theme.startswith(FEATURE)
