"""Ours: the production code from counters to incidents, fed with what the join would have sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from agents.alerting.logic import AlertBook
from benchmarks.detection.contenders.base import Alarms
from benchmarks.detection.streams.base import Rows, Stream
from schemas.codec import to_ms, utc
from schemas.events import JoinedDelta, Observation, PaneClosed, PaneDelta, PartitionWatermark, WatermarkUpdate
from schemas.reference import ReferenceStatistics
from schemas.specification import Specification, parse
from streams.aggregate import AggregatePartition
from streams.metrics.batch import label_counters
from streams.packed import pack_dense
from streams.panes import PanePlan
from streams.reference import compile_reference
from streams.traffic import traffic_counters

_ROOT = Path(__file__).parents[3]
DAY_MS = 86_400_000
LABELS_LATE_PANES = 1
"""Labels come within the day; a pane is judged when the day after it is over, for every contender alike."""
_SPECIFICATION = """
[model]
name = "m"
task = "binary"
[data]
id = "id"
event_time = "at"
label = "y"
max_label_delay = "1d"
[features]
temperature = "numeric"
kind = "categorical"
[metrics]
primary = "accuracy"
[alarms]
budget = "BUDGET"
"""
_IMPORTANCES = {"temperature": 0.1, "kind": 0.1}


def specification(budget_per_day: float) -> Specification:
    """The model's specification: what is not named is the default."""
    return parse(_SPECIFICATION.replace("BUDGET", f"{budget_per_day:.9f}/1d"))


class Driftline:
    """Incidents of one model, as `alerts` would carry them."""

    name = "driftline"
    knob = "budget"
    default = 1 / 30
    shy = 1e-3
    eager = 30.0
    costly = False

    def prepare(self, cache: Path) -> str:
        """Nothing to make."""
        del cache
        return version("driftline")

    def about(self) -> Mapping[str, object]:
        """Where its figures come from."""
        return {"knob": "[alarms] budget, false incidents a day", "what": "panes with an open incident"}

    def code(self) -> Sequence[Path]:
        """All that decides."""
        return [Path(__file__), *(_ROOT / name for name in ("streams", "schemas", "agents/alerting"))]

    def alarms(self, streams: Sequence[Stream], setting: float) -> list[Alarms]:
        """Run over every stream."""
        return [panes_in_alarm(stream, specification(setting)) for stream in streams]


def panes_in_alarm(stream: Stream, spec: Specification) -> Alarms:
    """Live panes at whose closing an incident is open."""
    return [pane for pane, incidents in incidents_of(stream, spec) if incidents]


def incidents_of(stream: Stream, spec: Specification) -> list[tuple[int, list[str]]]:
    """(pane, ids of the open incidents when it was judged) for every live pane.

    Notes
    -----
    What the traffic of a day says is known a day before its labels are: it counts in its own pane, not the one before.
    """
    plan = PanePlan(spec, _reference(_Whole(stream)))
    aggregate = AggregatePartition(1, lambda model, number: plan)
    book = AlertBook(model="m", champion=1)
    first = len(stream.reference)
    over = utc((first + len(stream.live)) * DAY_MS)
    out: list[tuple[int, list[str]]] = []
    about: dict[str, int] = {}
    for pane, counters in enumerate([*_counters(_Whole(stream)), *[None] * LABELS_LATE_PANES]):
        if counters is not None:
            start = (first + pane) * DAY_MS
            aggregate.merge(JoinedDelta("m", 1, plan.layout, 0, [PaneDelta("", start, start, counters)]))
        end = (first + pane + 1) * DAY_MS
        for event in aggregate.merge(WatermarkUpdate([PartitionWatermark(0, end, False)])):
            if isinstance(event, Observation):
                # That nothing comes any more is the stream's end, not a collapse of its volume.
                if event.window_start < over:
                    for _, alert in book.observed(event, spec).alerts:
                        about.setdefault(alert.incident_id, to_ms(event.window_end) // DAY_MS - first - 1)
            elif isinstance(event, PaneClosed):
                book.pane_closed(event, spec)
        judged = pane - LABELS_LATE_PANES
        if judged >= 0:
            known = (i.incident_id for i in book.incidents.values() if i.closed_ms is None)
            out.append((judged, sorted(name for name in known if about.get(name, judged) <= judged)))
    return out


class _Whole:
    """A stream as a key of the caches below: by identity, kept alive by them."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Whole) and other.stream is self.stream

    def __hash__(self) -> int:
        return id(self.stream)


@lru_cache(maxsize=1024)
def _reference(whole: _Whole) -> ReferenceStatistics:
    """Compiled once: it does not depend on the budget."""
    panes = whole.stream.reference
    table = _together(panes)
    return compile_reference(
        specification(1 / 30),
        {"temperature": table["temperature"], "kind": table["kind"]},
        labels=table["label"],
        predictions=table["guess"],
        scores=table["score"],
        event_time_ms=np.repeat(np.arange(len(panes)) * DAY_MS, [len(rows.label) for rows in panes]),
        importances=_IMPORTANCES,
    )


@lru_cache(maxsize=1024)
def _counters(whole: _Whole) -> tuple[bytes, ...]:
    """Packed counters of every live pane: what the join would count."""
    plan = PanePlan(specification(1 / 30), _reference(whole))
    out = []
    for rows in whole.stream.live:
        counts = traffic_counters(
            plan, {"temperature": rows.temperature, "kind": rows.kind}, predictions=rows.guess, scores=rows.score
        )[0]
        counts += label_counters(plan, rows.label, rows.guess, rows.score)[0]
        out.append(pack_dense(counts))
    return tuple(out)


def _together(panes: Sequence[Rows]) -> dict[str, Any]:
    return {
        name: np.concatenate([getattr(rows, name) for rows in panes])
        for name in ("temperature", "kind", "label", "guess", "score")
    }


def described() -> dict[str, object]:
    """The specification, for the document."""
    return msgspec.to_builtins(specification(1 / 30))  # type: ignore[no-any-return]
