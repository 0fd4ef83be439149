"""One partition's join: batches in, mergeable contributions and accounting out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import msgspec

from schemas.codec import decode_heartbeat, decode_prediction, is_heartbeat
from schemas.errors import DecodeError, StateError
from schemas.events import JournalRecord, Prediction
from schemas.topics import GROUND_TRUTH, PREDICTIONS
from streams.join import rules
from streams.join import totals as t
from streams.join.batch import ChunkStore, DeadLetter, JoinLimits, JoinOutcome, Overlay, PlanView, Slice
from streams.join.deadlines import Deadlines
from streams.join.deltas import Deltas
from streams.join.entries import TOMBSTONE_REVISION, Entry
from streams.join.generations import Generation, Generations
from streams.join.intake import check_future, decode_label
from streams.join.redaction import Bare, without
from streams.join.watermarks import NO_WATERMARK, combined
from streams.kafka.records import Record
from streams.panes import PanePlan

TOPICS: Final = (PREDICTIONS, GROUND_TRUTH)
NO_NUMBER: Final = 0
"""Of a version that got none: numbers begin with 1."""


class JoinMeta(msgspec.Struct, gc=False, array_like=True):
    """All of a partition's state but its entries."""

    version: int
    watermark_ms: int
    topic_watermarks_ms: dict[str, int]
    idle: dict[str, bool]
    totals: dict[str, int]
    journal_next: int
    sequence: int
    generations: list[Generation]


class JoinPartition:
    """State and rules of one partition of `predictions` and `ground-truth`.

    Parameters
    ----------
    partition : int
    limits : JoinLimits

    Notes
    -----
    `process` computes into an overlay; `commit` makes it count, `abort` drops it. Within a batch, predictions come
    first, then labels, then time: the order that a rebuild repeats. Cost is that of the batch, not of the state.
    """

    STATE_VERSION = 1

    def __init__(self, partition: int, limits: JoinLimits) -> None:
        self.partition = partition
        self.limits = limits
        self._entries: dict[str, Entry] = {}
        self._deadlines = Deadlines()
        self._generations = Generations()
        self._watermark_ms = NO_WATERMARK
        self._topic_watermarks = dict.fromkeys(TOPICS, NO_WATERMARK)
        self._idle = dict.fromkeys(TOPICS, False)
        self._totals = t.zero()
        self._journal_next = 0
        self._sequence = 0
        self._batch: Overlay | None = None

    # ------------------------------------------------------------------------------------------- reading

    @property
    def watermark_ms(self) -> int:
        """Watermark after the last commit."""
        return self._watermark_ms

    @property
    def idle(self) -> dict[str, bool]:
        """Idle flags after the last commit."""
        return dict(self._idle)

    @property
    def totals(self) -> dict[str, int]:
        """Accounting after the last commit."""
        return dict(self._totals)

    @property
    def generations(self) -> list[Generation]:
        """The groups of commits that live entries began in, oldest first."""
        return self._generations.kept()

    @property
    def sequence(self) -> int:
        """Number of the last commit."""
        return self._sequence

    @property
    def journal_next(self) -> int:
        """Journal offset at or before which the next record will stand."""
        return self._journal_next

    def __len__(self) -> int:
        return len(self._entries)

    # ---------------------------------------------------------------------------------------- processing

    def process(self, batch: Slice, view: PlanView) -> JoinOutcome:
        """Compute one batch into the overlay.

        Parameters
        ----------
        batch : Slice
        view : PlanView
            What is registered; its epoch after the call belongs into the journal.
        """
        overlay = self._begin(batch, Deltas())
        self._read(batch, view, overlay)
        for topic, watermark in self._topic_watermarks.items():
            overlay.topic_watermarks[topic] = max(watermark, overlay.topic_watermarks.get(topic, NO_WATERMARK))
        overlay.watermark_ms = combined(overlay.topic_watermarks, overlay.idle, self._watermark_ms)
        self._advance(view, overlay)
        assert overlay.deltas is not None
        idle = all(overlay.idle.values())
        moved = overlay.watermark_ms != self._watermark_ms or idle != all(self._idle.values())
        return JoinOutcome(self._pack(overlay.deltas, view), overlay.dead_letters, overlay.watermark_ms, idle, moved)

    def journal(self, batch: Slice, epoch: int, partitions: int) -> JournalRecord:
        """The journal record of the batch in the overlay; to be written in the same transaction."""
        overlay = self._overlay()
        oldest = self._generations.oldest_after(overlay.began, overlay.live)
        return JournalRecord(
            partition=self.partition,
            slices={topic: (batch.starts[topic], batch.ends[topic]) for topic in batch.ends},
            watermark_ms=overlay.watermark_ms,
            topic_watermarks_ms=overlay.topic_watermarks,
            idle=overlay.idle,
            now_ms=batch.now_ms,
            registry_epoch=epoch,
            low_water=dict(batch.ends) if oldest is None else {**batch.starts, **oldest.starts},
            journal_low_water=self._journal_next if oldest is None else oldest.journal,
            low_water_watermark_ms=overlay.watermark_ms if oldest is None else oldest.watermark_ms,
            totals=self._totals_after(overlay),
            partitions=partitions,
            sequence=self._sequence + 1,
            low_water_sequence=self._sequence + 2 if oldest is None else oldest.sequence,
        )

    def commit(self) -> None:
        """The overlay counts."""
        overlay = self._overlay()
        self._generations.commit(overlay.began, overlay.records, overlay.live)
        entries = self._entries
        for key, entry in overlay.entries.items():
            if entry is None:
                entries.pop(key, None)
            else:
                entries[key] = entry
        self._deadlines.commit()
        self._totals = self._totals_after(overlay)
        self._watermark_ms = overlay.watermark_ms
        self._topic_watermarks = overlay.topic_watermarks
        self._idle = overlay.idle
        # A record and a transaction marker at least: the journal's next record cannot stand before it.
        self._journal_next += 2
        self._sequence += 1
        self._batch = None

    def abort(self) -> None:
        """The overlay does not count; harmless where there is none."""
        if self._batch is not None:
            self._deadlines.abort()
            self._batch = None

    # ----------------------------------------------------------------------------------------- rebuilding

    def begin_rebuild(self, newest: JournalRecord) -> None:
        """Start a rebuild; the newest journal record says from where to replay."""
        self._watermark_ms = newest.low_water_watermark_ms

    def end_rebuild(self, newest: JournalRecord, offset: int) -> None:
        """Everything up to the newest journal record, which stands at `offset`, was replayed."""
        self._watermark_ms = newest.watermark_ms
        self._topic_watermarks = dict.fromkeys(TOPICS, NO_WATERMARK) | newest.topic_watermarks_ms
        self._idle = dict.fromkeys(TOPICS, False) | newest.idle
        self._totals = t.zero() | newest.totals
        self._journal_next = offset + 2
        self._sequence = newest.sequence

    def replay(self, batch: Slice, view: PlanView, journal: JournalRecord, offset: int) -> None:
        """Repeat one journalled batch silently; the journal's word on time is taken, not found again.

        Parameters
        ----------
        batch : Slice
            The records between the journal record's offsets.
        view : PlanView
            What was registered at the record's epoch.
        journal : JournalRecord
        offset : int
            Where the journal record stands.
        """
        self._journal_next = offset
        self._sequence = journal.sequence - 1
        overlay = self._begin(batch, None)
        self._read(batch, view, overlay)
        overlay.topic_watermarks = dict(journal.topic_watermarks_ms)
        overlay.watermark_ms = journal.watermark_ms
        overlay.idle = dict(journal.idle)
        self._advance(view, overlay)
        self.commit()
        # The journal knows them as they were; a rebuild counts from its own beginning.
        self._totals = t.zero() | journal.totals

    # -------------------------------------------------------------------------------------------- inside

    def _overlay(self) -> Overlay:
        if self._batch is None:
            raise StateError("no batch is open", where=f"partition {self.partition}", remedy="call process first")
        return self._batch

    def _begin(self, batch: Slice, deltas: Deltas | None) -> Overlay:
        if self._batch is not None:
            raise StateError("the last batch is neither committed nor aborted", where=f"partition {self.partition}")
        began = Generation(
            self._generations.current(), dict(batch.starts), self._watermark_ms, self._journal_next, self._sequence + 1
        )
        overlay = self._batch = Overlay(self.partition, deltas, began)
        overlay.idle = {topic: bool(batch.idle.get(topic, False)) for topic in TOPICS}
        return overlay

    def _read(self, batch: Slice, view: PlanView, overlay: Overlay) -> None:
        for record in batch.records.get(PREDICTIONS, ()):
            self._prediction(record, view, overlay, batch.now_ms)
        # Asked for after the predictions: they may have made the view read on.
        horizon_ms = view.label_horizon_ms
        for record in batch.records.get(GROUND_TRUTH, ()):
            self._label(record, view, overlay, batch.now_ms, horizon_ms)
        overlay.records = sum(map(len, batch.records.values()))

    def _pack(self, deltas: Deltas, view: PlanView) -> list[tuple[int, bytes]]:
        del view
        return deltas.records(self.partition, self.limits.targets)

    def _payload(self, value: bytes) -> bytes:
        return hashlib.blake2b(value, digest_size=8).digest()

    def _held(self, key: str, overlay: Overlay) -> Entry | None:
        """The entry, where this class itself holds it."""
        if key in overlay.entries:
            return overlay.entries[key]
        return self._entries.get(key)

    def _entry(self, key: str, overlay: Overlay) -> Entry | None:
        """The entry, whoever holds it."""
        return self._held(key, overlay)

    def _put(self, key: str, before: Entry | None, after: Entry, overlay: Overlay) -> None:
        overlay.entries[key] = after
        wake_ms = after.wake_ms
        if before is None:
            overlay.live[after.generation] += 1
            self._deadlines.add(wake_ms, key)
        elif wake_ms < before.wake_ms:
            # Where it is later, the earlier call finds nothing to do and asks for the next.
            self._deadlines.add(wake_ms, key)

    def _prediction(self, record: Record, view: PlanView, overlay: Overlay, now_ms: int) -> None:
        try:
            if record.headers and is_heartbeat(record.headers):
                self._heartbeat(record, overlay, now_ms)
                return
            prediction = decode_prediction(record.value or b"")
            check_future(record, prediction.event_time_ms, now_ms, self.limits.future_tolerance_ms)
        except DecodeError as error:
            overlay.totals[t.PREDICTIONS_DEAD] += 1
            overlay.dead_letters.append(DeadLetter(record, error.reason, error.what))
            return
        version = prediction.version
        if view.watched(prediction.model):
            version = self._number(prediction, view, overlay)
            if version == NO_NUMBER:
                overlay.totals[t.PREDICTIONS_DEAD] += 1
                overlay.dead_letters.append(DeadLetter(record, *rules.TOO_MANY_VERSIONS))
                return
        # A name where a number is expected is of a version that is not registered.
        plan = None if isinstance(version, str) else view.plan(prediction.model, version)
        if plan is None or isinstance(version, str):
            overlay.totals[t.PREDICTIONS_SKIPPED] += 1
            return
        refused = self._join(prediction, version, record.value or b"", plan, view, overlay)
        if refused is not None:
            overlay.totals[t.PREDICTIONS_DEAD] += 1
            overlay.dead_letters.append(DeadLetter(record, *refused))
        self._saw(PREDICTIONS, prediction.event_time_ms - self.limits.grace_ms, overlay)

    def _number(self, prediction: Prediction, view: PlanView, overlay: Overlay) -> int:
        """Number of a watched model's version: the newest, or that under which this very prediction is known."""
        numbers = view.numbers(prediction.model, prediction.version, prediction.event_time_ms)
        if not numbers:
            return NO_NUMBER
        if len(numbers) > 1 and (entry := self._entry(prediction.prediction_id, overlay)) is not None:
            for other in entry.predictions:
                # Sent again after its version got another reference: still the same prediction.
                if other.model == prediction.model and other.version in numbers:
                    return other.version
        return numbers[-1]

    def _join(  # noqa: PLR0917 - a prediction with what it is joined by
        self,
        prediction: Prediction,
        version: int,
        value: bytes,
        plan: PanePlan,
        view: PlanView,
        overlay: Overlay,
    ) -> tuple[str, str] | None:
        """Put a prediction into its entry; (reason, message) where it is refused."""
        key = prediction.prediction_id
        payload = self._payload(value)
        keep_ms = prediction.event_time_ms + plan.max_label_delay_ms + plan.revision_horizon_ms + 1
        before = self._entry(key, overlay)
        # What it asks for counts even where it is refused: a rebuild that begins after the first one of its identity
        # would otherwise keep an entry that is gone here.
        if before is not None:
            entry = (
                before if before.keep_until_ms >= keep_ms else msgspec.structs.replace(before, keep_until_ms=keep_ms)
            )
            for other in before.predictions:
                if other.model == prediction.model and other.version == version:
                    if entry is not before:
                        self._put(key, before, entry, overlay)
                    if other.payload == payload:
                        overlay.totals[t.PREDICTIONS_DUPLICATE] += 1
                        return None
                    return rules.CONFLICT, f"{key!r} of {other.model} version {other.version} was predicted otherwise"
        if keep_ms <= self._watermark_ms:
            return rules.LATE, f"event time {prediction.event_time_ms} is too old for watermark {self._watermark_ms}"
        if not plan.accepts_prediction(prediction):
            return rules.PREDICTION_TYPE, f"a {plan.task} model does not predict {prediction.prediction!r}"
        joined = rules.join_prediction(prediction, version, payload, plan, overlay)
        if before is None:
            after = Entry(keep_ms, overlay.began.number, (joined,))
        else:
            after = rules.add_prediction(entry, joined, view.plan, overlay)
        self._put(key, before, after, overlay)
        return None

    def _label(self, record: Record, view: PlanView, overlay: Overlay, now_ms: int, horizon_ms: int) -> None:
        try:
            if record.headers and is_heartbeat(record.headers):
                self._heartbeat(record, overlay, now_ms)
                return
            key, label = decode_label(record, horizon_ms)
            check_future(record, label.event_time_ms, now_ms, self.limits.future_tolerance_ms)
        except DecodeError as error:
            overlay.totals[t.LABELS] += 1
            overlay.totals[t.LABELS_DEAD] += 1
            overlay.dead_letters.append(DeadLetter(record, error.reason, error.what))
            return
        overlay.totals[t.LABELS] += 1
        before = self._entry(key, overlay)
        tombstone = label.revision == TOMBSTONE_REVISION
        # A tombstone asks for nothing: it has no event time.
        keep_ms = NO_WATERMARK if tombstone else label.until_ms
        if before is None:
            if tombstone:
                overlay.totals[t.LABELS_ORPHANED] += 1
            elif keep_ms <= self._watermark_ms:
                overlay.totals[t.LABELS_LATE] += 1
                message = f"event time {label.event_time_ms} is too old for watermark {self._watermark_ms}"
                overlay.dead_letters.append(DeadLetter(record, rules.LATE, message))
            else:
                overlay.totals[t.LABELS_WAITING] += 1
                self._put(key, None, Entry(keep_ms, overlay.began.number, waiting=(label,)), overlay)
        else:
            entry = (
                before if before.keep_until_ms >= keep_ms else msgspec.structs.replace(before, keep_until_ms=keep_ms)
            )
            if entry.predictions:
                entry = rules.judge(entry, label, view.plan, overlay)
            else:
                if tombstone:
                    # It goes with the label it takes back.
                    label = msgspec.structs.replace(label, until_ms=entry.waiting[-1].until_ms)
                overlay.totals[t.LABELS_WAITING] += 1
                entry = msgspec.structs.replace(entry, waiting=(*entry.waiting, label))
            if entry is not before:
                self._put(key, before, entry, overlay)
        if not tombstone:
            self._saw(GROUND_TRUTH, label.event_time_ms - self.limits.grace_ms, overlay)

    def _heartbeat(self, record: Record, overlay: Overlay, now_ms: int) -> None:
        heartbeat = decode_heartbeat(record.value or b"")
        check_future(record, heartbeat.event_time_ms, now_ms, self.limits.future_tolerance_ms)
        overlay.totals[t.HEARTBEATS] += 1
        self._saw(record.topic, heartbeat.event_time_ms, overlay)

    @staticmethod
    def _saw(topic: str, watermark_ms: int, overlay: Overlay) -> None:
        if watermark_ms > overlay.topic_watermarks.get(topic, NO_WATERMARK):
            overlay.topic_watermarks[topic] = watermark_ms

    def _advance(self, view: PlanView, overlay: Overlay) -> None:
        """Let the watermark pass: expire, orphan and forget what is due."""
        watermark_ms = overlay.watermark_ms
        for key in dict.fromkeys(self._deadlines.take(watermark_ms)):
            entry = self._held(key, overlay)
            if entry is None:
                continue
            if entry.keep_until_ms <= watermark_ms:
                rules.forget(entry, view.plan, overlay)
                overlay.entries[key] = None
                overlay.live[entry.generation] -= 1
                continue
            if entry.wake_ms <= watermark_ms:
                entry = rules.pass_time(entry, watermark_ms, view.plan, overlay)
                overlay.entries[key] = entry
            self._deadlines.add(entry.wake_ms, key)

    def _totals_after(self, overlay: Overlay) -> dict[str, int]:
        return {name: count + overlay.totals.get(name, 0) for name, count in self._totals.items()}

    # -------------------------------------------------------------------------------------------- keeping

    def meta(self) -> bytes:
        """Everything but the entries, for the checkpoint."""
        return msgspec.msgpack.encode(
            JoinMeta(
                self.STATE_VERSION,
                self._watermark_ms,
                self._topic_watermarks,
                self._idle,
                self._totals,
                self._journal_next,
                self._sequence,
                self._generations.kept(),
            )
        )

    def changes(self) -> tuple[dict[bytes, bytes], list[bytes]]:
        """What the overlay puts and deletes, for the checkpoint; to be asked for before `commit`."""
        encode = _entry_encoder.encode
        puts = {key.encode(): encode(entry) for key, entry in self._overlay().entries.items() if entry is not None}
        return puts, [key.encode() for key, entry in self._overlay().entries.items() if entry is None]

    def knows(self, prediction_id: str) -> bool:
        """Whether there is an entry; between batches."""
        return prediction_id in self._entries

    def payload_of(self, value: bytes) -> bytes:
        """What an entry remembers of a prediction's bytes."""
        return self._payload(value)

    def redact(
        self, bare: Mapping[str, Mapping[bytes, Bare]], view: PlanView
    ) -> tuple[dict[bytes, bytes], list[bytes]]:
        """Forget of predictions what is known only through keys that are gone; between batches.

        Parameters
        ----------
        bare : mapping of str to mapping of bytes to Bare
            By prediction_id, then by hash of the payload.
        view : PlanView

        Returns
        -------
        As `changes`, to be written with the offsets that were written last.
        """
        del view
        puts = {}
        for key, hashes in bare.items():
            entry = self._entries.get(key)
            if entry is not None:
                self._entries[key] = without(entry, hashes)
                puts[key.encode()] = _entry_encoder.encode(self._entries[key])
        return puts, []

    def replayed(self) -> tuple[dict[bytes, bytes], list[bytes]] | None:
        """What replayed batches changed since the last call; None: `rewritten` gives everything at the end."""
        return None

    def attach(self, store: ChunkStore) -> None:
        """Where `changes` and `replayed` are put, and what left memory is read; here nothing leaves it."""

    def limit_memory(self, most_bytes: int) -> None:
        """Memory that entries may take between batches; here they take what they need."""

    @classmethod
    def from_checkpoint(  # noqa: PLR0917 - a checkpoint and where it is
        cls,
        partition: int,
        limits: JoinLimits,
        meta: bytes,
        entries: Iterable[tuple[bytes, bytes]],
        store: ChunkStore | None = None,
        most_bytes: int | None = None,
    ) -> JoinPartition:
        """State from what `meta` and `changes` gave.

        Parameters
        ----------
        partition : int
        limits : JoinLimits
        meta : bytes
        entries : iterable of (bytes, bytes)
            In the order of their keys, unless it is a sequence.
        store : ChunkStore, optional
            As `attach` takes it; they stand there.
        most_bytes : int, optional
            As `limit_memory` takes it.

        Raises
        ------
        StateError
            The checkpoint is of another version of the program, or damaged.
        """
        self = cls(partition, limits)
        if store is not None:
            self.attach(store)
        if most_bytes is not None:
            self.limit_memory(most_bytes)
        try:
            found = msgspec.msgpack.decode(meta, type=JoinMeta)
            if found.version != cls.STATE_VERSION:
                raise ValueError(f"state version {found.version}, expected {cls.STATE_VERSION}")
            self._take_entries(entries)
        except (msgspec.MsgspecError, ValueError) as error:
            raise StateError(
                f"the checkpoint cannot be read: {error}",
                where=f"partition {partition}",
                remedy="delete the state folder: it is rebuilt from the log",
            ) from error
        self._watermark_ms = found.watermark_ms
        self._topic_watermarks = dict.fromkeys(TOPICS, NO_WATERMARK) | found.topic_watermarks_ms
        self._idle = dict.fromkeys(TOPICS, False) | found.idle
        self._totals = t.zero() | found.totals
        self._journal_next = found.journal_next
        self._sequence = found.sequence
        self._generations = Generations(found.generations)
        for key, entry in self._entries.items():
            self._deadlines.add(entry.wake_ms, key)
        self._deadlines.commit()
        return self

    def _take_entries(self, entries: Iterable[tuple[bytes, bytes]]) -> None:
        self._entries = {key.decode(): _entry_decoder.decode(value) for key, value in entries}

    def entries(self) -> Iterator[tuple[bytes, bytes]]:
        """All entries as the checkpoint holds them."""
        for key, entry in self._entries.items():
            yield key.encode(), _entry_encoder.encode(entry)

    def rewritten(self) -> dict[bytes, bytes]:
        """All entries for a checkpoint that holds nothing else: what `changes` gives from now on belongs to it."""
        return dict(self.entries())

    def snapshot(self) -> bytes:
        """All of the state in one piece."""
        return msgspec.msgpack.encode((self.meta(), sorted(self.entries())))

    @classmethod
    def from_snapshot(cls, partition: int, limits: JoinLimits, snapshot: bytes) -> JoinPartition:
        """State from a `snapshot`. Raises `StateError`."""
        meta, entries = msgspec.msgpack.decode(snapshot, type=tuple[bytes, list[tuple[bytes, bytes]]])
        return cls.from_checkpoint(partition, limits, meta, entries)

    def digest(self) -> str:
        """SHA-256 over what decides about the future: entries, watermarks, idle flags and totals.

        Generations are left out: they are bookkeeping of the log, and a rebuild may draw them closer.
        """
        digest = hashlib.sha256()
        for key in sorted(self._entries):
            entry = self._entries[key]
            digest.update(_entry_encoder.encode((key, msgspec.structs.replace(entry, generation=0))))
        digest.update(self._digest_meta())
        return digest.hexdigest()

    def _digest_meta(self) -> bytes:
        return msgspec.msgpack.encode(
            [
                self._watermark_ms,
                sorted(self._topic_watermarks.items()),
                sorted(self._idle.items()),
                sorted(self._totals.items()),
            ]
        )


_entry_encoder = msgspec.msgpack.Encoder()
_entry_decoder = msgspec.msgpack.Decoder(Entry)
