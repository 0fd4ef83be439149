"""Boards for commands that run once: the newest records of the series, without following the topics."""

from __future__ import annotations

from typing import Final, TypeVar

import msgspec

from agents.gateway.logic import Board
from schemas import codec, topics
from schemas.errors import DecodeError
from schemas.events import Alert, DriftMetric, QualityMetric
from streams.join.partitioning import partition_of
from streams.kafka.admin import end_offsets
from streams.kafka.config import KafkaConfig
from streams.kafka.reader import Tail, read_all
from streams.kafka.records import Record

T = TypeVar("T", bound=msgspec.Struct)

GLANCE: Final = 2_000
"""Records a partition that `recent_estimates` looks at."""
MOST_RECORDS: Final = 200_000
"""Records of a model's partition that `model_board` looks at."""


def recent_estimates(kafka: KafkaConfig, *, timeout_s: float = 10.0) -> Board:
    """What was estimated lately, all models.

    Notes
    -----
    Looks at the newest 2,000 records of every partition: of thousands of models some may not be among them.

    Raises
    ------
    TopicError, BrokerError
    """
    board = Board()
    ends = end_offsets(kafka, [topics.QUALITY_METRICS], timeout_s=timeout_s)
    for record in _tail(kafka, {at: max(end - GLANCE, 0) for at, end in ends.items() if end > 0}, timeout_s):
        metric = _decoded(record, QualityMetric)
        if metric is not None and metric.estimated:
            board.add_quality(metric)
    return board


def model_board(kafka: KafkaConfig, model: str, *, timeout_s: float = 30.0) -> Board:
    """Series and incidents of one model, as far as the newest 200,000 records of its partitions have them.

    Raises
    ------
    TopicError, BrokerError
    """
    board = Board()
    key = model.encode()
    series = (topics.QUALITY_METRICS, topics.DRIFT_METRICS)
    ends = end_offsets(kafka, series, timeout_s=timeout_s)
    counts = {topic: sum(1 for name, _ in ends if name == topic) for topic in series}
    own = {(topic, partition_of(key, count)) for topic, count in counts.items() if count}
    starts = {at: max(ends[at] - MOST_RECORDS, 0) for at in own if ends[at] > 0}
    for record in _tail(kafka, starts, timeout_s):
        if record.key != key:
            continue
        if record.topic == topics.QUALITY_METRICS:
            if (quality := _decoded(record, QualityMetric)) is not None:
                board.add_quality(quality)
        elif (drift := _decoded(record, DriftMetric)) is not None:
            board.add_drift(drift)
    for record in read_all(kafka, topics.ALERTS, timeout_s=timeout_s):
        if (alert := _decoded(record, Alert)) is not None:
            board.add_alert(alert)
    return board


def _tail(kafka: KafkaConfig, starts: dict[tuple[str, int], int], timeout_s: float) -> list[Record]:
    if not starts:
        return []
    with Tail(kafka, [], from_beginning=False, offsets=starts, timeout_s=timeout_s) as tail:
        return tail.read_to_end(timeout_s)


def _decoded(record: Record, kind: type[T]) -> T | None:
    """The event; None where the record is none that this release reads: it is not the reader's to judge."""
    try:
        return codec.decode(record.value or b"", kind)
    except (DecodeError, msgspec.MsgspecError):
        return None
