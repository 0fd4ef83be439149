"""An incident as the alert book remembers it, and what a decision sends."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from agents.alerting.crossing import FEATURE, VOLUME, Crossing
from schemas.events import Alert, Kind, RetrainRequest, Severity

INPUTS = "inputs"
"""Group of what is wrong with features: unusable values, and skew between training and serving."""
PLACES = "places"
"""Group of segments from which hardly anything comes, whichever they are."""


class Incident(msgspec.Struct, kw_only=True):
    """An incident as the book remembers it; `group` and `segment` say which crossings belong to it.

    `fleet`: the fleet incident it is part of, which speaks for it; `told`: it was on `alerts` by itself;
    `back_ms`: when it was last reopened.
    """

    incident_id: str
    group: str
    version: int
    kind: Kind
    subject: str
    segment: str
    severity: Severity
    opened_ms: int
    members: dict[str, Crossing]
    title: str
    cause_subjects: list[str] = msgspec.field(default_factory=list)
    seen_subjects: list[str] = msgspec.field(default_factory=list)
    quiet_since_ms: int | None = None
    closed_ms: int | None = None
    sequence: int = 0
    dirty: bool = False
    note: str = ""
    fleet: str = ""
    told: bool = True
    back_ms: int | None = None

    def faults(self, version: int) -> bool:
        """Whether it is one of faults of features of that version."""
        return self.group == INPUTS and self.version == version

    def holds_inputs(self, version: int) -> bool:
        """Whether drift of the features that it is about goes on in it: faults of the whole, or silent segments."""
        return self.version == version and (self.group == PLACES or (self.group == INPUTS and not self.segment))

    def features(self) -> set[str]:
        """Features that it is about, and what tells silent segments apart; the one that named it stays one of them."""
        found = {name for crossing in self.members.values() for name in (crossing.feature, crossing.place)}
        named = {self.subject.removeprefix(FEATURE)} if self.subject.startswith(FEATURE) else set()
        if self.group == PLACES:
            named = {self.segment.partition("=")[0]}
        return {name for name in found | named if name is not None}

    def is_of_whole_volume(self) -> bool:
        """Whether it tells that hardly anything comes from anywhere."""
        return any(c.kind == "data-quality" and c.subject == VOLUME and not c.segment for c in self.members.values())


@dataclass
class Effects:
    """What a decision sends: alerts with their event ids, and requests."""

    alerts: list[tuple[str, Alert]] = field(default_factory=list)
    requests: list[RetrainRequest] = field(default_factory=list)

    def extend(self, other: Effects) -> None:
        """Append what another decision sends."""
        self.alerts += other.alerts
        self.requests += other.requests
