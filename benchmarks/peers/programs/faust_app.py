"""The join benchmark's work for Faust: two agents that share one dict a side. Usage: faust_app.py SETTINGS.json

At least once, and in memory: a restart loses what waits, which Faust's tables would keep at the price of a changelog
record an event (and of their known defects). Raw bytes are decoded with msgspec, which is faster than Faust's models.
"""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterable
from pathlib import Path

import faust
import msgspec
from windowed import WindowedCounts


class Prediction(msgspec.Struct, gc=False):
    """What the join needs of a prediction."""

    model: str
    event_time_ms: int
    probability: float


class Label(msgspec.Struct, gc=False):
    """What the join needs of a label."""

    label: int


def build(settings: dict[str, str]) -> faust.App:
    """The application with its agents."""
    app = faust.App(
        settings["group"],
        broker=f"kafka://{settings['servers']}",
        datadir=settings["folder"],
        web_enabled=False,
        topic_disable_leader=True,
        consumer_auto_offset_reset="earliest",
        # Committing takes it 0.3 s: at shorter intervals commits overlap.
        broker_commit_interval=0.5,
        broker_commit_every=100_000,
        stream_buffer_maxsize=65_536,
        stream_wait_empty=False,
        consumer_max_fetch_size=8_388_608,
        broker_max_poll_records=10_000,
    )
    predictions = app.topic(settings["predictions"], value_type=bytes, value_serializer="raw", key_serializer="raw")
    labels = app.topic(settings["labels"], value_type=bytes, value_serializer="raw", key_serializer="raw")
    output = app.topic(settings["output"], value_type=bytes, value_serializer="raw", key_serializer="raw")
    waiting: dict[bytes, Prediction] = {}
    early: dict[bytes, int] = {}
    counts = WindowedCounts()
    prediction_of = msgspec.json.Decoder(Prediction).decode
    label_of = msgspec.json.Decoder(Label).decode

    @app.agent(predictions, name="predictions", concurrency=1)
    async def take_predictions(stream: AsyncIterable[bytes]) -> None:
        async for event in stream.events():
            key = event.message.key
            prediction = prediction_of(event.value)
            label = early.pop(key, None)
            if label is None:
                waiting[key] = prediction
            else:
                counts.add(event.message.partition, prediction.event_time_ms, prediction.probability, label)

    @app.agent(labels, name="labels", concurrency=1)
    async def take_labels(stream: AsyncIterable[bytes]) -> None:
        async for event in stream.events():
            key = event.message.key
            label = label_of(event.value).label
            prediction = waiting.pop(key, None)
            if prediction is None:
                early[key] = label
            else:
                counts.add(event.message.partition, prediction.event_time_ms, prediction.probability, label)

    @app.timer(float(settings["commit_interval_s"]))
    async def send() -> None:
        for document in counts.take_changed():
            await output.send(key=b"bench", value=document)

    return app


if __name__ == "__main__":
    application = build(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    sys.argv = [sys.argv[0], "worker", "-l", "warn"]
    application.main()
