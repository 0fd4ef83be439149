"""`driftline bench pending|recovery|workers|latency|alert-latency`: what the hot path alone comes to, without peers."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from agents.commands.output import Json, note

Sizes = Annotated[str, typer.Option(help="Pending predictions, commas between.")]
Cores = Annotated[int | None, typer.Option(min=1, help="Cores for everything, the broker included; default: all.")]
_PHASES = ("load", "in_order", "random")


def pending(
    as_json: Json = False,
    sizes: Sizes = "1000000,10000000,50000000",
    only: Annotated[str, typer.Option(help="Labelling phases after the load: in_order, random.")] = "in_order,random",
    sample: Annotated[int, typer.Option(min=100, help="Most labels in a labelling phase.")] = 2_000_000,
    cores: Cores = None,
) -> None:
    """Predictions that wait for labels: load, label in order and at random. About 12 minutes at 200 k events/s."""
    run_bench("pending", as_json, sizes=_numbers(sizes), only=_phases(only), sample=sample, use_cores=cores)


def recovery(as_json: Json = False, sizes: Sizes = "1000000,10000000", cores: Cores = None) -> None:
    """Kill -9 with the state folder and without it. About 6 minutes at 200 k events/s."""
    run_bench("recovery", as_json, sizes=_numbers(sizes), use_cores=cores)


def workers(
    as_json: Json = False,
    events: Annotated[int, typer.Option(min=1_000, help="Predictions, and as many labels.")] = 1_000_000,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds, alternating.")] = 5,
    counts: Annotated[str, typer.Option(help="Worker processes, commas between.")] = "1,2",
    cores: Cores = None,
) -> None:
    """One worker process against two on the same cores. About 5 minutes at 200 k events/s."""
    run_bench("workers", as_json, events=events, rounds=rounds, counts=_numbers(counts), use_cores=cores)


def latency(
    as_json: Json = False,
    events: Annotated[int, typer.Option(min=1_000, help="Predictions and labels that find the full rate.")] = 1_000_000,
    seconds: Annotated[float, typer.Option(min=2.0, help="How long the load lasts.")] = 60.0,
    rate: Annotated[float | None, typer.Option(min=1.0, help="Events/s; default: half of the full rate.")] = None,
    cores: Cores = None,
) -> None:
    """From a label to its effect in quality-metrics, under half load. About 2 minutes."""
    run_bench("latency", as_json, events=events, seconds=seconds, rate=rate, use_cores=cores)


def alert_latency(
    as_json: Json = False,
    probes: Annotated[int, typer.Option(min=1, help="Incidents that count.")] = 60,
    events: Annotated[int, typer.Option(min=150, help="Predictions of a model in a cycle.")] = 150,
    cores: Cores = None,
) -> None:
    """From the record that tips an incident to its alert, with the real agents. About three minutes."""
    run_bench("alert_latency", as_json, probes=probes, events=events, use_cores=cores)


def models(
    as_json: Json = False,
    events: Annotated[int, typer.Option(min=1_000, help="Predictions, and labels, of each phase.")] = 1_000_000,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds, alternating.")] = 1,
    counts: Annotated[str, typer.Option(help="Numbers of models, commas between.")] = "1,100,18000",
    cores: Cores = None,
) -> None:
    """20 features over one, a hundred and 18,000 models on one worker. About 10 minutes."""
    run_bench("models", as_json, events=events, rounds=rounds, models=_numbers(counts), use_cores=cores)


def run_bench(name: str, as_json: bool, **options: Any) -> None:
    """Run a benchmark and print its document."""
    from agents.commands.bench import benchmark, show

    show(benchmark(name).run(note=note, **options), as_json)


def _numbers(text: str) -> list[int]:
    """Positive integers with commas between.

    Raises
    ------
    ConfigurationError
    """
    from schemas.errors import ConfigurationError

    found = [part.strip().replace("_", "") for part in text.split(",") if part.strip()]
    if not found or not all(part.isdigit() and int(part) for part in found):
        raise ConfigurationError(f"{text!r} is not a list of numbers", remedy="as in 1000000,10000000")
    return [int(part) for part in found]


def _phases(text: str) -> list[str]:
    from schemas.errors import ConfigurationError

    names = [part.strip().replace("-", "_") for part in text.split(",") if part.strip()]
    if unknown := [name for name in names if name not in _PHASES]:
        raise ConfigurationError(
            f"no phase {', '.join(unknown)}", where="--only", remedy=f"phases: {', '.join(_PHASES)}"
        )
    return names
