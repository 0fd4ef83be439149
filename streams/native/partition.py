"""One partition's join with its ordinary records treated natively; everything odd goes the way of `streams.join`.

An entry is *ordinary* when it has one prediction and at most one label (`native/src/table.rs`); the native table holds
it under a 128-bit hash of its prediction_id. Every other entry is *odd*: this class holds it as `streams.join` does,
and the native table remembers only that it does. An odd entry that has become ordinary goes back at the batch's end.
"""

from __future__ import annotations

import ctypes
import hashlib
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

import msgspec
import numpy as np

from schemas.codec import is_heartbeat
from schemas.errors import StateError
from schemas.topics import GROUND_TRUTH, MAX_MESSAGE_BYTES, PREDICTIONS
from streams.join.batch import JoinLimits, Overlay, PlanView, Slice
from streams.join.deltas import Deltas
from streams.join.entries import Entry
from streams.join.partition import JoinPartition
from streams.kafka.fetcher import FetchedRecords
from streams.kafka.records import Record, RecordHeaders, columns_of, keys_of, offsets_of
from streams.native.entries import Symbols, encode_headers, from_native, read_log, to_native
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
LOG: Final = b"l"
SYMBOLS: Final = b"y"
_PIECE: Final = 4_096
_CHUNK_SLOTS: Final = 40_000
_REWRITE_SLACK: Final = 32 * 1024 * 1024
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
    the log of the table: entries as they are after the commit, in one piece a commit. It is written anew as a whole
    when most of it is out of date.
    """

    STATE_VERSION = 1_000 + VERSION

    def __init__(self, partition: int, limits: JoinLimits) -> None:
        super().__init__(partition, limits)
        self._library = library()
        self._handle = self._library.dl_new()
        self._symbols = Symbols()
        self._kept_symbols = (0, 0, 0)
        self._unresolved: list[int] = []
        self._logged: bytes | None = None
        self._log_bytes = 0
        self._log_keys: list[bytes] = []
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
                elif why == REFERENCE and labels:
                    self._label(records[start + at], view, overlay, now_ms, horizon_ms)
                elif why == REFERENCE:
                    self._prediction(records[start + at], view, overlay, now_ms)

    def _run_fetched(  # noqa: PLR0917 - a batch with what it is read by
        self, labels: int, records: FetchedRecords, view: PlanView, overlay: Overlay, now_ms: int, horizon_ms: int
    ) -> None:
        """Records that lie in the client library's buffers: nothing is copied or made but what is odd."""
        run, limits = self._library.dl_run_batch, self._kernel_limits(horizon_ms, now_ms)
        for at, why in self._kernel(run, labels, records.handle, limits, view):
            if labels:
                self._tell_headers(lambda index: records[index].headers)
            if why == REFERENCE and labels:
                self._label(records[at], view, overlay, now_ms, horizon_ms)
            elif why == REFERENCE:
                self._prediction(records[at], view, overlay, now_ms)

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
            at = checked(
                run(self._handle, labels, records, at, limits_at, ctypes.byref(why), ctypes.byref(version)),
                "a batch",
            )
            if why.value == UNKNOWN_VERSION:
                model = self._output(self._library.dl_out_len(self._handle))
                self._know(model.decode(), version.value, view)
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
        number = checked(
            self._library.dl_know(self._handle, name, len(name), version, self._compile(plan).pointer), "a new version"
        )
        self._symbols.add_plan(model, version, plan)
        return number

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
        length = checked(self._library.dl_get(self._handle, name, len(name)), "a look-up")
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
        checked(self._library.dl_set_odd(self._handle, name, len(name)), "an odd entry")

    def _advance(self, view: PlanView, overlay: Overlay) -> None:
        super()._advance(view, overlay)
        for key, entry in overlay.entries.items():
            if entry is None:
                name = key.encode()
                checked(self._library.dl_drop_odd(self._handle, name, len(name)), "a forgotten entry")
        checked(self._library.dl_advance(self._handle, overlay.watermark_ms), "the watermark")
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
                checked(self._library.dl_put(self._handle, name, len(name), packed, len(packed)), "an ordinary entry")
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

    def commit(self) -> None:
        """The overlay counts."""
        if self._logged is None:
            self._commit_native()
        self._logged = None
        super().commit()

    def abort(self) -> None:
        """The overlay does not count; harmless where there is none."""
        checked(self._library.dl_abort(self._handle), "going back")
        super().abort()

    def _commit_native(self) -> bytes:
        return self._output(checked(self._library.dl_commit(self._handle), "the commit"))

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
        overlay = self._overlay()
        puts = {
            ODD + key.encode(): _entry_encoder.encode(entry)
            for key, entry in overlay.entries.items()
            if entry is not None
        }
        deletes = [ODD + key.encode() for key, entry in overlay.entries.items() if entry is None]
        self._logged = self._commit_native()
        number = (self._sequence + 1).to_bytes(8, "big")
        if self._logged:
            puts[LOG + number] = self._logged
            self._log_keys.append(LOG + number)
            self._log_bytes += len(self._logged)
        self._refresh_symbols()
        symbols = self._symbols_since(*self._kept_symbols)
        if symbols is not None:
            puts[SYMBOLS + number] = symbols
            self._keep_symbols()
        if self._log_bytes > 3 * self.memory_bytes + _REWRITE_SLACK:
            puts.pop(LOG + number, None)
            deletes += self._log_keys
            puts |= self._begin_log(number)
        return puts, deletes

    def _whole_log(self, number: bytes) -> Iterator[tuple[bytes, bytes]]:
        for index, chunk in enumerate(self._table()):
            yield LOG + number + index.to_bytes(4, "big"), chunk

    def _table(self) -> Iterator[bytes]:
        """All ordinary entries, in pieces of the log."""
        for first in range(0, int(self._library.dl_slots(self._handle)), _CHUNK_SLOTS):
            length = checked(self._library.dl_export(self._handle, first, _CHUNK_SLOTS), "the table")
            if length:
                yield self._output(length)

    def _begin_log(self, number: bytes) -> dict[bytes, bytes]:
        written = dict(self._whole_log(number))
        self._log_keys = list(written)
        self._log_bytes = sum(map(len, written.values()))
        return written

    def entries(self) -> Iterator[tuple[bytes, bytes]]:
        """All entries as the checkpoint holds them."""
        for key, entry in self._entries.items():
            yield ODD + key.encode(), _entry_encoder.encode(entry)
        number = self._sequence.to_bytes(8, "big")
        self._refresh_symbols()
        symbols = self._symbols_since(0, 0, 0)
        if symbols is not None:
            yield SYMBOLS + number, symbols
        yield from self._whole_log(number)

    def rewritten(self) -> dict[bytes, bytes]:
        """All entries for a checkpoint that holds nothing else: what `changes` gives from now on belongs to it."""
        found = dict(self.entries())
        self._keep_symbols()
        self._log_keys = [key for key in found if key[:1] == LOG]
        self._log_bytes = sum(len(found[key]) for key in self._log_keys)
        return found

    def _take_entries(self, entries: Iterable[tuple[bytes, bytes]]) -> None:
        logs: list[tuple[bytes, bytes]] = []
        for key, value in sorted(entries):
            kind = key[:1]
            if kind == ODD:
                self._entries[key[1:].decode()] = _entry_decoder.decode(value)
            elif kind == SYMBOLS:
                self._take_symbols(value)
            elif kind == LOG:
                logs.append((key, value))
            else:
                raise ValueError(f"unknown key {key!r}")
        for key, value in logs:
            if self._library.dl_load(self._handle, value, len(value)) < 0:
                raise ValueError("the log of the table is damaged")
            self._log_keys.append(key)
            self._log_bytes += len(value)
        for name in self._entries:
            data = name.encode()
            checked(self._library.dl_set_odd(self._handle, data, len(data)), "an odd entry")
        self._library.dl_commit(self._handle)
        self._refresh_symbols()
        self._keep_symbols()

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
        """SHA-256 over what decides about the future, whoever holds an entry."""
        self._refresh_symbols()
        found: dict[bytes, Entry] = {}
        for key, entry in self._entries.items():
            name = key.encode()
            out = np.zeros(2, np.uint64)
            self._library.dl_id(name, len(name), out.ctypes.data)
            found[out.tobytes()] = entry
        for chunk in self._table():
            for packed in read_log(chunk):
                found[packed[:16]] = from_native(packed, self._symbols)
        digest = hashlib.sha256()
        for name in sorted(found):
            digest.update(name)
            digest.update(_entry_encoder.encode(msgspec.structs.replace(found[name], generation=0)))
        digest.update(self._digest_meta())
        return digest.hexdigest()
