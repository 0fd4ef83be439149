"""A producer that keeps to a rate: predictions, and each one's label a moment later. A process of its own.

``python -m benchmarks.paced SERVERS PREFIX RATE SECONDS DELAY_MS`` prints one line at the end: events sent, seconds
taken and the longest it fell behind its own schedule.
"""

from __future__ import annotations

import json
import sys
import time

from confluent_kafka import Producer

from benchmarks.bulk import Bulk, Records
from benchmarks.gate import id_range
from schemas.topics import GROUND_TRUTH, PREDICTIONS
from streams.kafka.config import KafkaConfig

TICK_S = 0.02


def paced(kafka: KafkaConfig, bulk: Bulk, rate: float, seconds: float) -> dict[str, float]:
    """Send the predictions of `bulk` at `rate` / 2 a second and its labels as fast, `bulk.delay_ms` behind.

    Returns
    -------
    dict
        ``events``, ``seconds`` and ``most_behind_s``.
    """
    producer = Producer(kafka.producer(None))
    predictions, truths = kafka.topic(PREDICTIONS), kafka.topic(GROUND_TRUTH)
    began = time.monotonic()
    predicted = labelled = 0
    behind = 0.0
    while (passed := time.monotonic() - began) < seconds:
        due = min(int(passed * rate / 2), bulk.count)
        due_labels = min(max(0, int((passed - bulk.delay_ms / 1_000) * rate / 2)), due)
        _send(producer, predictions, bulk.predictions(predicted, due))
        _send(producer, truths, bulk.labels(id_range(labelled, due_labels)))
        predicted, labelled = due, due_labels
        took = time.monotonic() - began - passed
        behind = max(behind, took - TICK_S)
        time.sleep(max(0.0, TICK_S - took))
    ended = time.monotonic() - began
    producer.flush(60)
    return {"events": predicted + labelled, "seconds": ended, "most_behind_s": max(behind, 0.0)}


def _send(producer: Producer, topic: str, records: Records) -> None:
    produce = producer.produce
    for key, value in zip(*records, strict=True):
        while True:
            try:
                produce(topic, value, key)
                break
            except BufferError:
                producer.poll(0.01)
    producer.poll(0)


def main(servers: str, prefix: str, rate: str, seconds: str, delay_ms: str) -> None:
    """Run from the command line."""
    span_s = float(seconds)
    bulk = Bulk(max(1, int(float(rate) / 2 * span_s)), seed=2, span_ms=int(span_s * 1_000), delay_ms=int(delay_ms))
    print(json.dumps(paced(KafkaConfig(servers, prefix=prefix), bulk, float(rate), span_s)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:6])
