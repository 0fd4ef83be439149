"""What the page shows, folded from events: series, incidents, runs, swaps, totals. Pure; bounded in memory.

Notes
-----
Every fold is idempotent: reading a topic again from its beginning arrives at the same board. For one window the newest
record wins, because all records of a model lie in one partition, in order.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from schemas.codec import segment_key, to_ms
from schemas.durations import parse_count
from schemas.errors import SpecificationError
from schemas.events import (
    FLEET,
    AccessChanged,
    Alert,
    ApprovalLapsed,
    ApprovalRequested,
    ArchiveExpired,
    CandidateStaged,
    CommandRefused,
    DriftMetric,
    Estimate,
    FlagWithdrawn,
    JournalRecord,
    ModelPromoted,
    ModelRefused,
    ModelRegistered,
    ModelRolledBack,
    ModelSwapped,
    ProbationEnded,
    QualityMetric,
    RegistryEvent,
    RollbackReviewed,
    RunFailed,
    RunFinished,
    RunSkipped,
    RunStarted,
    ServingEvent,
    SubjectErased,
    TagsChanged,
    TrainingEvent,
    VersionApproved,
    VersionArchived,
    VersionFlagged,
    VersionObserved,
    VersionRegistered,
    VersionRejected,
    VersionValidated,
)
from schemas.windows import parse_window

POINTS_A_SERIES = 1_500
DRIFT_POINTS_A_SERIES = 400
INCIDENTS_A_MODEL = 500
ACTIVITY_A_MODEL = 200
MOST_TEXT = 300


class Point(NamedTuple):
    """One window of one series. `t`: end of the window, milliseconds."""

    t: int
    start: int
    state: str
    revision: int
    n: int
    coverage: float
    values: dict[str, float | None]
    estimate: Estimate | None = None


class Activity(NamedTuple):
    """Something that happened to a model, in words. `tone`: good, bad, busy or plain."""

    at_ms: int
    what: str
    text: str
    tone: str
    event_id: str


@dataclass
class Series:
    """Closed windows by their end, and the newest window that is still open."""

    limit: int
    closed: OrderedDict[int, Point] = field(default_factory=OrderedDict)
    open: Point | None = None

    def add(self, point: Point) -> None:
        """Take a window in; a closed one ends the open one it continues."""
        if point.state == "provisional":
            if point.t not in self.closed:
                self.open = point
            return
        self.closed[point.t] = point
        if self.open is not None and self.open.t <= point.t:
            self.open = None
        while len(self.closed) > self.limit:
            self.closed.pop(min(self.closed))

    def points(self) -> list[Point]:
        """All windows in order of time, the open one last."""
        ordered = [self.closed[t] for t in sorted(self.closed)]
        return [*ordered, self.open] if self.open is not None else ordered

    def newest(self) -> Point | None:
        """The newest closed window; the open one where none has closed yet."""
        return self.closed[max(self.closed)] if self.closed else self.open


class SeriesKey(NamedTuple):
    """What one line of a chart stands for."""

    window: str
    segment: str
    version: int
    estimated: bool = False


class DriftKey(NamedTuple):
    """One subject's distance from the reference of one version."""

    window: str
    segment: str
    version: int
    subject: str


@dataclass
class ModelBoard:
    """All that is known of one model."""

    model: str
    quality: dict[SeriesKey, Series] = field(default_factory=dict)
    drift: dict[DriftKey, Series] = field(default_factory=dict)
    incidents: OrderedDict[str, Alert] = field(default_factory=OrderedDict)
    activity: deque[Activity] = field(default_factory=lambda: deque(maxlen=ACTIVITY_A_MODEL))
    promotions: list[tuple[int, int]] = field(default_factory=list)
    champion: int | None = None
    changes: dict[str, int] = field(default_factory=dict)

    def touch(self, what: str) -> None:
        """Count a change of `what`, so that readers know when to look again."""
        self.changes[what] = self.changes.get(what, 0) + 1

    def windows(self) -> list[str]:
        """Names of the windows seen, time windows by length, count windows last."""
        return ordered_windows({key.window for key in self.quality})

    def drift_windows(self) -> list[str]:
        """Names of the windows of drift, in the same order."""
        return ordered_windows({key.window for key in self.drift})

    def segments(self) -> list[str]:
        """Keys of the segments seen; overall first."""
        return sorted({key.segment for key in self.quality})

    def metrics(self) -> list[str]:
        """Names of the metrics seen."""
        names: dict[str, None] = {}
        for series in self.quality.values():
            point = series.newest()
            if point is not None:
                names.update(dict.fromkeys(point.values))
        return list(names)

    def open_incidents(self) -> list[Alert]:
        """Incidents that are not closed, newest first."""
        return [alert for alert in self.listed_incidents() if alert.status != "closed"]

    def listed_incidents(self) -> list[Alert]:
        """Incidents, open ones first, newest first."""
        return sorted(self.incidents.values(), key=lambda a: (a.status == "closed", -a.opened_at.timestamp()))

    def clock_ms(self) -> int | None:
        """Event time this model has reached: the end of its newest window with data."""
        ends = [point.t for series in self.quality.values() if (point := series.newest()) is not None]
        return max(ends, default=None)


class Board:
    """Everything the page shows, model by model."""

    def __init__(self) -> None:
        self.models: dict[str, ModelBoard] = {}
        self.fleet = ModelBoard(FLEET)
        self.totals: dict[int, Mapping[str, int]] = {}
        self.watermarks: dict[int, int] = {}
        self.changes = 0

    def model(self, name: str) -> ModelBoard:
        """The board of `name`, made where there is none."""
        if name not in self.models:
            self.models[name] = ModelBoard(name)
        return self.models[name]

    def incidents_of(self, model: str) -> list[Alert]:
        """Incidents of a model, and those of many models that name it: open ones first, newest first."""
        own = self.models[model].incidents.values() if model in self.models else ()
        shared = (alert for alert in self.fleet.incidents.values() if model in radius_names(alert))
        return sorted([*own, *shared], key=lambda a: (a.status == "closed", -a.opened_at.timestamp()))

    def open_incidents_of(self, model: str) -> list[Alert]:
        """Those of `incidents_of` that are not closed."""
        return [alert for alert in self.incidents_of(model) if alert.status != "closed"]

    def accounting(self) -> dict[str, int]:
        """Totals summed over the partitions."""
        summed: dict[str, int] = {}
        for totals in self.totals.values():
            for name, value in totals.items():
                summed[name] = summed.get(name, 0) + value
        return summed

    # Quality and drift -----------------------------------------------------------------------------------------

    def add_quality(self, metric: QualityMetric) -> None:
        """Fold one window of quality."""
        board = self.model(metric.model)
        key = SeriesKey(metric.window, segment_key(metric.segment), metric.version, metric.estimated)
        series = board.quality.setdefault(key, Series(POINTS_A_SERIES))
        series.add(
            Point(
                to_ms(metric.window_end),
                to_ms(metric.window_start),
                metric.state,
                metric.revision,
                metric.n,
                metric.coverage,
                metric.metrics,
                metric.estimate or None,
            )
        )
        self._touch(board, "quality")

    def add_drift(self, metric: DriftMetric) -> None:
        """Fold one window of drift."""
        board = self.model(metric.model)
        key = DriftKey(metric.window, segment_key(metric.segment), metric.version, metric.subject)
        series = board.drift.setdefault(key, Series(DRIFT_POINTS_A_SERIES))
        series.add(
            Point(
                to_ms(metric.window_end),
                to_ms(metric.window_start),
                metric.state,
                metric.revision,
                metric.n,
                1.0,
                metric.statistics,
            )
        )
        self._touch(board, "drift")

    def add_journal(self, record: JournalRecord) -> None:
        """Fold the accounting of one commit of the join."""
        self.totals[record.partition] = record.totals
        self.watermarks[record.partition] = record.watermark_ms
        self.changes += 1

    # Incidents and what agents did -----------------------------------------------------------------------------

    def add_alert(self, alert: Alert) -> None:
        """Fold news of an incident; that it opened, sent again, never replaces what came later."""
        board = self.fleet if alert.model == FLEET else self.model(alert.model)
        if alert.incident_id in board.incidents and alert.status == "opened":
            return
        board.incidents[alert.incident_id] = alert
        while len(board.incidents) > INCIDENTS_A_MODEL:
            board.incidents.popitem(last=False)
        self._touch(board, "incidents")
        for name in radius_names(alert) if alert.model == FLEET else ():
            if name in self.models:
                self._touch(self.models[name], "incidents")

    def add_event(self, event: RegistryEvent | TrainingEvent | ServingEvent) -> None:
        """Fold what the registry, a run or a server did."""
        board = self.model(event.model)
        if any(known.event_id == event.event_id for known in board.activity):
            return
        if isinstance(event, ModelPromoted | ModelRolledBack):
            board.champion = event.version
            board.promotions.append((to_ms(event.at), event.version))
        if isinstance(event, VersionObserved):
            board.champion = event.version
        what, text, tone = in_words(event)
        board.activity.appendleft(Activity(to_ms(event.at), what, shortened(text), tone, event.event_id))
        self._touch(board, "activity")
        if isinstance(event, RegistryEvent):
            self._touch(board, "versions")

    def _touch(self, board: ModelBoard, what: str) -> None:
        board.touch(what)
        self.changes += 1


def radius_names(alert: Alert) -> list[str]:
    """Models that an incident of many models names."""
    radius = alert.evidence.get("blast_radius")
    names = radius.get("names") if isinstance(radius, dict) else None
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


def shortened(text: str) -> str:
    """The first line, at most 300 characters: reasons may be whole tracebacks."""
    first = text.strip().partition("\n")[0]
    return first if len(first) <= MOST_TEXT else first[: MOST_TEXT - 1] + "…"


def in_words(event: RegistryEvent | TrainingEvent | ServingEvent) -> tuple[str, str, str]:
    """Kind, sentence and tone of an event.

    Examples
    --------
    >>> from datetime import UTC, datetime
    >>> in_words(RunStarted(event_id="e", model="m", run_id="r", at=datetime(2026, 1, 1, tzinfo=UTC),
    ...          trigger="quality", reason="AUC fell"))
    ('run', 'Training started (quality): AUC fell', 'busy')
    """
    match event:
        case RunStarted():
            return "run", f"Training started ({event.trigger}): {event.reason}", "busy"
        case RunFinished():
            made = f"version {event.version}" if event.version is not None else "no version"
            tone = {"promoted": "good", "initial": "good", "rejected": "bad", "failed": "bad"}
            text = f"Training finished on {event.rows:,} rows: {made}, {event.decision}. {event.reason}".strip()
            return "run", text, tone.get(event.decision, "plain")
        case RunFailed():
            return "run", f"Training failed: {event.reason}", "bad"
        case RunSkipped():
            return "run", f"No training ({event.trigger}): {event.reason}", "plain"
        case ModelRegistered():
            return "registry", f"Model registered by {event.actor}", "plain"
        case VersionRegistered():
            parent = f", successor of {event.parent}" if event.parent is not None else ""
            return "registry", f"Version {event.version} registered{parent}", "plain"
        case VersionObserved():
            return "registry", f"Version {event.version} ({event.external}) seen: {event.reason}", "plain"
        case VersionValidated():
            return "registry", f"Version {event.version} passed the gate", "good"
        case ApprovalRequested():
            return "registry", f"Version {event.version} waits for approval", "busy"
        case VersionApproved():
            comment = f": {event.comment}" if event.comment else ""
            return "registry", f"Version {event.version} approved by {event.actor}{comment}", "good"
        case VersionRejected():
            return "registry", f"Version {event.version} rejected by {event.actor}: {event.reason}", "bad"
        case ModelPromoted():
            before = f" in place of {event.previous}" if event.previous is not None else ""
            return "registry", f"Version {event.version} is champion{before}", "good"
        case ModelRolledBack():
            return "registry", f"Rolled back from {event.previous} to {event.version}: {event.reason}", "bad"
        case ProbationEnded():
            return "registry", f"Version {event.version} stays: {event.reason}", "good"
        case ApprovalLapsed():
            return "registry", f"Nobody decided on version {event.version} in time", "bad"
        case VersionArchived():
            return "registry", f"Version {event.version} archived by {event.actor}: {event.reason}", "plain"
        case RollbackReviewed():
            return "registry", f"Roll-back to {event.version} looked at by {event.actor}: {event.comment}", "plain"
        case CommandRefused():
            return "access", f"{event.command} of {event.actor} refused: {event.detail}", "bad"
        case VersionFlagged():
            because = "" if event.source == event.version else f", because version {event.source} is"
            live_now = "; it is live" if event.live else ""
            return "registry", f"Version {event.version} flagged faulty{because}: {event.reason}{live_now}", "bad"
        case FlagWithdrawn():
            return "registry", f"Flag of version {event.version} withdrawn by {event.actor}: {event.reason}", "good"
        case TagsChanged():
            what = f"version {event.version}" if event.version is not None else "the model"
            named = ", ".join([*(f"{k}={v}" for k, v in event.tags.items()), *(f"without {k}" for k in event.removed)])
            return "registry", f"Tags of {what}: {named}", "plain"
        case SubjectErased():
            return "access", f"A person's data was erased by {event.actor}", "plain"
        case ArchiveExpired():
            what = ", ".join(f"{rows} rows of {topic}" for topic, rows in sorted(event.rows.items()))
            return "registry", f"Rows let go by {event.actor} ({event.reason}): {what}", "plain"
        case AccessChanged():
            return "access", f"{event.subject}: {event.change} {event.detail}".strip(), "plain"
        case ModelSwapped():
            if event.from_version is None:
                return "serving", f"Serving answers with version {event.to_version}", "good"
            change = f"from version {event.from_version} to {event.to_version}"
            return "serving", f"Serving switched {change}; requests waited {event.pause_ms:.1f} ms", "good"
        case CandidateStaged():
            return "serving", f"Version {event.version} is loaded and warm", "plain"
        case ModelRefused():
            return "serving", f"Version {event.version} was refused by serving: {event.reason}", "bad"
    return "event", type(event).__name__, "plain"


def chart(board: ModelBoard, metric: str, window: str, segment: str) -> list[dict[str, object]]:
    """Lines of one chart: one a version (and one for its estimate), in order of time.

    Returns
    -------
    list of dict
        ``{"version", "estimated", "t", "y", "n", "coverage", "state"}``, lists of equal length; `t` in seconds.
        Estimates also have ``low`` and ``high``, lists too, and the newest ``trust``.
    """
    lines: list[dict[str, object]] = []
    for key in sorted(board.quality):
        if key.window != window or key.segment != segment:
            continue
        points = [point for point in board.quality[key].points() if point.values.get(metric) is not None]
        if points:
            line: dict[str, object] = {
                "version": key.version,
                "estimated": key.estimated,
                "t": [point.t / 1000 for point in points],
                "y": [point.values[metric] for point in points],
                "n": [point.n for point in points],
                "coverage": [point.coverage for point in points],
                "state": [point.state for point in points],
            }
            estimates = [point.estimate for point in points if point.estimate is not None]
            if len(estimates) == len(points):
                intervals = [estimate.intervals.get(metric) for estimate in estimates]
                line["low"] = [None if interval is None else interval[0] for interval in intervals]
                line["high"] = [None if interval is None else interval[1] for interval in intervals]
                line["trust"] = estimates[-1].trust
            lines.append(line)
    return lines


def drift_table(board: ModelBoard, window: str, version: int | None, statistic: str) -> list[dict[str, object]]:
    """Subjects of one version with their newest distance and its course, the farthest first.

    Returns
    -------
    list of dict
        ``{"subject", "value", "n", "t", "y", "statistics"}``.
    """
    rows: list[dict[str, object]] = []
    for key, series in board.drift.items():
        if key.window != window or key.segment or (version is not None and key.version != version):
            continue
        points = [point for point in series.points() if point.values.get(statistic) is not None]
        if points:
            newest = points[-1]
            rows.append(
                {
                    "subject": key.subject,
                    "value": newest.values[statistic],
                    "n": newest.n,
                    "t": [point.t / 1000 for point in points],
                    "y": [point.values[statistic] for point in points],
                    "statistics": newest.values,
                }
            )
    return sorted(rows, key=lambda row: -float(str(row["value"])))


def newest_value(board: ModelBoard, metric: str, window: str) -> tuple[Point, int] | None:
    """Newest closed overall window that has `metric`, with its version; of the champion where it has one."""
    found: list[tuple[bool, Point, int]] = []
    for key, series in board.quality.items():
        if key.window != window or key.segment or key.estimated:
            continue
        point = series.newest()
        if point is not None and point.values.get(metric) is not None:
            found.append((key.version == board.champion, point, key.version))
    if not found:
        return None
    _, point, version = max(found, key=lambda item: (item[0], item[1].t))
    return point, version


def ordered_windows(names: Iterable[str]) -> list[str]:
    """Time windows by length, those that end most often last, then count windows by size."""
    return sorted(names, key=_window_order)


def _window_order(name: str) -> tuple[bool, int, int]:
    count = parse_count(name)
    if count is not None:
        return True, count, 0
    try:
        window = parse_window(name)
    except SpecificationError:  # a single pane, where a specification names no time window
        return False, 0, 0
    return False, window.length_ms, -window.step_ms if window.step_ms else 0


def incident_rows(alerts: Iterable[Alert]) -> list[Alert]:
    """Newest news of every incident, open ones first, newest first: what `driftline alerts` lists."""
    folded = Board()
    for alert in alerts:
        folded.add_alert(alert)
    boards = [folded.fleet, *folded.models.values()]
    listed = [alert for board in boards for alert in board.incidents.values()]
    return sorted(listed, key=lambda a: (a.status == "closed", -a.opened_at.timestamp()))
