"""The join benchmark's work for Quix Streams: `join_interval`, then counts. Usage: quix_app.py SETTINGS.json

The join's stores are RocksDB with changelogs, as Quix Streams has them by default. A windowed aggregate per model would
first send every pair through a repartition topic; the counts are held in memory instead, which costs Quix nothing.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from quixstreams import Application, message_context
from quixstreams.models import Deserializer
from windowed import WindowedCounts


class Prediction(msgspec.Struct, gc=False):
    """What the join needs of a prediction."""

    model: str
    event_time_ms: int
    probability: float


class Label(msgspec.Struct, gc=False):
    """What the join needs of a label."""

    event_time_ms: int
    label: int


class Fields(Deserializer):
    """JSON to a short list, with msgspec: what is put into the stores is small."""

    def __init__(self, wanted: type[msgspec.Struct]) -> None:
        super().__init__()
        self._decode = msgspec.json.Decoder(wanted).decode
        self._fields = wanted.__struct_fields__

    def __call__(self, value: bytes, ctx: Any) -> list[Any]:
        """(event time, …) of a record."""
        found = self._decode(value)
        if isinstance(found, Prediction):
            return [found.event_time_ms, found.model, found.probability]
        return [found.event_time_ms, found.label]


def coarse_time_ms(horizon_ms: int) -> Callable[[list[Any], Any, float, Any], int]:
    """Event time on a grid of the horizon.

    Either side of `join_interval` looks only back in time, so a label that is read before its prediction is lost. That
    happens: while the first fetch of a topic is under way, Quix may take it for idle and go on with the other (seen in
    one run of two). On one grid point both orders find each other.
    """

    def extract(value: list[Any], headers: Any, timestamp: float, kind: Any) -> int:
        return int(value[0]) // horizon_ms * horizon_ms

    return extract


def main(settings: dict[str, Any]) -> None:
    """Run until told to end."""
    app = Application(
        broker_address=settings["servers"],
        consumer_group=settings["group"],
        auto_offset_reset="earliest",
        commit_interval=settings["commit_interval_s"],
        state_dir=settings["folder"],
        auto_create_topics=True,
        processing_guarantee="at-least-once",
        max_partition_buffer_size=100_000,
        loglevel="WARNING",
        consumer_extra_config={
            "queued.min.messages": 1_000_000,
            "queued.max.messages.kbytes": 98_304,
            "fetch.max.bytes": 33_554_432,
            "max.partition.fetch.bytes": 8_388_608,
        },
        producer_extra_config={"compression.type": "lz4", "linger.ms": 20, "partitioner": "murmur2_random"},
    )
    predictions = app.topic(
        settings["predictions"],
        key_deserializer="bytes",
        value_deserializer=Fields(Prediction),
        timestamp_extractor=coarse_time_ms(settings["horizon_ms"]),
    )
    labels = app.topic(
        settings["labels"],
        key_deserializer="bytes",
        value_deserializer=Fields(Label),
        timestamp_extractor=coarse_time_ms(settings["horizon_ms"]),
    )
    counts = WindowedCounts()
    lock = threading.Lock()

    def count(pair: list[Any]) -> None:
        with lock:
            counts.add(message_context().partition, pair[0], pair[1], pair[2])

    joined = app.dataframe(predictions).join_interval(
        app.dataframe(labels),
        how="inner",
        on_merge=lambda prediction, label: [prediction[0], prediction[2], label[1]],
        grace_ms=settings["horizon_ms"],
        backward_ms=0,
        forward_ms=settings["horizon_ms"],
    )
    joined.update(count)
    over = threading.Event()

    def send() -> None:
        with app.get_producer() as producer:
            while not over.wait(settings["commit_interval_s"]):
                with lock:
                    documents = counts.take_changed()
                for document in documents:
                    producer.produce(settings["output"], value=document, key=b"bench")
                producer.poll(0)

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    try:
        app.run()
    finally:
        over.set()
        sender.join(5)


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
