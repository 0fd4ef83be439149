"""What the page's parts show, made from the board and the registry. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from agents.gateway import estimates, formats
from agents.gateway.logic import ModelBoard, drift_table, newest_value
from agents.registry.logic import beyond
from schemas.events import Alert
from streams.join import totals as t

SPARK_WIDTH, SPARK_HEIGHT = 120, 24
METER_FULL = 0.5
"""Distance at which the meter of drift is full, unless a subject lies farther."""
STATISTICS = ("psi", "js", "jensen_shannon", "wasserstein", "ks", "chi2", "missing_rate", "new_category_rate")

ASKED = frozenset({"registered", "validated", "approval-requested", "expired"})
"""Stages of versions that nobody has decided on yet."""
PLACES = (t.PENDING, t.LABELLED, t.EXPIRED)
LABEL_PLACES = (t.LABELS_MATCHED, t.LABELS_DUPLICATE, t.LABELS_LATE, t.LABELS_ORPHANED, t.LABELS_WAITING, t.LABELS_DEAD)

Tone = Literal["good", "bad", "warn", "busy", "plain"]

STAGES: dict[str, tuple[str, Tone]] = {
    "registered": ("registered", "plain"),
    "validated": ("passed the gate", "busy"),
    "approval-requested": ("waits for approval", "busy"),
    "expired": ("nobody decided", "plain"),
    "archived": ("archived", "plain"),
    "approved": ("approved", "busy"),
    "rejected": ("rejected", "bad"),
    "promoted": ("champion", "good"),
    "superseded": ("superseded", "plain"),
    "rolled-back": ("rolled back", "warn"),
}


@dataclass(frozen=True)
class VersionFacts:
    """A version as the registry knows it.

    Parameters
    ----------
    at : datetime
        Event time of the knowledge it was trained with; `registered_at` and `promoted_at` are the system's clock.
    allowed_types : sequence of str
        What its file may hold beside the defaults.
    report : mapping
        The validation report, as the gate wrote it.
    """

    version: int
    stage: str
    at: datetime
    parent: int | None = None
    run_id: str | None = None
    actor: str = ""
    reason: str = ""
    artifact: str = ""
    report: Mapping[str, Any] = field(default_factory=dict)
    champion: bool = False
    decision: str | None = None
    registered_at: datetime | None = None
    promoted_at: datetime | None = None
    external: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    flags: Sequence[str] = ()
    allowed_types: Sequence[str] = ()


@dataclass(frozen=True)
class ModelFacts:
    """A model as the registry knows it. `monitored`: only watched; `learning`: its reference is still to be learnt."""

    model: str
    task: str
    champion: int | None
    challenger: int | None
    versions: int
    monitored: bool = False
    learning: bool = False
    owner: str = ""
    team: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class VersionRow:
    """One line of the table of versions."""

    version: int
    stage: str
    stage_text: str
    tone: Tone
    at: datetime
    champion: bool
    rows: int | None
    candidate: float | None
    incumbent: float | None
    reason: str
    can_approve: bool
    can_reject: bool
    artifact: str
    can_restore: bool
    external: str | None = None
    flags: Sequence[str] = ()
    allowed_types: Sequence[str] = ()
    new_types: Sequence[str] = ()
    """Those of them that whoever approves has to agree to."""


@dataclass(frozen=True)
class Tile:
    """One figure at the top of the page."""

    label: str
    value: str
    note: str
    tone: Tone = "plain"


def version_rows(versions: Sequence[VersionFacts], champion: int | None) -> list[VersionRow]:
    """Versions, the newest first, with what may be done with each."""
    rows = []
    agreed = next((facts.allowed_types for facts in versions if facts.version == champion), ())
    for facts in sorted(versions, key=lambda v: -v.version):
        text, tone = STAGES.get(facts.stage, (facts.stage, "plain"))
        current = facts.version == champion
        figures = gate_figures(facts.report)
        rows.append(
            VersionRow(
                version=facts.version,
                stage=facts.stage,
                stage_text="champion" if current else text,
                tone="good" if current else tone,
                at=facts.at,
                champion=current,
                rows=figures[0],
                candidate=figures[1],
                incumbent=figures[2],
                reason=facts.reason,
                can_approve=facts.stage == "approval-requested" and not facts.flags,
                can_reject=facts.stage == "approval-requested",
                artifact=facts.artifact,
                can_restore=not current
                and champion is not None
                and facts.stage in {"superseded", "rolled-back"}
                and not facts.flags,
                external=facts.external,
                flags=facts.flags,
                allowed_types=facts.allowed_types,
                new_types=beyond(facts.allowed_types, agreed) if facts.stage in ASKED else (),
            )
        )
    return rows


def gate_figures(report: Mapping[str, Any]) -> tuple[int | None, float | None, float | None]:
    """Rows compared, the candidate's and the champion's primary metric, as far as the report has them."""
    rows = report.get("rows")
    primary = report.get("primary")
    if not isinstance(primary, Mapping):
        return (rows if isinstance(rows, int) else None, None, None)

    def number(name: str) -> float | None:
        value = primary.get(name)
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None

    return (rows if isinstance(rows, int) else None, number("candidate"), number("champion"))


def tiles(
    board: ModelBoard, *, primary: str, window: str, totals: Mapping[str, int], open_incidents: Sequence[Alert] = ()
) -> list[Tile]:
    """The figures at the top: quality now and as estimated, coverage, incidents, champion, events."""
    found = newest_value(board, primary, window) if primary and window else None
    shown = []
    if found is None:
        shown.append(Tile(primary or "quality", formats.DASH, "no window has closed yet"))
        shown.append(Tile("Labelled", formats.DASH, "share of predictions with a label"))
    else:
        point, version = found
        note = f"{formats.window(window)}, version {version}, n {point.n:,}"
        shown.append(Tile(primary, formats.figure(point.values[primary]), note))
        shown.append(Tile("Labelled", f"{point.coverage:.1%}", "of the predictions of that window"))
    guess = estimates.headline(board, primary)
    if guess is not None:
        note = f"before labels: {estimates.in_words(guess)}"
        shown.append(Tile(f"{guess.metric}, estimated", formats.figure(guess.value), note))
    severities = {alert.severity for alert in open_incidents}
    tone: Tone = "bad" if "critical" in severities else "warn" if open_incidents else "good"
    note = open_incidents[0].title if open_incidents else f"{len(board.incidents)} so far"
    shown.append(Tile("Open incidents", str(len(open_incidents)), note, tone))
    champion = str(board.champion) if board.champion is not None else formats.DASH
    runs = sum(1 for a in board.activity if a.what == "run" and a.text.startswith("Training finished"))
    shown.append(
        Tile(
            "Champion",
            champion,
            f"{runs} training run{'s' if runs > 1 else ''} lately" if runs else "no training run yet",
        )
    )
    if totals:
        pending = f"{totals.get('pending', 0):,} wait for a label"
        shown.append(Tile("Predictions", f"{totals.get('predictions', 0):,}", pending + ", all models"))
    return shown


def drift_rows(board: ModelBoard, *, statistic: str, window: str, version: int | None) -> list[dict[str, Any]]:
    """Subjects with meter and course, the farthest first; flagged where an incident of drift is open."""
    flagged = {alert.subject for alert in board.open_incidents() if "drift" in alert.kind}
    rows = drift_table(board, window, version, statistic)
    full = max([METER_FULL, *(float(str(row["value"])) for row in rows)])
    return [
        {
            **row,
            "name": str(row["subject"]).partition(":")[2] or row["subject"],
            "what": "feature" if str(row["subject"]).startswith("feature:") else "",
            "share": round(100 * max(0.0, float(str(row["value"]))) / full, 1),
            "spark": spark(_floats(row["y"])),
            "flagged": row["subject"] in flagged,
        }
        for row in rows
    ]


def spark(values: Sequence[float]) -> str:
    """Points of a small line through `values`.

    Examples
    --------
    >>> spark([0.0, 1.0])
    '0.0,22.0 120.0,2.0'
    """
    if len(values) < 2:
        return ""
    low, high = min(values), max(values)
    room = (high - low) or 1.0
    step = SPARK_WIDTH / (len(values) - 1)
    return " ".join(
        f"{i * step:.1f},{SPARK_HEIGHT - 2 - (v - low) / room * (SPARK_HEIGHT - 4):.1f}" for i, v in enumerate(values)
    )


def accounting(totals: Mapping[str, int], partitions: int) -> dict[str, Any] | None:
    """The ledger: every prediction and every label in exactly one place; None before the first commit."""
    if not totals:
        return None

    def get(name: str) -> int:
        return totals.get(name, 0)

    rows = [("Predictions", get(t.PREDICTIONS), "total")]
    rows += [(name, get(name), "part") for name in PLACES]
    rows += [("Labels", get(t.LABELS), "total")]
    rows += [(name.partition(".")[2], get(name), "part") for name in LABEL_PLACES]
    others = {
        "duplicates of predictions": get(t.PREDICTIONS_DUPLICATE),
        "predictions of unknown models, skipped": get(t.PREDICTIONS_SKIPPED),
        "dead-lettered predictions": get(t.PREDICTIONS_DEAD),
    }
    rows += [("Beside them", sum(others.values()), "total")]
    rows += [(name, value, "part") for name, value in others.items()]
    predictions = get(t.PREDICTIONS) - sum(map(get, PLACES))
    labels = get(t.LABELS) - sum(map(get, LABEL_PLACES))
    if predictions == labels == 0:
        sentence = "Every prediction and every label is in exactly one place."
    else:
        sentence = f"Does not add up: predictions by {predictions:+,}, labels by {labels:+,}."
    return {
        "partitions": partitions,
        "rows": [{"label": label, "value": value, "kind": kind} for label, value, kind in rows],
        "balanced": predictions == labels == 0,
        "sentence": sentence,
    }


def choose_window(names: Sequence[str]) -> str:
    """The window shown first: the longest of time, because it is the calmest; else the first there is."""
    timed = [name for name in names if not name.endswith("n")]
    return timed[-1] if timed else (names[0] if names else "")


def choose_statistic(names: Sequence[str]) -> str:
    """The statistic of drift shown first."""
    return next((name for name in STATISTICS if name in names), names[0] if names else "psi")


def statistics(board: ModelBoard) -> list[str]:
    """Names of the drift statistics seen."""
    seen: dict[str, None] = {}
    for series in board.drift.values():
        point = series.newest()
        if point is not None:
            seen.update(dict.fromkeys(point.values))
    return list(seen)


def at(ms: int | None) -> datetime | None:
    """An instant of event time; None where there is none."""
    return None if ms is None else datetime.fromtimestamp(ms / 1000, UTC)


def _floats(values: object) -> list[float]:
    return [float(value) for value in values] if isinstance(values, list) else []
