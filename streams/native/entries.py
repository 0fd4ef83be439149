"""Entries of the native table as `streams.join` knows them, and back where one is ordinary."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import msgspec

from schemas.events import Label
from streams.join.entries import Entry, JoinedPrediction, LabelFact, WaitingLabel
from streams.kafka.records import RecordHeaders
from streams.panes import Compact, PanePlan

_LAYOUT: Final = struct.Struct("<16s8sqdQqqqIIIHHBBBBIII")
SIZE: Final = _LAYOUT.size
ID: Final = 16
"""Bytes of the id's hash, first of all."""
PAYLOAD: Final = slice(16, 24)
SEGMENTS: Final = slice(80, 84)
_PENDING, _LABELLED, _EXPIRED, _WAITING = 1, 2, 3, 5
_NOTE: Final = struct.Struct("<qqiI")
_NO_KEY: Final = -1
_U32: Final = struct.Struct("<I")
_headers = msgspec.msgpack.Decoder(tuple[tuple[str, bytes | None], ...])
_encoder = msgspec.msgpack.Encoder()
_INT, _FLOAT, _BOOL, _TEXT = 0, 1, 2, 3
_EXACT: Final = 1 << 53
_NONE: Final = (1 << 32) - 1
_MOST_REVISION: Final = 0xFFFF
_NEVER: Final = (1 << 63) - 1


class Symbols:
    """What the numbers in native entries stand for."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.lists: list[tuple[int, ...]] = []
        self.versions: list[tuple[str, int]] = []
        self.layouts: list[str] = []
        self._times: list[tuple[int, int]] = []

    def add_plan(self, model: str, version: int, plan: PanePlan) -> None:
        """The next version's number stands for this one."""
        self.add_times(model, version, plan.max_label_delay_ms, plan.revision_horizon_ms)
        self.layouts[-1] = plan.layout

    def add_times(self, model: str, version: int, delay_ms: int, horizon_ms: int) -> None:
        """As `add_plan`, before the plan is known."""
        self.versions.append((model, version))
        self._times.append((delay_ms, horizon_ms))
        self.layouts.append("")

    def set_plan(self, number: int, plan: PanePlan) -> None:
        """The plan of a version that was added without."""
        self.layouts[number] = plan.layout

    def times(self, number: int) -> tuple[int, int]:
        """max_label_delay and revision_horizon of a version, in milliseconds."""
        return self._times[number]

    def timed(self, start: int = 0) -> Iterator[tuple[tuple[str, int], tuple[int, int]]]:
        """Versions from a number on, with their times."""
        return zip(self.versions[start:], self._times[start:], strict=True)


def encode_headers(headers: RecordHeaders) -> bytes:
    """Headers as they stand at the end of a note."""
    return _encoder.encode(tuple(headers))


def from_native(packed: bytes, symbols: Symbols) -> Entry:
    """The entry that a native one stands for; behind its bytes may stand its note."""
    (_, payload, event_ms, score, bits, label_ms, keep_ms, _, generation, plan, segments, predicted, revision,
     state, kind, *_) = _LAYOUT.unpack_from(packed)  # fmt: skip
    if state == _WAITING:
        label = _waiting(packed[SIZE:], label_ms, revision, _label(kind, bits, symbols), keep_ms)
        return Entry(keep_ms, generation, waiting=(label,))
    model, version = symbols.versions[plan]
    delay_ms, horizon_ms = symbols.times(plan)
    compact = Compact(
        predicted,
        None if math.isnan(score) else score,
        tuple(symbols.texts[number] for number in symbols.lists[segments]),
        _probabilities(packed[SIZE:]),
    )
    if state == _LABELLED:
        fact = LabelFact(label_ms, revision, _label(kind, bits, symbols))
        until_ms = max(label_ms, event_ms) + horizon_ms
        joined = JoinedPrediction(
            *(model, version, event_ms, payload, compact, until_ms, max(event_ms, label_ms), label_ms, fact.label)
        )
        return Entry(keep_ms, generation, (joined,), (fact,))
    until_ms = event_ms + delay_ms
    expired = state == _EXPIRED
    effect_ms = max(until_ms, event_ms) if expired else event_ms
    joined = JoinedPrediction(model, version, event_ms, payload, compact, until_ms, effect_ms, expired=expired)
    return Entry(keep_ms, generation, (joined,))


def _probabilities(note: bytes) -> tuple[float, ...]:
    if not note:
        return ()
    (count,) = _U32.unpack_from(note)
    return struct.unpack_from(f"<{count}d", note, _U32.size)


def _waiting(note: bytes, label_ms: int, revision: int, label: Label, until_ms: int) -> WaitingLabel:
    offset, timestamp_ms, key_length, value_length = _NOTE.unpack_from(note)
    value_at = _NOTE.size + max(key_length, 0)
    headers_at = value_at + value_length
    return WaitingLabel(
        *(label_ms, revision, label, offset, timestamp_ms),
        None if key_length == _NO_KEY else note[_NOTE.size : value_at],
        note[value_at:headers_at],
        _headers.decode(note[headers_at:]) if len(note) > headers_at else None,
        until_ms,
    )


def _label(kind: int, bits: int, symbols: Symbols) -> Label:
    if kind == _INT:
        return bits - (1 << 64) if bits >= 1 << 63 else bits
    if kind == _FLOAT:
        return float(struct.unpack("<d", struct.pack("<Q", bits))[0])
    return bool(bits) if kind == _BOOL else symbols.texts[bits]


def to_native(
    entry: Entry,
    symbols: Symbols,
    number_of: Callable[[str, int], int],
    intern: Callable[[Sequence[str]], int],
    intern_text: Callable[[str], int],
) -> bytes | None:
    """The entry for the native table, with its note behind; None where it is not ordinary."""
    if not entry.predictions and len(entry.waiting) == 1:
        return _to_waiting(entry, intern_text)
    if len(entry.predictions) != 1 or len(entry.labels) > 1 or entry.waiting:
        return None
    joined = entry.predictions[0]
    compact = joined.compact
    if joined.revised or compact.predicted > _MOST_REVISION:
        return None
    state, kind, bits, label_ms, revision, due_ms = _PENDING, 0, 0, 0, 0, entry.wake_ms
    if joined.expired:
        if entry.labels or joined.label is not None or joined.first_label_ms is not None:
            return None
        state = _EXPIRED
    elif entry.labels:
        fact = entry.labels[0]
        coded = _coded(fact.label, intern_text)
        if coded is None or joined.label is not fact.label or not 0 <= fact.revision <= _MOST_REVISION:
            return None
        state, label_ms, revision = _LABELLED, fact.event_time_ms, fact.revision
        kind, bits = coded
    elif joined.label is not None or joined.first_label_ms is not None:
        return None
    plan = number_of(joined.model, joined.version)
    segments = intern(compact.segments)
    if plan < 0 or segments < 0:
        return None
    score = math.nan if compact.score is None else compact.score
    packed = _LAYOUT.pack(
        *(bytes(16), joined.payload, joined.event_time_ms, score, bits, label_ms, entry.keep_until_ms, due_ms),
        *(entry.generation, plan, segments, compact.predicted, revision, state, kind, 0, 0, _NONE, _NONE, 0),
    )
    delay_ms, horizon_ms = symbols.times(plan)
    told = (joined.until_ms, joined.effect_ms)
    if state == _LABELLED:
        meant = (max(label_ms, joined.event_time_ms) + horizon_ms, max(joined.event_time_ms, label_ms))
    else:
        until_ms = joined.event_time_ms + delay_ms
        meant = (until_ms, max(until_ms, joined.event_time_ms) if joined.expired else joined.event_time_ms)
    if told != meant:
        return None
    given = compact.probabilities
    return packed + struct.pack(f"<I{len(given)}d", len(given), *given) if given else packed


def _to_waiting(entry: Entry, intern_text: Callable[[str], int]) -> bytes | None:
    label = entry.waiting[0]
    coded = _coded(label.label, intern_text)
    if coded is None or label.value is None or label.until_ms != entry.keep_until_ms:
        return None
    if not 0 <= label.revision <= _MOST_REVISION:
        return None
    packed = _LAYOUT.pack(
        *(bytes(16), bytes(8), 0, 0.0, coded[1], label.event_time_ms, entry.keep_until_ms, entry.keep_until_ms),
        *(entry.generation, _NONE, 0, 0, label.revision, _WAITING, coded[0], 0, 0, _NONE, _NONE, 0),
    )
    key_length = _NO_KEY if label.key is None else len(label.key)
    head = _NOTE.pack(label.offset, label.timestamp_ms, key_length, len(label.value))
    headers = encode_headers(label.headers) if label.headers else b""
    return packed + head + (label.key or b"") + label.value + headers


def _coded(label: Label | None, intern_text: Callable[[str], int]) -> tuple[int, int] | None:
    """Kind and bits of a label."""
    if isinstance(label, bool):
        return _BOOL, int(label)
    if isinstance(label, int):
        return (_INT, label & ((1 << 64) - 1)) if -_EXACT <= label <= _EXACT else None
    if isinstance(label, float):
        return _FLOAT, int(struct.unpack("<Q", struct.pack("<d", label))[0])
    number = -1 if label is None else intern_text(label)
    return (_TEXT, number) if number >= 0 else None
