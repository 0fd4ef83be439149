"""The aggregation with what waits kept and added up natively; whatever closes goes the way of `streams.aggregate`."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
import numpy as np

from schemas.errors import DecodeError, StateError
from schemas.events import DeltaBatch, DeltaRecord, JoinedDelta, WatermarkUpdate
from streams.aggregate import AggregateEvent, AggregatePartition, ModelPanes, PlanOf
from streams.native.library import WHY_NOT, available, checked, library
from streams.packed import decode_delta, deltas_of, encode_delta, merge_packed
from streams.pending import EffectKey, Pending, Waiting

if not available():
    raise ImportError(WHY_NOT)

_ALL_DONE, _OTHER, _ASK = 0, 1, 2
_BEGIN, _COMMIT, _ABORT = 0, 1, 2
_EVER: Final = (1 << 63) - 1
_NEVER: Final = -(1 << 63)
_WAITING: Final = msgspec.msgpack.Decoder(list[tuple[int, str, int, bytes]])


class Shelf:
    """What waits in all series of a partition, in the native core."""

    def __init__(self) -> None:
        self._library = library()
        self._handle = self._library.dl_shelf_new()
        self.names: list[tuple[str, int]] = []
        """Model and version by number."""

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self._library.dl_shelf_free(self._handle)
            self._handle = None

    @property
    def memory_bytes(self) -> int:
        """Bytes of what waits."""
        return int(self._library.dl_shelf_memory(self._handle))

    def _output(self, length: int) -> bytes:
        return ctypes.string_at(self._library.dl_shelf_out(self._handle), length)

    def open(self, model: str, version: int, layout: str, frontier: int | None) -> int:
        """Number of a series, which is known from now on, with this layout."""
        name, of = model.encode(), layout.encode()
        number = checked(
            self._library.dl_shelf_open(
                *(self._handle, name, len(name), version, of, len(of)), _NEVER if frontier is None else frontier
            ),
            "a new series",
        )
        self.names += [("", 0)] * (number + 1 - len(self.names))
        self.names[number] = (model, version)
        return number

    def merge(self, value: bytes, start: int) -> tuple[int, int, bytes]:
        """Take a record in from a byte on; where and why it stopped, and what about."""
        why = ctypes.c_uint32()
        at = checked(
            self._library.dl_shelf_merge(self._handle, value, len(value), start, ctypes.byref(why)), "a record"
        )
        return at, why.value, self._output(self._library.dl_shelf_out_len(self._handle))

    def add(self, number: int, key: EffectKey, counters: bytes) -> None:
        """Add one contribution."""
        effect, segment, pane = key
        text = segment.encode()
        checked(
            self._library.dl_shelf_add(
                *(self._handle, number, effect, text, len(text), pane, counters, len(counters)),
            ),
            "a contribution",
        )

    def first(self, number: int) -> int | None:
        """Effect's pane of what waits first."""
        found = int(self._library.dl_shelf_first(self._handle, number))
        return None if found == _EVER else found

    def read(self, number: int, before: int, *, settle: bool) -> Waiting:
        """What waits with an effect before `before`, added up; `settle`: it waits no longer."""
        length = checked(self._library.dl_shelf_read(self._handle, number, before, settle), "what waits")
        found: dict[EffectKey, list[bytes]] = {}
        for effect, segment, pane, counters in _WAITING.decode(self._output(length)):
            found.setdefault((effect, segment, pane), []).append(counters)
        # More than one: something is damaged, and this is what says so.
        return [(key, parts[0] if len(parts) == 1 else merge_packed(parts)) for key, parts in found.items()]

    def hold(self, number: int, held: bool) -> None:
        """Ask about every delta of a series."""
        self._library.dl_shelf_hold(self._handle, number, held)

    def asked(self, number: int) -> None:
        """The news of a series were asked for: tell the next."""
        self._library.dl_shelf_asked(self._handle, number)

    def remove(self, number: int) -> None:
        """Forget a series."""
        checked(self._library.dl_shelf_remove(self._handle, number), "a series that is over")

    def batch(self, step: int) -> None:
        """Begin, commit or abort."""
        checked(self._library.dl_shelf_batch(self._handle, step), "a batch")


class NativePending(Pending):
    """What waits in one series; an abort is the shelf's."""

    __slots__ = ("_shelf", "number")

    def __init__(self, shelf: Shelf, number: int) -> None:
        self._shelf = shelf
        self.number = number

    def load(self, frontier: int | None, waiting: Iterable[tuple[EffectKey, bytes]]) -> None:
        del frontier  # told when the series was opened
        for key, counters in waiting:
            self._shelf.add(self.number, key, counters)

    def copy(self) -> Pending:
        return self

    def add(self, effect: int, segment: str, pane: int, counters: bytes) -> None:
        self._shelf.add(self.number, (effect, segment, pane), counters)

    def drop(self) -> None:
        self._shelf.remove(self.number)

    def asked(self) -> None:
        self._shelf.asked(self.number)

    def __bool__(self) -> bool:
        return self._shelf.first(self.number) is not None

    def first(self) -> int | None:
        return self._shelf.first(self.number)

    def waiting(self) -> Waiting:
        return self._shelf.read(self.number, _EVER, settle=False)

    def settle(self, boundary: int) -> Waiting:
        return self._shelf.read(self.number, boundary, settle=True)


class NativeAggregatePartition(AggregatePartition):
    """As `streams.aggregate.AggregatePartition`, and held equal to it by tests."""

    def __init__(self, partitions: int, plan_of: PlanOf, *, deferred: bool = False) -> None:
        super().__init__(partitions, plan_of, deferred=deferred)
        self._shelf = Shelf()

    @property
    def memory_bytes(self) -> int:
        """Bytes of what waits."""
        return self._shelf.memory_bytes

    def take(self, value: bytes) -> list[AggregateEvent]:
        """As the reference's; nothing is made of the deltas in Python."""
        if not self._take(value):
            return self.merge(decode_delta(value))
        return []

    def merge(self, record: DeltaRecord) -> list[AggregateEvent]:
        """As the reference's; slower than `take`."""
        if isinstance(record, WatermarkUpdate):
            return super().merge(record)
        if not self._take(encode_delta(DeltaBatch(list(deltas_of(record))))):
            raise DecodeError("a delta holds numbers beyond 64 bits", reason="schema")
        return []

    def _take(self, value: bytes) -> bool:
        """Take a batch of deltas in; false where it is none."""
        at = 0
        while True:
            at, why, about = self._shelf.merge(value, at)
            if why == _ALL_DONE:
                self._told(np.frombuffer(about, np.uint32))
                return True
            if why == _OTHER:
                if at:
                    raise StateError("the native core lost its place in a record", remedy="please report this")
                return False
            delta = decode_delta(about)
            assert isinstance(delta, JoinedDelta)
            panes = self._touch(delta.model)
            if panes.held is not None:
                panes.inbox.append((self.watermark, about))
                at += len(about)
            elif self._series(panes, delta).layout != delta.layout:
                self._shelf.open(delta.model, delta.version, delta.layout, None)

    def _told(self, numbers: Any) -> None:
        names = self._shelf.names
        news = 1 + int(numbers[0])
        for number in numbers[1:news].tolist():
            self._dirty[names[number]] = None
        for number in numbers[news:].tolist():
            model, version = names[number]
            panes = self._touch(model)
            series = panes.series.get(version)
            boundary = None if series is None else series.next_boundary()
            if boundary is not None and (panes.boundary is None or boundary < panes.boundary):
                self._schedule(model, panes, boundary)

    def _pending(
        self, model: str, version: int, layout: str, frontier: int | None, waiting: Sequence[tuple[EffectKey, bytes]]
    ) -> Pending:
        pending = NativePending(self._shelf, self._shelf.open(model, version, layout, frontier))
        pending.load(frontier, waiting)
        return pending

    def _hold(self, model: str, panes: ModelPanes, held: int | None) -> None:
        super()._hold(model, panes, held)
        for series in panes.series.values():
            assert isinstance(series.pending, NativePending)
            self._shelf.hold(series.pending.number, held is not None)

    def begin(self) -> None:
        """Start a batch; what was merged before counts."""
        super().begin()
        self._shelf.batch(_BEGIN)

    def commit(self) -> None:
        """What was merged since `begin` counts."""
        super().commit()
        self._shelf.batch(_COMMIT)

    def abort(self) -> None:
        """Undo what was merged since `begin`; harmless where there was none."""
        self._shelf.batch(_ABORT)
        super().abort()
