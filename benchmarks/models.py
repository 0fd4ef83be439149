"""`driftline bench models`: the same traffic with 20 features over 1, 100 and 18,000 models, on one worker.

Every model is one of its own in the registry: a version, a specification and reference statistics that no other model
has. One window, open all the time, overall segment. A row has two stretches on one running worker: a tenth of the
traffic first, in which models are met for the first time (plans are compiled then); the rest is the figure. It ends
when both stages have committed everything, so an aggregation that lags counts. Then the window of every model ends at
one moment, and all of them are closed: ``closing_s``.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from benchmarks import installation
from benchmarks.harness import Contender, Measurement, Note, compare
from benchmarks.installation import COMMIT_INTERVAL_MS, PARTITIONS, Installation, announce
from benchmarks.processes import cores
from benchmarks.progress import Ends, Progress
from benchmarks.traffic import START_MS
from benchmarks.worker import TOPICS, Worker, check_totals
from schemas.codec import decode, encode
from schemas.events import GroundTruth, Heartbeat, Prediction, QualityMetric
from schemas.reference import CategoricalReference, NumericReference, ReferenceStatistics
from schemas.specification import parse
from schemas.topics import GROUND_TRUTH, JOINED_DELTAS, PREDICTIONS, QUALITY_METRICS
from streams.kafka.admin import delete_topics, end_offsets
from streams.kafka.config import KafkaConfig
from streams.kafka.embedded import EmbeddedKafka
from streams.kafka.producer import EventProducer
from streams.kafka.reader import Tail
from streams.reference import compile_reference

NUMERIC: Final = tuple(f"x{n:02d}" for n in range(16))
CATEGORICAL: Final = tuple(f"c{n}" for n in range(4))
CATEGORIES: Final = tuple(f"v{n:02d}" for n in range(12))
MODELS: Final = (1, 100, 18_000)
_ROWS: Final = 4_000
_DAY_MS: Final = 86_400_000
_CHUNK: Final = 20_000

SPECIFICATION: Final = f"""
[model]
name = "NAME"
task = "binary"
[data]
id = "id"
event_time = "at"
label = "y"
max_label_delay = "1d"
[features]
{chr(10).join(f'{name} = "numeric"' for name in NUMERIC)}
{chr(10).join(f'{name} = "categorical"' for name in CATEGORICAL)}
[metrics]
primary = "roc_auc"
watch = ["roc_auc", "brier", "accuracy"]
windows = ["1d"]
"""


def run(
    *,
    events: int = 1_000_000,
    rounds: int = 1,
    models: Sequence[int] = MODELS,
    use_cores: int | None = 2,
    note: Note = lambda _: None,
) -> dict[str, Any]:
    """Measure; returns the document of ``driftline bench models --json``.

    Parameters
    ----------
    events : int
        Predictions, and as many labels; a tenth more comes before, to meet every model.
    rounds : int
    models : sequence of int
        Numbers of models; the ratios compare the others with the first.
    use_cores : int, optional
        Cores for everything, the broker included.
    note : callable
        Gets lines of progress.
    """
    counts = list(dict.fromkeys(models))
    with (
        cores(use_cores) as chosen,
        tempfile.TemporaryDirectory(prefix="driftline-bench-") as folder,
        EmbeddedKafka(Path(folder)) as broker,
    ):
        servers = broker.start()

        @contextmanager
        def prepare(number: int) -> Iterator[int]:
            yield number

        def contender(count: int) -> Contender[int]:
            def measure(number: int) -> Measurement:
                return _measure(installation.prepare(servers, Path(folder), f"r{number}m{count}"), count, events, note)

            return Contender(_name(count), version("driftline"), measure, about={"models": count})

        found = compare(
            "models",
            [contender(count) for count in counts],
            rounds,
            prepare,
            baseline=_name(counts[0]),
            settings={
                "partitions": PARTITIONS,
                "commit_interval_ms": COMMIT_INTERVAL_MS,
                "predictions": events,
                "labels": events,
                "warm_up": events // 10,
                "numeric_features": len(NUMERIC),
                "categorical_features": len(CATEGORICAL),
                "windows": ["1d"],
                "segments": 0,
                "cores": chosen,
            },
            note=note,
        )
        return found | {"rss_bytes_per_model": bytes_per_model(found["rows"])}


def bytes_per_model(rows: Sequence[Mapping[str, Any]]) -> int | None:
    """What one more model takes of a worker's memory: by the rows with the fewest and the most models.

    Examples
    --------
    >>> bytes_per_model([{"models": 1, "rss_mib": 100.0}, {"models": 1025, "rss_mib": 120.0}])
    20480
    """
    measured = [row for row in rows if row.get("rss_mib") is not None]
    fewest, most = (pick(measured, key=lambda row: row["models"]) for pick in (min, max))
    if fewest["models"] == most["models"]:
        return None
    return int((most["rss_mib"] - fewest["rss_mib"]) * 2**20 / (most["models"] - fewest["models"]))


def _name(count: int) -> str:
    return f"{count} model" + ("s" if count != 1 else "")


def _measure(load: Installation, models: int, events: int, note: Note) -> Measurement:
    try:
        began = time.monotonic()
        register(load, models)
        note(f"models: {models} registered in {time.monotonic() - began:.0f} s")
        warm = events // 10
        _produce(load.kafka, models, 0, warm)
        met = _ends(load.kafka)
        _produce(load.kafka, models, warm, events)
        with Worker(load.settings) as worker:
            first = worker.work_off(met)
            span = worker.work_off(_ends(load.kafka))
            cpu, at = worker.child.cpu_seconds(), time.monotonic()
            _caught_up(worker, load.kafka)
            behind = time.monotonic() - at
            seconds = span.seconds + behind
            spent = span.cpu_seconds + worker.child.cpu_seconds() - cpu
            rss = worker.child.peak_rss_bytes
            seconds_to_close = _closed(worker, load.kafka, models)
            note(f"models: {models} closed their window in {seconds_to_close:.1f} s")
            rss_closing = worker.child.peak_rss_bytes
        if not span.events:
            raise ValueError(f"{events} events fit into one commit: ask for more")
        total = warm + events
        check_totals(load.kafka, predictions=total, labelled=total, labels_matched=total)
    finally:
        delete_topics(load.kafka)
    return Measurement(
        value=span.events / seconds,
        cpu_seconds=spent,
        rss_mib=max(first.peak_rss_bytes, rss) / 2**20,
        details={
            "seconds": seconds,
            "cpu_us_per_event": spent / max(span.events, 1) * 1e6,
            "aggregation_behind_s": behind,
            "first_meeting_rate": first.rate,
            "start_s": first.waited_s,
            "closing_s": seconds_to_close,
            "rss_closing_mib": max(first.peak_rss_bytes, rss_closing) / 2**20,
        },
    )


def _ends(kafka: KafkaConfig) -> Ends:
    return {partition: end for partition, end in end_offsets(kafka, TOPICS).items() if end}


def _caught_up(worker: Worker, kafka: KafkaConfig) -> None:
    """Wait until the aggregation has committed what the join sent.

    Transaction markers stand behind the last record, so the last offset itself is never committed: what counts is
    that nothing but markers is left.
    """
    progress = Progress(kafka, "monitoring-aggregate")
    deadline = time.monotonic() + 1800
    ends = {partition: end for partition, end in end_offsets(kafka, [JOINED_DELTAS]).items() if end}
    while progress.committed(ends) < sum(ends.values()) - len(ends):
        worker.child.check()
        if time.monotonic() > deadline:
            raise TimeoutError(f"the aggregation lags after 30 minutes; the end of the log:\n{worker.child.tail()}")
        time.sleep(0.05)


def _closed(worker: Worker, kafka: KafkaConfig, models: int) -> float:
    """Let the window of every model end at one moment; seconds until the last one's closed metrics are readable."""
    waiting = set(map(model_name, range(models)))
    with closing(Tail(kafka, [QUALITY_METRICS], from_beginning=False)) as tail:
        began = time.monotonic()
        with EventProducer(kafka) as producer:
            beat = encode(Heartbeat(event_time_ms=START_MS + 4 * _DAY_MS))
            for topic in (PREDICTIONS, GROUND_TRUTH):
                for partition in range(PARTITIONS):
                    producer.send(topic, beat, None, [("ce_type", b"Heartbeat")], partition)
        deadline = time.monotonic() + 1800
        while waiting:
            worker.child.check()
            for record in tail.poll(0.1):
                metric = decode(record.value or b"", QualityMetric)
                if metric.state == "closed" and not metric.estimated:
                    waiting.discard(metric.model)
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"{len(waiting)} windows are open after 30 minutes; the end of the log:\n{worker.child.tail()}"
                )
        return time.monotonic() - began


# ------------------------------------------------------------------------------------------------- models


def model_name(number: int) -> str:
    """Name of a model."""
    return f"m{number:05d}"


def register(place: Installation, models: int) -> None:
    """Put models onto `registry-state`, each with a specification and reference statistics of its own."""
    base = _base()
    names = map(model_name, range(models))
    announce(place, ((name, SPECIFICATION.replace("NAME", name), _own(base, n)) for n, name in enumerate(names)))


def _base() -> ReferenceStatistics:
    rng = np.random.default_rng(7)
    scores = rng.beta(2, 5, _ROWS)
    return compile_reference(
        parse(SPECIFICATION),
        {
            **{name: rng.normal(0, 1, _ROWS) for name in NUMERIC},
            **{name: np.array(CATEGORIES, dtype=object)[rng.integers(0, 12, _ROWS)] for name in CATEGORICAL},
        },
        labels=(rng.random(_ROWS) < scores).astype(int),
        predictions=(scores >= 0.5).astype(int),
        scores=scores,
        event_time_ms=START_MS - 14 * _DAY_MS + np.arange(_ROWS) * (14 * _DAY_MS // _ROWS),
    )


def _own(base: ReferenceStatistics, number: int) -> ReferenceStatistics:
    """The reference of one model: every edge and count differs from every other model's."""
    shift = number * 1e-6

    def moved(feature: NumericReference | CategoricalReference) -> NumericReference | CategoricalReference:
        if isinstance(feature, CategoricalReference):
            return msgspec.structs.replace(feature, counts=[count + number for count in feature.counts])
        return msgspec.structs.replace(
            feature,
            edges=[edge + shift for edge in feature.edges],
            counts=[count + number for count in feature.counts],
            mean=feature.mean + shift,
        )

    assert base.scores is not None
    squeezed = 1 / (1 + shift)
    scores = msgspec.structs.replace(base.scores, edges=[edge * squeezed for edge in base.scores.edges])
    return msgspec.structs.replace(
        base, features={name: moved(feature) for name, feature in base.features.items()}, scores=scores
    )


# ------------------------------------------------------------------------------------------------ traffic


def _produce(kafka: KafkaConfig, models: int, start: int, count: int) -> None:
    with EventProducer(kafka) as producer:
        for topic, make in ((PREDICTIONS, predictions), (GROUND_TRUTH, labels)):
            for key, value in make(models, start, count):
                producer.send(topic, value, key)


def predictions(models: int, start: int, count: int) -> Iterator[tuple[bytes, bytes]]:
    """(key, value) of predictions `start` to `start` + `count` - 1, dealt out to models at random."""
    encoder = msgspec.json.Encoder()
    for first in range(start, start + count, _CHUNK):
        size = min(_CHUNK, start + count - first)
        rng = np.random.default_rng(first)
        scores, owners = _drawn(rng, models, size)
        numbers = np.round(rng.normal(0, 1, (size, len(NUMERIC))), 3).tolist()
        names = rng.integers(0, len(CATEGORIES), (size, len(CATEGORICAL))).tolist()
        for i in range(size):
            features: dict[str, Any] = dict(zip(NUMERIC, numbers[i], strict=True))
            features.update(zip(CATEGORICAL, (CATEGORIES[at] for at in names[i]), strict=True))
            value = Prediction(
                prediction_id=f"p{first + i:010d}",
                model=model_name(owners[i]),
                version=1,
                event_time_ms=START_MS + (first + i) % 3_600_000,
                features=features,
                prediction=int(scores[i] >= 0.5),
                probability=scores[i],
            )
            yield value.prediction_id.encode(), encoder.encode(value)


def labels(models: int, start: int, count: int) -> Iterator[tuple[bytes, bytes]]:
    """(key, value) of their labels, a minute later."""
    encoder = msgspec.json.Encoder()
    for first in range(start, start + count, _CHUNK):
        size = min(_CHUNK, start + count - first)
        scores, _ = _drawn(np.random.default_rng(first), models, size)
        truths = np.random.default_rng(first + 1).random(size) < np.array(scores)
        for i in range(size):
            key = f"p{first + i:010d}"
            at = START_MS + (first + i) % 3_600_000 + 60_000
            yield (
                key.encode(),
                encoder.encode(GroundTruth(prediction_id=key, event_time_ms=at, label=int(truths[i]))),
            )


def _drawn(rng: np.random.Generator, models: int, size: int) -> tuple[list[float], list[int]]:
    scores = np.round(rng.beta(2, 5, size), 4).tolist()
    owners = np.minimum((rng.random(size) * models).astype(np.int64), models - 1).tolist()
    return scores, owners
