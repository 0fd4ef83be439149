"""Search: models and versions by pattern, tag, owner, team and alias, now or as of a moment, a page at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from fnmatch import fnmatchcase
from itertools import groupby
from operator import itemgetter
from typing import Final, Literal, cast

import msgspec
from sqlalchemy import ColumnElement, and_, exists, func, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from agents.registry.flags import by_version, in_force
from agents.registry.logic import History, replay
from agents.registry.standing import in_force as standing_in_force
from agents.registry.standing import standing_at
from agents.registry.tables import AuditRow, ModelRow, StandingRow, TagRow, VersionRow
from agents.registry.views import OWNER, TEAM, ModelInfo, VersionInfo, model_info, version_info
from schemas.codec import decode
from schemas.errors import ConfigurationError
from schemas.events import AnyRegistryEvent

CHUNK = 200
FEW = 100
"""Rows that are read at a time where many are only looked at."""
_EVENTS: Final = msgspec.json.Decoder[AnyRegistryEvent](AnyRegistryEvent)
Alias = Literal["champion", "challenger"]
Seen = Callable[[Sequence[str]], Iterable[str]]
"""Of some models, those that whoever asks may look at."""


class Search(msgspec.Struct, frozen=True, kw_only=True):
    """What is looked for; everything that is given has to hold.

    Parameters
    ----------
    match : str
        Pattern of models' names: ``*``, ``?``, ``[…]``, case and all.
    tags : mapping of str to str or None
        Value by key; None: any value.
    alias : str
        Models where somebody is ``champion`` or ``challenger``.
    stage : str
        Versions only.
    as_of : datetime, optional
        As it stood at this moment of the system's clock, aware.
    after : str
        Models whose names come later: the last one of the page before.
    limit : int
        How many at most; 0: all.
    """

    match: str = "*"
    tags: dict[str, str | None] = {}
    owner: str = ""
    team: str = ""
    alias: str = ""
    stage: str = ""
    as_of: datetime | None = None
    after: str = ""
    limit: int = 0

    def __post_init__(self) -> None:
        if self.alias not in {"", "champion", "challenger"}:
            raise ConfigurationError(
                f"no alias is called {self.alias!r}", where="alias", remedy="champion or challenger"
            )

    @property
    def wanted(self) -> dict[str, str | None]:
        """Tags of the model, owner and team among them."""
        own = {OWNER: self.owner, TEAM: self.team}
        return {**{key: value for key, value in own.items() if value}, **self.tags}


def find_models(session: Session, search: Search, seen: Seen = lambda names: names) -> tuple[list[ModelInfo], str]:
    """Models by name, and the name to go on after where there are more (else empty).

    Parameters
    ----------
    seen : callable
        Which of some models may be told.
    """
    epoch = None if search.as_of is None else epoch_at(session, search.as_of)
    stood = "" if epoch is None else search.alias
    # From who stood so to the models, over its index: few models have one, or a page is soon full.
    by = StandingRow.model if stood else ModelRow.name
    conditions = [*_named(session, by, search.match), *_tagged(by, search.wanted, None, epoch)]
    chosen = select(ModelRow)
    if search.as_of is not None:
        conditions.append(ModelRow.registered_at <= search.as_of)
        if stood and epoch is not None:
            conditions += [StandingRow.standing == stood, standing_in_force(epoch)]
            chosen = chosen.join(StandingRow, StandingRow.model == ModelRow.name)
    elif search.alias:
        conditions.append({"champion": ModelRow.champion, "challenger": ModelRow.challenger}[search.alias].is_not(None))
    found: list[ModelInfo] = []
    after, step = search.after, search.limit + 1 if search.limit else 100_000
    if "[" in search.match:
        step = max(step, 1_000)  # most of what the database finds may not fit
    while True:
        page = chosen.where(*conditions, by > after).order_by(by).limit(step)
        rows = session.scalars(page).all()
        if not rows:
            return found, ""
        fitting = [row for row in rows if fnmatchcase(row.name, search.match)]
        shown = set(seen([row.name for row in fitting])) if fitting else set()
        for info in _infos(session, [row for row in fitting if row.name in shown], search, epoch):
            if search.limit and len(found) == search.limit:
                return found, found[-1].model
            found.append(info)
        after = rows[-1].name
        if len(rows) < step:
            return found, ""


def find_versions(
    session: Session, search: Search, seen: Seen = lambda names: names, *, model: str = ""
) -> tuple[list[VersionInfo], str]:
    """Versions of models that `search` finds; its tags and stage are the versions'. By model, the oldest first.

    Returns
    -------
    list of VersionInfo
        Of the last model all that fit, so that there may be a few more than `search.limit`.
    str
        Name of the model to go on after where there are more, else empty.
    """
    epoch = None if search.as_of is None else epoch_at(session, search.as_of)
    stood = "" if epoch is None else search.stage or search.alias
    # From who stood so to the versions, over its index: few versions do, or a page is soon full.
    by, number = (StandingRow.model, StandingRow.version) if stood else (VersionRow.model, VersionRow.version)
    conditions = [*_named(session, by, search.match)]
    conditions += _tagged(by, {k: v for k, v in search.wanted.items() if k in {OWNER, TEAM}}, None, epoch)
    conditions += _tagged(by, search.tags, number, epoch)
    if model:
        conditions.append(by == model)
    chosen = select(*VersionRow.__table__.columns)  # a row without an object behind it takes half the time
    if stood and epoch is not None:
        conditions += [StandingRow.standing == stood, standing_in_force(epoch)]
        mine = and_(StandingRow.model == VersionRow.model, StandingRow.version == VersionRow.version)
        chosen = chosen.join(StandingRow, mine)
    elif epoch is not None:
        conditions.append(VersionRow.registered_epoch <= epoch)
    elif search.stage:
        conditions.append(VersionRow.stage == search.stage)
    if search.alias and epoch is None:
        conditions.append(
            exists().where(
                ModelRow.name == VersionRow.model,
                {"champion": ModelRow.champion, "challenger": ModelRow.challenger}[search.alias] == VersionRow.version,
            )
        )
    found: list[VersionInfo] = []
    after, step = search.after, min(CHUNK, search.limit + 1) if search.limit else CHUNK
    if search.limit and not (search.stage or search.alias or search.tags):
        step = max(1, step // 4)  # most models have several versions: wide rows that no page would show
    while True:
        page = select(by).where(*conditions, by > after).group_by(by).order_by(by).limit(step)
        names = session.scalars(page).all()
        fitting = [name for name in names if fnmatchcase(name, search.match)]
        shown = set(seen(fitting)) if fitting else set()
        wanted = [name for name in fitting if name in shown]
        rows = cast(
            "Sequence[VersionRow]",  # a member for each of its columns
            session.execute(
                chosen.where(*conditions, by.in_(wanted)).order_by(VersionRow.model, VersionRow.version)
            ).all(),
        )
        now, then = _standing(session, wanted, epoch)
        tags = tags_of(session, wanted, epoch, versions=True)
        flagged = by_version(in_force(session, wanted, epoch))
        for row in rows:
            if search.limit and len(found) >= search.limit and found[-1].model != row.model:
                return found, found[-1].model
            champion, challenger = now[row.model]
            stage = row.stage if epoch is None else then[row.model].stages[row.version]
            alias = {"champion": champion, "challenger": challenger}.get(search.alias, row.version)
            if (search.stage and stage != search.stage) or alias != row.version:
                continue
            said = {"tags": tags.get((row.model, row.version)), "flags": flagged.get((row.model, row.version), ())}
            found.append(version_info(row, champion=champion == row.version, stage=stage, **said))  # type: ignore[arg-type]
        if len(names) < step:
            return found, ""
        after = names[-1]


def epoch_at(session: Session, moment: datetime) -> int:
    """Epoch of the newest event that was recorded until `moment`; 0 before the first. The clock never goes back."""
    statement = select(AuditRow.epoch).where(AuditRow.recorded_at <= moment)
    return session.scalar(statement.order_by(AuditRow.recorded_at.desc(), AuditRow.epoch.desc()).limit(1)) or 0


def histories(session: Session, models: Sequence[str], epoch: int | None = None) -> dict[str, History]:
    """What the audit says of some models, until an epoch (inclusive).

    Notes
    -----
    Events are replayed as they come, a few rows at a time: thousands of rows kept together make Python look through
    everything that the process holds, which took longer than the question itself.
    """
    return dict.fromkeys(models, replay(())) | {name: replay(told) for name, told in told_of(session, models, epoch)}


def told_of(
    session: Session, models: Sequence[str], epoch: int | None = None
) -> Iterator[tuple[str, Iterator[AnyRegistryEvent]]]:
    """Events of some models in order, until an epoch (inclusive); models without any are left out."""
    for start in range(0, len(models), CHUNK):
        statement = select(AuditRow.model, AuditRow.event).where(AuditRow.model.in_(models[start : start + CHUNK]))
        if epoch is not None:
            statement = statement.where(AuditRow.epoch <= epoch)
        rows = session.execute(statement.order_by(AuditRow.model, AuditRow.epoch)).yield_per(FEW)
        for name, told in groupby(rows, key=itemgetter(0)):
            yield name, (event_of(text) for _, text in told)


def event_of(text: str) -> AnyRegistryEvent:
    """The event of an audit row. Raises `DecodeError`."""
    try:
        event: AnyRegistryEvent = _EVENTS.decode(text)
    except msgspec.DecodeError:
        event = decode(text.encode(), AnyRegistryEvent)  # type: ignore[arg-type]  # says what is wrong with it
    return event


def tags_of(
    session: Session, models: Sequence[str], epoch: int | None = None, *, versions: bool = False
) -> dict[tuple[str, int], dict[str, str]]:
    """Tags by model and version (0: the model's own) as of an epoch; without `versions` only the models'."""
    found: dict[tuple[str, int], dict[str, str]] = {}
    for start in range(0, len(models), CHUNK):
        statement = select(TagRow.model, TagRow.version, TagRow.key, TagRow.value).where(
            TagRow.model.in_(models[start : start + CHUNK]), _in_force(epoch)
        )
        if not versions:
            statement = statement.where(TagRow.version == 0)
        for model, version, key, value in session.execute(statement.order_by(TagRow.key)):
            found.setdefault((model, version), {})[key] = value
    return found


def _infos(session: Session, rows: Sequence[ModelRow], search: Search, epoch: int | None) -> list[ModelInfo]:
    names = [row.name for row in rows]
    tags = tags_of(session, names, epoch)
    counts: dict[str, int] = {}
    then: Mapping[str, History] = {}
    if epoch is not None:
        then = standing_at(session, names, epoch)
        counts = {name: len(history.stages) for name, history in then.items()}
    else:
        for start in range(0, len(names), CHUNK):
            some = VersionRow.model.in_(names[start : start + CHUNK])
            counted = select(VersionRow.model, func.count()).where(some).group_by(VersionRow.model)
            counts |= {row[0]: row[1] for row in session.execute(counted)}
    found = []
    for row in rows:
        history = then.get(row.name)
        info = model_info(row, counts.get(row.name, 0), tags.get((row.name, 0), {}))
        if history is not None:
            if search.alias and getattr(history, search.alias) is None:
                continue
            info = msgspec.structs.replace(info, champion=history.champion, challenger=history.challenger)
        found.append(info)
    return found


def _standing(
    session: Session, models: Sequence[str], epoch: int | None
) -> tuple[dict[str, tuple[int | None, int | None]], dict[str, History]]:
    """Champion and challenger by model, and what is behind it where it is asked as of an epoch."""
    if epoch is not None:
        then = standing_at(session, models, epoch)
        return {name: (history.champion, history.challenger) for name, history in then.items()}, then
    rows = session.execute(
        select(ModelRow.name, ModelRow.champion, ModelRow.challenger).where(ModelRow.name.in_(models))
    )
    return {row.name: (row.champion, row.challenger) for row in rows}, {}


def _in_force(epoch: int | None) -> ColumnElement[bool]:
    if epoch is None:
        return TagRow.until.is_(None)
    return (TagRow.since <= epoch) & or_(TagRow.until.is_(None), TagRow.until > epoch)


def _tagged(
    name: InstrumentedAttribute[str],
    tags: Mapping[str, str | None],
    version: InstrumentedAttribute[int] | None,
    epoch: int | None,
) -> list[ColumnElement[bool]]:
    """Of the version where a column says which, else of the model."""
    conditions: list[ColumnElement[bool]] = []
    for key, value in tags.items():
        mine = [TagRow.key == key, _in_force(epoch)]
        if value is not None:
            mine.append(TagRow.value == value)
        # From the tag to the models, over its index: few models have most tags.
        if version is None:
            conditions.append(name.in_(select(TagRow.model).where(TagRow.version == 0, *mine)))
        else:
            conditions.append(exists().where(TagRow.model == name, TagRow.version == version, *mine))
    return conditions


def model_conditions(session: Session, name: InstrumentedAttribute[str], search: Search) -> list[ColumnElement[bool]]:
    """Pattern, tags, owner and team as conditions on models' names; of the pattern `fnmatchcase` has the last word."""
    return [*_named(session, name, search.match), *_tagged(name, search.wanted, None, None)]


def _named(session: Session, name: InstrumentedAttribute[str], pattern: str) -> list[ColumnElement[bool]]:
    """What the database can leave out; `fnmatchcase` has the last word."""
    if not set(pattern) & set("*?["):
        return [name == pattern]
    plain = pattern[: pattern.find("[")] + "*" if "[" in pattern else pattern
    if session.get_bind().dialect.name == "sqlite":
        prefix = plain[: min(plain.find(c) for c in "*?" if c in plain)]
        glob = cast("ColumnElement[bool]", name.op("GLOB")(plain))
        return [glob, name >= prefix, name < prefix + "\U0010ffff"] if prefix else [glob]
    like = plain.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_").replace("*", "%").replace("?", "_")
    return [name.like(like, escape="\\")]
