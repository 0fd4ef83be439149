"""`driftline signing`: the Ed25519 keys that artifacts and bundles are signed and checked with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agents.commands.output import Command, Json, document, say, table

if TYPE_CHECKING:
    from agents.access.logic import Role
    from agents.signing import KeyRing

KeyId = Annotated[str, typer.Argument(help="Id of a key, as `driftline signing show` lists it.", show_default=False)]


def show(as_json: Json = False) -> None:
    """List the keys that are trusted here; the public one of this installation is what others need to trust it."""
    ring = _ring("viewer")
    own, trusted = ring.own(), ring.trusted()
    if as_json:
        document({"own": own, "trusted": trusted, "public": ring.public_pem().decode(), "folder": ring.folder})
        return
    table(["key", "file", "signs here"], [(key, file, "yes" if key == own else "") for key, file in trusted.items()])
    say(f"\n{ring.folder / 'own.pub'}:\n{ring.public_pem().decode()}")


def rotate(as_json: Json = False) -> None:
    """Sign with a new key from now on. What the old key signed stays trusted until it is distrusted; see `renew`."""
    ring = _ring()
    old = ring.own()
    new = ring.rotate()
    if as_json:
        document({"own": new, "retired": old})
    else:
        say(f"signing with {new}; {old} is still trusted")


def trust(
    file: Annotated[Path, typer.Argument(help="The other installation's own.pub.", show_default=False)],
    *,
    name: Annotated[str, typer.Option("--name", help="What to call it here; default: the file's name.")] = "",
    as_json: Json = False,
) -> None:
    """Trust what another installation signs: bundles of it can be imported."""
    from schemas.errors import ConfigurationError

    try:
        pem = file.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"cannot be read: {error.strerror}", where=str(file)) from error
    called = name or ("other" if file.stem == "own" else file.stem)
    key = _ring().trust(pem, called, or_numbered=not name)
    document({"trusted": key}) if as_json else say(f"{key} is trusted")


def renew(as_json: Json = False) -> None:
    """Sign with the present key what another trusted key signed, so that the other one can be distrusted."""
    from agents.artifacts import ArtifactStore
    from agents.config import load_settings

    ring = _ring()
    renewed, refused = ArtifactStore.of(load_settings()).renew()
    if as_json:
        document({"own": ring.own(), "renewed": renewed, "refused": refused})
    else:
        say(f"{renewed} artifacts are signed with {ring.own()} now")
        for one in refused:
            say(f"no trusted key signed {one}")
    if refused:
        raise typer.Exit(1)


def distrust(key: KeyId, *, as_json: Json = False) -> None:
    """Trust a key no longer: whatever it signed is refused from now on, champions too."""
    removed = _ring().distrust(key)
    document({"distrusted": key, "removed": removed}) if as_json else say(f"removed {', '.join(removed)}")


def _ring(role: Role = "admin") -> KeyRing:
    from agents.access.acting import acting
    from agents.config import load_settings
    from agents.signing import KeyRing

    settings = load_settings()
    acting(settings, role, None if role == "viewer" else "*")
    return KeyRing(settings.home.resolve() / "keys")


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(no_args_is_help=True, help="The keys that artifacts and bundles are signed with.")
    for function in (show, rotate, renew, trust, distrust):
        group.command(function.__name__, cls=Command)(function)
    app.add_typer(group, name="signing", rich_help_panel="Models")
