"""A large registry, made in bulk: the real schema, events as the service makes them, an audit chain that verifies.

What the service would have written, event by event, is put into the tables directly: a minute instead of half an hour.
Left out is the outbox: its rows were published and pruned long ago.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec
from sqlalchemy import Table, insert
from sqlalchemy.orm import Session

from agents.artifacts import ArtifactStore
from agents.registry.fixed import record_hash
from agents.registry.impact import PACKAGES, named
from agents.registry.lineage import inputs
from agents.registry.logic import GENESIS, chained, spans
from agents.registry.tables import (
    ApprovalRequestRow,
    ApprovalRow,
    AuditRow,
    EnvironmentRow,
    InputRow,
    LedgerRow,
    ModelRow,
    PackageRow,
    SpecificationRow,
    StandingRow,
    TagRow,
    VersionRow,
)
from agents.registry.tags import of_specification
from schemas.codec import derived_id, encode, iso
from schemas.events import (
    ApprovalRequested,
    ModelPromoted,
    ModelRegistered,
    RegistryEvent,
    TagsChanged,
    VersionApproved,
    VersionRegistered,
    VersionRejected,
    VersionValidated,
)
from schemas.specification import parse

START: Final = datetime(2025, 1, 1, tzinfo=UTC)
STEP: Final = timedelta(seconds=60)
ACTOR: Final = "ann"
OWNERS, TEAMS, CITIES = 50, 20, 10
DATASETS, COMMITS, LOCKS, LOCKED = 500, 200, 40, 120
WAITING_OF = 100
"""Every so many-th model has a version that waits for approval."""
PARENTS = (SpecificationRow, EnvironmentRow, ModelRow)
CHILDREN = (PackageRow, VersionRow, TagRow)
ANSWERS = (ApprovalRow,)
"""Rows that refer to rows of `FREE`, whose numbers grow from 1."""
FREE = (AuditRow, InputRow, ApprovalRequestRow, StandingRow)
"""Rows that refer to none of the others: they need not wait for the end."""
_AT_ONCE = 10_000

SPECIFICATION: Final = """
[model]
name = "NAME"
task = "binary"
owner = "OWNER"
team = "TEAM"
tags = { city = "CITY", line = "LINE" }
[data]
id = "id"
event_time = "t"
label = "y"
max_label_delay = "1d"
[features]
x = "numeric"
z = "numeric"
[metrics]
primary = "roc_auc"
[approval]
mode = "manual"
"""


def name_of(number: int) -> str:
    return f"bus-{number:05}"


def specification(number: int) -> str:
    """The specification of a model."""
    said = {
        "NAME": name_of(number),
        "OWNER": f"owner-{number % OWNERS}",
        "TEAM": f"team-{number % TEAMS}",
        "CITY": f"city-{number % CITIES}",
        "LINE": str(number // 100),
    }
    text = SPECIFICATION
    for key, value in said.items():
        text = text.replace(key, value)
    return text


def digest(*parts: object) -> str:
    return hashlib.sha256("/".join(map(str, parts)).encode()).hexdigest()


def dataset(number: int) -> str:
    return digest("dataset", number % DATASETS)


def commit(number: int) -> str:
    return digest("commit", number % COMMITS)[:40]


def environment(number: int) -> dict[str, str]:
    """What a version records of its environment; its lock names `LOCKED` packages."""
    return {"python": "3.11.7", "scikit-learn": f"1.{number % LOCKS}.0", "lock": digest("lock", number % LOCKS)}


def packages(number: int) -> dict[str, str]:
    """Packages of the lock of `environment(number)`."""
    locked = {f"package-{n}": f"{number % LOCKS}.{n}" for n in range(LOCKED)}
    return {**named(environment(number)), **locked}


class Filling:
    """Rows of a registry in the order of its events.

    Parameters
    ----------
    models, versions : int
        How many; versions are spread over all models, round after round.
    """

    def __init__(self, models: int, versions: int, *, seed: int = 0) -> None:
        self.models = models
        self.versions = versions
        self.epoch = 0
        self.head = GENESIS
        self.now = START
        self._random = random.Random(seed)
        self._rows: dict[Table, list[dict[str, Any]]] = {}
        self._champion: dict[int, int] = {}
        self._challenger: dict[int, int] = {}
        self._reigning: dict[int, dict[str, Any]] = {}
        self._touched: dict[int, int] = {}
        self._made = self._asked = 0
        self._began: dict[int, datetime] = {}
        self._events: dict[int, list[Any]] = {}

    def write(self, session: Session, store: ArtifactStore) -> None:
        """Write everything into an empty registry."""
        reference = store.put(b"{}", "reference")
        artifact = store.put(b"model", "model")
        for number in range(LOCKS):
            self._environment(number)
        specifications = []
        for number in range(self.models):
            text = specification(number)
            specifications.append(hashlib.sha256(text.encode()).hexdigest())
            self._add(SpecificationRow, sha=specifications[number], text=text)
            self._model(number, text)
            self._flush(session, FREE, _AT_ONCE)
        made = [0] * self.models
        for at in range(self.versions):
            number = at % self.models
            made[number] += 1
            last = at + self.models >= self.versions
            self._version(number, made[number], artifact, reference, specifications[number], last=last)
            self._flush(session, FREE, _AT_ONCE)
        # A model's row holds how all of that ended; children follow their parents.
        for number in range(self.models):
            for span in spans(self._events.pop(number)):
                self._add(StandingRow, model=name_of(number), **span._asdict())
            self._add(
                ModelRow,
                name=name_of(number),
                task="binary",
                specification=specifications[number],
                champion=self._champion.get(number),
                challenger=self._challenger.get(number),
                shadow=None,
                epoch=self._touched[number],
                actor=ACTOR,
                registered_at=self._began[number],
                monitored=False,
            )
        self._flush(session, [*PARENTS, *CHILDREN, *FREE, *ANSWERS], 0)
        session.execute(insert(LedgerRow).values(id=1, epoch=self.epoch, head=self.head, recorded_at=self.now))

    def moment(self) -> datetime:
        """Some moment of the history."""
        return START + (self.now - START) * self._random.random()

    # ------------------------------------------------------------------------------------------- inside

    def _model(self, number: int, text: str) -> None:
        name = name_of(number)
        self._event(number, ModelRegistered, None, task="binary")
        self._began[number] = self.now
        tags = of_specification(parse(text))
        self._event(number, TagsChanged, None, tags=tags, removed=[])
        for key, value in tags.items():
            self._add(TagRow, model=name, version=0, key=key, value=value, since=self.epoch, until=None)

    def _version(self, number: int, version: int, artifact: str, reference: str, sha: str, *, last: bool) -> None:
        name, previous = name_of(number), self._champion.get(number)
        some, self._made = self._made, self._made + 1
        waits = last and number % WAITING_OF == 0
        rejected = not waits and previous is not None and self._random.randrange(10) == 0
        stage = "approval-requested" if waits else "rejected" if rejected else "promoted"
        promoted = "initial" if previous is None else "promoted"
        decision = {"promoted": promoted, "rejected": "rejected"}.get(stage, "awaiting-approval")
        now = self.now + STEP  # of the event that registers it
        row: dict[str, Any] = {
            "model": name,
            "version": version,
            "artifact": artifact,
            "reference": reference,
            "specification": sha,
            "code": {"tree": digest("tree", some % COMMITS), "commit": commit(some)},
            "dataset": {"rows": 10_000, "sha256": digest("rows", name, version), "registered": dataset(some)},
            "environment": environment(some),
            "parameters": {"depth": some % 9},
            "seed": 0,
            "parent": previous,
            "run_id": f"run-{name}-{version}",
            "report": {"passed": not rejected, "primary": {"candidate": 0.7, "champion": 0.69}, "rows": 1_000},
            "actor": "retraining",
            "at": now,
            "registered_at": now,
            "registered_epoch": self.epoch + 1,
            "stage": stage,
            "decision": decision,
            "reason": "worse" if rejected else "better",
            "promoted_at": None,
            "previous": previous if stage == "promoted" else None,
            "external": None,
            "allowed_types": [],
        }
        made = VersionRow(**row)
        told = {"artifact": artifact, "parent": previous, "record": record_hash(made)}
        self._event(number, VersionRegistered, version, **told)
        self._rows.setdefault(VersionRow.__table__, []).append(row)  # changed once more where it is superseded
        environment_sha = hashlib.sha256(msgspec.json.encode(row["environment"], order="sorted")).hexdigest()
        things = [(kind, found, relation) for kind, found, _, relation in inputs(made)]
        for kind, found, relation in {*things, (PACKAGES, environment_sha, "environment")}:
            self._add(InputRow, model=name, version=version, kind=kind, sha=found, relation=relation)
        if rejected:
            self._event(number, VersionRejected, version, reason="worse")
            return
        self._event(number, VersionValidated, version, artifact=artifact)
        self._event(number, ApprovalRequested, version, approvers=1)
        about = {"model": name, "version": version, "artifact": artifact, "requester": ACTOR, "four_eyes": False}
        asked = {**about, "approvers": 1, "requested_at": self.now}
        self._asked += 1
        if waits:
            self._add(ApprovalRequestRow, **asked, closed_at=None)
            self._challenger[number] = version
            return
        self._event(number, VersionApproved, version, comment="")
        self._add(ApprovalRequestRow, **asked, closed_at=self.now)
        self._add(ApprovalRow, **about, actor=ACTOR, comment="", at=self.now, request=self._asked)
        self._event(number, ModelPromoted, version, previous=previous, artifact=artifact)
        row["promoted_at"] = self.now
        if number in self._reigning:
            self._reigning[number]["stage"] = "superseded"
        self._champion[number], self._reigning[number] = version, row

    def _environment(self, number: int) -> None:
        found = environment(number)
        sha = hashlib.sha256(msgspec.json.encode(found, order="sorted")).hexdigest()
        self._add(EnvironmentRow, id=sha, lock=found["lock"], complete=True)
        for name, version in packages(number).items():
            self._add(PackageRow, environment=sha, name=name, version=version)

    def _event(self, number: int, kind: type[RegistryEvent], version: int | None, **fields: Any) -> None:
        self.epoch += 1
        self.now += STEP
        name = name_of(number)
        if version is not None or kind is TagsChanged:
            fields["version"] = version
        event = kind(
            event_id=derived_id(name, kind.__name__, version, self.epoch),
            epoch=self.epoch,
            at=self.now,
            model=name,
            actor=ACTOR,
            **fields,
        )
        said = {
            "epoch": self.epoch,
            "actor": ACTOR,
            "action": kind.__name__,
            "model": name,
            "version": version,
            "event": encode(event).decode(),
        }
        before, self.head = self.head, chained(self.head, {**said, "recorded_at": iso(self.now)})
        self._add(AuditRow, **said, recorded_at=self.now, previous_hash=before, hash=self.head)
        self._touched[number] = self.epoch
        self._events.setdefault(number, []).append(event)

    def _add(self, row_of: Any, /, **values: Any) -> None:
        self._rows.setdefault(row_of.__table__, []).append(values)

    def _flush(self, session: Session, kinds: Iterable[Any], least: int) -> None:
        for kind in kinds:
            rows = self._rows.get(kind.__table__, [])
            if rows and len(rows) >= least:
                session.execute(kind.__table__.insert(), rows)
                rows.clear()
