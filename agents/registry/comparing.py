"""The rows of some models, held against what their events add up to (`agents.registry.expected`)."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from agents.registry.expected import UNKNOWN, Expected, Heard, Row
from agents.registry.tables import (
    ApprovalRequestRow,
    ApprovalRow,
    FlagRow,
    ModelRow,
    ReviewRow,
    SpecificationRow,
    TagRow,
    VersionRow,
)
from agents.registry.tags import of_specification
from schemas.errors import SpecificationError
from schemas.events import ModelRegistered
from schemas.specification import Specification, parse

COMPARED: Final[Mapping[type[Any], tuple[str, ...]]] = {
    ModelRow: ("task", "shadow", "epoch", "actor", "registered_at", "monitored"),
    VersionRow: ("decision", "reason", "promoted_at", "previous"),
    ApprovalRequestRow: (
        *("requester", "artifact", "four_eyes", "approvers", "requested_at", "expires_at", "closed_at"),
    ),
    ApprovalRow: ("artifact", "comment", "at", "request", "requester", "four_eyes"),
    ReviewRow: (
        *("version", "previous", "actor", "reason", "at", "four_eyes", "reviewed_by", "reviewed_at", "comment"),
    ),
    TagRow: ("value", "until"),
    FlagRow: ("reason", "actor", "at", "until", "withdrawn_by", "withdrawn_reason", "incident"),
}
"""Columns that have to say what the events say, by table; `KEYS` tell one row from another."""
KEYS: Final[Mapping[type[Any], tuple[str, ...]]] = {
    ModelRow: (),
    VersionRow: ("version",),
    ApprovalRequestRow: ("version",),
    ApprovalRow: ("version", "actor"),
    ReviewRow: ("epoch",),
    TagRow: ("version", "key", "since"),
    FlagRow: ("version", "source", "since"),
}
SINCE_EVER: Final = 0
"""Since when tags hold that models had before there were events of tags."""
_OLD_APPROVAL: Final = ("comment", "at")

Key = tuple[Any, ...]
Rows = dict[Key, Row]


class Comparison:
    """Rows of some models at once.

    Parameters
    ----------
    session : Session
    models : sequence of str
    heard : mapping of str to list of Heard
        Events by model, in order.
    recorded_since : int, optional
        Epoch of the first event with the hash of a record: tags without an event are believed of models before it.
    """

    def __init__(
        self, session: Session, models: Sequence[str], heard: Mapping[str, list[Heard]], recorded_since: int | None
    ) -> None:
        self._heard, self._recorded_since = heard, recorded_since
        self._rows = {kind: _read(session, kind, models) for kind in KEYS}
        wanted = (VersionRow.model, VersionRow.version, VersionRow.artifact, VersionRow.specification)
        self._made: dict[str, dict[int, tuple[str, str]]] = defaultdict(dict)
        for model, version, artifact, sha in session.execute(select(*wanted).where(VersionRow.model.in_(models))):
            self._made[model][version] = (artifact, sha)
        shas = dict(
            session.execute(select(ModelRow.name, ModelRow.specification).where(ModelRow.name.in_(models))).all()
        )
        self._named = shas
        texts = {sha for made in self._made.values() for _, sha in made.values()} | set(shas.values())
        self._texts: dict[str, str] = dict(
            session.execute(
                select(SpecificationRow.sha, SpecificationRow.text).where(SpecificationRow.sha.in_(texts))
            ).all()
        )
        self._parsed: dict[str, Specification | None] = {}

    def problems(self, model: str) -> Iterator[str]:
        """What the rows of a model say that its events do not."""
        events, made = self._heard[model], self._made[model]
        found = {kind: rows.get(model, {}) for kind, rows in self._rows.items()}
        expected = Expected(
            model,
            events,
            {version: artifact for version, (artifact, _) in made.items()},
            lambda version: self._policy(made.get(version)),
            self._since_ever(model, found[TagRow]),
        )
        before = expected.before
        if before:  # of releases that said less
            expected.versions = {number: row for number, row in expected.versions.items() if number not in before}
            found[VersionRow] = {key: row for key, row in found[VersionRow].items() if key[0] not in before}
            for key, row in expected.approvals.items():
                if key[0] in before:
                    row |= {name: UNKNOWN for name in row if name not in _OLD_APPROVAL}
            expected.questions = {key: row for key, row in expected.questions.items() if key[0] not in before}
        questions, numbers = _numbered(found[ApprovalRequestRow], before)
        for row in found[ApprovalRow].values():
            row["request"] = numbers.get(row["request"])
        unreviewed = {(epoch,) for epoch in expected.unreviewed} - found[ReviewRow].keys()
        yield from _differences(
            lambda _: f"model {model}", {(): expected.model} if "task" in expected.model else {}, found[ModelRow]
        )
        yield from _differences(
            lambda key: f"version {key[0]} of {model}", _keyed(expected.versions), found[VersionRow]
        )
        yield from _differences(
            lambda key: f"question {key[1]} about version {key[0]} of {model}", dict(expected.questions), questions
        )
        yield from _differences(
            lambda key: f"the approval of version {key[0]} of {model} by {key[1]}",
            dict(expected.approvals),
            found[ApprovalRow],
        )
        yield from _differences(
            lambda key: f"the review of roll-back {key[0]} of {model}",
            {key: row for key, row in _keyed(expected.reviews).items() if key not in unreviewed},
            found[ReviewRow],
        )
        yield from _differences(
            lambda key: f"tag {key[1]} of {f'version {key[0]} of ' if key[0] else ''}{model}",
            dict(expected.tags),
            found[TagRow],
        )
        yield from _differences(
            lambda key: f"the flag of version {key[0]} of {model} for version {key[1]}",
            dict(expected.flags),
            found[FlagRow],
        )

    # ------------------------------------------------------------------------------------------- inside

    def _specification(self, sha: str) -> Specification | None:
        """None where it is not there, is another, or was written for another release."""
        if sha not in self._parsed:
            text = self._texts.get(sha, "")
            try:
                known = hashlib.sha256(text.encode()).hexdigest() == sha
                self._parsed[sha] = parse(text) if known else None
            except SpecificationError:
                self._parsed[sha] = None
        return self._parsed[sha]

    def _policy(self, made: tuple[str, str] | None) -> Any:
        spec = None if made is None else self._specification(made[1])
        return None if spec is None else spec.approval

    def _since_ever(self, model: str, tags: Rows) -> dict[str, str]:
        """Tags from before there were events of them, as far as a specification of the model says the same."""
        rows = {key[1]: row["value"] for key, row in tags.items() if key[0] == 0 and key[2] == SINCE_EVER}
        began = next((heard.event.epoch for heard in self._heard[model] if isinstance(heard.event, ModelRegistered)), 0)
        if not rows or (self._recorded_since is not None and began > self._recorded_since):
            return {}
        shas = {sha for _, sha in self._made[model].values()} | {self._named.get(model, "")}
        specs = [spec for sha in shas if (spec := self._specification(sha)) is not None]
        said = {item for spec in specs for item in of_specification(spec).items()}
        return {key: value for key, value in rows.items() if (key, value) in said}


def _read(session: Session, kind: type[Any], models: Sequence[str]) -> dict[str, Rows]:
    """Rows by model and key; of questions the number of the row is part of the key."""
    table = kind.__table__
    name = table.c.name if kind is ModelRow else table.c.model
    keys, columns = KEYS[kind], COMPARED[kind]
    if kind is ApprovalRequestRow:
        keys = (*keys, "id")
    wanted = select(name, *(table.c[column] for column in (*keys, *columns))).where(name.in_(models))
    found: dict[str, Rows] = defaultdict(dict)
    for row in session.execute(wanted):
        key = tuple(row[1 : len(keys) + 1])
        if key in found[row[0]]:
            key = (*key, "again")
        found[row[0]][key] = dict(zip(columns, row[len(keys) + 1 :], strict=True))
    return found


def _numbered(rows: Rows, before: set[int]) -> tuple[Rows, dict[int, int]]:
    """Questions by version and how many-th they are, and that number by the row's."""
    found: Rows = {}
    numbers: dict[int, int] = {}
    count: dict[int, int] = defaultdict(int)
    for (version, id), row in sorted(rows.items()):
        if version not in before:
            count[version] += 1
            numbers[id] = count[version]
            found[version, count[version]] = row
    return found, numbers


def _keyed(rows: Mapping[int, Row]) -> Rows:
    return {(key,): row for key, row in rows.items()}


def _differences(what: Callable[[Key], str], expected: Rows, found: Rows) -> Iterator[str]:
    for key in sorted(expected.keys() | found.keys(), key=str):
        if key not in found:
            yield f"{what(key)} is missing"
        elif key not in expected:
            yield f"{what(key)} is in no row of the audit"
        else:
            for column, value in expected[key].items():
                if value is not UNKNOWN and found[key].get(column) != value:
                    yield f"{what(key)} was edited: {column} is not what the audit says"
