"""Tags of models and versions, as MLflow has them: key and value, set and removed, with what they were at any time."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from agents.registry.change import Change
from agents.registry.tables import TagRow
from agents.registry.views import OWNER, TEAM
from schemas.errors import ConfigurationError
from schemas.events import TagsChanged
from schemas.specification import Specification

MOST_KEY, MOST_VALUE, MOST_TAGS = 128, 256, 100
_KEY = re.compile(r"[^\s=@][^\s=]*")


def of_specification(spec: Specification) -> dict[str, str]:
    """Tags that a specification gives its model, owner and team among them."""
    own = {OWNER: spec.model.owner, TEAM: spec.model.team}
    given = {key: value for key, value in spec.model.tags.items() if not key.startswith("@")}
    return {**{key: value for key, value in own.items() if value}, **given}


def in_force(session: Session, model: str, version: int = 0) -> dict[str, str]:
    """Tags of a model (`version` 0) or of a version, now."""
    rows = session.execute(
        select(TagRow.key, TagRow.value)
        .where(TagRow.model == model, TagRow.version == version, TagRow.until.is_(None))
        .order_by(TagRow.key)
    )
    return {row.key: row.value for row in rows}


def checked(tags: Mapping[str, str]) -> dict[str, str]:
    """Tags that somebody wrote. Raises `ConfigurationError`."""
    for key, value in tags.items():
        if not _KEY.fullmatch(key) or len(key) > MOST_KEY or len(value) > MOST_VALUE:
            raise ConfigurationError(
                f"{f'{key}={value}'[:80]!r} is no tag",
                where="tags",
                remedy=f"KEY=VALUE: a key of 1 to {MOST_KEY} characters without spaces, '=' and a leading '@', "
                f"a value of at most {MOST_VALUE}",
            )
    return dict(tags)


def parsed(pairs: Iterable[str]) -> dict[str, str]:
    """``KEY=VALUE`` pairs as tags. Raises `ConfigurationError`."""
    return checked(dict(_pair(pair) for pair in pairs))


def sought_tags(texts: Iterable[str]) -> dict[str, str | None]:
    """``KEY=VALUE``, or ``KEY`` for any value, as what is looked for."""
    found: dict[str, str | None] = {}
    for text in texts:
        key, sep, value = text.partition("=")
        if key.strip():
            found[key.strip()] = value.strip() if sep else None
    return found


def _pair(pair: str) -> tuple[str, str]:
    key, sep, value = pair.partition("=")
    if not sep:
        raise ConfigurationError(f"{pair!r} is no tag", where="tags", remedy="write KEY=VALUE")
    return key.strip(), value.strip()


def change_tags(  # noqa: PLR0917 - what one event says
    change: Change, version: int, wanted: Mapping[str, str], removed: Iterable[str], actor: str, at: datetime | None
) -> bool:
    """Set and remove tags of a model (`version` 0) or of a version; whether anything changed.

    Raises
    ------
    ConfigurationError
        It would have too many.
    """
    session, model = change.session, change.row.name
    now = in_force(session, model, version)
    news = {key: value for key, value in wanted.items() if now.get(key) != value}
    gone = sorted(key for key in set(removed) if key in now and key not in wanted)
    if not news and not gone:
        return False
    if len({*now, *news} - set(gone)) > MOST_TAGS:
        raise ConfigurationError(f"more than {MOST_TAGS} tags", where=f"model {model}", remedy="remove some first")
    epoch = change.ledger.next_epoch
    session.execute(
        update(TagRow)
        .where(TagRow.model == model, TagRow.version == version, TagRow.until.is_(None))
        .where(TagRow.key.in_([*news, *gone]))
        .values(until=epoch)
        .execution_options(synchronize_session=False)
    )
    session.add_all(TagRow(model=model, version=version, key=key, value=news[key], since=epoch) for key in sorted(news))
    change.emit(TagsChanged, actor, at, version=version or None, tags=news, removed=gone)
    return True
