"""Raw consume: `Consumer.consume` with the hot path's fetch settings, doing nothing with what it gets. The limit.

Run as a process of its own: ``python -m benchmarks.peers.raw_consume SERVERS PREFIX GROUP TOTAL``. It prints one JSON
line: events, seconds and processor time from its first record to the last.
"""

from __future__ import annotations

import json
import sys
import time

from confluent_kafka import Consumer

from schemas.topics import GROUND_TRUTH, PREDICTIONS
from streams.kafka.config import KafkaConfig

BATCH = 20_000
_STILL_S = 60.0


def main(servers: str, prefix: str, group: str, total: int) -> None:
    """Consume `total` records."""
    kafka = KafkaConfig(servers, prefix=prefix)
    consumer = Consumer({**kafka.consumer(group), "enable.partition.eof": False})
    consumer.subscribe([kafka.topic(PREDICTIONS), kafka.topic(GROUND_TRUTH)])
    seen = 0
    # The group's assembly is not what is compared: time runs from the first record on.
    first = len(consumer.consume(1, _STILL_S))
    began, cpu = time.monotonic(), time.process_time()
    while first + seen < total:
        messages = consumer.consume(BATCH, 0.2)
        seen += len(messages)
        if not messages and time.monotonic() - began > _STILL_S + total / 10_000:
            raise TimeoutError(f"{first + seen} of {total} records came")
    seconds, cpu = time.monotonic() - began, time.process_time() - cpu
    consumer.close()
    print(json.dumps({"events": seen, "seconds": seconds, "cpu_seconds": cpu}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
