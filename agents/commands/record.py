"""`driftline show`: everything that is recorded of a version."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from agents.commands.output import Json, add, document, say, table


def show(
    model: Annotated[str, typer.Argument(help="Name of a registered model.", show_default=False)],
    version: Annotated[int, typer.Argument(help="Number of a version.", show_default=False)],
    *,
    sbom: Annotated[bool, typer.Option("--sbom", help="Print its packages as CycloneDX JSON instead.")] = False,
    write: Annotated[
        Path | None, typer.Option("--write", help="Write model card, plots, packages, record and code to this folder.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show a version: what it was made of, who decided what about it, and when."""
    from agents.access.acting import acting
    from agents.artifacts import ArtifactStore
    from agents.config import load_settings
    from agents.database.engine import make_engine, session_factory
    from agents.registry import record as records
    from agents.registry.service import Registry

    settings = load_settings()
    acting(settings, "viewer", model)
    readers = session_factory(make_engine(settings.database), read_only=True)
    registry = Registry(readers, ArtifactStore.of(settings))
    with readers() as session:
        if sbom:
            document(records.bill(registry, session, model, version))
            return
        found = records.record(registry, session, model, version)
        papers = records.files(registry, session, model, version) if write is not None else {}
    for name, content in papers.items():
        assert write is not None
        path = write / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    if as_json:
        document(found)
        return
    info = found.version
    rows = {
        "stage": info.stage + (", champion" if info.champion else ""),
        "flagged": "; ".join(map(str, info.flags)),
        "reason": info.reason,
        "artifact": info.artifact,
        "may hold": ", ".join(info.allowed_types),
        "code": info.code.get("tree"),
        "commit": info.code.get("commit"),
        "rows": f"{info.dataset.get('rows')} until {info.dataset.get('last_event')}",
        "table": info.dataset.get("registered"),
        "seed": info.seed,
        "parent": info.parent,
        "run": info.run_id,
        "python": info.environment.get("python"),
        "packages": len(found.lock.packages) if found.lock is not None else None,
    }
    say(f"{model} version {version}")
    table(["", ""], [(name, str(value)) for name, value in rows.items() if value not in {None, ""}])
    say("")
    table(
        ["at", "who", "what", "why"],
        [(f"{e['at']:%Y-%m-%d %H:%M:%S}", e["actor"], e["action"], _why(e)) for e in found.history],
    )
    if papers:
        say(f"\nwrote {', '.join(sorted(papers))} to {write}")


def _why(event: dict[str, Any]) -> str:
    """What was said with a decision, and what it let in."""
    agreed = f"agreed to {', '.join(event['consented'])}" if event.get("consented") else ""
    return "; ".join(filter(None, [event.get("comment"), event.get("reason"), agreed]))


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    add(app, "show", show, panel="Models")
