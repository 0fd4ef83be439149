"""A gateway without a broker: a board of made-up events and a registry in memory, for tests of the page."""

from __future__ import annotations

import math
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from random import Random

import msgspec
import uvicorn

from agents.access.logic import Principal
from agents.gateway.app import create_app
from agents.gateway.context import Check, Context
from agents.gateway.logic import Board
from agents.gateway.shared import SharedBoard
from agents.gateway.views import ModelFacts, VersionFacts
from agents.registry.consent import refuse_unnamed
from agents.registry.lineage import Lineage, Made, around, version_id
from agents.registry.logic import beyond
from agents.registry.search import Search, Seen
from schemas.errors import DatabaseUnavailableError, NotFoundError, TransitionError
from schemas.events import (
    Alert,
    CandidateStaged,
    DriftMetric,
    Estimate,
    JournalRecord,
    ModelPromoted,
    ModelSwapped,
    QualityMetric,
    RunFinished,
    RunStarted,
    VersionRegistered,
)
from schemas.specification import Specification, parse
from streams.join.totals import zero

START = datetime(2013, 2, 1, tzinfo=UTC)
MODEL = "flight-delay"
SPECIFICATION = """
[model]
name = "flight-delay"
task = "binary"
[data]
id = "flight_id"
event_time = "t"
label = "late"
max_label_delay = "3d"
segments = ["origin"]
[features]
distance = "numeric"
[metrics]
primary = "roc_auc"
watch = ["brier", "accuracy"]
windows = ["1d", "7d", "1000n"]
"""


class MemoryRegistry:
    """The registry's rules as far as the page sees them."""

    def __init__(self) -> None:
        self.stages: dict[int, VersionFacts] = {}
        self.champion: int | None = None
        self.down = False
        self.decisions: list[tuple[str, int, str, str]] = []

    def add(self, facts: VersionFacts) -> None:
        self.stages[facts.version] = facts
        if facts.stage == "promoted":
            self.champion = facts.version

    def _up(self) -> None:
        if self.down:
            raise DatabaseUnavailableError("the database does not answer", where="memory", remedy="start it")

    def models(self) -> list[ModelFacts]:
        self._up()
        return [ModelFacts(MODEL, "binary", self.champion, None, len(self.stages))] if self.stages else []

    def find_models(self, search: Search, seen: Seen) -> tuple[list[ModelFacts], str]:
        return [facts for facts in self.models() if facts.model in seen([facts.model]) and not search.alias], ""

    def model(self, model: str) -> ModelFacts:
        for facts in self.models():
            if facts.model == model:
                return facts
        raise NotFoundError(f"no model {model!r}")

    def versions(self, model: str, as_of: datetime | None = None) -> list[VersionFacts]:
        self._up()
        return list(self.stages.values()) if model == MODEL else []

    def specification(self, model: str) -> Specification:
        self._up()
        if model != MODEL:
            raise NotFoundError(f"no model {model!r}")
        return parse(SPECIFICATION)

    def lineage(self, model: str, version: int | None = None) -> Lineage:
        found = self.versions(model)
        number = version or self.champion or max((v.version for v in found), default=0)
        return around(
            (
                Made(
                    model=model,
                    version=v.version,
                    stage=v.stage,
                    live=v.version == self.champion,
                    environment={},
                    inputs=[("version", f"{model}/{v.parent}", f"{model} {v.parent}", "successor of")]
                    if v.parent is not None
                    else [],
                )
                for v in found
            ),
            version_id(model, number),
        )

    def lineage_of(self, kind: str, value: str) -> Lineage:
        found = self.lineage(MODEL, 1)
        used = [node for node in found.nodes if node.kind == "version"]
        if value != "trips@1":
            raise NotFoundError(f"no version was made from {kind} {value}")
        made = [
            Made(
                model=MODEL,
                version=number,
                stage="promoted",
                live=False,
                environment={},
                inputs=[("dataset", value, value, "trained on")],
            )
            for number in range(1, len(used) + 1)
        ]
        return around(made, f"{kind}:{value}")

    def approve(
        self,
        model: str,
        version: int,
        *,
        by: Principal,
        actor: str,
        comment: str,
        artifact: str | None = None,
        consented: Collection[str] = (),
    ) -> None:
        agreed = self.stages[self.champion].allowed_types if self.champion else ()
        refuse_unnamed("memory", beyond(self.stages[version].allowed_types, agreed), consented, "")
        self._decide("approve", version, actor, comment, {"validated", "approval-requested"})
        if self.champion is not None:
            self._stage(self.champion, "superseded")
        self._stage(version, "promoted")
        self.champion = version

    def reject(self, model: str, version: int, *, by: Principal, actor: str, reason: str) -> None:
        self._decide("reject", version, actor, reason, {"validated", "approval-requested"})
        self._stage(version, "rejected")

    def rollback(
        self, model: str, to: int | None, *, by: Principal, actor: str, reason: str, expected: int | None = None
    ) -> int:
        assert to is not None
        self._decide("rollback", to, actor, reason, {"superseded"})
        if self.champion is not None:
            self._stage(self.champion, "rolled-back")
        self._stage(to, "promoted")
        self.champion = to
        return to

    def _decide(self, what: str, version: int, actor: str, reason: str, stages: set[str]) -> None:
        self._up()
        if self.stages[version].stage not in stages:
            raise TransitionError(
                f"version {version} is {self.stages[version].stage}", remedy="look again: somebody else was first"
            )
        self.decisions.append((what, version, actor, reason))

    def _stage(self, version: int, stage: str) -> None:
        old = self.stages[version]
        self.stages[version] = VersionFacts(
            old.version, stage, old.at, old.parent, reason=old.reason, report=old.report
        )


def quality(
    day: int,
    version: int,
    value: float,
    *,
    window: str = "1d",
    segment: Mapping[str, str] | None = None,
    state: str = "closed",
    n: int = 780,
) -> QualityMetric:
    """One window of quality that ends `day` days after START."""
    length = timedelta(days=int(window[:-1])) if window.endswith("d") else timedelta(days=2)
    return QualityMetric(
        model=MODEL,
        version=version,
        segment=dict(segment) if segment else None,
        window=window,
        window_start=START + timedelta(days=day) - length,
        window_end=START + timedelta(days=day),
        state=state,
        revision=0,
        n=n,
        coverage=0.972,
        metrics={"roc_auc": value, "brier": 0.31 - value / 5, "accuracy": value + 0.06},
    )


def estimated(
    day: int,
    version: int,
    value: float,
    *,
    window: str = "1d",
    segment: Mapping[str, str] | None = None,
    trust: float | None = 0.7,
    realised: float | None = None,
) -> QualityMetric:
    """An estimate of `roc_auc`, 0.1 wide to either side; beside what came true where that is given."""
    return msgspec.structs.replace(
        quality(day, version, value, window=window, segment=segment, state="closed" if realised is None else "revised"),
        metrics={"roc_auc": value},
        estimated=True,
        estimate=Estimate(
            intervals={"roc_auc": (value - 0.1, value + 0.1)},
            trust=trust,
            realised=None if realised is None else {"roc_auc": realised},
            labelled=None if realised is None else 700,
        ),
    )


def fill(board: Board, registry: MemoryRegistry, *, days: int = 200, seed: int = 3) -> None:
    """A year in the life of a model: three versions, drift, incidents, runs."""
    rng = Random(seed)
    swaps = {0: 1, 74: 2, 131: 3}
    version = 1
    for day in range(1, days + 1):
        version = swaps.get(day, version)
        fall = 0.06 * math.exp(-(((day - 66) / 14) ** 2)) + 0.05 * math.exp(-(((day - 122) / 12) ** 2))
        level = 0.71 - fall + 0.004 * version
        for segment in (None, {"origin": "EWR"}, {"origin": "JFK"}, {"origin": "LGA"}):
            shift = 0.0 if segment is None else {"EWR": 0.01, "JFK": -0.012, "LGA": 0.002}[segment["origin"]]
            board.add_quality(quality(day, version, level + shift + rng.gauss(0, 0.011), segment=segment))
            board.add_quality(quality(day, version, level + shift + rng.gauss(0, 0.004), window="7d", segment=segment))
        board.add_quality(quality(day, version, level + rng.gauss(0, 0.007), window="1000n"))
        board.add_quality(estimated(day, version, level, window="7d"))
        for subject, base in (
            ("feature:temp", 3.2),
            ("feature:hour", 0.01),
            ("feature:carrier", 0.02),
            ("feature:wind_speed", 0.06),
            ("feature:distance", 0.008),
            ("prediction", 0.07),
            ("label", 0.03),
        ):
            season = math.sin(math.pi * day / 365) ** 2 if subject == "feature:temp" else rng.random()
            board.add_drift(
                DriftMetric(
                    model=MODEL,
                    version=version,
                    segment=None,
                    subject=subject,
                    window="7d",
                    window_start=START + timedelta(days=day - 7),
                    window_end=START + timedelta(days=day),
                    state="closed",
                    revision=0,
                    n=5400,
                    statistics={"psi": base * season, "jensen_shannon": base * season / 3},
                )
            )
    at = lambda day: START + timedelta(days=day)  # noqa: E731
    for n, (day, version) in enumerate(swaps.items()):
        registry.add(
            VersionFacts(
                version,
                "promoted" if version == 3 else "superseded",
                at(day),
                version - 1 or None,
                reason="first version"
                if version == 1
                else "better than the champion on the newest 6,200 labelled rows",
                report={} if version == 1 else {"rows": 6200, "primary": {"candidate": 0.7214, "champion": 0.6838}},
            )
        )
        if version > 1:
            board.add_event(
                RunStarted(
                    event_id=f"s{n}",
                    model=MODEL,
                    run_id=f"r{n}",
                    at=at(day),
                    trigger="quality",
                    reason="roc_auc of the last 7d fell to 0.651, reference 0.708",
                )
            )
            board.add_event(
                RunFinished(
                    event_id=f"f{n}",
                    model=MODEL,
                    run_id=f"r{n}",
                    at=at(day),
                    version=version,
                    rows=68_412,
                    decision="promoted",
                    reason="roc_auc +0.038 (0.021 to 0.054)",
                )
            )
        board.add_event(
            VersionRegistered(
                event_id=f"v{n}",
                epoch=n,
                at=at(day),
                model=MODEL,
                actor="retraining",
                version=version,
                artifact="a",
                parent=version - 1 or None,
            )
        )
        board.add_event(
            CandidateStaged(event_id=f"c{n}", model=MODEL, at=at(day), version=version, artifact="a", worker="0")
        )
        board.add_event(
            ModelPromoted(
                event_id=f"p{n}",
                epoch=n + 1,
                at=at(day),
                model=MODEL,
                actor="registry",
                version=version,
                previous=version - 1 or None,
                artifact="a",
            )
        )
        board.add_event(
            ModelSwapped(
                event_id=f"w{n}",
                model=MODEL,
                at=at(day),
                from_version=version - 1 or None,
                to_version=version,
                epoch=n,
                offsets={},
                pause_ms=0.4,
                worker="0",
            )
        )
    registry.add(
        VersionFacts(
            4,
            "approval-requested",
            at(190),
            3,
            reason="roc_auc +0.012 (0.001 to 0.023); no segment worse",
            report={"rows": 7100, "primary": {"candidate": 0.7311, "champion": 0.7190}},
        )
    )
    registry.add(
        VersionFacts(
            5,
            "rejected",
            at(195),
            3,
            reason="roc_auc -0.204 (-0.221 to -0.188): worse than the champion",
            report={"rows": 7100, "primary": {"candidate": 0.515, "champion": 0.719}},
        )
    )
    for number, (opened, closed) in enumerate([(58, 74), (114, 131), (192, None)]):
        board.add_alert(
            Alert(
                incident_id=f"i{number}",
                model=MODEL,
                version=number + 1,
                kind="quality",
                subject="roc_auc",
                segment=None if number else {"origin": "LGA"},
                severity="critical" if closed is None else "warning",
                status="opened" if closed is None else "closed",
                opened_at=at(opened),
                closed_at=None if closed is None else at(closed),
                title="roc_auc has fallen",
                explanation="roc_auc over the last 7 days is 0.651 on 5,412 labelled predictions; the reference is "
                "0.708 with a spread of 0.012. A fall this deep happens by chance less than once in 30 days.",
                evidence={"value": 0.651, "reference": 0.708, "threshold": 0.667, "n": 5412},
            )
        )
    for partition in range(4):
        totals = zero() | {
            "predictions": 40_000,
            "pending": 512,
            "labelled": 38_290,
            "expired": 1_198,
            "labels": 38_400,
            "labels.matched": 38_310,
            "labels.duplicate": 40,
            "labels.late": 31,
            "labels.orphaned": 12,
            "labels.waiting": 7,
            "predictions.duplicate": 41,
            "predictions.dead": 40,
        }
        board.add_journal(
            JournalRecord(
                partition=partition,
                slices={},
                watermark_ms=0,
                topic_watermarks_ms={},
                idle={},
                now_ms=0,
                registry_epoch=1,
                low_water={},
                journal_low_water=0,
                totals=totals,
                partitions=4,
            )
        )


def make_context(checks: Mapping[str, Check] | None = None, *, days: int = 200) -> tuple[Context, MemoryRegistry]:
    """A context over a filled board and a registry in memory."""
    board, registry = SharedBoard(), MemoryRegistry()
    with board.use() as inner:
        fill(inner, registry, days=days)
    board.caught_up = True
    return Context(board, registry, threading.Event(), checks or {}), registry


@contextmanager
def serving(context: Context) -> Iterator[str]:
    """The application on a free port; yields its address."""
    config = uvicorn.Config(
        create_app(context), host="127.0.0.1", port=0, log_level="warning", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started:
            if not thread.is_alive():
                raise RuntimeError("the server did not start")
            thread.join(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        context.stop.set()
        server.should_exit = True
        thread.join(5)
