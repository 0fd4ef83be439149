"""`driftline keys`: who may use this installation."""

from __future__ import annotations

from typing import Annotated

import typer

from agents.commands.admin import admin
from agents.commands.output import Command, Json, document, note, say, table

Name = Annotated[str, typer.Argument(help="Whose key: a person or a service.", show_default=False)]
RoleOption = Annotated[str, typer.Option("--role", help="viewer, producer, approver or admin.", show_default=False)]
Pattern = Annotated[str, typer.Option("--model", help="Models the role is on: a name or a pattern such as 'bus-*'.")]
Team = Annotated[str, typer.Option("--team", help="Only models of this team.")]


def create(
    name: Name,
    *,
    role: RoleOption,
    model: Pattern = "*",
    team: Team = "",
    expires: Annotated[
        str, typer.Option("--expires", help="In force for so long, as 90d; default: until revoked.")
    ] = "",
    recover: Annotated[
        bool, typer.Option("--recover", help="All admins' keys are lost: make one as the account that runs this.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make an API key. It is shown once; only its hash is kept. From the first key on nothing goes without one.

    A role belongs to the name: a second key of the same name may the same.
    """
    from datetime import UTC, datetime, timedelta

    from agents.access.keys import Keys
    from schemas.durations import parse_duration

    lasts = timedelta(milliseconds=parse_duration(expires, where="--expires")) if expires else None
    sessions, by = admin(recover=recover)
    with sessions.begin() as session:
        made = Keys().create(
            session,
            name,
            role,
            by=by,
            pattern=model,
            team=team or None,
            expires_at=datetime.now(UTC) + lasts if lasts is not None else None,
        )
    if as_json:
        document({"id": made.id, "name": name, "key": made.token})
        return
    say(made.token)
    note(f"key {made.id} of {name}. It is not shown again: keep it now, as DRIFTLINE_API_KEY for the command line")


def grant(
    name: Name,
    *,
    role: RoleOption,
    model: Pattern = "*",
    team: Team = "",
    withdraw: Annotated[bool, typer.Option("--withdraw", help="Take the role back.")] = False,
    as_json: Json = False,
) -> None:
    """Give a name another role, or take one back."""
    from agents.access.keys import Keys
    from agents.access.logic import checked_grant

    wanted = checked_grant(role, model, team or None)
    sessions, by = admin()
    with sessions.begin() as session:
        change = Keys().withdraw if withdraw else Keys().grant
        change(session, name, wanted, by=by)
    if as_json:
        document({"name": name, "grant": str(wanted), "withdrawn": withdraw})
    else:
        say(f"{name}: {'no longer ' if withdraw else ''}{wanted}")


def listed(as_json: Json = False) -> None:
    """List the keys: whose they are, what they may, whether they are in force. Never the key itself."""
    from agents.access.keys import Keys

    sessions, _ = admin()
    with sessions() as session:
        found = Keys().listed(session)
    if as_json:
        document({"keys": found})
        return
    table(
        ["id", "name", "may", "made", "by", "until", "failed attempts"],
        [
            (
                *(k.id, k.name, "; ".join(k.grants), k.created_at.date(), k.created_by),
                f"revoked {k.revoked_at:%Y-%m-%d}" if k.revoked_at else k.expires_at and k.expires_at.date(),
                k.failures,
            )
            for k in found
        ],
        empty="there is no key: whoever reaches this machine's loopback may everything",
    )


def revoke(
    which: Annotated[str, typer.Argument(metavar="ID|NAME", help="A key, or all of a name.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Revoke a key, or all keys of a name: the next request with one is refused, sessions of the page end."""
    from agents.access.keys import Keys

    sessions, by = admin()
    with sessions.begin() as session:
        gone = Keys().revoke(session, which, by=by)
    if as_json:
        document({"revoked": gone})
    else:
        say(f"revoked: {', '.join(gone)}")


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    keys = typer.Typer(help="API keys: who may use this installation.", no_args_is_help=True)
    for name, function in (("create", create), ("list", listed), ("grant", grant), ("revoke", revoke)):
        keys.command(name, cls=Command)(function)
    app.add_typer(keys, name="keys", rich_help_panel="System")
