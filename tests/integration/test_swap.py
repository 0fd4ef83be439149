"""The serving agent on a real broker: a swap under load loses nothing, and what cannot be answered is a dead letter."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from onnx import ModelProto, TensorProto

from agents.artifacts import ArtifactStore
from agents.config import Settings
from agents.runtime import is_ready
from agents.serving import agent, model
from schemas.codec import decode, encode
from schemas.events import AnyServingEvent, CandidateStaged, InferenceRequest, ModelRefused, ModelSwapped, Prediction
from schemas.topics import (
    CATALOGUE,
    INFERENCE_REQUESTS,
    PREDICTIONS,
    REGISTRY_EVENTS,
    REGISTRY_STATE,
    SERVING_EVENTS,
    dead_letter_topic,
)
from streams.kafka.admin import ensure_topics
from streams.kafka.config import KafkaConfig
from streams.kafka.producer import EventProducer
from streams.kafka.reader import read_all
from tests.support.models import coin, put_version, say_state
from tests.support.onnx_models import coin as onnx_coin
from tests.support.wait import eventually

PARTITIONS = 4
DEAD = dead_letter_topic(INFERENCE_REQUESTS)
TOPICS = {
    name: CATALOGUE[name]
    for name in (INFERENCE_REQUESTS, PREDICTIONS, REGISTRY_STATE, REGISTRY_EVENTS, SERVING_EVENTS, DEAD)
}


@pytest.fixture
def settings(tmp_path: Path, kafka: KafkaConfig) -> Settings:
    ensure_topics(kafka, PARTITIONS, TOPICS)
    return Settings(home=tmp_path)


@pytest.fixture
def quick_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the child process out: it has a test of its own, and takes seconds."""
    monkeypatch.setattr(model, "check_in_child", lambda *_, **__: None)


@contextmanager
def serving(settings: Settings, kafka: KafkaConfig) -> Iterator[None]:
    stop = threading.Event()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            agent.run(settings, kafka, stop)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(30)
    assert not thread.is_alive()
    assert not failures, failures


def request(number: int, **over: object) -> bytes:
    fields: dict[str, object] = {"features": {"x": 1.0, "origin": "JFK"}, "model": "coin", **over}
    return encode(InferenceRequest(request_id=f"r{number}", event_time_ms=1_000 + number, **fields))  # type: ignore[arg-type]


def predictions(kafka: KafkaConfig) -> list[Prediction]:
    return [decode(record.value or b"", Prediction) for record in read_all(kafka, PREDICTIONS, timeout_s=20)]


def events(kafka: KafkaConfig, kind: type) -> list[AnyServingEvent]:
    found = [decode(r.value or b"", AnyServingEvent) for r in read_all(kafka, SERVING_EVENTS, timeout_s=20)]  # type: ignore[arg-type]
    return [event for event in found if isinstance(event, kind)]


def swapped_to(kafka: KafkaConfig, version: int) -> Callable[[], bool]:
    return lambda: [event.to_version for event in events(kafka, ModelSwapped)][-1:] == [version]


@pytest.mark.usefixtures("quick_check")
def test_swaps_under_load_lose_and_double_nothing(settings: Settings, kafka: KafkaConfig) -> None:
    store = ArtifactStore.of(settings)
    first, second = put_version(store, 1, coin(0.1), "promoted"), put_version(store, 2, coin(0.9), "validated")
    say_state(kafka, 1, 1, [first])
    sent = 0
    done = threading.Event()

    def load() -> None:
        nonlocal sent
        with EventProducer(kafka) as producer:
            while not done.is_set() and sent < 100_000:
                producer.send(INFERENCE_REQUESTS, request(sent), f"r{sent}".encode())
                sent += 1
                if sent % 20 == 0:
                    done.wait(0.02)

    with serving(settings, kafka):
        eventually(lambda: is_ready(settings, "serving"), timeout=30)
        producing = threading.Thread(target=load)
        producing.start()
        try:
            say_state(kafka, 2, 1, [first, second])
            eventually(lambda: events(kafka, CandidateStaged), timeout=30)
            say_state(kafka, 3, 2, [first, second])
            eventually(swapped_to(kafka, 2), timeout=30)
            say_state(kafka, 4, 1, [first, second])  # rolled back
            eventually(swapped_to(kafka, 1), timeout=30)
            say_state(kafka, 3, 2, [first, second])  # an old word, said again
            say_state(kafka, 5, 2, [first, second])
            eventually(swapped_to(kafka, 2), timeout=30)
        finally:
            done.set()
            producing.join()
        eventually(lambda: len(predictions(kafka)) >= sent, timeout=30)

    requests = read_all(kafka, INFERENCE_REQUESTS, timeout_s=20)
    made = {prediction.prediction_id: prediction for prediction in predictions(kafka)}
    assert len(requests) == sent > 200
    assert len(predictions(kafka)) == len(made) == sent
    assert read_all(kafka, DEAD, timeout_s=20) == []

    swaps = events(kafka, ModelSwapped)
    assert [(swap.from_version, swap.to_version, swap.epoch) for swap in swaps] == [
        (None, 1, 1),
        (1, 2, 3),
        (2, 1, 4),
        (1, 2, 5),
    ]
    # For every request, the swaps' offsets say which version answered it.
    for record in requests:
        due = [
            swap.to_version
            for swap in swaps
            if record.offset >= swap.offsets[INFERENCE_REQUESTS].get(str(record.partition), 0)
        ][-1]
        prediction = made[(record.key or b"").decode()]
        assert prediction.version == due
        assert prediction.probability == pytest.approx({1: 0.1, 2: 0.9}[due])
        assert prediction.prediction == int(due == 2)
        assert prediction.segment == {"origin": "JFK"}
    assert {prediction.version for prediction in made.values()} == {1, 2}


@pytest.mark.usefixtures("quick_check")
def test_swaps_without_traffic_and_tells_nothing_twice_after_a_restart(settings: Settings, kafka: KafkaConfig) -> None:
    store = ArtifactStore.of(settings)
    first, second = put_version(store, 1, coin(0.1), "promoted"), put_version(store, 2, coin(0.9), "validated")
    say_state(kafka, 1, 1, [first, second])
    with serving(settings, kafka):
        eventually(swapped_to(kafka, 1), timeout=30)
        say_state(kafka, 2, 2, [first, second])
        eventually(swapped_to(kafka, 2), timeout=30)
    with serving(settings, kafka):
        eventually(lambda: is_ready(settings, "serving"), timeout=30)
        with EventProducer(kafka) as producer:
            producer.send(INFERENCE_REQUESTS, request(1), b"r1")
        eventually(lambda: predictions(kafka), timeout=30)
    say_state(kafka, 3, 1, [first, second])  # while serving is down
    with serving(settings, kafka):
        eventually(swapped_to(kafka, 1), timeout=30)
    assert [(s.from_version, s.to_version) for s in events(kafka, ModelSwapped)] == [(None, 1), (1, 2), (2, 1)]
    assert [prediction.version for prediction in predictions(kafka)] == [2]


@pytest.mark.usefixtures("quick_check")
def test_what_cannot_be_answered_is_a_dead_letter_with_the_original_bytes(
    settings: Settings, kafka: KafkaConfig
) -> None:
    store = ArtifactStore.of(settings)
    versions = [put_version(store, 1, coin(0.1), "promoted"), put_version(store, 2, coin(0.9), "rejected")]
    say_state(kafka, 1, 1, versions)
    bad = {
        b"poison": (b"{\xff not json", "malformed-json"),
        b"missing": (b'{"request_id": "a", "model": "coin"}', "schema"),
        b"stranger": (request(2, model="nobody"), "unknown-model"),
        b"text": (request(3, features={"x": "ten"}), "schema"),
        b"rejected": (request(4, version=2), "unknown-version"),
        b"unborn": (request(5, version=9), "unknown-version"),
    }
    with EventProducer(kafka) as producer:
        for key, (value, _) in bad.items():
            producer.send(INFERENCE_REQUESTS, value, key, headers=[("trace", b"\x00\x01")])
        producer.send(INFERENCE_REQUESTS, request(6, features={}), b"r6")
        producer.send(INFERENCE_REQUESTS, request(7, version=1), b"r7")
    with serving(settings, kafka):
        eventually(lambda: len(read_all(kafka, DEAD, timeout_s=20)) == len(bad), timeout=30)
        eventually(lambda: len(predictions(kafka)) == 2, timeout=30)
    for record in read_all(kafka, DEAD, timeout_s=20):
        value, reason = bad[record.key or b""]
        headers = dict(record.headers or ())
        assert record.value == value
        assert headers["trace"] == b"\x00\x01"
        assert headers["__dlq.errors.reason"] == reason.encode()
        assert headers["__dlq.errors.topic"] == INFERENCE_REQUESTS.encode()


def test_an_altered_artifact_is_refused_and_the_last_good_version_goes_on(
    settings: Settings, kafka: KafkaConfig
) -> None:
    """With the check in a child process, as in production."""
    store = ArtifactStore.of(settings)
    first, second = put_version(store, 1, coin(0.1), "promoted"), put_version(store, 2, coin(0.9), "validated")
    altered = Path(store.path(second.artifact))
    data = bytearray(altered.read_bytes())
    data[len(data) // 2] ^= 1
    altered.write_bytes(data)
    say_state(kafka, 1, 1, [first])
    with serving(settings, kafka):
        eventually(swapped_to(kafka, 1), timeout=60)
        say_state(kafka, 2, 2, [first, second])
        eventually(lambda: events(kafka, ModelRefused), timeout=60)
        with EventProducer(kafka) as producer:
            producer.send(INFERENCE_REQUESTS, request(1), b"r1")
        eventually(lambda: predictions(kafka), timeout=30)
    (refused,) = events(kafka, ModelRefused)
    assert refused.version == 2
    assert "altered" in refused.reason
    assert [prediction.version for prediction in predictions(kafka)] == [1]
    assert [swap.to_version for swap in events(kafka, ModelSwapped)] == [1]


def test_an_onnx_version_takes_over_from_a_skops_one_and_gives_back(settings: Settings, kafka: KafkaConfig) -> None:
    """With the check in a child process; an ONNX file that names another file is refused like an altered one."""
    store = ArtifactStore.of(settings)
    outside = ModelProto.FromString(onnx_coin(0.5))
    outside.graph.initializer[0].external_data.add(key="location", value="/etc/passwd")
    outside.graph.initializer[0].data_location = TensorProto.EXTERNAL
    versions = [
        put_version(store, 1, coin(0.1), "promoted"),
        put_version(store, 2, onnx_coin(0.75), "validated"),
        put_version(store, 3, outside.SerializeToString(), "validated"),
    ]
    said = {1: 0.1, 2: 0.75}

    def answered(number: int) -> None:
        with EventProducer(kafka) as producer:
            producer.send(INFERENCE_REQUESTS, request(number), f"r{number}".encode())
        eventually(lambda: len(predictions(kafka)) == number, timeout=30)

    say_state(kafka, 1, 1, versions)
    with serving(settings, kafka):
        for epoch, champion in ((1, 1), (2, 2), (3, 1)):
            say_state(kafka, epoch, champion, versions)
            eventually(swapped_to(kafka, champion), timeout=60)
            answered(epoch)
        eventually(lambda: events(kafka, ModelRefused), timeout=60)
    made = sorted(predictions(kafka), key=lambda prediction: prediction.prediction_id)
    assert [one.version for one in made] == [1, 2, 1]
    assert [one.probability for one in made] == pytest.approx([said[one.version] for one in made])
    assert [one.prediction for one in made] == [0, 1, 0]
    (refused,) = events(kafka, ModelRefused)
    assert isinstance(refused, ModelRefused)
    assert refused.version == 3
    assert "lies outside of the file, in '/etc/passwd'" in refused.reason
