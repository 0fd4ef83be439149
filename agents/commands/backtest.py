"""`driftline backtest`: a table of history through the code that runs in production, without Kafka."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from agents.commands.output import Json, add, document, note, say, table


def backtest(  # noqa: PLR0917
    directory: Annotated[Path, typer.Argument(help="Model project; pipeline.py only where something is trained.")],
    data: Annotated[Path, typer.Option("--data", help="History: .parquet, .csv or .csv.gz.", show_default=False)],
    train_until: Annotated[
        str,
        typer.Option("--train-until", help="Rows before it are learnt from, the others replayed.", show_default=False),
    ],
    frozen: Annotated[bool, typer.Option("--frozen", help="Never retrain: watch the first version only.")] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Set a key of the specification, such as alarms.budget=1/10d; repeatable."),
    ] = None,
    compare: Annotated[
        list[str] | None,
        typer.Option(
            "--compare", help="Replay once more with these keys set otherwise (k=v, several after ';'); repeatable."
        ),
    ] = None,
    shuffles: Annotated[
        int,
        typer.Option(
            "--shuffles", min=0, help="Count false alarms on so many histories with the panes in another order."
        ),
    ] = 0,
    member: Annotated[
        str | None,
        typer.Option("--member", help="Of a project for many models, the one to replay: a value of its column."),
    ] = None,
    report: Annotated[Path | None, typer.Option("--report", help="Write an HTML report to this file.")] = None,
    seed: Annotated[int, typer.Option(help="Given to steps of the pipeline that ask for one.")] = 0,
    as_json: Json = False,
) -> None:
    """Replay a history in event time: train, monitor, alarm, retrain, gate, swap, beside the frozen first version.

    A file with a column `prediction` (and `probability`, `version`) is watched without training.
    """
    import contextlib
    import sys
    import time

    from agents.backtest.overrides import parse_setting
    from agents.backtest.run import BacktestOptions, run_backtest
    from agents.commands.lines import moment

    if report is not None:
        _make_room(report)
    options = BacktestOptions(
        project=directory,
        data=data,
        train_until_ms=moment(train_until),
        frozen=frozen,
        settings=[parse_setting(text) for text in settings or ()],
        compare=[[parse_setting(part) for part in text.split(";") if part.strip()] for text in compare or ()],
        shuffles=shuffles,
        seed=seed,
        member=member,
        now_ms=int(time.time() * 1000),
    )
    # What steps of the pipeline print is no part of the document.
    with contextlib.redirect_stdout(sys.stderr):
        found = run_backtest(options, note)
    if report is not None:
        from agents.backtest.report import render

        report.write_text(render(found), encoding="utf-8")
    if as_json:
        document(found)
    else:
        _say(found)
    if report is not None:
        note(f"Report: {report}")


def _make_room(report: Path) -> None:
    """See before the replay, not after it, that the report can be written.

    Raises
    ------
    ConfigurationError
    """
    from schemas.errors import ConfigurationError

    try:
        report.parent.mkdir(parents=True, exist_ok=True)
        report.open("a", encoding="utf-8").close()
    except OSError as error:
        raise ConfigurationError(
            f"the report cannot be written: {error.strerror}",
            where=f"--report {report}",
            remedy="name a file in a folder that you may write to",
        ) from error


def _say(found: dict[str, Any]) -> None:
    say(
        f"{found['model']}: {found['events']:,} predictions from {found['from']} to {found['until']}, "
        f"{found['labelled']:,} labelled"
    )
    for area, reasons in found["left_out"].items():
        for reason, what in reasons.items():
            say(f"left out of {area}: {what['count']:,} × {reason} (rows {', '.join(map(str, what['rows']))} …)")
    say("")
    summary = found["summary"]
    table(
        ["metric", *(name.replace("_", " ") for name in summary)],
        [(name, *(_number(summary[way][name]) for way in summary)) for name in summary["live"]],
    )
    say("")
    table(
        ["incident", "closed", "severity", "in hindsight", "what"],
        [(i["opened_at"][:10], (i["closed_at"] or "open")[:10], i["severity"], i["hindsight"], i["title"])
         for i in found["incidents"]],
        empty="no incident",
    )  # fmt: skip
    say("")
    table(
        ["run", "trigger", "rows", "decision", "version", "reason"],
        [(r["at"][:10], r["trigger"], r["rows"], r["decision"], r["version"], r["reason"])
         for r in found["retrainings"]],
        empty="no training",
    )  # fmt: skip
    say("")
    table(
        ["rule", "alarms", "false", "false per 30 d", "losses found", "median delay, days"],
        [(r["rule"], r["alarms"], r["false"], f"{r['false_per_30d']:.2f} ({_interval(r['interval_per_30d'])})",
          f"{r['losses_found']} of {r['losses']}", r["median_delay_days"]) for r in found["alarms"]["rules"]],
    )  # fmt: skip
    if (mixed := found["alarms"].get("shuffled")) is not None:
        say(
            f"panes in another order: {mixed['per_30d']:.2f} incidents per 30 d "
            f"({_interval(mixed['interval_per_30d'])}), {mixed['tolerated_per_30d']:g} tolerated"
        )
    for variant in found.get("variants", ()):
        said = ", ".join(f"{key}={value}" for key, value in variant["set"].items())
        rule = variant["alarms"]["rules"][0]
        promoted = sum(1 for run in variant["retrainings"] if run["decision"] == "promoted")
        live = "  ".join(f"{name} {_number(value)}" for name, value in variant["summary"]["live"].items())
        say(
            f"with {said}: {len(variant['incidents'])} incidents, {rule['false']} false, {rule['losses_found']} of "
            f"{rule['losses']} losses found, {promoted} promoted; {live}"
        )


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _interval(bounds: list[float]) -> str:
    return f"{bounds[0]:.2f}–{bounds[1]:.2f}"


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    add(app, "backtest", backtest, panel="Models")
