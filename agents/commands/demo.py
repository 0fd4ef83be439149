"""`driftline demo`: a year of real flights through the whole loop."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agents.commands.output import Json, add, document, note, say

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "flights"


def demo(  # noqa: PLR0917
    as_json: Json = False,
    free_running: Annotated[bool, typer.Option("--free-running", help="No day barrier: as fast as it goes.")] = False,
    speed: Annotated[
        float, typer.Option(min=0.0, help="Free-running: event-time seconds per second; 0: as fast as it goes.")
    ] = 0.0,
    manual: Annotated[bool, typer.Option("--manual", help="A person approves, by command or on the page.")] = False,
    clean: Annotated[bool, typer.Option("--clean", help="Without the disturbance and the spoiled candidate.")] = False,
    probation: Annotated[str, typer.Option(help="Promoted versions are on probation for so long, as 7d.")] = "",
    seed: Annotated[int, typer.Option(help="Seed of the disturbance.")] = 2013,
    start: Annotated[str, typer.Option(help="First day of departure.")] = "2013-02-01",
    until: Annotated[str, typer.Option(help="Day after the last.")] = "2014-01-01",
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything running at the end.")] = False,
    home: Annotated[Path, typer.Option(help="Folder of the run; it is emptied first.")] = Path(".driftline/demo"),
    report: Annotated[Path, typer.Option(help="Folder of summary.json and report.html.")] = Path("demo-report"),
    project: Annotated[Path, typer.Option(help="The flights project.", hidden=True)] = EXAMPLE,
) -> None:
    """A year of real flights: quality falls, the alarm goes off, successors are trained, judged and swapped in."""
    import os

    # One thread a fit: OpenMP's spinning threads would take the processors from the agents.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from datetime import date

    from agents.demo.options import DemoOptions
    from agents.demo.run import run_demo
    from agents.demo.view import View
    from schemas.errors import ConfigurationError

    try:
        first, last = date.fromisoformat(start), date.fromisoformat(until)
    except ValueError as error:
        raise ConfigurationError(str(error), where="--start/--until", remedy="write dates as 2013-02-01") from error
    options = DemoOptions(
        project=project,
        home=home,
        report=report,
        start=first,
        until=last,
        lockstep=not (free_running or speed),
        speed=speed,
        manual=manual,
        disturb=not clean,
        spoil=not clean,
        seed=seed,
        keep=keep,
        probation=probation,
    )
    with View() as view:
        summary = run_demo(options, view)
    if as_json:
        document(summary)
    else:
        _say(summary)
        say(f"\nReport: {report / 'report.html'}   summary: {report / 'summary.json'}")
    if keep:
        note(f"Still running; stop it with: DRIFTLINE_HOME={home} driftline down")
    failed = [name for name, held in summary["checks"].items() if not held]
    if failed or summary["lost"] or summary["duplicated"]:
        for name in failed:
            note(f"does not hold: {name}")
        for difference in summary["differences"]:
            note(difference)
        raise typer.Exit(1)


def _say(summary: dict[str, object]) -> None:
    from typing import Any, cast

    from agents.commands.output import table

    data = cast("dict[str, Any]", summary)
    table(
        ["accounting", "count"],
        [
            *((name, data[name]) for name in ("requests", "predictions", "pending", "labelled", "revised", "expired")),
            *((topic, n) for topic, n in data["dead_lettered"].items()),
            *((f"labels {name}", n) for name, n in data["labels"].items()),
            ("lost", data["lost"]),
            ("duplicated", data["duplicated"]),
        ],
    )
    say("")
    table(
        ["metric, all labelled flights", "live", "frozen v1"],
        [
            (name, f"{value:.4f}", f"{data['frozen'][name]:.4f}")
            for name, value in data["live"].items()
            if value is not None and data["frozen"][name] is not None
        ],
    )
    say("")
    table(["version", "decision", "reason"], [(v["version"], v["decision"], v["reason"]) for v in data["versions"]])
    say("")
    table(
        ["swap", "pause ms", "first offsets answered"],
        [
            (("–" if s["from"] is None else f"v{s['from']}") + f" → v{s['to']}", f"{s['pause_ms']:.1f}", s["offsets"])
            for s in data["swaps"]
        ],
    )
    say("")
    table(["disturbance", "count"], data["disturbance"].items())
    say("")
    table(["check", "holds"], [(name, "yes" if held else "NO") for name, held in data["checks"].items()])
    seconds = data["seconds"]
    say(
        f"\n{data['incidents']} incidents, {len(data['runs'])} runs; first joined metric after "
        f"{seconds['first_joined']} s, all after {seconds['total']} s"
    )


def add_to(app: typer.Typer) -> None:
    """Add the command to `app`."""
    add(app, "demo", demo, panel="Try it")
