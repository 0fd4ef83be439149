"""Which version was live at a moment: by the system's clock, and by the event times of what was answered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from agents.provenance.account import Account, Reign, account, reigns
from agents.provenance.stints import Name, Share, Stint, stint
from agents.provenance.traffic import Archive
from agents.registry.service import Registry
from agents.registry.tables import VersionRow
from agents.registry.views import ModelInfo
from schemas.codec import iso, to_ms, utc
from schemas.errors import NotFoundError


class ByClock(msgspec.Struct, frozen=True, kw_only=True):
    """Who was champion at the moment, by the system's clock: since when, until when (None: still is), and who else."""

    version: int
    since: datetime
    until: datetime | None
    before: int | None
    after: int | None


class ByEventTime(msgspec.Struct, frozen=True, kw_only=True):
    """Who answered at the moment, by event time: first and last answer of that time, how many, who else.

    `version`: None where predictions name one that has no number here, `called` is what they say. `beside`: versions
    that answered in the same hour, with how many. `archived_until`: the newest event time that the archive has of the
    model; where the moment is later, that is what is told.
    """

    version: int | None
    called: str
    since: datetime
    until: datetime
    predictions: int
    before: str | None
    after: str | None
    beside: dict[str, int]
    archived_until: datetime


class Live(msgspec.Struct, frozen=True, kw_only=True):
    """The answer. `notes`: why a part of it is missing. `versions`: an account of each version that is named."""

    model: str
    at: datetime
    clock: ByClock | None
    event_time: ByEventTime | None
    notes: list[str]
    versions: list[Account]


def live(  # noqa: PLR0917 - two clocks, two stores
    registry: Registry, session: Session, archive: Archive, model: str, at: datetime, now: datetime
) -> Live:
    """Which version was live at a moment, who let it, and what it was made of.

    Parameters
    ----------
    at, now : datetime
        Aware. A moment that is still to come has no answer by the clock.

    Raises
    ------
    NotFoundError
        No such model; or none of its versions was live then by either clock.
    """
    found = registry.model(session, model)
    ruled = reigns(session, model)
    shares = archive.shares(model)
    numbered = _numbers(session, found)
    clock = None if at > now else _by_clock(ruled, at)
    met = stint(shares, to_ms(at))
    answered = None if met is None else _by_event_time(met, max(share.last_ms for share in shares), numbered)
    notes = [] if not archive.problem else [archive.problem]
    if clock is None:
        notes.append(f"by the system's clock none was live: {_clock_says(ruled, at, now)}")
    if answered is None and not archive.problem:
        notes.append(f"by event time none is known: {_archive_says(shares)}")
    if clock is None and answered is None:
        raise NotFoundError(
            f"no version was live at {iso(at)}: {_clock_says(ruled, at, now)}; {_archive_says(shares)}",
            where=f"model {model}",
            remedy=f"`driftline versions {model}` lists what there is; name a time with --at",
        )
    named = [clock.version if clock else None, answered.version if answered else None]
    numbers = list(dict.fromkeys(number for number in named if number is not None))
    return Live(
        model=model,
        at=at,
        clock=clock,
        event_time=answered,
        notes=notes,
        versions=[account(registry, session, model, number, ruled) for number in numbers],
    )


def _by_clock(ruled: Sequence[Reign], at: datetime) -> ByClock | None:
    for reign in ruled:
        if reign.since <= at and (reign.until is None or at < reign.until):
            return ByClock(
                version=reign.version,
                since=reign.since,
                until=reign.until,
                before=reign.predecessor,
                after=reign.successor,
            )
    return None


def _by_event_time(met: Stint, archived_ms: int, numbered: Callable[[Name, int], int | None]) -> ByEventTime:
    def word(name: Name | None) -> str | None:
        return None if name is None else str(numbered(name, met.until_ms) or name)

    return ByEventTime(
        version=numbered(met.version, met.until_ms),
        called=str(met.version),
        since=utc(met.since_ms),
        until=utc(met.until_ms),
        predictions=met.predictions,
        before=word(met.before),
        after=word(met.after),
        beside={str(numbered(name, met.until_ms) or name): count for name, count in met.beside.items()},
        archived_until=utc(archived_ms),
    )


def _numbers(session: Session, model: ModelInfo) -> Callable[[Name, int], int | None]:
    """From what predictions say to a version's number; of a watched model by the names that it has elsewhere.

    One name has another number with every reference that it was compared with: the newest that was known by then.
    """
    statement = select(VersionRow.version, VersionRow.external, VersionRow.at).where(VersionRow.model == model.model)
    rows = session.execute(statement.order_by(VersionRow.version)).all()

    def of(name: Name, until_ms: int) -> int | None:
        if not model.monitored:
            return next((row.version for row in rows if row.version == name), None)
        fitting = [row for row in rows if row.external == str(name)]
        known = [row for row in fitting if to_ms(row.at) <= until_ms]
        return next((row.version for row in reversed(known or fitting[:1])), None)

    return of


def _clock_says(ruled: Sequence[Reign], at: datetime, now: datetime) -> str:
    if at > now:
        return f"it is {_second(now)}"
    if not ruled:
        return "no version of it was ever promoted"
    return f"the first, version {ruled[0].version}, became champion at {_second(ruled[0].since)}"


def _second(at: datetime) -> str:
    return iso(at.replace(microsecond=0))


def _archive_says(shares: Sequence[Share]) -> str:
    if not shares:
        return "the archive has no prediction of it"
    return f"its first prediction in the archive is of {iso(utc(min(share.first_ms for share in shares)))}"
