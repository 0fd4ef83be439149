"""Who acts on the command line: the holder of ``DRIFTLINE_API_KEY``, or this account where no key was ever made."""

from __future__ import annotations

from agents.access.keys import Keys
from agents.access.logic import Principal, Role, local_principal, refuse
from agents.access.teams import team_of
from agents.config import Settings
from agents.database.engine import Sessions, make_engine, session_factory
from agents.database.migrate import migrated
from schemas.errors import UnauthenticatedError


def account() -> str:
    """Name of the account this process runs as."""
    import os
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def acting(settings: Settings, role: Role, model: str | None = None, *, team: str = "") -> Principal:
    """Who acts, once that one may.

    Parameters
    ----------
    role : str
        What the command needs.
    model : str, optional
        On which model; ``*``: on all of them; None: on any.
    team : str
        Team of a model that is about to be registered.

    Raises
    ------
    UnauthenticatedError
        Keys exist, and none (or none in force) is given.
    ForbiddenError
        The key's holder lacks the role.
    DatabaseUnavailableError
    """
    engine = migrated(settings.database)
    try:
        return acting_in(session_factory(engine, read_only=True), settings.api_key, role, model, team=team)
    finally:
        engine.dispose()


def need_on(settings: Settings, principal: Principal, role: Role, model: str, *, team: str = "") -> None:
    """Refuse where `principal` may not act as `role` on `model`; `team`: as in `acting`. Raises `ForbiddenError`."""
    if principal.asks_teams:
        engine = make_engine(settings.database)
        with session_factory(engine, read_only=True)() as session:
            team = team_of(session, model, team)
        engine.dispose()
    if not principal.may(role, model, team):
        raise refuse(principal, role, model)


def acting_in(readers: Sessions, key: str, role: Role, model: str | None, *, team: str = "") -> Principal:
    """As `acting`, over sessions that are there."""
    keys = Keys()
    with readers() as session:
        if key:
            principal = keys.principal(session, key)
        elif keys.required(session):
            raise UnauthenticatedError(
                "an API key is needed: this installation has keys",
                where="DRIFTLINE_API_KEY",
                remedy="set it to yours; an admin makes one with `driftline keys create`",
            )
        else:
            principal = local_principal(account())
        if model == "*":
            allowed = principal.everywhere(role)
        else:
            known = team_of(session, model, team) if model is not None and principal.asks_teams else ""
            allowed = principal.may(role, model, known)
    if not allowed:
        raise refuse(principal, role, model)
    return principal
