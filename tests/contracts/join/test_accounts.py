"""Anything in any order: after every commit the accounts are those of a naive ledger, and a rebuild arrives there."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from schemas.codec import encode
from schemas.topics import GROUND_TRUTH, PREDICTIONS
from streams.join import generations
from streams.join.batch import JoinLimits
from streams.join.partition import TOPICS, JoinPartition
from tests.support.joins import IMPLEMENTATIONS, NOW_MS, View, Worker, implementation
from tests.support.ledger import Ledger
from tests.support.plans import plan, prediction

SHORT = plan(windows=("50ms",), delay="100ms", horizon="200ms")
LONG = plan(windows=("50ms",), delay="300ms", horizon="100ms")
FIRST = {("m", 1): SHORT, ("n", 1): plan("regression", windows=("30ms",), delay="50ms", horizon="50ms")}
LATER = FIRST | {("m", 2): LONG}
LIMITS = JoinLimits(grace_ms=20, future_tolerance_ms=1_000)
NAMES = pytest.mark.parametrize("name", IMPLEMENTATIONS)

keys = st.sampled_from(["a", "b", "c", "d"])
times = st.one_of(st.integers(-60, 30), st.integers(-60, 30), st.integers(-900, 300))
"""Event time from now on, as far as producers have come."""
delays = st.sampled_from([-201, -200, -30, 0, 10, 50, 99, 100, 101, 150, 200, 250, 300, 301, 400])
labels = st.sampled_from([0, 1, 1.0, True, None, "wrong"])


class Machine(RuleBasedStateMachine):
    """Any records in any batches, with aborted ones in between; event times without any order."""

    joins: type[Any] = JoinPartition

    @initialize()
    def start(self) -> None:
        self.worker = Worker(View(FIRST, epoch=1), LIMITS, 0, self.joins)
        self.ledger = Ledger(LIMITS.grace_ms, LIMITS.future_tolerance_ms, NOW_MS)
        self.now = 300
        self.born = dict.fromkeys("abcd", 300)

    def at(self, after: int) -> int:
        self.now += 3
        return max(0, self.now + after)

    def send(self, key: str, at: int, identity: tuple[str, int], **given: Any) -> None:
        model, version = identity
        self.born[key] = at
        self.worker.predict(msgspec.structs.replace(prediction(key, at, **given), model=model, version=version))

    @rule(
        key=keys,
        after=times,
        identity=st.sampled_from([("m", 1), ("m", 1), ("m", 2), ("n", 1), ("m", 9), ("x", 1)]),
        value=st.sampled_from([0, 1, 1, "a"]),
        origin=st.sampled_from(["JFK", "LGA", None]),
    )
    def predict(self, key: str, after: int, identity: tuple[str, int], value: Any, origin: str | None) -> None:
        self.send(key, self.at(after), identity, value=value, origin=origin)

    @rule(key=keys, after=times, other=st.sampled_from([("m", 2), ("n", 1)]))
    def challenge(self, key: str, after: int, other: tuple[str, int]) -> None:
        """Champion and challenger answer the same request."""
        at = self.at(after)
        self.send(key, at, ("m", 1))
        self.send(key, at, other)

    @rule(back=st.integers(0, 8), conflict=st.booleans())
    def again(self, back: int, conflict: bool) -> None:
        """A prediction sent once more, or with another payload."""
        sent = [record for record in self.worker.log[PREDICTIONS] if record.value and record.key]
        if sent:
            record = sent[max(len(sent) - 1 - back, 0)]
            self.worker.send(PREDICTIONS, (record.value or b"") + b" " * conflict, record.key)

    @rule(key=keys, after=delays, label=labels, revision=st.integers(-1, 2))
    def label(self, key: str, after: int, label: Any, revision: int) -> None:
        self.worker.label(key, max(0, self.born[key] + after), label, revision)

    @rule(key=keys, given=st.lists(st.tuples(delays, labels, st.integers(0, 2)), min_size=2, max_size=4))
    def correct(self, key: str, given: list[tuple[int, Any, int]]) -> None:
        """A prediction and its labels, one after the other."""
        self.send(key, self.at(0), ("m", 1))
        for after, label, revision in given:
            self.label(key, after, label, revision)

    @rule(back=st.integers(0, 8))
    def label_again(self, back: int) -> None:
        sent = self.worker.log[GROUND_TRUTH]
        if sent:
            record = sent[max(len(sent) - 1 - back, 0)]
            self.worker.send(GROUND_TRUTH, record.value, record.key, record.headers)

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

    @rule(after=st.integers(-150, 60), topics=st.sampled_from([TOPICS, (PREDICTIONS,), (GROUND_TRUTH,)]))
    def beat(self, after: int, topics: tuple[str, ...]) -> None:
        self.worker.beat(self.at(after), topics)

    @rule(key=keys, after=delays)
    def reach(self, key: str, after: int) -> None:
        """Event time stands exactly where something of a prediction may end, or just after."""
        self.worker.beat(max(0, self.born[key] + after))

    @rule(by=st.integers(1, 250))
    def wait(self, by: int) -> None:
        self.now += by

    @rule()
    def register(self) -> None:
        self.worker.view = View(LATER, epoch=2)

    @rule(how=st.sampled_from(["rebuild", "snapshot"]))
    def restart(self, how: str) -> None:
        """Go on with what another worker finds."""
        if how == "snapshot":
            self.worker.join = self.joins.from_snapshot(0, LIMITS, self.worker.join.snapshot())
        elif self.worker.journal:
            self.worker.join = self.rebuilt()

    def rebuilt(self) -> Any:
        return self.worker.rebuilt(View(FIRST, 1), View(LATER, 2))

    @rule(
        predictions=st.sampled_from([0, 1, 3, 99, 99]),
        truths=st.sampled_from([0, 1, 3, 99, 99]),
        idle=st.sampled_from([(False, False)] * 4 + [(True, False), (False, True), (True, True)]),
        aborts=st.integers(0, 2),
    )
    def step(self, predictions: int, truths: int, idle: tuple[bool, bool], aborts: int) -> None:
        before = self.worker.join.digest()
        take = {PREDICTIONS: predictions, GROUND_TRUTH: truths}
        flags = dict(zip(TOPICS, idle, strict=True))
        batch = self.worker.slice(take, flags)
        self.worker.join.process(batch, self.worker.view)
        self.worker.join.abort()
        assert self.worker.join.digest() == before
        self.worker.step(take, flags, aborts=aborts)
        records = {topic: list(batch.records[topic]) for topic in TOPICS}
        view = self.worker.view
        self.ledger.batch(records, flags, view.plan, view.label_horizon_ms)
        self.check()

    def check(self) -> None:
        join, ledger = self.worker.join, self.ledger
        assert {name: n for name, n in join.totals.items() if n} == {name: n for name, n in ledger.count.items() if n}
        assert self.worker.merged == {key: n for key, n in ledger.sums.items() if n}
        dead = {(letter.record.topic, letter.record.offset, letter.reason) for letter in self.worker.dead}
        assert dead == ledger.dead
        assert (join.watermark_ms, len(join)) == (ledger.watermark, len(ledger.cards))
        rebuilt = self.rebuilt()
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
        copy = self.joins.from_snapshot(0, LIMITS, join.snapshot())
        assert copy.digest() == join.digest()

    def teardown(self) -> None:
        """Let event time pass everything: nothing stays open."""
        self.step(99, 99, (False, False), 0)
        self.worker.beat(20_000)
        self.step(99, 99, (False, False), 0)
        total = self.worker.total
        assert (len(self.worker.join), total["pending"], total["labels.waiting"]) == (0, 0, 0)

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


def _drive(name: str, examples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generations, "RECORDS_PER_GENERATION", 3)
    monkeypatch.setattr(generations, "MOST_GENERATIONS", 3)
    machine = type("Machine", (Machine,), {"joins": implementation(name)})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


@NAMES
def test_accounts_and_rebuilds_are_exact(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _drive(name, 150, monkeypatch)


@pytest.mark.slow
@pytest.mark.timeout(3_600)
@NAMES
def test_accounts_and_rebuilds_are_exact_thoroughly(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _drive(name, 5_000, monkeypatch)


@NAMES
def test_nothing_live_replays_nothing(name: str) -> None:
    worker = Worker(View({("m", 1): SHORT}), LIMITS, joins=implementation(name))
    worker.predict(prediction("a", 0))
    worker.step()
    worker.beat(5_000)
    worker.step()
    newest = worker.journal[-1][1]
    assert newest.low_water == worker.at
    assert worker.rebuilt().digest() == worker.join.digest()


@NAMES
def test_low_water_moves_on_with_expiry(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generations, "RECORDS_PER_GENERATION", 1)
    worker = Worker(View({("m", 1): SHORT}), LIMITS, joins=implementation(name))
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


@NAMES
def test_bookkeeping_stays_small(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generations, "RECORDS_PER_GENERATION", 1)
    monkeypatch.setattr(generations, "MOST_GENERATIONS", 8)
    worker = Worker(
        View({("m", 1): plan(windows=("50ms",), delay="1s", horizon="1s")}), LIMITS, joins=implementation(name)
    )
    for number in range(300):
        worker.predict(prediction(f"p{number}", number * 10))
        worker.step(idle={GROUND_TRUTH: True})
    assert len(worker.join.generations) == 8
    assert sum(generation.live for generation in worker.join.generations) == len(worker.join) == 203
    # Lifetime is 2 s, so p97 is the oldest that lives: the low water is behind by less than a quarter of what lives.
    assert 97 - 50 <= worker.journal[-1][1].low_water[PREDICTIONS] <= 97
    assert worker.rebuilt().digest() == worker.join.digest()
