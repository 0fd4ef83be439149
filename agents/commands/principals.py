"""`driftline principals`: whose signatures make a command on `registry-commands` believed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agents.commands.admin import admin
from agents.commands.output import Command, Json, document, say, table
from agents.commands.signing_commands import sign

if TYPE_CHECKING:
    from agents.signing import KeyRing


def add(
    name: Annotated[str, typer.Argument(help="Whose key; 'system': agents of another home.", show_default=False)],
    *,
    public_key: Annotated[Path, typer.Option("--public-key", help="Ed25519 public key, PEM.", show_default=False)],
    role: Annotated[str, typer.Option("--role", help="approver, producer or admin; not for 'system'.")] = "",
    model: Annotated[str, typer.Option("--model", help="Models the role is on: a name or a pattern.")] = "*",
    team: Annotated[str, typer.Option("--team", help="Only models of this team.")] = "",
    note: Annotated[str, typer.Option("--note", help="Kept with the key.")] = "",
    as_json: Json = False,
) -> None:
    """Believe commands that a key signs."""
    from agents.access.logic import checked_grant
    from agents.access.signers import Signers
    from schemas.errors import ConfigurationError

    try:
        pem = public_key.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"cannot be read: {error.strerror}", where=str(public_key)) from error
    grant = checked_grant(role, model, team or None) if role else None
    sessions, by = admin()
    with sessions.begin() as session:
        key = Signers().add(session, name, pem, by=by, grant=grant, note=note)
    document({"id": key, "name": name}) if as_json else say(f"key {key} signs for {name}")


def listed(as_json: Json = False) -> None:
    """List the keys that sign, whose they are and what they may ask for."""
    from agents.access.signers import Signers

    sessions, _ = admin()
    with sessions() as session:
        found = Signers().listed(session)
    if as_json:
        document({"principals": found})
        return
    table(
        ["id", "name", "may", "added", "by", "revoked", "note"],
        [
            (
                *(s.id, s.name, "; ".join(s.grants) or "what agents ask for"),
                *(s.added_at.date(), s.added_by, s.revoked_at and s.revoked_at.date(), s.note),
            )
            for s in found
        ],
        empty="no key signs yet: the registry agent adds the agents' own when it starts",
    )


def revoke(
    which: Annotated[str, typer.Argument(metavar="ID|NAME", help="A key, or all of a name.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Believe a key, or all keys of a name, no longer."""
    from agents.access.signers import Signers

    sessions, by = admin()
    with sessions.begin() as session:
        gone = Signers().revoke(session, which, by=by)
    document({"revoked": gone}) if as_json else say(f"revoked: {', '.join(gone)}")


def rotate(as_json: Json = False) -> None:
    """Give the agents of this home a new key. The old one is believed until it is revoked."""
    from agents.access.signers import Signers

    sessions, _ = admin()
    ring = _ring()
    old = ring.own()
    new = ring.rotate()
    with sessions.begin() as session:
        Signers().trust_own(session, ring)
    if as_json:
        document({"own": new, "before": old})
    else:
        say(f"agents sign with {new}; `driftline principals revoke {old}` once nothing it signed is on its way")


def public(as_json: Json = False) -> None:
    """Print the public key of this home's agents: another machine's is added with `principals add system`."""
    ring = _ring()
    pem = ring.public_pem().decode()
    document({"id": ring.own(), "public": pem}) if as_json else say(pem)


def _ring() -> KeyRing:
    from agents.access.signatures import own_ring
    from agents.config import load_settings

    return own_ring(load_settings().home)


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(help="Keys whose signatures make commands on Kafka believed.", no_args_is_help=True)
    for name, function in (("list", listed), ("revoke", revoke), ("rotate", rotate), ("public", public)):
        group.command(name, cls=Command)(function)
    group.command("add", cls=Command)(add)
    group.command("sign", cls=Command)(sign)
    app.add_typer(group, name="principals", rich_help_panel="System")
