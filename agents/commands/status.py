"""`driftline status`: what runs, how far behind it is, what it has counted, what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from agents.commands.output import Json, add, document, note, say, table
from schemas import topics

if TYPE_CHECKING:
    from agents.config import Settings
    from streams.kafka.config import KafkaConfig

T = TypeVar("T")

GROUPS: dict[str, tuple[str, ...]] = {
    "serving": (topics.INFERENCE_REQUESTS,),
    "monitoring-join": (topics.PREDICTIONS, topics.GROUND_TRUTH),
    "monitoring-aggregate": (topics.JOINED_DELTAS,),
    "archiving": (
        topics.PREDICTIONS,
        topics.GROUND_TRUTH,
        topics.QUALITY_METRICS,
        topics.DRIFT_METRICS,
        topics.ALERTS,
    ),
    "alerting": (topics.OBSERVATIONS, topics.TRAINING_EVENTS, topics.REGISTRY_EVENTS, topics.SERVING_EVENTS),
    "retraining": (topics.RETRAIN_REQUESTS,),
    "registry": (topics.REGISTRY_COMMANDS,),
    "notifying": (topics.ALERTS,),
}
"""Consumer groups and what they read."""


def status(as_json: Json = False) -> None:
    """Agents, lag in records, accounting, models, estimated quality, open incidents and skipped predictions.

    Exit code 0 only where every part of it could be told.
    """
    from contextlib import suppress

    from agents.access.acting import acting
    from agents.bootstrap import kafka_config
    from agents.config import load_settings
    from schemas.errors import DatabaseUnavailableError

    settings = load_settings()
    with suppress(DatabaseUnavailableError):  # told below, with the rest
        acting(settings, "viewer", "*")
    kafka = kafka_config(settings)
    gathered = gather(settings, kafka)
    if as_json:
        document(gathered)
    else:
        _print(gathered)
    if gathered["problems"]:
        raise typer.Exit(1)


def gather(settings: Settings, kafka: KafkaConfig) -> dict[str, Any]:
    """Everything `status` tells; parts that cannot be told are null and named under ``problems``."""
    from agents.gateway.address import page_address
    from agents.gateway.decisions import RegistryDecisions
    from agents.gateway.estimates import EstimateRow, headline
    from agents.gateway.logic import incident_rows
    from agents.gateway.recent import recent_estimates
    from agents.health import works
    from agents.monitoring.totals import newest_totals
    from agents.runtime import AGENTS
    from agents.supervisor import Supervisor
    from schemas import codec
    from schemas.errors import DriftlineError
    from schemas.events import Alert
    from streams.kafka.admin import check_broker
    from streams.kafka.lag import LagProbe
    from streams.kafka.reader import read_all

    problems: list[dict[str, str]] = []

    def told(name: str, tell: Callable[[], T]) -> T | None:
        try:
            return tell()
        except DriftlineError as error:
            problems.append({"part": name, "what": error.what, "where": error.where, "remedy": error.remedy})
            return None

    check_broker(kafka)
    probe = LagProbe(kafka)
    system = Supervisor(settings).status()

    def lag() -> dict[str, int]:
        return {group: sum(probe.lag(group, names).values()) for group, names in GROUPS.items()}

    def incidents() -> list[Alert]:
        alerts = [codec.decode(r.value or b"", Alert) for r in read_all(kafka, topics.ALERTS)]
        return [alert for alert in incident_rows(alerts) if alert.status != "closed"]

    def estimates() -> list[EstimateRow]:
        board = recent_estimates(kafka)
        for facts in models or []:
            if facts.model in board.models:
                board.models[facts.model].champion = facts.champion
        found = (headline(board.models[name]) for name in sorted(board.models))
        return [row for row in found if row is not None]

    models = told("models", lambda: RegistryDecisions.of(settings).models())
    flagged = told("flags", lambda: RegistryDecisions.of(settings).live_flags())
    accounting = told("accounting", lambda: newest_totals(kafka))
    agents: dict[str, Any] = {}
    for name, agent in (system.agents if system else {}).items():
        agents[name] = {"state": agent.state, "pid": agent.pid, "restarts": agent.restarts, "log": agent.log}
    if system is None:
        agents = {name: {"state": "alone"} for name in AGENTS if works(settings, name)}
    return {
        "home": settings.home.resolve(),
        "supervised": system is not None,
        "page": page_address(settings) if "gateway" in agents else None,
        "broker": kafka.bootstrap_servers,
        "agents": agents,
        "lag": told("lag", lag),
        "accounting": accounting,
        "skipped_predictions": (accounting or {}).get("predictions.skipped", 0),
        "models": models,
        "flagged": flagged,
        "estimates": told("estimates", estimates),
        "open_incidents": told("incidents", incidents),
        "problems": problems,
    }


def _print(told: dict[str, Any]) -> None:
    say(f"broker  {told['broker']}")
    if told["page"]:
        say(f"page    {told['page']}")
    say("")
    lag = told["lag"] or {}
    rows: list[tuple[object, ...]] = []
    for name in dict.fromkeys([*told["agents"], *(group.partition("-")[0] for group in lag)]):
        agent = told["agents"].get(name, {})
        waiting = [amount for group, amount in lag.items() if group.partition("-")[0] == name]
        state = agent.get("state", "not on this machine")
        rows.append((name, state, agent.get("pid"), agent.get("restarts"), sum(waiting) if waiting else None))
    table(["agent", "state", "pid", "restarts", "records behind"], rows)
    say("")
    models = told["models"] or []
    table(
        ["model", "task", "champion", "challenger", "versions"],
        [(m.model, m.task, m.champion, m.challenger, m.versions) for m in models],
        empty="no model is registered: `driftline register DIR --data FILE`",
    )
    for one in told["flagged"] or []:
        say(f"! {one.model} version {one.version} is live and {one}")
    if told["estimates"]:
        from agents.gateway.estimates import COLUMNS, table_rows

        say("")
        table(COLUMNS, table_rows(told["estimates"]), title="estimated before the labels")
    accounting = told["accounting"] or {}
    if accounting:
        say("")
        shown = {name: value for name, value in accounting.items() if value or "." not in name}
        table(["counted", "records"], list(shown.items()))
        if told["skipped_predictions"]:
            say(f"{told['skipped_predictions']} predictions name a model or version that is not registered: skipped")
    incidents = told["open_incidents"]
    if incidents is not None:
        say("")
        table(
            ["incident", "model", "severity", "since", "what"],
            [(i.incident_id[:8], i.model, i.severity, i.opened_at.date(), i.title) for i in incidents],
            empty="no open incident",
        )
    for problem in told["problems"]:
        note(f"{problem['part']}: {problem['what']}" + (f"\n  → {problem['remedy']}" if problem["remedy"] else ""))


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    add(app, "status", status, panel="System")
