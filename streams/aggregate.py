"""Stage 2: merge the join's deltas, compose windows from panes, run detectors. Pure: no clock, no Kafka.

State and output are a function of the sequence of delta records of one partition. Watermarks decide what closes, in
event time; the wall clock decides nothing here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import msgspec

from schemas.codec import utc
from schemas.errors import StateError
from schemas.events import (
    DeltaRecord,
    DriftMetric,
    JoinedDelta,
    Observation,
    PaneClosed,
    QualityMetric,
    WatermarkUpdate,
)
from streams.panes import PanePlan
from streams.series import Series, SeriesState

PlanOf = Callable[[str, int], PanePlan | None]
AggregateEvent = QualityMetric | DriftMetric | Observation | PaneClosed

SNAPSHOT_VERSION: Final = 1
NOTHING: Final = -1


@dataclass
class ModelPanes:
    """All live versions of one model."""

    series: dict[int, Series] = field(default_factory=dict)
    closed_until: int = NOTHING
    """End of the newest pane that was told closed."""


class _ModelState(msgspec.Struct, array_like=True):
    series: list[SeriesState]
    closed_until: int


class _State(msgspec.Struct, array_like=True):
    version: int
    partitions: int
    watermarks: dict[int, tuple[int, bool]]
    watermark: int
    models: dict[str, _ModelState]


class AggregatePartition:
    """The models of one partition of `joined-deltas`.

    Parameters
    ----------
    partitions : int
        Stage-1 partitions: nothing closes before each of them has told a watermark.
    plan_of : callable
        (model, version) → its plan; None where it is not known.

    Notes
    -----
    Feed records in log order with `merge`; it returns what closed. Several versions of a model have series of their
    own; one that no longer gets traffic closes its windows and is forgotten.
    """

    def __init__(self, partitions: int, plan_of: PlanOf) -> None:
        self.partitions = partitions
        self.models: dict[str, ModelPanes] = {}
        self.watermarks: dict[int, tuple[int, bool]] = {}
        self.watermark = NOTHING
        self._plan_of = plan_of

    # ----------------------------------------------------------------------------------------------- input

    def merge(self, record: DeltaRecord) -> list[AggregateEvent]:
        """Take one record in.

        Returns
        -------
        list
            What closed or was revised; only watermarks close anything.

        Raises
        ------
        StateError
            The version is not known, or its layout is not the one the delta was made with.
        """
        if isinstance(record, WatermarkUpdate):
            for told in record.watermarks:
                before = self.watermarks.get(told.partition, (NOTHING, True))[0]
                self.watermarks[told.partition] = (max(before, told.watermark_ms), told.idle)
            return self._advance()
        series = self._series(record)
        for delta in record.panes:
            series.add(delta)
        return []

    def _series(self, record: JoinedDelta) -> Series:
        panes = self.models.setdefault(record.model, ModelPanes())
        series = panes.series.get(record.version)
        if series is None:
            plan = self._plan(record.model, record.version, record.layout)
            series = panes.series[record.version] = Series(record.model, record.version, plan)
        elif series.plan.layout != record.layout:
            self._plan(record.model, record.version, record.layout)
        return series

    def _plan(self, model: str, version: int, layout: str) -> PanePlan:
        plan = self._plan_of(model, version)
        if plan is None:
            raise StateError(
                "the registry does not know this version, yet the join counted for it",
                where=f"model {model} version {version}",
                remedy="check that registry-state and the artifact store are those of this installation",
            )
        if plan.layout != layout:
            raise StateError(
                f"deltas have layout {layout}, this program reads {plan.layout}",
                where=f"model {model} version {version}",
                remedy="run one release of the monitoring agent at a time; drain joined-deltas before changing it",
            )
        return plan

    # ----------------------------------------------------------------------------------------------- time

    def _advance(self) -> list[AggregateEvent]:
        if len(self.watermarks) < self.partitions:
            return []
        active = [at for at, idle in self.watermarks.values() if not idle]
        now = min(active) if active else max(at for at, _ in self.watermarks.values())
        if now <= self.watermark:
            return []
        self.watermark = now
        out: list[AggregateEvent] = []
        for model in sorted(self.models):
            self._advance_model(model, self.models[model], out)
        return out

    def _advance_model(self, model: str, panes: ModelPanes, out: list[AggregateEvent]) -> None:
        while True:
            due = {
                version: at for version, series in panes.series.items() if (at := series.next_boundary()) is not None
            }
            boundary = min(due.values(), default=None)
            if boundary is None or boundary > self.watermark:
                return
            closed: dict[int, int] = {}
            observations: list[AggregateEvent] = []
            now = [panes.series[version] for version in sorted(due) if due[version] == boundary]
            touched = [series.settle(boundary) for series in now]
            swaps = {series.first_traffic for series in panes.series.values()}
            for series, corrected in zip(now, touched, strict=True):
                closing = series.close(boundary, corrected, swaps)
                out += closing.quality
                out += closing.drift
                observations += closing.observations
                closed.update(dict.fromkeys(closing.closed, series.plan.pane_ms))
            out += observations
            out += self._superseded(panes, boundary)
            for end, length in sorted(closed.items()):
                if end > panes.closed_until:
                    panes.closed_until = end
                    out.append(_pane_closed(model, panes, end - length, end, boundary))
            for version in [version for version, series in panes.series.items() if series.over]:
                out += panes.series.pop(version).detectors.watches.close_all(boundary, "no traffic")

    @staticmethod
    def _superseded(panes: ModelPanes, boundary: int) -> list[Observation]:
        """Close what is open for versions whose last window has closed while another version answers."""
        newest = max(series.last_traffic for series in panes.series.values())
        out = []
        for _, series in sorted(panes.series.items()):
            if series.detectors.watches.open and series.last_traffic < min(newest, series.closed_quality):
                out += series.detectors.watches.close_all(boundary, "another version answers")
        return out

    def provisional(self) -> list[QualityMetric]:
        """The newest windows of every version that changed since the last call. Does not change the state."""
        return [
            metric
            for model in sorted(self.models)
            for version in sorted(self.models[model].series)
            for metric in self.models[model].series[version].provisional()
        ]

    def touch(self) -> None:
        """Let the next call of `provisional` send everything again."""
        for panes in self.models.values():
            for series in panes.series.values():
                series.dirty = True

    # ------------------------------------------------------------------------------------------- snapshots

    def snapshot(self) -> bytes:
        """State as bytes; equal states give equal bytes."""
        state = _State(
            version=SNAPSHOT_VERSION,
            partitions=self.partitions,
            watermarks=dict(sorted(self.watermarks.items())),
            watermark=self.watermark,
            models={
                model: _ModelState([panes.series[v].snapshot() for v in sorted(panes.series)], panes.closed_until)
                for model, panes in sorted(self.models.items())
            },
        )
        return msgspec.msgpack.encode(state)

    @classmethod
    def from_snapshot(cls, data: bytes, plan_of: PlanOf) -> AggregatePartition:
        """The state that `snapshot` was taken of.

        Raises
        ------
        StateError
            Not a snapshot of this release, or of versions that are not known.
        """
        try:
            state = msgspec.msgpack.decode(data, type=_State)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            raise StateError(
                f"not a snapshot of this release: {error}",
                where="monitoring-journal",
                remedy="start the release that wrote it and drain joined-deltas before changing",
            ) from error
        restored = cls(state.partitions, plan_of)
        restored.watermarks = state.watermarks
        restored.watermark = state.watermark
        for model, of_model in state.models.items():
            panes = restored.models[model] = ModelPanes(closed_until=of_model.closed_until)
            for series in of_model.series:
                plan = restored._plan(model, series.version, series.layout)
                panes.series[series.version] = Series.from_snapshot(model, series, plan)
        return restored


def _pane_closed(model: str, panes: ModelPanes, start: int, end: int, boundary: int) -> PaneClosed:
    labelled = sum(
        series.labelled(pane)
        for series in panes.series.values()
        for pane in range(start, end, series.plan.pane_ms)
        if start <= pane < end
    )
    return PaneClosed(
        model=model, pane_start=utc(start), pane_end=utc(end), observed_at=utc(boundary), labelled=max(labelled, 0)
    )
