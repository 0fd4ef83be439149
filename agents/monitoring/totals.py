"""The accounting of the whole installation: the newest journal record of every partition, added up."""

from __future__ import annotations

from collections import Counter

from schemas.codec import decode
from schemas.events import JournalRecord
from schemas.topics import MONITORING_JOURNAL
from streams.kafka.config import KafkaConfig
from streams.kafka.reader import newest
from streams.kafka.records import Record

SNAPSHOT_KEY = b"aggregate-"


def _is_journal(record: Record) -> bool:
    return record.value is not None and not (record.key or b"").startswith(SNAPSHOT_KEY)


def newest_totals(kafka: KafkaConfig, *, timeout_s: float = 10.0) -> dict[str, int]:
    """Counters of the join over all partitions, as of each partition's last commit.

    Raises
    ------
    TopicError, BrokerError
    """
    totals: Counter[str] = Counter()
    for record in newest(kafka, MONITORING_JOURNAL, wanted=_is_journal, timeout_s=timeout_s).values():
        assert record.value is not None
        totals.update(decode(record.value, JournalRecord).totals)
    return dict(totals)
