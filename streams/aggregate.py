"""Stage 2: merge the join's deltas, compose windows from panes, run detectors. Pure: no clock, no Kafka.

State and output are a function of the sequence of delta records of one partition. Watermarks decide what closes, in
event time; the wall clock decides nothing here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
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
from streams.drift.volume import VolumeState, snapshot_of
from streams.packed import decode_delta, deltas_of, encode_delta, merge_packed
from streams.panes import PanePlan
from streams.pending import EffectKey, Pending
from streams.series import Series, SeriesState
from streams.versions import Versions
from streams.windows import Frame

PlanOf = Callable[[str, int], PanePlan | None]
AggregateEvent = QualityMetric | DriftMetric | Observation | PaneClosed

SNAPSHOT_VERSION: Final = 9
NOTHING: Final = -1
MOST_KEPT: Final = 64
"""With more live versions than this, detectors are built for each closing instead of kept."""


@dataclass
class ModelPanes:
    """All live versions of one model."""

    series: dict[int, Series] = field(default_factory=dict)
    closed_until: int = NOTHING
    """End of the newest pane that was told closed."""
    boundary: int | None = None
    """Watermark at which something closes next."""
    held: int | None = None
    """Where something waits to be closed: the watermark up to which everything is."""
    inbox: list[tuple[int, bytes]] = field(default_factory=list)
    """Deltas that came since then, each with the watermark at which it came."""
    volume: VolumeState = field(default_factory=VolumeState)
    """What is usual of the model, whichever versions answer."""
    segment_volumes: bytes = b""
    """And of its segments (`SegmentVolumes`)."""

    def next_boundary(self) -> int | None:
        return min((at for series in self.series.values() if (at := series.next_boundary()) is not None), default=None)


class _ModelState(msgspec.Struct, array_like=True):
    series: list[SeriesState]
    closed_until: int
    held: int | None = None
    inbox: list[tuple[int, bytes]] = []
    volume: VolumeState = msgspec.field(default_factory=VolumeState)
    segment_volumes: bytes = b""


class _State(msgspec.Struct, array_like=True):
    version: int
    partitions: int
    watermarks: dict[int, tuple[int, bool]]
    watermark: int
    frames: list[Frame]
    models: dict[str, _ModelState]


@dataclass
class _Undo:
    """What a batch found."""

    watermarks: dict[int, tuple[int, bool]]
    watermark: int
    models: dict[str, tuple[_ModelState, list[Frame], list[Pending]] | None] = field(default_factory=dict)


class AggregatePartition:
    """The models of one partition of `joined-deltas`.

    Parameters
    ----------
    partitions : int
        Stage-1 partitions: nothing closes before each of them has told a watermark.
    plan_of : callable
        (model, version) → its plan; None where it is not known.
    deferred : bool
        Close nothing in `merge`: `close_next` does, model by model.

    Notes
    -----
    Feed records in log order with `merge`; it returns what closed. Several versions of a model have series of their
    own; one that no longer gets traffic closes its windows and is forgotten. Cost is that of what a record touches:
    neither a delta nor a watermark looks at models it does not concern. Between `begin` and `commit`, `abort` goes
    back to where `begin` was.

    Windows of thousands of models may close at one watermark. A model that waits for `close_next` is held: its deltas
    wait with it, so that what closes is the same however long it waits.
    """

    def __init__(self, partitions: int, plan_of: PlanOf, *, deferred: bool = False) -> None:
        self.partitions = partitions
        self._deferred = deferred
        self._closing: dict[str, None] = {}
        """Held models, those waiting longest first."""
        self._restoring: Mapping[str, int] | None = None
        self.models: dict[str, ModelPanes] = {}
        self.watermarks: dict[int, tuple[int, bool]] = {}
        self.watermark = NOTHING
        self._plan_of = plan_of
        self._frames: dict[Frame, Frame] = {}
        self._live = 0
        self._due: list[tuple[int, str]] = []
        """A heap of (boundary, model); an entry counts while it is the model's boundary."""
        self._dirty: dict[tuple[str, int], None] = {}
        """Versions with news, those waiting longest first."""
        self._undo: _Undo | None = None

    # ----------------------------------------------------------------------------------------------- input

    def take(self, value: bytes) -> list[AggregateEvent]:
        """Take the bytes of one record in; see `merge`.

        Raises
        ------
        DecodeError
            They are no record of `joined-deltas`; nothing changed.
        StateError
        """
        return self.merge(decode_delta(value))

    def merge(self, record: DeltaRecord) -> list[AggregateEvent]:
        """Take one record in.

        Returns
        -------
        list
            What closed or was revised; only watermarks close anything. Empty where closing is deferred.

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
        for delta in deltas_of(record):
            self._merge(delta)
        return []

    def _merge(self, record: JoinedDelta) -> None:
        panes = self._touch(record.model)
        if panes.held is None:
            self._add(panes, record)
        else:
            panes.inbox.append((self.watermark, encode_delta(record)))

    def _add(self, panes: ModelPanes, record: JoinedDelta) -> None:
        series = self._series(panes, record)
        for delta in record.panes:
            series.add(delta)
        self._dirty[record.model, record.version] = None
        boundary = series.next_boundary()
        if boundary is not None and (panes.boundary is None or boundary < panes.boundary):
            self._schedule(record.model, panes, boundary)

    def _touch(self, model: str) -> ModelPanes:
        """A model that is going to change."""
        panes = self.models.get(model)
        undo = self._undo
        if undo is not None and model not in undo.models:
            undo.models[model] = None if panes is None else _state_of(panes)
        if panes is None:
            panes = self.models[model] = ModelPanes()
        return panes

    def _schedule(self, model: str, panes: ModelPanes, boundary: int | None) -> None:
        panes.boundary = boundary
        if boundary is not None:
            heappush(self._due, (boundary, model))

    def _series(self, panes: ModelPanes, record: JoinedDelta) -> Series:
        series = panes.series.get(record.version)
        if series is None:
            frame = Frame.of(self._plan(record.model, record.version, record.layout))
            frame = self._frames.setdefault(frame, frame)
            pending = self._pending(record.model, record.version, record.layout, None, ())
            series = Series(record.model, record.version, record.layout, frame, pending)
            panes.series[record.version] = series
            self._live += 1
        elif series.layout != record.layout:
            self._plan(record.model, record.version, record.layout)
        return series

    def _pending(
        self, model: str, version: int, layout: str, frontier: int | None, waiting: Sequence[tuple[EffectKey, bytes]]
    ) -> Pending:
        """Where the effects of a new series wait."""
        del model, version, layout
        pending = Pending()
        pending.load(frontier, waiting)
        return pending

    def _hold(self, model: str, panes: ModelPanes, held: int | None) -> None:
        panes.held = held
        if held is None:
            self._closing.pop(model, None)
        else:
            self._closing.setdefault(model)

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
        before, self.watermark = self.watermark, now
        due = set()
        while self._due and self._due[0][0] <= now:
            boundary, model = heappop(self._due)
            if model in self.models and self.models[model].boundary == boundary:
                due.add(model)
        for model in sorted(due):
            panes = self._touch(model)
            if panes.held is None:
                self._hold(model, panes, before)
        if self._restoring is not None:
            self._close_again(self._restoring)
        elif not self._deferred:
            return [event for model in sorted(self._closing) for event in self._close(model)]
        return []

    def _advance_model(self, model: str, panes: ModelPanes, until: int, out: list[AggregateEvent]) -> None:
        while True:
            due = {
                version: at for version, series in panes.series.items() if (at := series.next_boundary()) is not None
            }
            boundary = min(due.values(), default=None)
            if boundary is None or boundary > until:
                self._schedule(model, panes, boundary)
                return
            closed: dict[int, int] = {}
            observations: list[AggregateEvent] = []
            now = [
                (series, self._plan(model, version, series.layout))
                for version, series in sorted(panes.series.items())
                if due.get(version) == boundary
            ]
            touched = [series.settle(plan, boundary) for series, plan in now]
            versions = Versions(panes.series.values(), panes.volume, panes.segment_volumes)
            for (series, plan), corrected in zip(now, touched, strict=True):
                closing = series.close(plan, boundary, corrected, versions, keep=self._live <= MOST_KEPT)
                out += closing.quality
                out += closing.drift
                observations += closing.observations
                closed.update(dict.fromkeys(closing.closed, series.frame.pane_ms))
            versions.learn()
            panes.segment_volumes = versions.segments.packed()
            out += observations
            out += self._superseded(panes, boundary)
            for end, length in sorted(closed.items()):
                if end > panes.closed_until:
                    panes.closed_until = end
                    labelled = versions.labelled(end - length, end)
                    out.append(_pane_closed(model, end - length, end, boundary, labelled))
            for version in [version for version, series in panes.series.items() if series.over]:
                over = panes.series.pop(version)
                over.pending.drop()
                out += over.silence(boundary, "no traffic")
                self._dirty.pop((model, version), None)
                self._live -= 1

    @staticmethod
    def _superseded(panes: ModelPanes, boundary: int) -> list[Observation]:
        """Close what is open for versions whose last window has closed while another version answers."""
        newest = max(series.last_traffic for series in panes.series.values())
        out = []
        for _, series in sorted(panes.series.items()):
            if series.last_traffic < min(newest, series.closed_quality):
                out += series.silence(boundary, "another version answers")
        return out

    # -------------------------------------------------------------------------------------------- closing

    def close_next(self) -> list[AggregateEvent] | None:
        """Close what is due of the model that waits longest; None where none waits.

        Raises
        ------
        StateError
        """
        model = next(iter(self._closing), None)
        return None if model is None else self._close(model)

    def held(self) -> dict[str, int]:
        """Models that wait to be closed, with the watermark up to which they are."""
        return {model: held for model in sorted(self._closing) if (held := self.models[model].held) is not None}

    def _close(self, model: str) -> list[AggregateEvent]:
        """Close what is due of a held model, deltas taken in between as they came."""
        panes = self._touch(model)
        out: list[AggregateEvent] = []
        inbox, panes.inbox = panes.inbox, []
        self._hold(model, panes, None)
        # As it would have been: a delta that came behind a watermark closes nothing before the next one.
        reached = NOTHING
        for watermark, value in inbox:
            if watermark > reached:
                reached = watermark
                self._advance_model(model, panes, reached, out)
            for delta in deltas_of(decode_delta(value)):
                self._add(panes, delta)
        if self.watermark > reached:
            self._advance_model(model, panes, self.watermark, out)
        return out

    def begin_restore(self, held: Mapping[str, int]) -> None:
        """From here to `end_restore` take what was committed again: what was closed closes at once, and silently.

        Parameters
        ----------
        held : mapping of str to int
            What `held` said at the last commit.
        """
        self._restoring = held
        self._close_again(held)

    def _close_again(self, held: Mapping[str, int]) -> None:
        for model in list(self._closing):
            if self.watermark <= held.get(model, self.watermark):
                self._close(model)

    def end_restore(self) -> None:
        """Everything committed was taken again."""
        self._restoring = None

    # ----------------------------------------------------------------------------------------- provisional

    def next_provisional(self) -> list[QualityMetric] | None:
        """The newest windows of the version whose news wait longest; None where there are none.

        Notes
        -----
        Changes nothing but what is called next: whoever has little time asks for as many as it can bear, and every
        version has its turn.
        """
        while self._dirty:
            model, version = next(iter(self._dirty))
            del self._dirty[model, version]
            series = self.models[model].series.get(version) if model in self.models else None
            if series is not None:
                series.pending.asked()
                return series.provisional(self._plan(model, version, series.layout))
        return None

    def provisional(self) -> list[QualityMetric]:
        """The newest windows of every version that changed since they were last asked for."""
        out: list[QualityMetric] = []
        while (metrics := self.next_provisional()) is not None:
            out += metrics
        return out

    def touch(self) -> None:
        """Let the next calls of `next_provisional` bring everything again."""
        self._dirty = {(model, version): None for model, panes in self.models.items() for version in panes.series}

    # -------------------------------------------------------------------------------------------- batches

    def begin(self) -> None:
        """Start a batch; what was merged before counts."""
        self._undo = _Undo(dict(self.watermarks), self.watermark)

    def commit(self) -> None:
        """What was merged since `begin` counts."""
        self._undo = None

    def abort(self) -> None:
        """Undo what was merged since `begin`; harmless where there was none."""
        undo, self._undo = self._undo, None
        if undo is None:
            return
        self.watermarks = undo.watermarks
        self.watermark = undo.watermark
        for model, state in undo.models.items():
            self._live -= len(self.models.pop(model).series)
            self._closing.pop(model, None)
            if state is not None:
                self._restore(model, *state)

    # ------------------------------------------------------------------------------------------- snapshots

    def snapshot(self) -> bytes:
        """State as bytes; the same records give equal bytes."""
        numbers: dict[Frame, int] = {}
        models = {
            model: _ModelState(
                [
                    panes.series[version].snapshot(numbers.setdefault(panes.series[version].frame, len(numbers)))
                    for version in sorted(panes.series)
                ],
                panes.closed_until,
                panes.held,
                panes.inbox,
                snapshot_of(panes.volume),
                panes.segment_volumes,
            )
            for model, panes in sorted(self.models.items())
        }
        watermarks = dict(sorted(self.watermarks.items()))
        return msgspec.msgpack.encode(
            _State(SNAPSHOT_VERSION, self.partitions, watermarks, self.watermark, list(numbers), models)
        )

    @classmethod
    def from_snapshot(cls, data: bytes, plan_of: PlanOf, *, deferred: bool = False) -> AggregatePartition:
        """The state that `snapshot` was taken of.

        Raises
        ------
        StateError
            Not a snapshot of this release.
        """
        try:
            state = msgspec.msgpack.decode(data, type=_State)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            raise _foreign(str(error)) from error
        if state.version != SNAPSHOT_VERSION:
            raise _foreign(f"version {state.version}")
        restored = cls(state.partitions, plan_of, deferred=deferred)
        restored.watermarks = state.watermarks
        restored.watermark = state.watermark
        frames = [restored._frames.setdefault(frame, frame) for frame in state.frames]
        for model, of_model in state.models.items():
            pendings = [
                restored._pending(
                    *(model, series.version, series.layout, series.frontier),
                    [((effect, key, pane), merge_packed(parts)) for effect, key, pane, parts in series.pending],
                )
                for series in of_model.series
            ]
            restored._restore(model, of_model, frames, pendings)
        return restored

    def _restore(self, model: str, state: _ModelState, frames: Sequence[Frame], pendings: Sequence[Pending]) -> None:
        panes = self.models[model] = ModelPanes(
            closed_until=state.closed_until,
            inbox=list(state.inbox),
            volume=state.volume,
            segment_volumes=state.segment_volumes,
        )
        for series, pending in zip(state.series, pendings, strict=True):
            panes.series[series.version] = Series.from_snapshot(model, series, frames[series.frame], pending)
            self._dirty[model, series.version] = None
        self._live += len(panes.series)
        self._schedule(model, panes, panes.next_boundary())
        self._hold(model, panes, state.held)


def _foreign(what: str) -> StateError:
    return StateError(
        f"not a snapshot of this release: {what}",
        where="monitoring-journal",
        remedy="start the release that wrote it and drain joined-deltas before changing",
    )


def _state_of(panes: ModelPanes) -> tuple[_ModelState, list[Frame], list[Pending]]:
    """State of a model, the frames that its series number, and what waits in each."""
    series = [panes.series[version] for version in sorted(panes.series)]
    states = [one.snapshot(number, pending=False) for number, one in enumerate(series)]
    volume = snapshot_of(panes.volume)
    state = _ModelState(states, panes.closed_until, panes.held, list(panes.inbox), volume, panes.segment_volumes)
    return state, [one.frame for one in series], [one.pending.copy() for one in series]


def _pane_closed(model: str, start: int, end: int, boundary: int, labelled: int) -> PaneClosed:
    return PaneClosed(
        model=model, pane_start=utc(start), pane_end=utc(end), observed_at=utc(boundary), labelled=max(labelled, 0)
    )
