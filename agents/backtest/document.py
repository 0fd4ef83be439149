"""What a backtest found, as the document of ``driftline backtest --json``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agents.backtest.answers import Answers
from agents.backtest.hindsight import Hindsight
from agents.backtest.history import History
from agents.backtest.learning import Run
from agents.backtest.measures import MOST_SEGMENTS, Judged, by_segment, series, series_window, summary
from agents.backtest.replay import Retraining, World
from schemas.codec import iso, to_ms, utc
from schemas.events import Alert
from schemas.reference import ReferenceStatistics
from schemas.specification import Specification

if TYPE_CHECKING:
    from agents.backtest.run import BacktestOptions


@dataclass(frozen=True)
class Outcome:
    """Everything that a backtest saw.

    Parameters
    ----------
    options : BacktestOptions
    history : History
    first : int
        The first row that was replayed.
    reference : ReferenceStatistics
        Of the first version.
    live, frozen : World
        The same one where nothing was retrained.
    initial : Run, optional
        The first training.
    always : Answers, optional
        What would have been answered, had every candidate been promoted.
    """

    options: BacktestOptions
    history: History
    first: int
    reference: ReferenceStatistics
    live: World
    frozen: World
    initial: Run | None = None
    always: Answers | None = None
    seconds: float = 0.0


def document_of(outcome: Outcome) -> dict[str, Any]:
    """The document."""
    history, live, spec = outcome.history, outcome.live, outcome.history.spec
    always = live.answers if outcome.always is None else outcome.always
    ways = {"live": live.answers, "frozen": outcome.frozen.answers}
    judged = Judged.of(history, outcome.first, live.end_ms, [*ways.values(), always])
    start_ms = int(history.times_ms[outcome.first])
    window = series_window(spec, live.end_ms - start_ms)
    found = list(series(judged, ways, window))
    incidents = live.monitor.incidents()
    ends = [to_ms(pane.observed_at) for pane in live.monitor.panes]
    hindsight = Hindsight(spec, outcome.reference, window, found, ends, start_ms, live.end_ms)
    alarms, verdicts = hindsight.estimate(incidents, who="live")
    frozen_incidents = outcome.frozen.monitor.incidents()
    frozen_alarms, frozen_verdicts = hindsight.estimate(frozen_incidents, who="frozen")
    totals = live.monitor.totals
    return {
        "model": spec.name,
        "task": spec.task,
        "mode": "recorded" if history.recorded is not None else "frozen" if outcome.live is outcome.frozen else "live",
        "data": outcome.options.data.name,
        "train_until": iso(utc(outcome.options.train_until_ms)),
        "from": iso(utc(start_ms)),
        "until": iso(utc(live.end_ms)),
        "settings": dict(outcome.options.settings),
        "events": len(live.answers.answered(outcome.first, len(history))),
        "labelled": len(judged.rows),
        "incidents": _incidents(live, incidents, verdicts),
        "retrainings": _retrainings(outcome),
        "skipped": [
            {"at": iso(utc(one.at_ms)), "trigger": one.trigger, "reason": one.run.reason} for one in live.skipped
        ],
        "requests": [
            {"at": iso(request.as_of), "trigger": request.trigger, "reason": request.reason}
            for request in live.requests
        ],
        "swaps": [{"at": iso(utc(swap.at_ms)), "version": swap.version} for swap in live.swaps],
        "series": found,
        "summary": summary(judged, {**ways, "always_promote": always, "never_retrain": outcome.frozen.answers}),
        "segments": by_segment(judged, ways),
        "alarms": alarms,
        "frozen": {
            "incidents": _incidents(outcome.frozen, frozen_incidents, frozen_verdicts),
            "alarms": frozen_alarms,
        },
        "observations": _counted(live),
        "accounting": {**totals, "dead_letters": live.monitor.dead_letters},
        "left_out": history.left.document(),
        "unanswered": [
            {"version": version, "count": len(refused.rows), "reason": refused.reason}
            for version, refused in sorted(live.refused.items())
        ],
        "remarks": history.remarks + _not_shown(judged) + _thin(live, spec),
        "seconds": round(outcome.seconds, 2),
    }


def _thin(live: World, spec: Specification) -> list[str]:
    """Where hardly a window has the labels that quality is judged on, silence says nothing."""
    least = spec.alarms.minimum_labelled
    held = [m.n for m in live.monitor.quality if m.segment is None and m.state == "closed"]
    enough = sum(1 for n in held if n >= least)
    if not held or enough * 10 >= len(held):
        return []
    return [
        f"{len(held) - enough} of {len(held)} windows hold fewer than {least} labelled rows, and quality is not "
        "judged in them: name longer windows ([metrics] windows), or lower [alarms] minimum_labelled"
    ]


def _not_shown(judged: Judged) -> list[str]:
    more = len(judged.segments) - MOST_SEGMENTS
    return [f"{more} segments with fewer rows have no metrics of their own"] if more > 0 else []


def _incidents(world: World, incidents: Sequence[Alert], verdicts: Sequence[str]) -> list[dict[str, Any]]:
    told = (world.monitor.told_of(alert.incident_id) for alert in incidents)
    return [_incident(*found) for found in zip(incidents, told, verdicts, strict=True)]


def _incident(alert: Alert, told: Alert, verdict: str) -> dict[str, Any]:
    """An incident: where it stands by its last alert, what it was by the last one with crossings."""
    return {
        "incident_id": alert.incident_id,
        "version": alert.version,
        "kind": alert.kind,
        "subject": alert.subject,
        "segment": alert.segment,
        "opened_at": iso(alert.opened_at),
        "closed_at": iso(alert.closed_at) if alert.closed_at is not None else None,
        "severity": alert.severity,
        "title": alert.title,
        "explanation": told.explanation,
        "closing": alert.explanation if alert.status == "closed" else "",
        "hindsight": verdict,
        "evidence": told.evidence,
    }


def _retrainings(outcome: Outcome) -> list[dict[str, Any]]:
    runs: Sequence[Retraining] = outcome.live.retrainings
    if outcome.initial is not None:
        runs = [Retraining(outcome.options.train_until_ms, "registration", outcome.initial), *runs]
    return [
        {
            "at": iso(utc(one.at_ms)),
            "trigger": one.trigger,
            "rows": one.run.rows,
            "decision": one.run.decision,
            "reason": one.run.reason,
            "version": one.run.version.number if one.run.version is not None else None,
        }
        for one in runs
    ]


def _counted(world: World) -> dict[str, int]:
    """Crossings that opened, by kind: most are no incident."""
    opened = Counter(one.kind for one in world.monitor.observations if one.status == "opened")
    return dict(sorted(opened.items()))
