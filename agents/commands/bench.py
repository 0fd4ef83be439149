"""`driftline bench NAME`: measure, each peer in the same call."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer

from agents.commands import bench_detection, bench_hot_path, bench_registry
from agents.commands.output import Commands, Json, add, document, note, report, table

Rounds = Annotated[int, typer.Option(min=1, help="Rounds of all contenders, alternating.")]
Cores = Annotated[int, typer.Option(min=1, help="Cores for everything, the broker included.")]


def join(  # noqa: PLR0917
    as_json: Json = False,
    events: Annotated[int, typer.Option(min=1_000, help="Predictions, and as many labels.")] = 1_000_000,
    rounds: Rounds = 5,
    peers: Annotated[
        str,
        typer.Option(help="Commas between: kafka_streams_eos, kafka_streams_alo, quix_streams, faust; or all, none."),
    ] = "all",
    cores: Cores = 2,
    cache: Annotated[
        Path | None, typer.Option(help="Folder for the peers' environments; default .bench in the checkout.")
    ] = None,
    small_events: Annotated[int, typer.Option(min=1_000, help="Predictions for slow peers and warming up.")] = 100_000,
) -> None:
    """The worker next to raw consume, Kafka Streams, Quix Streams and Faust."""
    bench = benchmark("join")
    result: dict[str, Any] = bench.run(
        events=events,
        rounds=rounds,
        peers=_peers(peers),
        core_count=cores,
        small_events=small_events,
        note=note,
        **({} if cache is None else {"cache": cache}),
    )
    show(result, as_json)


def benchmark(name: str) -> ModuleType:
    """The module `benchmarks.NAME`, imported when it is needed.

    Raises
    ------
    ConfigurationError
        The installed package has no benchmarks.
    """
    from importlib import import_module

    from schemas.errors import ConfigurationError

    try:
        return import_module(f"benchmarks.{name}")
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"the benchmarks are not part of the installed package ({error})",
            remedy="run it from a clone of the repository",
        ) from error


def show(result: dict[str, Any], as_json: bool) -> None:
    """One JSON document, or two tables."""
    if as_json:
        document(result)
        return
    table(
        ["who", "version", "value", "unit", "from", "to", "CPU s", "RSS MiB"],
        [
            (
                row["name"],
                row["version"],
                row["skipped"][:60] if row["value"] is None else row["value"],
                row["unit"],
                *(row["spread"] or ("", "")),
                row.get("cpu_seconds", ""),
                row.get("rss_mib", ""),
            )
            for row in result["rows"]
        ],
    )
    table(
        ["ratio", "median", "from", "to"],
        [(name, value, *result["ratio_range"][name]) for name, value in result["ratios"].items()],
    )


def _peers(text: str) -> list[str] | None:
    """Names of the option; None: all of them.

    Raises
    ------
    ConfigurationError
    """
    from schemas.errors import ConfigurationError

    if text in ("all", "none", ""):
        return None if text == "all" else []
    known = benchmark("peers.catalogue").PEERS
    names = [name.strip() for name in text.split(",")]
    if unknown := [name for name in names if name not in known]:
        raise ConfigurationError(
            f"no peer {', '.join(unknown)}", where="--peers", remedy=f"peers: {', '.join(known)}, all, none"
        )
    return names


BENCHES: dict[str, Callable[..., None]] = {
    "join": join,
    "models": bench_hot_path.models,
    "pending": bench_hot_path.pending,
    "recovery": bench_hot_path.recovery,
    "workers": bench_hot_path.workers,
    "latency": bench_hot_path.latency,
    "alert-latency": bench_hot_path.alert_latency,
    "registry": bench_registry.registry,
    "detection": bench_detection.detection,
    "drift": bench_detection.drift,
}
"""By name, in the order in which `driftline bench all` runs them."""


def everything() -> None:
    """All of them, one after another, with their defaults, as tables. Takes a while."""
    for name, command in BENCHES.items():
        note(f"— {name}")
        command()


class _Benches(Commands):
    """Says which benchmarks there are."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        from schemas.errors import ConfigurationError

        name = args[0] if args else ""
        if name in self.commands or name.startswith("-"):
            return super().resolve_command(ctx, args)
        error = ConfigurationError(
            f"no benchmark {name!r}", where="NAME", remedy=f"benchmarks: {', '.join(self.list_commands(ctx))}"
        )
        report(error, as_json="--json" in args)
        raise typer.Exit(error.exit_code)


def add_to(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    group = typer.Typer(cls=_Benches, no_args_is_help=True, help="Measure speed and alarms, next to peers.")
    for name, command in {**BENCHES, "all": everything}.items():
        add(group, name, command, panel="Benchmarks")
    app.add_typer(group, name="bench", rich_help_panel="Try it")
