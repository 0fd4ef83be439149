"""Lag in records: how many committed records a group has not worked through yet."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from confluent_kafka import KafkaException

from schemas.errors import BrokerError
from streams.kafka import admin
from streams.kafka.config import KafkaConfig
from streams.kafka.errors import broker_error
from streams.kafka.group_offsets import GroupOffsets
from streams.kafka.offsets import OffsetClient, Partition
from streams.kafka.reader import Tail

EXACT_UP_TO = 1_000
STANDS_STILL_S = 0.25
_TIMEOUT_S = 10.0


class LagProbe:
    """Measures lag again and again over one connection.

    Notes
    -----
    "End offset minus committed offset" never becomes 0 on topics that transactions write: their markers take offsets
    too. So a gap of up to 1,000 offsets is read, and its records are counted; a larger one is given as it is. A gap
    that turned out to hold only markers is remembered and not read again. Transactions that are still open count as
    a gap: lag 0 means that nothing is on its way either.
    """

    def __init__(self, config: KafkaConfig) -> None:
        self._config = config
        self._groups: dict[str, GroupOffsets] = {}
        self._offsets = OffsetClient(config)
        self._partitions: dict[str, list[int]] = {}
        self._markers_only: dict[Partition, tuple[int, int]] = {}
        self._stood_since: dict[tuple[str, Partition], tuple[tuple[int, int], float]] = {}

    def lag(self, group: str, topics: Iterable[str]) -> dict[Partition, int]:
        """Records of each partition that `group` has not committed; 0 means it has worked through everything.

        Parameters
        ----------
        group : str
            Name without prefix. A group that never committed lags by everything there is.
        topics : iterable of str
            Names without prefix.

        Raises
        ------
        TopicError
            A topic does not exist.
        BrokerError
        """
        partitions = self._partitions_of(list(topics))
        try:
            ends = self._offsets.ends(partitions, _TIMEOUT_S, undecided=True)
            committed = self._committed(group, partitions)
            unknown = [p for p in partitions if p not in committed]
            committed |= self._offsets.earliest(unknown, _TIMEOUT_S)
            gaps = {p: (committed[p], ends[p]) for p in partitions if ends[p] > committed[p]}
            small = [
                p
                for p, (start, end) in gaps.items()
                if end - start <= EXACT_UP_TO and not self._known_markers(p, start, end)
            ]
            counted = self._count(small, gaps) if small else {}
        except KafkaException as error:
            raise broker_error(self._config, error) from error
        lags = dict.fromkeys(partitions, 0)
        for partition, (start, end) in gaps.items():
            if partition in counted:
                lags[partition] = counted[partition]
                if not counted[partition]:
                    self._markers_only[partition] = (start, end)
            elif not self._known_markers(partition, start, end):
                lags[partition] = end - start
        return lags

    def gap(self, group: str, topics: Iterable[str], last_records: Mapping[Partition, int] | None = None) -> int:
        """0 if and only if `lag` would be 0 everywhere; else the number of offsets between the group and the ends.

        For who polls until a group has caught up.

        Parameters
        ----------
        last_records : mapping of (topic, partition) to int, optional
            Offset behind the last record, for partitions that the caller follows itself: markers are no gap there.

        Notes
        -----
        Elsewhere a gap is read for its records only when it stood still for a moment: a group that moves is behind
        anyway, groups of transactional processors commit past markers by themselves, and reading costs a connection.

        Raises
        ------
        TopicError, BrokerError
        """
        partitions = self._partitions_of(list(topics))
        try:
            # Committed first: what is written after it counts as a gap, never the other way round.
            committed = self._committed(group, partitions)
            unknown = [p for p in partitions if p not in committed]
            committed |= self._offsets.earliest(unknown, _TIMEOUT_S) if unknown else {}
        except KafkaException as error:
            raise broker_error(self._config, error) from error
        known = {p: last_records[p] for p in partitions if p in last_records} if last_records else {}
        ends = self._offsets.ends([p for p in partitions if p not in known], _TIMEOUT_S, undecided=True) | known
        gaps = {p: (committed[p], ends[p]) for p in partitions if ends[p] > committed[p]}
        gaps = {p: gap for p, gap in gaps.items() if not self._known_markers(p, *gap)}
        still = [p for p, gap in gaps.items() if p not in known and self._stands_still(group, p, gap)]
        for partition, count in (self._count(still, gaps) if still else {}).items():
            if not count:
                self._markers_only[partition] = gaps.pop(partition)
        return sum(end - start for start, end in gaps.values())

    def _stands_still(self, group: str, partition: Partition, gap: tuple[int, int]) -> bool:
        now = time.monotonic()
        seen, since = self._stood_since.get((group, partition), (None, now))
        if seen != gap:
            self._stood_since[group, partition] = (gap, now)
            return False
        return now - since > STANDS_STILL_S and gap[1] - gap[0] <= EXACT_UP_TO

    def _partitions_of(self, topics: list[str]) -> list[Partition]:
        unknown = [topic for topic in topics if topic not in self._partitions]
        if unknown:
            counts = admin.partition_counts(self._config)
            for topic in unknown:
                if topic not in counts:
                    raise admin.missing_topic(self._config, topic)
                self._partitions[topic] = list(range(counts[topic]))
        return [(topic, partition) for topic in topics for partition in self._partitions[topic]]

    def _committed(self, group: str, partitions: list[Partition]) -> dict[Partition, int]:
        if group not in self._groups:
            self._groups[group] = GroupOffsets(self._config, group)
        return self._groups[group].committed(partitions, _TIMEOUT_S)

    def _known_markers(self, partition: Partition, start: int, end: int) -> bool:
        known = self._markers_only.get(partition)
        return known is not None and known[0] <= start and end <= known[1]

    def _count(self, partitions: list[Partition], gaps: dict[Partition, tuple[int, int]]) -> dict[Partition, int]:
        counts = dict.fromkeys(partitions, 0)
        starts = {partition: gaps[partition][0] for partition in partitions}
        with Tail(self._config, [], from_beginning=False, offsets=starts) as tail:
            try:
                records = tail.read_to_end(_TIMEOUT_S)
            except BrokerError:
                # A transaction hangs: what stands behind it can be neither read nor ruled out.
                return {}
        for record in records:
            if record.offset < gaps[record.topic, record.partition][1]:
                counts[record.topic, record.partition] += 1
        return counts


def lag(config: KafkaConfig, group: str, topics: Iterable[str]) -> dict[Partition, int]:
    """Records of each partition that `group` has not committed (see `LagProbe`).

    Raises
    ------
    TopicError, BrokerError
    """
    return LagProbe(config).lag(group, topics)


def committed_offsets(config: KafkaConfig, group: str) -> dict[Partition, int]:
    """Committed offsets of a group, by (topic without prefix, partition); empty when it never committed.

    Raises
    ------
    BrokerError
    """
    partitions = [(topic, number) for topic, count in admin.partition_counts(config).items() for number in range(count)]
    offsets = GroupOffsets(config, group)
    try:
        return offsets.committed(partitions, _TIMEOUT_S)
    except KafkaException as error:
        raise broker_error(config, error) from error
    finally:
        offsets.close()
