"""`driftline bench detection|drift`: alarms on streams whose truth is known, and how fast drift is computed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agents.commands.output import Json, note

Cache = Annotated[Path | None, typer.Option(help="Folder for the peers' environments; default .bench in the checkout.")]
Peers = Annotated[str, typer.Option(help="Commas between; or all, none.")]


def detection(  # noqa: PLR0917
    as_json: Json = False,
    only: Annotated[str, typer.Option(help="Kinds of streams, commas between, fleet among them; default: all.")] = "",
    seeds: Annotated[int, typer.Option(min=2, help="Streams of every generated kind, and of their twins.")] = 40,
    rows: Annotated[int, typer.Option(min=100, help="Mean rows a pane.")] = 200,
    peers: Peers = "all",
    cache: Cache = None,
    memory: Annotated[
        Path | None,
        typer.Option(help="Folder to keep answers in: runs that were stopped go on, runs of parts add up."),
    ] = None,
    models: Annotated[
        int | None, typer.Option(min=1, max=18_000, help="Of the fleet, simulate so many; default: 600 a seed.")
    ] = None,
) -> None:
    """False alarms, delay and misses next to River, NannyML, Evidently and alibi-detect. About an hour."""
    from agents.commands.bench import benchmark, show

    bench = benchmark("detection.run")
    kinds = _names("--only", only, bench.KINDS)
    result = bench.run(
        seeds=seeds,
        rows=rows,
        kinds=kinds or None,
        peers=_peers(peers, [contender.name for contender in bench.contenders()]),
        memory=memory,
        models=models,
        note=note,
        **({} if cache is None else {"cache": cache}),
    )
    show(result, as_json)


def drift(  # noqa: PLR0917
    as_json: Json = False,
    rows: Annotated[int, typer.Option(min=1_000, help="Rows of the reference, and of the window.")] = 1_000_000,
    features: Annotated[int, typer.Option(min=1, help="Numeric features; every other one moved.")] = 20,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of all contenders, alternating.")] = 3,
    peers: Peers = "all",
    cache: Cache = None,
) -> None:
    """From raw columns to statistics and verdicts, next to Evidently and NannyML. About 8 minutes."""
    from agents.commands.bench import benchmark, show

    bench = benchmark("drift")
    result = bench.run(
        rows=rows,
        features=features,
        rounds=rounds,
        peers=_peers(peers, bench.PEERS),
        note=note,
        **({} if cache is None else {"cache": cache}),
    )
    show(result, as_json)


def _peers(text: str, known: list[str] | tuple[str, ...]) -> list[str] | None:
    if text in ("all", "none", ""):
        return None if text == "all" else []
    return _names("--peers", text, known)


def _names(where: str, text: str, known: list[str] | tuple[str, ...]) -> list[str]:
    """Names with commas between.

    Raises
    ------
    ConfigurationError
        One is not among the known.
    """
    from schemas.errors import ConfigurationError

    names = [name.strip() for name in text.split(",") if name.strip()]
    if unknown := [name for name in names if name not in known]:
        raise ConfigurationError(f"no {', '.join(unknown)}", where=where, remedy=f"there are {', '.join(known)}")
    return names
