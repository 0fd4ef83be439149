"""`driftline export` and `driftline import`: a version from one installation to another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agents.commands.deciding import TypeNames
from agents.commands.output import Json, add, document, say

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from agents.config import Settings
    from agents.registry.service import Registry

Actor = Annotated[str, typer.Option("--actor", help="Who does it; default: the key's or this account's name.")]


def export_version(
    model: Annotated[str, typer.Argument(help="Name of a registered model.", show_default=False)],
    version: Annotated[int, typer.Argument(help="Number of a version.", show_default=False)],
    file: Annotated[Path, typer.Argument(help="Bundle to write.", show_default=False)],
    *,
    data: Annotated[
        bool, typer.Option("--data", help="Take its tables along, so that it can be rebuilt there.")
    ] = False,
    actor: Actor = "",
    as_json: Json = False,
) -> None:
    """Write a version with all that is recorded of it into one signed file."""
    from agents.access.acting import acting
    from agents.access.logic import acting_name
    from agents.artifacts import ArtifactStore
    from agents.config import load_settings
    from agents.database.engine import make_engine, session_factory
    from agents.registry import moving
    from agents.registry.service import Registry
    from agents.signing import KeyRing

    settings = load_settings()
    by = acting(settings, "producer", model)
    readers = session_factory(make_engine(settings.database), read_only=True)
    registry = Registry(readers, ArtifactStore.of(settings))
    ring = KeyRing(settings.home.resolve() / "keys")
    with readers() as session:
        table = _table(settings, registry, session, model, version, needed=data)
        manifest = moving.export_version(
            *(registry, session, ring, file),
            model=model,
            version=version,
            by=acting_name(by, actor),
            data=data,
            table=table,
        )
    if as_json:
        document({"model": model, "version": version, "file": file, "key": ring.own(), "files": manifest.files})
    else:
        say(f"wrote {model} version {version} to {file}, signed with {ring.own()}")


def _table(
    settings: Settings, registry: Registry, session: Session, model: str, version: int, *, needed: bool
) -> bytes | None:
    """All rows of a version that learnt from the archive; None where there is one table, or they need not come."""
    from agents.retraining.rebuild import whole_table
    from schemas.errors import ArtifactError, StateError, TrainingError

    info = registry.version(session, model, version)
    try:
        return None if info.external is not None else whole_table(settings, registry, session, info)
    except (ArtifactError, StateError, TrainingError):
        if needed:
            raise
        return None  # part of them is gone: the model can go without


def import_bundle(
    file: Annotated[Path, typer.Argument(help="Bundle that `driftline export` wrote.", show_default=False)],
    *,
    submit: Annotated[
        bool, typer.Option("--submit", help="Let the specification's approval mode decide on it at once.")
    ] = False,
    allow_types: TypeNames = None,
    actor: Actor = "",
    as_json: Json = False,
) -> None:
    """Register the version that a bundle holds; its signer has to be trusted (`driftline signing trust`).

    Nothing of it is parsed before signature and hashes hold, and the model is opened in a limited child process first.
    """
    from agents.access.acting import acting, need_on
    from agents.access.logic import acting_name
    from agents.artifacts import ArtifactStore
    from agents.config import load_settings
    from agents.database.engine import make_engine, session_factory
    from agents.registry import bundle, moving
    from agents.registry.service import Registry
    from agents.signing import KeyRing
    from schemas.errors import ConfigurationError

    settings = load_settings()
    by = acting(settings, "producer")
    if not file.is_file():
        raise ConfigurationError("no such file", where=str(file))
    ring = KeyRing(settings.home.resolve() / "keys")
    with file.open("rb") as opened:
        model = bundle.read(opened, ring, str(file))[0].version.model
    need_on(settings, by, "producer", model)
    sessions = session_factory(make_engine(settings.database), acts_for=by)
    registry = Registry(sessions, ArtifactStore.of(settings))
    name = acting_name(by, actor)
    done = moving.import_bundle(registry, ring, file, by=name, submit=submit, consented=allow_types or ())
    if as_json:
        document(done)
    else:
        became = "rows added" if done.rows_only else done.decision or "registered"
        say(f"{done.model} version {done.version}: {became}")
        say(done.reason)


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    add(app, "export", export_version, panel="Models")
    add(app, "import", import_bundle, panel="Models")
