"""`driftline report MODEL`: quality as measured and as estimated, drift and open incidents of one model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from agents.commands.output import Json, add, document, say, table

if TYPE_CHECKING:
    from agents.gateway.logic import ModelBoard
    from agents.gateway.views import ModelFacts

MOST_SUBJECTS = 10


def report(
    model: Annotated[str, typer.Argument(help="Name of the model.", show_default=False)],
    *,
    window: Annotated[str, typer.Option("--window", help="Time window to show; default: the longest.")] = "",
    as_json: Json = False,
) -> None:
    """Quality by segment, as measured and as estimated before labels, drift and open incidents of a model."""
    from agents.access.acting import acting
    from agents.bootstrap import kafka_config
    from agents.config import load_settings
    from agents.gateway.decisions import RegistryDecisions
    from agents.gateway.recent import model_board
    from schemas.errors import NotFoundError

    settings = load_settings()
    acting(settings, "viewer", model)
    registry = RegistryDecisions.of(settings)
    facts = registry.model(model)
    try:
        primary = registry.specification(model).metrics.primary
    except NotFoundError:  # no version is champion yet
        primary = ""
    board = model_board(kafka_config(settings), model)
    shown = board.model(model)
    shown.champion = facts.champion
    told = gather(shown, facts, primary=primary, window=window)
    told["open_incidents"] = board.open_incidents_of(model)
    if as_json:
        document(told)
    else:
        _print(told)


def gather(board: ModelBoard, facts: ModelFacts, *, primary: str, window: str = "") -> dict[str, Any]:
    """What the command tells of a model, without its incidents.

    Raises
    ------
    ConfigurationError
        No window of that name has been seen.
    """
    from agents.gateway import views
    from agents.gateway.estimates import estimate_rows
    from agents.gateway.logic import drift_table
    from schemas.errors import ConfigurationError

    names = board.windows()
    if window and window not in names:
        raise ConfigurationError(
            f"no window {window!r} has been seen",
            where=f"model {facts.model}",
            remedy="seen: " + (", ".join(names) or "none yet"),
        )
    chosen = window or views.choose_window(names)
    quality = []
    for key in sorted(board.quality, key=lambda key: (-key.version, key.segment)):
        point = board.quality[key].newest()
        if key.window != chosen or key.estimated or point is None:
            continue
        quality.append(
            {
                "version": key.version,
                "segment": key.segment,
                "window": key.window,
                "window_end": views.at(point.t),
                "state": point.state,
                "n": point.n,
                "coverage": point.coverage,
                "metrics": point.values,
            }
        )
    statistic = views.choose_statistic(views.statistics(board))
    drift = drift_table(board, views.choose_window(board.drift_windows()), board.champion, statistic)
    return {
        "model": facts.model,
        "task": facts.task,
        "champion": facts.champion,
        "monitored": facts.monitored,
        "primary": primary,
        "window": chosen,
        "windows": names,
        "event_time": views.at(board.clock_ms()),
        "quality": quality,
        "estimates": [row for row in estimate_rows(board) if row.window == chosen],
        "drift": [{"subject": row["subject"], statistic: row["value"], "n": row["n"]} for row in drift],
    }


def _print(told: dict[str, Any]) -> None:
    from agents.gateway import formats
    from agents.gateway.estimates import COLUMNS, table_rows

    champion = formats.DASH if told["champion"] is None else told["champion"]
    say(f"{told['model']}  {told['task']}, champion {champion}, window {told['window'] or formats.DASH}")
    say("")
    names = list(
        dict.fromkeys([*filter(None, [told["primary"]]), *(name for row in told["quality"] for name in row["metrics"])])
    )[:6]
    table(
        ["version", "segment", "until", *names, "labelled", "coverage"],
        [
            (
                *(row["version"], row["segment"] or "overall", f"{row['window_end']:%Y-%m-%d %H:%M}"),
                *(formats.figure(row["metrics"].get(name)) for name in names),
                *(row["n"], f"{row['coverage']:.1%}"),
            )
            for row in told["quality"]
        ],
        title="measured",
        empty="no window has closed yet",
    )
    say("")
    table(
        COLUMNS[1:],
        [row[1:] for row in table_rows(told["estimates"])],
        title="estimated before the labels",
        empty="nothing is estimated: docs/reference/estimated-quality.md says when",
    )
    say("")
    table(
        ["subject", "distance", "n"],
        [tuple(map(_cell, row.values())) for row in told["drift"][:MOST_SUBJECTS]],
        title="drift against the reference",
        empty="no drift has been measured yet",
    )
    say("")
    table(
        ["incident", "severity", "since", "what"],
        [(i.incident_id[:8], i.severity, i.opened_at.date(), i.title) for i in told["open_incidents"]],
        empty="no open incident",
    )


def _cell(value: object) -> object:
    return round(value, 4) if isinstance(value, float) else value


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    add(app, "report", report, panel="System")
