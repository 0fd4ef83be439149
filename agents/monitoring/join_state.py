"""A partition's state on disk, and how it comes back: from its folder, or from the journal and the log."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import msgspec

from agents.monitoring import journal
from agents.monitoring.journal import FetchedSpan, Span
from agents.monitoring.people import ERASURES, People
from agents.monitoring.registry_view import RegistryView
from agents.subjects.opening import Opened
from schemas.errors import StateError
from schemas.events import JournalRecord
from schemas.topics import MONITORING_JOURNAL, PREDICTIONS
from streams.join.batch import JoinLimits, PlanView, Slice
from streams.join.partition import JoinPartition
from streams.kafka.config import KafkaConfig
from streams.kafka.fetcher import usable
from streams.state.store import PartitionStore

_log = logging.getLogger("driftline.monitoring")
_JOURNAL_WAIT_S = 45.0
"""A dead worker's open transaction holds the journal back until the broker ends it: up to 20 s by its defaults."""

MIGRATE = (
    "keys would move to other partitions. To change the count: stop the producers, let monitoring drain, stop it, and "
    "start over on new topics (another DRIFTLINE_PREFIX)"
)


class Identity(msgspec.Struct, frozen=True):
    """What a state folder belongs to, and which implementation wrote it (0: before that was kept)."""

    partitions: int
    topic_ids: dict[str, str]
    state_version: int = 0


@dataclass
class Kept:
    """A partition at work: its state and its folder."""

    join: JoinPartition
    store: PartitionStore

    def __post_init__(self) -> None:
        self.people = People(self.join, self.store)
        self.erasures = int(self.store.meta(ERASURES) or b"-1")

    def checkpoint(
        self,
        changes: tuple[dict[bytes, bytes], list[bytes]],
        offsets: Mapping[str, int],
        opened: tuple[Sequence[Opened], int] | None = None,
    ) -> None:
        """Write what a commit changed, with the offsets it is as of, in one piece.

        `opened`: what was opened of people's predictions, and for how long that matters; None: there are no people.
        """
        puts, deletes = changes
        aside: tuple[dict[bytes, bytes], list[bytes]] = ({}, [])
        if opened is not None:
            aside = self.people.notes(*opened), self.people.outdated(len(opened[0]))
        self.store.write(puts, deletes, _as_of(self.join, offsets), aside)

    def redact(self, erasures: int, gone: Callable[[Iterable[bytes]], set[bytes]], view: PlanView) -> int:
        """Forget what only keys can tell that are gone; between batches. Returns of how many predictions.

        Parameters
        ----------
        erasures : int
            As `RegistryView.erasures`: what the folder knows of then.
        gone : callable
            Those of some keys that are.
        view : PlanView

        Raises
        ------
        DatabaseUnavailableError
            Nothing is forgotten; it is tried again.
        """
        bare, notes = self.people.bared(gone(self.people.keys()))
        puts, deletes = self.join.redact(bare, view) if bare else ({}, [])
        self.store.write(puts, deletes, {ERASURES: str(erasures).encode()}, ({}, notes))
        if notes:
            self.store.scrub()
        self.erasures = erasures
        return len(bare)


class JoinStates:
    """Opens and rebuilds partitions.

    Parameters
    ----------
    kafka : KafkaConfig
    registry : RegistryView
    home : Path
        Folder below which every partition has its own.
    identity : Identity
        Of the topics as they are now.
    limits : JoinLimits
    joins : type of JoinPartition
        The implementation of the join.
    memory_bytes : int
        What the entries of all partitions may take together, where the implementation can keep some on disk.
    """

    def __init__(  # noqa: PLR0917 - all of them belong together
        self,
        kafka: KafkaConfig,
        registry: RegistryView,
        home: Path,
        identity: Identity,
        limits: JoinLimits,
        joins: type[JoinPartition] = JoinPartition,
        memory_bytes: int = 544 * 1024 * 1024,
    ) -> None:
        self._kafka = kafka
        self._registry = registry
        self._home = home
        self._identity = msgspec.structs.replace(identity, state_version=joins.STATE_VERSION)
        self._limits = limits
        self._joins = joins
        self._memory_bytes = memory_bytes

    def share(self, partitions: int) -> int:
        """Bytes for one of so many partitions."""
        return self._memory_bytes // max(partitions, 1)

    def newest(self, committed: Mapping[tuple[str, int], int | None]) -> dict[int, tuple[int, JournalRecord]]:
        """Newest journal records, no older than the committed offsets.

        Raises
        ------
        StateError
            The group's offsets and the journal do not belong together.

        Notes
        -----
        Offsets and journal are written in one transaction, but its markers reach the partitions one after the other:
        after another worker's last commit its journal record may be seen a moment later than its offsets.
        """
        deadline = time.monotonic() + _JOURNAL_WAIT_S
        while True:
            found = journal.newest(self._kafka)
            wrong = [
                f"{topic}[{partition}] is committed to {offset}, journalled to {_end(found, topic, partition)}"
                for (topic, partition), offset in committed.items()
                if offset is not None and offset != _end(found, topic, partition)
            ]
            if not wrong:
                return found
            if time.monotonic() > deadline:
                raise StateError(
                    "the offsets of group monitoring-join are not those of the journal: " + "; ".join(wrong),
                    where=f"topic {self._kafka.topic(MONITORING_JOURNAL)}",
                    remedy="somebody moved the offsets or deleted the journal. Set the group back to the journalled "
                    "offsets; to start over, delete the group and the topics joined-deltas and monitoring-journal",
                )
            time.sleep(0.2)

    def open(self, partition: int, newest: tuple[int, JournalRecord] | None, share: int | None = None) -> Kept:
        """State of a partition as of its newest journal record.

        Parameters
        ----------
        partition : int
        newest : (int, JournalRecord), optional
            Where it stands, and the record; None: there is none yet.
        share : int, optional
            Bytes that its entries may take; all that there are where not given.

        Raises
        ------
        StateError
            Another partition count, or the folder cannot be used.
        RetentionPassedError
            Records that the state needs are gone.
        """
        if newest is not None and newest[1].partitions != self._identity.partitions:
            raise StateError(
                f"the journal is of {newest[1].partitions} partitions, the topics have {self._identity.partitions}",
                where=f"topic {self._kafka.topic(MONITORING_JOURNAL)}[{partition}]",
                remedy=MIGRATE,
            )
        began = time.monotonic()
        path = self._home / str(partition)
        store = PartitionStore(path)
        share = self._memory_bytes if share is None else share
        try:
            join, fresh = self._from_folder(partition, store, newest, share)
            if join is None:
                store.destroy()
                store = PartitionStore(path)
                join = self._joins(partition, self._limits)
                join.attach(store)
                join.limit_memory(share)
                fresh = True
                if newest is not None:
                    join.begin_rebuild(newest[1])
                    last = newest[1]
                    spans = (last.low_water, last.journal_low_water, last.low_water_sequence)
                    replayed = self._replay(join, store, newest, spans)
                    _log.info(
                        "partition %d: rebuilt from %d journal records, %d entries, in %.1f s",
                        *(partition, replayed, len(join), time.monotonic() - began),
                    )
            if fresh:
                self._write_all(join, store, newest)
        except BaseException:
            store.close()
            raise
        return Kept(join, store)

    def forget(self, held: Iterable[int], erasures: int) -> None:
        """Delete folders of partitions that went to other workers and know people who were erased since."""
        names = {str(partition) for partition in held}
        for path in self._home.iterdir() if self._home.exists() else ():
            if path.name in names or not path.is_dir():
                continue
            store = PartitionStore(path)
            if store.meta(ERASURES) != str(erasures).encode():
                store.destroy()
                _log.info(
                    "partition %s: another worker has it, and somebody was erased: its folder is deleted", path.name
                )
            store.close()

    def _from_folder(
        self, partition: int, store: PartitionStore, newest: tuple[int, JournalRecord] | None, share: int
    ) -> tuple[JoinPartition | None, bool]:
        """The folder's state, brought up to the journal (then the second is true); None where it is of no use."""
        identity, meta, offsets = (store.meta(name) for name in ("identity", "join", "offsets"))
        if identity is None or meta is None or offsets is None:
            return None, True
        found = msgspec.json.decode(identity, type=Identity)
        if found.partitions != self._identity.partitions and found.topic_ids == self._identity.topic_ids:
            raise StateError(
                f"the state is of {found.partitions} partitions, the topics have {self._identity.partitions}",
                where=str(store.path),
                remedy=MIGRATE,
            )
        if found != self._identity:
            _log.warning(
                "partition %d: the state folder is of other topics or another release, it is thrown away", partition
            )
            return None, True
        if self._registry.private and store.meta(ERASURES) is None:
            _log.warning("partition %d: the state folder does not say whom it knows, it is thrown away", partition)
            return None, True
        at = msgspec.json.decode(offsets, type=dict[str, int])
        ends = {topic: end for topic, (_, end) in newest[1].slices.items()} if newest is not None else {}
        began = time.monotonic()
        join = self._joins.from_checkpoint(partition, self._limits, meta, store.items(), store, share)
        _log.info("partition %d: opened with %d entries in %.1f s", partition, len(join), time.monotonic() - began)
        last = newest[1].sequence if newest is not None else 0
        if join.sequence > last or any(offset > ends.get(topic, 0) for topic, offset in at.items()):
            _log.warning("partition %d: the state folder is ahead of the log, it is thrown away", partition)
            return None, True
        if newest is None or join.sequence == last:
            return join, False
        if not at or join.sequence < newest[1].low_water_sequence - 1:
            # Made before the group's first commit, so it knows no offsets to go on from. Or another worker had the
            # partition for long: what the folder knows is gone from state.
            return None, True
        # A crash between a commit and its checkpoint: the last batches are repeated.
        replayed = self._replay(join, store, newest, (at, join.journal_next, join.sequence + 1), checkpoints=True)
        _log.info("partition %d: state folder brought up to date with %d journal records", partition, replayed)
        return join, True

    def _replay(
        self,
        join: JoinPartition,
        store: PartitionStore,
        newest: tuple[int, JournalRecord],
        start: tuple[Mapping[str, int], int, int],
        *,
        checkpoints: bool = False,
    ) -> int:
        """Repeat every journalled batch to the newest, silently; returns how many.

        `start`: offsets, offset of the journal, and number of the first batch. `checkpoints`: the store holds the state
        as of that start, and after each batch as of its end; else it holds none until all is done.
        """
        low_water, journal_low, sequence = start
        at, last = newest
        partition = join.partition
        expected = sequence
        people = People(join, store)
        span = FetchedSpan if usable() else Span
        with ExitStack() as stack:
            spans = {
                topic: stack.enter_context(closing(span(self._kafka, topic, partition, low_water[topic], end)))
                for topic, (_, end) in last.slices.items()
            }
            journal_end = at + 1 if sequence <= last.sequence else journal_low
            records = stack.enter_context(
                closing(Span(self._kafka, MONITORING_JOURNAL, partition, journal_low, journal_end, exact=False))
            )
            for record in records:
                if not journal.is_join_record(record):
                    continue
                entry = journal.to_journal(record)
                if entry.sequence < sequence:
                    continue
                if entry.sequence != expected:
                    break
                expected += 1
                starts = {topic: start for topic, (start, _) in entry.slices.items()}
                ends = {topic: end for topic, (_, end) in entry.slices.items()}
                taken = {topic: spans[topic].until(end) for topic, end in ends.items()}
                opened: list[Opened] = []
                taken[PREDICTIONS] = self._registry.opened(taken[PREDICTIONS], {}, opened)
                batch = Slice(taken, starts, ends, entry.idle, entry.now_ms)
                join.replay(batch, self._registry.as_of(entry.registry_epoch), entry, record.offset)
                changes = join.replayed()
                notes = people.notes(opened, self._registry.needed_retention_ms)
                if changes is not None or notes:
                    meta = _as_of(join, ends) if checkpoints and changes is not None else None
                    store.write(*(changes or ({}, [])), meta, (notes, ()))
        if expected != last.sequence + 1:
            raise StateError(
                f"journal record {expected} of partition {partition} is missing, the newest is {last.sequence}",
                where=f"topic {self._kafka.topic(MONITORING_JOURNAL)}[{partition}] from offset {journal_low}",
                remedy="was the topic cleaned up? Start over by deleting the consumer groups monitoring-join and "
                "monitoring-aggregate and the topics joined-deltas and monitoring-journal",
            )
        join.end_rebuild(last, at)
        return expected - sequence

    def _write_all(self, join: JoinPartition, store: PartitionStore, newest: tuple[int, JournalRecord] | None) -> None:
        ends = {topic: end for topic, (_, end) in newest[1].slices.items()} if newest is not None else {}
        changes = join.replayed()
        if changes is None:
            puts = join.rewritten()
            changes = puts, [key for key, _ in store.items() if key not in puts]
        store.write(*changes, {"identity": msgspec.json.encode(self._identity), **_as_of(join, ends)})
        # A folder without its identity is of no use: what it took to make it would be lost by a kill.
        store.flush()


def _as_of(join: JoinPartition, offsets: Mapping[str, int]) -> dict[str, bytes]:
    """Metadata of a checkpoint."""
    return {"join": join.meta(), "offsets": msgspec.json.encode(dict(offsets))}


def _end(found: Mapping[int, tuple[int, JournalRecord]], topic: str, partition: int) -> int | None:
    entry = found.get(partition)
    return None if entry is None else entry[1].slices.get(topic, (0, 0))[1]
