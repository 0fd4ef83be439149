"""`driftline bench registry`: a large registry, and how fast a decision is served."""

from __future__ import annotations

from typing import Annotated

import typer

from agents.commands.bench_hot_path import Cores, run_bench
from agents.commands.output import Json


def registry(  # noqa: PLR0917
    as_json: Json = False,
    models: Annotated[int, typer.Option(min=100, help="Models.")] = 18_000,
    versions: Annotated[int, typer.Option(min=200, help="Versions of all of them together.")] = 100_000,
    questions: Annotated[int, typer.Option(min=1, help="How often each question is asked.")] = 200,
    registrations: Annotated[int, typer.Option(min=1, help="Versions registered one after the other.")] = 200,
    swaps: Annotated[int, typer.Option(min=0, help="Promotions and roll-backs that are followed; 0: none.")] = 50,
    database: Annotated[
        str, typer.Option(help="URL of an empty database that is filled; default: SQLite in a temporary folder.")
    ] = "",
    cores: Cores = None,
) -> None:
    """100,000 versions of 18,000 models: search, as-of, registration, approvals at once, and swaps. Four minutes."""
    run_bench(
        "registry",
        as_json,
        models=models,
        versions=versions,
        questions=questions,
        registrations=registrations,
        swaps_each=swaps,
        database=database,
        use_cores=cores,
    )
