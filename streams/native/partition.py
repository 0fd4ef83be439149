"""One partition's join with its ordinary records treated natively; everything odd goes the way of `streams.join`.

An entry is *ordinary* when it has one prediction and at most one label (`native/src/table.rs`); the native table holds
it under a 128-bit hash of its prediction_id. Every other entry is *odd*: this class holds it as `streams.join` does,
and the native table remembers only that it does. An odd entry that has become ordinary goes back at the batch's end.
"""

from __future__ import annotations

import ctypes
import hashlib
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import ClassVar, Final

import msgspec
import numpy as np

from schemas.codec import is_heartbeat
from schemas.errors import StateError
from schemas.topics import GROUND_TRUTH, MAX_MESSAGE_BYTES, PREDICTIONS
from streams.join.batch import ChunkStore, JoinLimits, Overlay, PlanView, Slice
from streams.join.deltas import Deltas
from streams.join.entries import Entry
from streams.join.partition import JoinPartition
from streams.join.redaction import Bare, without
from streams.kafka.fetcher import FetchedRecords
from streams.kafka.records import Record, RecordHeaders, columns_of, keys_of, offsets_of
from streams.native.chunks import LOG, Chunks, Shape, position_of, records_of
from streams.native.entries import Symbols, encode_headers, from_native, to_native
from streams.native.library import (
    ALL_DONE,
    COUNTS,
    LABEL_RECORDS,
    MARK_HEADERS,
    MARK_ODD,
    NOT_KNOWN,
    NOTHING_SEEN,
    REFERENCE,
    UNKNOWN_VERSION,
    VERSION,
    WHY_NOT,
    Piece,
    available,
    checked,
    library,
)
from streams.native.plans import CompiledPlan, compiled, placeholder
from streams.panes import PanePlan

if not available():
    raise ImportError(WHY_NOT)

ODD: Final = b"e"
SYMBOLS: Final = b"a"
"""Before the log in the order of keys: its records refer to them."""
_PIECE: Final = 4_096
_LOADED: Final = 1_000
"""Chunks of the log are taken in so many at once."""
_FRAME: Final = struct.Struct("<II")
_SYMBOLS: Final = msgspec.msgpack.Decoder(tuple[list[str], list[list[int]], list[tuple[str, int]]])
_KEPT_SYMBOLS: Final = msgspec.msgpack.Decoder(tuple[list[str], list[list[int]], list[tuple[str, int, int, int]]])
_entry_encoder = msgspec.msgpack.Encoder()
_entry_decoder = msgspec.msgpack.Decoder(Entry)


class NativeJoinPartition(JoinPartition):
    """As `streams.join.partition.JoinPartition`, and held equal to it by tests.

    Parameters
    ----------
    partition : int
    limits : JoinLimits

    Notes
    -----
    A batch changes the native table in place and keeps what was before; `abort` puts that back. What `changes` gives is
    the log of the table: entries as they are after the commit, in chunks, and of the log's oldest end what is still
    true, written once more, while most of it is out of date. Entries beyond the memory allowed are only there
    (`docs/adr/0015-state-as-a-log.md`).
    """

    STATE_VERSION = 1_000 + VERSION
    SHAPE: ClassVar = Shape()

    def __init__(self, partition: int, limits: JoinLimits) -> None:
        super().__init__(partition, limits)
        self._library = library()
        self._handle = self._library.dl_new(*self.SHAPE)
        self._chunks = Chunks(1 << self.SHAPE.chunk_bits)
        self._library.dl_source(self._handle, self._chunks.callback)
        self._symbols = Symbols()
        self._kept_symbols = (0, 0, 0)
        self._unresolved: list[int] = []
        self._collected = False
        self._odd_puts: dict[bytes, bytes] = {}
        self._odd_deletes: set[bytes] = set()
        self._view: PlanView | None = None
        self._plans: list[CompiledPlan] = []

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self._library.dl_free(self._handle)
            self._handle = None

    def __len__(self) -> int:
        return int(self._library.dl_len(self._handle))

    @property
    def memory_bytes(self) -> int:
        """Bytes of the native table."""
        return int(self._library.dl_memory(self._handle))

    # ---------------------------------------------------------------------------------------- processing

    def _read(self, batch: Slice, view: PlanView, overlay: Overlay) -> None:
        self._view = view
        self._resolve(view)
        self._library.dl_begin(self._handle, overlay.began.number, self._watermark_ms, overlay.deltas is None)
        self._run(0, batch.records.get(PREDICTIONS, ()), view, overlay, batch.now_ms)
        # Asked for after the predictions: they may have made the view read on.
        horizon_ms = view.label_horizon_ms
        self._run(1, batch.records.get(GROUND_TRUTH, ()), view, overlay, batch.now_ms, horizon_ms)
        counts = self._counts()
        for topic, newest_ms in zip((PREDICTIONS, GROUND_TRUTH), counts[len(COUNTS) :], strict=True):
            if newest_ms != NOTHING_SEEN:
                self._saw(topic, newest_ms - self.limits.grace_ms, overlay)
        overlay.records = sum(map(len, batch.records.values()))

    def _run(  # noqa: PLR0917 - a batch with what it is read by
        self,
        labels: int,
        records: Sequence[Record],
        view: PlanView,
        overlay: Overlay,
        now_ms: int,
        horizon_ms: int = 0,
    ) -> None:
        count = len(records)
        if not count:
            return
        if isinstance(records, FetchedRecords):
            self._run_fetched(labels, records, view, overlay, now_ms, horizon_ms)
            return
        values, timestamps, headers = columns_of(records)
        marks = bytearray(count)
        if None in values:
            marks = bytearray(MARK_ODD if value is None else 0 for value in values)
            values = [value or b"" for value in values]
        if headers is not None:
            for index, found in enumerate(headers):
                if found:
                    marks[index] |= MARK_ODD if is_heartbeat(found) else MARK_HEADERS
        limits = self._kernel_limits(horizon_ms, now_ms)
        # Piece by piece, so that what was just copied together is still in the cache when it is read.
        for start in range(0, count, _PIECE):
            part = slice(start, min(start + _PIECE, count))
            piece = Piece.of(values[part], timestamps[part], marks[part])  # type: ignore[arg-type]
            for at, why in self._kernel(self._library.dl_run, labels, ctypes.byref(piece), limits, view):
                if labels and headers is not None:
                    self._tell_headers(headers[part].__getitem__)
                if why == LABEL_RECORDS:
                    piece.add_keys(offsets_of(records)[part], keys_of(records)[part])
                elif why == REFERENCE:
                    self._by_reference(labels, records[start + at], view, overlay, now_ms, horizon_ms)

    def _run_fetched(  # noqa: PLR0917 - a batch with what it is read by
        self, labels: int, records: FetchedRecords, view: PlanView, overlay: Overlay, now_ms: int, horizon_ms: int
    ) -> None:
        """Records that lie in the client library's buffers: nothing is copied or made but what is odd."""
        run, limits = self._library.dl_run_batch, self._kernel_limits(horizon_ms, now_ms)
        for at, why in self._kernel(run, labels, records.handle, limits, view):
            if labels:
                self._tell_headers(lambda index: records[index].headers)
            if why == REFERENCE:
                self._by_reference(labels, records[at], view, overlay, now_ms, horizon_ms)

    def _by_reference(  # noqa: PLR0917 - a record with what it is read by
        self, labels: int, record: Record, view: PlanView, overlay: Overlay, now_ms: int, horizon_ms: int
    ) -> None:
        if labels:
            self._label(record, view, overlay, now_ms, horizon_ms)
        else:
            self._prediction(record, view, overlay, now_ms)

    def _kernel_limits(self, horizon_ms: int, now_ms: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        return np.array([self.limits.future_tolerance_ms, horizon_ms, now_ms, MAX_MESSAGE_BYTES], np.int64)

    def _kernel(
        self,
        run: Callable[..., int],
        labels: int,
        records: object,
        limits: np.ndarray[tuple[int], np.dtype[np.int64]],
        view: PlanView,
    ) -> Iterator[tuple[int, int]]:
        """Run a kernel over records; gives the index of each record that it cannot go on at, why, and the end."""
        why, version = ctypes.c_uint32(), ctypes.c_int64()
        # Asked for once: numpy makes an object each time, and odd records come back here one by one.
        limits_at = limits.ctypes.data
        at = 0
        while True:
            at = self._checked(
                run(self._handle, labels, records, at, limits_at, ctypes.byref(why), ctypes.byref(version)),
                "a batch",
            )
            if why.value == UNKNOWN_VERSION:
                model = self._output(self._library.dl_out_len(self._handle))
                name = model.decode()
                if view.watched(name):
                    self._elsewhere(name)
                else:
                    self._know(name, version.value, view)
                continue
            yield at, why.value
            if why.value == ALL_DONE:
                return
            at += why.value == REFERENCE

    def _tell_headers(self, headers_of: Callable[[int], RecordHeaders | None]) -> None:
        """Give the headers of labels that began to wait: only theirs are ever looked at."""
        length = checked(self._library.dl_bare(self._handle), "waiting labels")
        for slot, index in np.frombuffer(self._output(length), np.uint32).reshape(-1, 2).tolist():
            packed = encode_headers(headers_of(index) or ())
            checked(self._library.dl_headers(self._handle, slot, packed, len(packed)), "headers")

    def _know(self, model: str, version: int, view: PlanView) -> int:
        """Number of a version's plan, told to the native core if need be; negative: it is not registered."""
        name = model.encode()
        found = int(self._library.dl_known(self._handle, name, len(name), version))
        if found != NOT_KNOWN:
            return found
        plan = view.plan(model, version)
        if plan is None:
            self._library.dl_know(self._handle, name, len(name), version, None)
            return NOT_KNOWN
        if view.watched(model):
            self._elsewhere(model)
        number = checked(
            self._library.dl_know(self._handle, name, len(name), version, self._compile(plan).pointer), "a new version"
        )
        self._symbols.add_plan(model, version, plan)
        return number

    def _elsewhere(self, model: str) -> None:
        """Predictions of a watched model are not for the native core: their versions have names of their own."""
        name = model.encode()
        self._library.dl_elsewhere(self._handle, name, len(name))

    def _compile(self, plan: PanePlan) -> CompiledPlan:
        """The plan inside the native core, for as long as a partition knows it."""
        found = compiled(plan)
        self._plans.append(found)
        return found

    def _resolve(self, view: PlanView) -> None:
        """Give versions that came out of a checkpoint their plans."""
        for number in self._unresolved:
            model, version = self._symbols.versions[number]
            plan = view.plan(model, version)
            if plan is None:
                raise StateError(
                    "the state holds predictions of a version that the registry does not know",
                    where=f"model {model} version {version}",
                    remedy="check that registry-state and the artifact store are those of this installation",
                )
            checked(self._library.dl_replace(self._handle, number, self._compile(plan).pointer), "a known version")
            self._symbols.set_plan(number, plan)
            if view.watched(model):
                self._elsewhere(model)
        self._unresolved = []

    def _counts(self) -> list[int]:
        counts = np.zeros(len(COUNTS) + 2, np.int64)
        self._library.dl_counts(self._handle, counts.ctypes.data)
        return [int(count) for count in counts]

    def _output(self, length: int) -> bytes:
        return ctypes.string_at(self._library.dl_out(self._handle), length)

    def _payload(self, value: bytes) -> bytes:
        return int(self._library.dl_payload(value, len(value))).to_bytes(8, "little")

    def _entry(self, key: str, overlay: Overlay) -> Entry | None:
        held = self._held(key, overlay)
        if held is not None:
            return held
        name = key.encode()
        length = self._checked(self._library.dl_get(self._handle, name, len(name)), "a look-up")
        if not length:
            return None
        packed = self._output(length)
        self._refresh_symbols()
        return from_native(packed, self._symbols)

    def _put(self, key: str, before: Entry | None, after: Entry, overlay: Overlay) -> None:
        taken_over = before is not None and self._held(key, overlay) is None
        super()._put(key, before, after, overlay)
        if taken_over:
            self._deadlines.add(after.wake_ms, key)
        name = key.encode()
        self._checked(self._library.dl_set_odd(self._handle, name, len(name)), "an odd entry")

    def _advance(self, view: PlanView, overlay: Overlay) -> None:
        super()._advance(view, overlay)
        for key, entry in overlay.entries.items():
            if entry is None:
                name = key.encode()
                self._checked(self._library.dl_drop_odd(self._handle, name, len(name)), "a forgotten entry")
        self._checked(self._library.dl_advance(self._handle, overlay.watermark_ms), "the watermark")
        self._hand_back(overlay)
        for name_, count in zip(COUNTS, self._counts(), strict=False):
            overlay.totals[name_] += count
        length = checked(self._library.dl_live(self._handle), "the live entries")
        pairs = np.frombuffer(self._output(length), np.int64).reshape(-1, 2)
        for generation, change in pairs.tolist():
            overlay.live[generation] += change

    def _hand_back(self, overlay: Overlay) -> None:
        """Entries that have become ordinary go to the native table."""
        for key, entry in overlay.entries.items():
            if entry is None:
                continue
            packed = to_native(entry, self._symbols, self._number_of, self._intern, self._intern_text)
            if packed is not None:
                name = key.encode()
                self._checked(
                    self._library.dl_put(self._handle, name, len(name), packed, len(packed)), "an ordinary entry"
                )
                overlay.entries[key] = None

    def _number_of(self, model: str, version: int) -> int:
        assert self._view is not None
        return self._know(model, version, self._view)

    def _intern_text(self, text: str) -> int:
        """Number of a text; negative where there are too many."""
        data = text.encode()
        return int(self._library.dl_text(self._handle, data, len(data)))

    def _intern(self, texts: Sequence[str]) -> int:
        """Number of a list of texts; negative where there are too many."""
        numbers = list(map(self._intern_text, texts))
        if min(numbers) < 0:
            return -1
        array = np.array(numbers, np.uint32)
        return int(self._library.dl_segments(self._handle, array.ctypes.data, len(numbers)))

    def _pack(self, deltas: Deltas, view: PlanView) -> list[tuple[int, bytes]]:
        for (model, version, _), panes in deltas.of_versions():
            number = self._know(model, version, view)
            for (segment, pane_ms, effect_ms), sums in panes.items():
                text = segment.encode()
                positions = np.fromiter(sums.keys(), np.uint32, len(sums))
                counts = np.fromiter(sums.values(), np.int64, len(sums))
                checked(
                    self._library.dl_add(
                        *(self._handle, number, text, len(text), pane_ms, effect_ms),
                        *(positions.ctypes.data, counts.ctypes.data, len(sums)),
                    ),
                    "a contribution",
                )
        length = checked(self._library.dl_records(self._handle, self.partition, self.limits.targets), "the deltas")
        found = self._output(length)
        out = []
        at = 0
        while at < length:
            target, size = _FRAME.unpack_from(found, at)
            at += _FRAME.size
            out.append((target, found[at : at + size]))
            at += size
        return out

    # -------------------------------------------------------------------------------------------- keeping

    def attach(self, store: ChunkStore) -> None:
        """What leaves memory is read back from there, where `changes` and `replayed` are put."""
        self._chunks.attach(store)

    def limit_memory(self, most_bytes: int) -> None:
        """Memory that index and entries may take between batches; what is over leaves it now."""
        checked(self._library.dl_budget(self._handle, most_bytes), "making room")

    def commit(self) -> None:
        """The overlay counts."""
        self._collect()
        self._collected = False
        super().commit()

    def abort(self) -> None:
        """The overlay does not count; harmless where there is none."""
        checked(self._library.dl_abort(self._handle), "going back")
        super().abort()

    def _collect(self) -> None:
        """Commit to the native table, and note what that changes in the checkpoint."""
        if self._collected:
            return
        length = self._checked(self._library.dl_commit(self._handle), "the commit")
        self._chunks.wrote(self._output(length))
        for name, entry in self._overlay().entries.items():
            key = ODD + name.encode()
            if entry is None:
                self._odd_puts.pop(key, None)
                self._odd_deletes.add(key)
            else:
                self._odd_deletes.discard(key)
                self._odd_puts[key] = _entry_encoder.encode(entry)
        self._collected = True

    def _checked(self, result: int, what: str) -> int:
        """As `checked`, for calls that may read the log."""
        return checked(result, what, self._chunks.error)

    def _refresh_symbols(self) -> None:
        known = self._symbols
        length = checked(
            self._library.dl_symbols(self._handle, len(known.texts), len(known.lists), len(known.versions)),
            "the symbols",
        )
        texts, lists, _ = _SYMBOLS.decode(self._output(length))
        known.texts += texts
        known.lists += [tuple(numbers) for numbers in lists]

    def _symbols_since(self, texts: int, lists: int, versions: int) -> bytes | None:
        known = self._symbols
        if (len(known.texts), len(known.lists), len(known.versions)) == (texts, lists, versions):
            return None
        return _entry_encoder.encode(
            (known.texts[texts:], known.lists[lists:], [(*v, *t) for v, t in known.timed(versions)])
        )

    def _keep_symbols(self) -> None:
        self._kept_symbols = (len(self._symbols.texts), len(self._symbols.lists), len(self._symbols.versions))

    def changes(self) -> tuple[dict[bytes, bytes], list[bytes]]:
        """What the overlay puts and deletes, for the checkpoint; to be asked for before `commit`."""
        self._collect()
        return self._take(self._sequence + 1)

    def knows(self, prediction_id: str) -> bool:
        """Whether there is an entry; between batches."""
        name = prediction_id.encode()
        held = prediction_id in self._entries
        return held or self._checked(self._library.dl_get(self._handle, name, len(name)), "a look-up") > 0

    def redact(
        self, bare: Mapping[str, Mapping[bytes, Bare]], view: PlanView
    ) -> tuple[dict[bytes, bytes], list[bytes]]:
        """As the reference; records of the log that are out of date are overwritten, too."""
        overlay = self._begin(Slice({}, {}, {}, self._idle, 0), None)
        self._view = view
        self._resolve(view)
        self._library.dl_begin(self._handle, overlay.began.number, self._watermark_ms, True)
        swaps: dict[bytes, dict[bytes, tuple[bytes, int]]] = {}
        for key, hashes in bare.items():
            before = self._entry(key, overlay)
            if before is not None:
                after = without(before, hashes)
                swaps[self._id(key)] = self._swaps(before, after)
                self._put(key, before, after, overlay)
        self._hand_back(overlay)
        self._collect()
        for key, entry in overlay.entries.items():
            if entry is None:
                self._entries.pop(key, None)
            else:
                self._entries[key] = entry
        self._deadlines.commit()
        self._batch, self._collected = None, False
        tail, head, _ = self._log()
        self._chunks.lay_bare(tail, head, swaps)
        return self._take(None)

    def _swaps(self, before: Entry, after: Entry) -> dict[bytes, tuple[bytes, int]]:
        pairs = zip(before.predictions, after.predictions, strict=True)
        found = {}
        for old, new in pairs:
            if old is not new:
                found[old.payload] = (new.payload, max(self._intern(new.compact.segments), 0))
        return found

    def _id(self, key: str) -> bytes:
        name = key.encode()
        out = np.zeros(2, np.uint64)
        self._library.dl_id(name, len(name), out.ctypes.data)
        return out.tobytes()

    def replayed(self) -> tuple[dict[bytes, bytes], list[bytes]]:
        """What replayed batches changed since the last call."""
        return self._take(self._sequence)

    def _take(self, sequence: int | None) -> tuple[dict[bytes, bytes], list[bytes]]:
        puts, deletes = self._chunks.take()
        puts |= self._odd_puts
        deletes += self._odd_deletes
        self._odd_puts, self._odd_deletes = {}, set()
        self._refresh_symbols()
        symbols = self._symbols_since(*self._kept_symbols)
        if symbols is not None:
            key = SYMBOLS + (self._sequence if sequence is None else sequence).to_bytes(8, "big")
            if sequence is None:
                # Between batches: behind those of the last, which stay.
                key += sum(self._kept_symbols).to_bytes(8, "big")
            puts[key] = symbols
            self._keep_symbols()
        return puts, deletes

    def entries(self) -> Iterator[tuple[bytes, bytes]]:
        """All entries as the checkpoint holds them: the log with what is out of date in it."""
        self._refresh_symbols()
        symbols = self._symbols_since(0, 0, 0)
        if symbols is not None:
            yield SYMBOLS + self._sequence.to_bytes(8, "big"), symbols
        for key, entry in self._entries.items():
            yield ODD + key.encode(), _entry_encoder.encode(entry)
        tail, head, _ = self._log()
        yield from self._chunks.all(tail, head)

    def rewritten(self) -> dict[bytes, bytes]:
        """All entries for a checkpoint that holds nothing else: what `changes` gives from now on belongs to it."""
        found = dict(self.entries())
        self._take(self._sequence)
        return found

    def _log(self) -> tuple[int, int, int]:
        """Oldest and next position of the log, and how many entries are in memory."""
        found = np.zeros(3, np.uint64)
        self._library.dl_log(self._handle, found.ctypes.data)
        tail, head, hot = found.tolist()
        return tail, head, hot

    def _take_entries(self, entries: Iterable[tuple[bytes, bytes]]) -> None:
        log: list[tuple[bytes, bytes]] = []
        # A store gives them in order, one by one; whoever has them all at once need not.
        for key, value in sorted(entries) if isinstance(entries, Sequence) else entries:
            kind = key[:1]
            if kind == LOG:
                log.append((key, value))
                if len(log) == _LOADED:
                    self._load(log)
                    log = []
            elif kind == ODD:
                self._entries[key[1:].decode()] = _entry_decoder.decode(value)
            elif kind == SYMBOLS:
                self._take_symbols(value)
            else:
                raise ValueError(f"unknown key {key!r}")
        self._load(log)
        for name in self._entries:
            data = name.encode()
            self._checked(self._library.dl_set_odd(self._handle, data, len(data)), "an odd entry")
        length = self._checked(self._library.dl_commit(self._handle), "the odd entries")
        self._chunks.wrote(self._output(length))
        self._checked(self._library.dl_warm(self._handle), "reading the newest entries")
        self._refresh_symbols()
        self._keep_symbols()

    def _load(self, log: list[tuple[bytes, bytes]]) -> None:
        positions = np.array([position_of(key) for key, _ in log], np.uint64)
        data = b"".join([value for _, value in log])
        loaded = self._library.dl_load(self._handle, positions.ctypes.data, len(log), data, len(data))
        if loaded < 0:
            raise ValueError("the log of the table is damaged")
        self._chunks.keep(log)

    def _take_symbols(self, value: bytes) -> None:
        texts, lists, versions = _KEPT_SYMBOLS.decode(value)
        for text in texts:
            data = text.encode()
            checked(self._library.dl_text(self._handle, data, len(data)), "a text")
        for numbers in lists:
            array = np.array(numbers, np.uint32)
            checked(self._library.dl_segments(self._handle, array.ctypes.data, len(numbers)), "segments")
        for model, version, delay_ms, horizon_ms in versions:
            plan = CompiledPlan(placeholder(delay_ms, horizon_ms))
            name = model.encode()
            number = self._library.dl_know(self._handle, name, len(name), version, plan.pointer)
            self._unresolved.append(checked(number, "a known version"))
            self._symbols.add_times(model, version, delay_ms, horizon_ms)

    def digest(self) -> str:
        """SHA-256 over what decides about the future, whoever holds an entry. Cost is that of all of the state."""
        self._refresh_symbols()
        found: dict[bytes, Entry] = {}
        for key, entry in self._entries.items():
            found[self._id(key)] = entry
        at, head, _ = self._log()
        while at < head:
            at = self._checked(self._library.dl_export(self._handle, at), "the log")
            for packed in records_of(self._output(self._library.dl_out_len(self._handle))):
                found[packed[:16]] = from_native(packed, self._symbols)
        digest = hashlib.sha256()
        for name in sorted(found):
            digest.update(name)
            digest.update(_entry_encoder.encode(msgspec.structs.replace(found[name], generation=0)))
        digest.update(self._digest_meta())
        return digest.hexdigest()
