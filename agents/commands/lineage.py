"""`driftline lineage`: where a version comes from, what came of it, and which live models a thing went into."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agents.commands.output import Json, add, document, say, table

if TYPE_CHECKING:
    from agents.registry.lineage import Lineage, Node


def lineage(
    model: Annotated[str, typer.Argument(help="Name of a registered model.")] = "",
    version: Annotated[int, typer.Argument(help="Number of a version; default: the champion's.", min=0)] = 0,
    *,
    dataset: Annotated[str, typer.Option("--dataset", help="NAME@3, or a table's SHA-256 or its beginning.")] = "",
    package: Annotated[str, typer.Option("--package", help="Such as scikit-learn==1.9.1, or numpy<2.")] = "",
    commit: Annotated[str, typer.Option("--commit", help="Git commit, or its beginning.")] = "",
    run: Annotated[str, typer.Option("--run", help="Id of a training run, or its beginning.")] = "",
    everything: Annotated[bool, typer.Option("--all", help="Versions that are not live, too.")] = False,
    tree: Annotated[
        bool, typer.Option("--tree", help="Of a dataset, commit or run, too: what it was made from and went into.")
    ] = False,
    svg: Annotated[Path | None, typer.Option("--svg", help="Draw the lineage into this file.")] = None,
    as_json: Json = False,
) -> None:
    """Show what a version was made from and what was made from it; or which live models something went into.

    `--dataset`, `--package`, `--commit` and `--run` answer "which live models used this?"; with `--tree` or `--svg`,
    where a dataset comes from and everything that came of it.
    """
    from agents.access.acting import acting
    from agents.config import load_settings
    from agents.gateway.decisions import RegistryDecisions
    from schemas.errors import ConfigurationError

    asked = {"dataset": dataset, "package": package, "commit": commit, "run": run}
    asked = {kind: value for kind, value in asked.items() if value}
    if bool(model) + len(asked) != 1:
        raise ConfigurationError(
            "name a model, or one thing that went into models",
            where="driftline lineage",
            remedy="driftline lineage MODEL [VERSION], or --dataset, --package, --commit or --run",
        )
    settings = load_settings()
    acting(settings, "viewer", model or "*")
    registry = RegistryDecisions.of(settings)
    if model:
        _show(registry.lineage(model, version or None), svg, as_json=as_json)
        return
    (kind, value), *_ = asked.items()
    if tree or svg is not None:
        if kind == "package":
            raise ConfigurationError(
                "packages have no tree", where="driftline lineage --package", remedy="ask without --tree and --svg"
            )
        _show(registry.lineage_of(kind, value), svg, as_json=as_json)
        return
    found = registry.uses(kind, value, only_live=not everything)
    if as_json:
        document({kind: value, "versions": found})
        return
    table(
        ["model", "version", "live", "stage", "through"],
        [(use.model, use.version, "yes" if use.live else "", use.stage, use.through) for use in found],
        empty=f"no {'version' if everything else 'live model'} was made from {kind} {value}",
    )


def _show(found: Lineage, svg: Path | None, *, as_json: bool) -> None:
    if svg is not None:
        from agents.registry import drawing

        svg.write_text(drawing.svg(found), encoding="utf-8")
    if as_json:
        document(found)
        return
    say(f"{found.of.label}{_marks(found.of)}")
    if any(depth < 0 for depth in found.depth.values()):
        say("  made from")
    _print(found, found.of.id, upward=True, indent="    ")
    if any(depth > 0 for depth in found.depth.values()):
        say("  went into")
        _print(found, found.of.id, upward=False, indent="    ")


def _print(found: Lineage, at: str, *, upward: bool, indent: str) -> None:
    nodes: dict[str, Any] = {node.id: node for node in found.nodes}
    for edge in found.edges:
        here, there = (edge.target, edge.source) if upward else (edge.source, edge.target)
        # Each thing once, where it is nearest.
        if here != at or abs(found.depth[there]) != abs(found.depth[at]) + 1:
            continue
        node = nodes[there]
        say(f"{indent}{edge.relation}: {node.label}{_marks(node)}")
        _print(found, there, upward=upward, indent=indent + "  ")


def _marks(node: Node) -> str:
    return " (champion)" * node.live + " (flagged faulty)" * node.flagged


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    add(app, "lineage", lineage, panel="Models")
