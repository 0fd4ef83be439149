"""`driftline bench NAME`: measure, each peer in the same call."""

from __future__ import annotations

from typing import Annotated

import typer

from agents.commands.output import Json, add, document, note, table


def bench(
    name: Annotated[str, typer.Argument(help="join")],
    as_json: Json = False,
    events: Annotated[int, typer.Option(min=1_000, help="Predictions, and as many labels.")] = 1_000_000,
    rounds: Annotated[int, typer.Option(min=1, help="Pairs of runs.")] = 5,
) -> None:
    """Measure the hot path on this machine, next to what limits it."""
    from schemas.errors import ConfigurationError

    if name != "join":
        raise ConfigurationError(f"no benchmark {name!r}", where="NAME", remedy="benchmarks: join")
    try:
        from benchmarks import join
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            "the benchmarks are not part of the installed package", remedy="run it from a clone of the repository"
        ) from error
    result = join.run(events=events, rounds=rounds, note=note)
    if as_json:
        document(result)
        return
    table(
        ["who", "version", "events/s", "from", "to"],
        [(r["name"], r["version"], r["value"], r["spread"][0], r["spread"][1]) for r in result["rows"]],
    )
    table(["ratio", "median"], result["ratios"].items())


def add_to(app: typer.Typer) -> None:
    """Add the command to `app`."""
    add(app, "bench", bench, panel="Try it")
