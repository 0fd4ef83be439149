"""A person on the real broker: nothing plain is written on the way, and nothing can be read after the erasure."""

from __future__ import annotations

import json
import logging
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from agents.access.logic import local_principal
from agents.access.signatures import CommandSigner
from agents.archiving import agent as archiving
from agents.archiving.dataset import connect
from agents.artifacts import ArtifactStore
from agents.config import Settings, load_settings
from agents.database.engine import make_engine, session_factory
from agents.database.outbox import OutboxRelay
from agents.monitoring import agent as monitoring
from agents.monitoring import journal
from agents.monitoring.registry_view import RegistryView
from agents.retraining.register import register_project
from agents.runtime import clear_ready, is_ready
from agents.serving import agent as serving
from agents.serving import model
from agents.subjects.erasure import erase
from agents.subjects.keys import SubjectKeys
from agents.subjects.opening import Opened, opened_records
from agents.subjects.sealing import MARK, SEALED, Rule, key_id, sealed_request
from agents.subjects.sending import Sealer
from schemas.codec import decode, decode_prediction, encode
from schemas.events import DeltaBatch, GroundTruth, InferenceRequest, QualityMetric
from schemas.topics import (
    CATALOGUE,
    GROUND_TRUTH,
    INFERENCE_REQUESTS,
    JOINED_DELTAS,
    PREDICTIONS,
    QUALITY_METRICS,
    dead_letter_topic,
)
from streams.join.batch import JoinLimits
from streams.kafka.admin import ensure_topics
from streams.kafka.config import KafkaConfig
from streams.kafka.producer import EventProducer
from streams.kafka.reader import read_all
from streams.kafka.records import Record
from streams.native.choice import join_class
from streams.packed import decode_delta
from streams.state.store import PartitionStore
from tests.support.agents import running
from tests.support.fleet import shares
from tests.support.joins import Contributions, contributions
from tests.support.wait import eventually
from tests.unit.agents.retraining.projects import SPEC, write_project
from tests.unit.agents.retraining.tables import START_MS, toy_table

LETTERS = dead_letter_topic(INFERENCE_REQUESTS)
WHO, X = "Ann Example, Elm Street 7", 41.7071067811865
PEOPLE = 5
ASKED = 60


@pytest.fixture
def settings(tmp_path: Path, kafka: KafkaConfig, monkeypatch: pytest.MonkeyPatch) -> Settings:
    ensure_topics(kafka, 2)
    monkeypatch.setattr(model, "check_in_child", lambda *_, **__: None)
    return load_settings(
        home=tmp_path / "home", artifacts_url="", database_url="", archive_url="", partitions=2, prefix=kafka.prefix,
        bootstrap_servers=kafka.bootstrap_servers, archive_idle_ms=200,
    )  # fmt: skip


def person(n: int) -> str:
    return WHO if n % PEOPLE == 0 else f"citizen-{n % PEOPLE}"


def register(settings: Settings, kafka: KafkaConfig, folder: Path) -> None:
    text = SPEC.replace('segments = ["region"]', 'segments = ["region"]\nsubject = "who"')
    rows = toy_table(6)
    rows.assign(who=[person(n) for n in range(len(rows))]).to_csv(folder / "t.csv", index=False)
    project = write_project(folder / "p", spec=text)
    register_project(settings, None, project, folder / "t.csv", actor="ada")
    engine = make_engine(settings.database)
    with EventProducer(kafka) as producer:
        OutboxRelay(session_factory(engine), producer, "registry").publish_pending()
    engine.dispose()


def send(settings: Settings, kafka: KafkaConfig) -> None:
    """Requests as `driftline produce` seals them, two that cannot be answered, and labels."""
    sealer = Sealer.of(settings)
    with EventProducer(kafka) as producer:
        for n in range(ASKED + 2):
            features: dict[str, Any] = {"who": person(n), "x": X if n % PEOPLE == 0 else 0.5, "region": "north"}
            features["noise"] = 0.25
            if n >= ASKED:
                features |= {"who": WHO, "noise": "Elm Street"}
            request = InferenceRequest(
                request_id=f"r{n}", model="toy", event_time_ms=START_MS + 6 * 86_400_000 + n, features=features
            )
            data = sealer.value(INFERENCE_REQUESTS, encode(request))
            producer.send(INFERENCE_REQUESTS, data, f"r{n}".encode())
            truth = GroundTruth(prediction_id=f"r{n}", event_time_ms=START_MS + 6 * 86_400_000 + n + 1, label=n % 2)
            producer.send(GROUND_TRUTH, encode(truth), f"r{n}".encode())


def everything(kafka: KafkaConfig) -> dict[str, list[Record]]:
    return {topic: read_all(kafka, topic, timeout_s=20) for topic in CATALOGUE}


def plain(data: bytes) -> bool:
    """Whether bytes tell something of the person."""
    return any(
        secret in data
        for secret in (b"Ann Example", b"Elm Street", b"41.70710678", struct.pack("<d", X), struct.pack(">d", X))
    )


def tellers(settings: Settings, kafka: KafkaConfig) -> list[str]:
    """Places that tell something of the person: records of topics, files of home, texts of Parquet files."""
    found = []
    for topic, records in everything(kafka).items():
        for record in records:
            parts = [record.key, record.value, *(data for _, data in record.headers or ())]
            found += [f"{topic}@{record.offset}" for part in parts if part is not None and plain(part)]
    for path in settings.home.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            if data[:4] == b"PAR1":
                data += repr(pq.read_table(path, partitioning=None).to_pydict()).encode()
            found += [str(path)] * plain(data)
    return found


def test_nothing_of_a_person_is_left(settings: Settings, kafka: KafkaConfig, tmp_path: Path) -> None:
    register(settings, kafka, tmp_path)
    failures: list[BaseException] = []
    with running(settings, kafka, failures, serving.run, monitoring.run, archiving.run):
        eventually(lambda: is_ready(settings, "serving") and is_ready(settings, "monitoring"), timeout=60)
        send(settings, kafka)
        eventually(lambda: failures or joined(kafka) == ASKED, timeout=60)
        eventually(lambda: failures or archived(settings) == ASKED, timeout=30)
        eventually(lambda: failures or len(read_all(kafka, LETTERS, timeout_s=20)) == 2, timeout=30)
    assert tellers(settings, kafka) == []

    keys = SubjectKeys.of(settings)
    answers = [record for record in everything(kafka)[PREDICTIONS] if record.value and MARK in record.value]
    assert len(answers) == ASKED
    opened = [decode_prediction(record.value or b"") for record in opened_records(keys, answers, {})]
    assert sum(one.features.get("who") == WHO and one.features.get("x") == X for one in opened) == ASKED // PEOPLE
    assert asked(settings) == {False: ASKED}

    sessions = session_factory(make_engine(settings.database))
    done = erase(sessions, keys.master, ArtifactStore.of(settings), WHO, local_principal("ann"))
    assert (done.keys, done.trained, done.left) == (1, {"toy": [1]}, [])
    keys = SubjectKeys.of(settings)
    again = [decode_prediction(record.value or b"") for record in opened_records(keys, answers, {})]
    assert not any("Ann" in json.dumps(one.features) for one in again)
    assert sum("who" in one.features for one in again) == ASKED - ASKED // PEOPLE
    assert asked(settings) == {False: ASKED - ASKED // PEOPLE, True: ASKED // PEOPLE}
    for record in everything(kafka)[LETTERS]:
        assert MARK in (record.value or b"")
    assert tellers(settings, kafka) == []


def joined(kafka: KafkaConfig) -> int:
    return sum(record.totals["predictions"] for _, record in journal.newest(kafka).values())


def archived(settings: Settings) -> int:
    return sum(asked(settings).values())


def asked(settings: Settings) -> dict[bool, int]:
    """Predictions of the archive by whether they were erased."""
    engine = make_engine(settings.database)
    with session_factory(engine, read_only=True)() as session:
        connection = connect(session, settings.archive, SubjectKeys.of(settings))
    found = connection.execute(
        "SELECT json_exists(features, '/$erased'), count(*) FROM predictions GROUP BY 1"
    ).fetchall()
    connection.close()
    engine.dispose()
    return dict(found)


def test_workers_that_run_forget_too(
    settings: Settings, kafka: KafkaConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "driftline.monitoring")
    register(settings, kafka, tmp_path)
    second = settings.model_copy(update={"slot": "1"})
    failures: list[BaseException] = []

    with (
        serving_processes(settings, second),
        running(settings, kafka, failures, monitoring.run),
        EventProducer(kafka) as producer,
    ):
        eventually(
            lambda: failures or (is_ready(settings, "monitoring") and shares(kafka, "serving") == [1, 1]), timeout=60
        )
        send(settings, kafka)
        ask(producer, 0, WHO)  # plain, and of both workers: each has the key at hand
        eventually(lambda: failures or joined(kafka) == ASKED + 2, timeout=60)
        before = [ids(kafka, f"ask-0-{partition}") for partition in (0, 1)]
        known = SubjectKeys.of(settings)
        answers = read_all(kafka, PREDICTIONS, timeout_s=20)
        told: list[Opened] = []
        opened_records(known, answers, {}, told)
        old = known.of_subjects([WHO])[WHO]
        assert [set(found) for found in before] == [{old.id}, {old.id}]
        late = [asked_of(1, partition, WHO) for partition in (0, 1)]
        rule = Rule("who", frozenset())
        late = [sealed_request(request, rule, old, INFERENCE_REQUESTS) for request in late]
        sessions = session_factory(make_engine(settings.database))
        erase(sessions, known.master, ArtifactStore.of(settings), WHO, local_principal("ann"))
        eventually(lambda: failures or caplog.text.count("laid bare") == 2, timeout=20)
        rounds = iter(range(2, 100))

        def somebody_new() -> bool:
            ask(producer, n := next(rounds), WHO)
            eventually(lambda: failures or all(ids(kafka, f"ask-{n}-{p}") for p in (0, 1)), timeout=20)
            return all(ids(kafka, f"ask-{n}-{p}")[0] != old.id for p in (0, 1))

        eventually(somebody_new, timeout=20)
        newest = max(
            int(record.key.split(b"-")[1]) for record in everything(kafka)[PREDICTIONS] if b"ask" in record.key
        )
        assert len({ids(kafka, f"ask-{newest}-{p}")[0] for p in (0, 1)}) == 1, "both have the same new key"
        for partition, request in enumerate(late):
            key = request.request_id.encode()
            producer.send(INFERENCE_REQUESTS, encode(request), key, None, partition)
        eventually(lambda: failures or reasons(kafka).count(b"erased") == 2, timeout=20)
        # What was still to come would be counted by the worker that follows.
        eventually(lambda: failures or joined(kafka) == len(read_all(kafka, PREDICTIONS, timeout_s=20)), timeout=60)
        eventually(lambda: failures or set(windows(kafka).values()) == {ASKED}, timeout=60)
    assert caplog.text.count("laid bare") == 2, "once in each partition"

    state = settings.state_dir / "monitoring-join-0"
    gone = [one for one in told if one.key == old.id]
    assert len(gone) == ASKED // PEOPLE + 2
    before_rebuild = counted(kafka), windows(kafka)
    totals = [newest_totals(kafka, partition) for partition in (0, 1)]
    digests = [digest(settings, state / str(partition), gone) for partition in (0, 1)]
    shutil.rmtree(state)
    rebuild(settings, kafka)
    assert [digest(settings, state / str(partition), gone) for partition in (0, 1)] == digests
    shutil.rmtree(state)
    caplog.clear()
    clear_ready(settings, "monitoring")
    with running(settings, kafka, failures, monitoring.run):
        eventually(lambda: failures or is_ready(settings, "monitoring"), timeout=60)
    assert caplog.text.count("rebuilt from") == 2
    for partition in (0, 1):
        digest(settings, state / str(partition), gone)
    assert [newest_totals(kafka, partition) for partition in (0, 1)] == totals
    assert counted(kafka) == before_rebuild[0], "nothing is counted again"
    assert windows(kafka).items() >= before_rebuild[1].items()


SERVE = """
import signal, threading
from agents.bootstrap import kafka_config
from agents.config import load_settings
from agents.serving import agent, model

model.check_in_child = lambda *_, **__: None  # takes seconds, and has its own test
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
settings = load_settings()
agent.run(settings, kafka_config(settings), stop)
"""


@contextmanager
def serving_processes(*settings: Settings) -> Iterator[None]:
    """A worker each, as a process: what one knows of keys the other cannot see, and no cache is shared."""
    workers = [subprocess.Popen([sys.executable, "-c", SERVE], env=each.environment()) for each in settings]
    try:
        yield
        assert [worker.poll() for worker in workers] == [None] * len(workers)
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.wait(30)
    assert [worker.returncode for worker in workers] == [0] * len(workers)


def rebuild(settings: Settings, kafka: KafkaConfig) -> None:
    """Rebuild monitoring's folders as of the journal, and no further.

    A worker goes on at once: it is idle only when it has seen the ends of its topics, and idleness is part of state.
    """
    signer, keys = CommandSigner.of(settings.home, kafka), SubjectKeys.of(settings)
    registry = RegistryView(kafka, ArtifactStore.of(settings), signer=signer, keys=keys)
    try:
        states = monitoring.join_states(settings, kafka, registry, 2)
        for partition, newest in states.newest({}).items():
            states.open(partition, newest).store.close()
    finally:
        registry.close()


def counted(kafka: KafkaConfig) -> Contributions:
    """What all deltas add up to."""
    records = [decode_delta(record.value or b"") for record in read_all(kafka, JOINED_DELTAS, timeout_s=20)]
    return contributions(delta for record in records if isinstance(record, DeltaBatch) for delta in record.deltas)


def windows(kafka: KafkaConfig) -> dict[str, int]:
    """How much was counted in each window, by the newest that was said of it."""
    found = [decode(record.value or b"", QualityMetric) for record in read_all(kafka, QUALITY_METRICS, timeout_s=20)]
    return {f"{one.version} {one.segment} {one.window} {one.window_start}": one.n for one in found}


def asked_of(n: int, partition: int, who: str) -> InferenceRequest:
    features: dict[str, Any] = {"who": who, "x": X, "region": "north", "noise": 0.25}
    at_ms = START_MS + 6 * 86_400_000 + 500
    return InferenceRequest(request_id=f"ask-{n}-{partition}", model="toy", event_time_ms=at_ms, features=features)


def ask(producer: EventProducer, n: int, who: str) -> None:
    """One plain request in each partition."""
    for partition in (0, 1):
        request = asked_of(n, partition, who)
        producer.send(INFERENCE_REQUESTS, encode(request), request.request_id.encode(), None, partition)
    producer.flush(10)


def ids(kafka: KafkaConfig, prediction_id: str) -> list[bytes | None]:
    """Ids of the keys that answers to a request are sealed under."""
    found = [record for record in read_all(kafka, PREDICTIONS, timeout_s=20) if record.key == prediction_id.encode()]
    return [key_id(decode_prediction(record.value or b"").features[SEALED]) for record in found]


def reasons(kafka: KafkaConfig) -> list[bytes | None]:
    return [dict(record.headers or ()).get("__dlq.errors.reason") for record in read_all(kafka, LETTERS, timeout_s=20)]


def newest_totals(kafka: KafkaConfig, partition: int) -> dict[str, int]:
    return journal.newest(kafka)[partition][1].totals


def digest(settings: Settings, folder: Path, gone: list[Opened]) -> str:
    """Of a partition's state; no file of it knows the hash of what was said of somebody who is gone."""
    store = PartitionStore(folder)
    meta = store.meta("join")
    assert meta is not None
    joins = join_class(settings.join_core)
    join = joins.from_checkpoint(int(folder.name), JoinLimits(settings.grace_ms), meta, store.items(), store)
    found = join.digest()
    hashes = {join.payload_of(one.plain) for one in gone}
    store.close()
    data = b"".join(path.read_bytes() for path in folder.iterdir())
    assert not [hash for hash in hashes if hash in data]
    return found
