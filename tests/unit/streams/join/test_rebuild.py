"""Whatever happened, a rebuild from the journal's low water arrives at the state that lives."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from schemas.codec import encode
from schemas.topics import GROUND_TRUTH, PREDICTIONS
from streams.join import generations
from streams.join.batch import JoinLimits
from streams.join.partition import TOPICS, JoinPartition
from tests.support.joins import NOW_MS, View, Worker
from tests.support.plans import plan, prediction

SHORT = plan(windows=("50ms",), delay="100ms", horizon="200ms")
LONG = plan(windows=("50ms",), delay="300ms", horizon="100ms")
LIMITS = JoinLimits(grace_ms=20, future_tolerance_ms=1_000)

keys = st.sampled_from(["a", "b", "c", "d"])
times = st.integers(0, 800)
labels = st.sampled_from([0, 1, 1.0, True, None, "wrong"])


class Machine(RuleBasedStateMachine):
    """Any records in any batches, with aborted ones in between; event times without any order."""

    @initialize()
    def start(self) -> None:
        self.worker = Worker(View({("m", 1): SHORT}, epoch=1), LIMITS)

    @rule(key=keys, at=times, version=st.sampled_from([1, 1, 2, 9]), value=st.sampled_from([0, 1]))
    def predict(self, key: str, at: int, version: int, value: int) -> None:
        import msgspec

        self.worker.predict(msgspec.structs.replace(prediction(key, at, value=value), version=version))

    @rule(key=keys, at=times, label=labels, revision=st.integers(-1, 2))
    def label(self, key: str, at: int, label: Any, revision: int) -> None:
        self.worker.label(key, at, label, revision)

    @rule(key=keys)
    def withdraw(self, key: str) -> None:
        self.worker.tombstone(key)

    @rule(topic=st.sampled_from(TOPICS), value=st.sampled_from([b"", b"{", b"[]", b'{"prediction_id":""}', None]))
    def poison(self, topic: str, value: bytes | None) -> None:
        self.worker.send(topic, value)

    @rule(topic=st.sampled_from(TOPICS))
    def future(self, topic: str) -> None:
        if topic == PREDICTIONS:
            self.worker.predict(prediction("a", NOW_MS + 1_001))
        else:
            self.worker.label("a", NOW_MS + 1_001)

    @rule(at=times, topics=st.sampled_from([TOPICS, (PREDICTIONS,), (GROUND_TRUTH,)]))
    def beat(self, at: int, topics: tuple[str, ...]) -> None:
        self.worker.beat(at, topics)

    @rule()
    def register(self) -> None:
        self.worker.view = View({("m", 1): SHORT, ("m", 2): LONG}, epoch=2)

    @rule(
        predictions=st.integers(0, 6),
        truths=st.integers(0, 6),
        idle=st.fixed_dictionaries({topic: st.booleans() for topic in TOPICS}),
        aborts=st.integers(0, 2),
    )
    def step(self, predictions: int, truths: int, idle: dict[str, bool], aborts: int) -> None:
        before = self.worker.join.digest()
        batch = self.worker.slice({PREDICTIONS: predictions, GROUND_TRUTH: truths}, idle)
        self.worker.join.process(batch, self.worker.view)
        self.worker.join.abort()
        assert self.worker.join.digest() == before
        self.worker.step({PREDICTIONS: predictions, GROUND_TRUTH: truths}, idle, aborts=aborts)
        self.check()

    def check(self) -> None:
        join = self.worker.join
        rebuilt = self.worker.rebuilt(View({("m", 1): SHORT}, 1), View({("m", 1): SHORT, ("m", 2): LONG}, 2))
        assert rebuilt.digest() == join.digest()
        # … and the rebuilt state knows its own low water as well: a rebuild of the future relies on it.
        batch = self.worker.slice({}, join.idle)
        rebuilt.process(batch, self.worker.view)
        low = rebuilt.journal(batch, self.worker.view.epoch, 4).low_water
        rebuilt.abort()
        join.process(batch, self.worker.view)
        own = join.journal(batch, self.worker.view.epoch, 4).low_water
        join.abort()
        assert all(low[topic] >= own[topic] for topic in TOPICS)
        copy = JoinPartition.from_snapshot(0, LIMITS, join.snapshot())
        assert copy.digest() == join.digest()

    @invariant()
    def accounted(self) -> None:
        total, at = self.worker.total, self.worker.at
        assert min(total.values()) >= 0
        assert total["predictions"] == total["pending"] + total["labelled"] + total["expired"]
        places = ("matched", "duplicate", "late", "orphaned", "waiting", "dead")
        assert total["labels"] == sum(total[f"labels.{place}"] for place in places)
        read = (
            total["predictions"]
            + total["predictions.duplicate"]
            + total["predictions.dead"]
            + total["predictions.skipped"]
            + total["labels"]
            + total["heartbeats"]
        )
        assert read == sum(at.values())
        dead = sum(total[name] for name in ("predictions.dead", "labels.dead", "labels.late"))
        assert dead == len(self.worker.dead)
        assert len({(letter.record.topic, letter.record.offset) for letter in self.worker.dead}) == dead


def test_rebuild_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generations, "RECORDS_PER_GENERATION", 3)
    monkeypatch.setattr(generations, "MOST_GENERATIONS", 3)
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


def test_nothing_live_replays_nothing() -> None:
    worker = Worker(View({("m", 1): SHORT}), LIMITS)
    worker.predict(prediction("a", 0))
    worker.step()
    worker.beat(5_000)
    worker.step()
    newest = worker.journal[-1][1]
    assert newest.low_water == worker.at
    assert worker.rebuilt().digest() == worker.join.digest()


def test_low_water_moves_on_with_expiry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generations, "RECORDS_PER_GENERATION", 1)
    worker = Worker(View({("m", 1): SHORT}), LIMITS)
    for number in range(40):
        worker.predict(prediction(f"p{number}", number * 50))
        worker.label(f"p{number}", number * 50 + 10)
        worker.step()
    newest = worker.journal[-1][1]
    # Lifetime is 300 ms and grace 20 ms: the last seven entries at most still live.
    assert newest.low_water[PREDICTIONS] == newest.low_water[GROUND_TRUTH] == 33
    assert newest.journal_low_water <= worker.journal[33][0]
    assert len(worker.join) == 7
    assert len(encode(newest)) < 1_500


def test_bookkeeping_stays_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generations, "RECORDS_PER_GENERATION", 1)
    monkeypatch.setattr(generations, "MOST_GENERATIONS", 8)
    worker = Worker(View({("m", 1): plan(windows=("50ms",), delay="1s", horizon="1s")}), LIMITS)
    for number in range(300):
        worker.predict(prediction(f"p{number}", number * 10))
        worker.step(idle={GROUND_TRUTH: True})
    assert len(worker.join.generations) == 8
    assert sum(generation.live for generation in worker.join.generations) == len(worker.join) == 203
    # Lifetime is 2 s, so p97 is the oldest that lives: the low water is behind by less than a quarter of what lives.
    assert 97 - 50 <= worker.journal[-1][1].low_water[PREDICTIONS] <= 97
    assert worker.rebuilt().digest() == worker.join.digest()
