"""Swaps, aborted batches and models that raise, with a scripted registry and no broker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pytest

from agents.serving.handler import ServingHandler
from agents.serving.logic import VersionTable
from agents.serving.model import Answer
from agents.serving.staging import Stage, first_line
from schemas.codec import decode, encode, is_shadow
from schemas.errors import ArtifactError
from schemas.events import (
    AnyServingEvent,
    CandidateStaged,
    InferenceRequest,
    ModelRefused,
    ModelState,
    ModelSwapped,
    Prediction,
    Scalar,
    VersionState,
)
from schemas.specification import Specification, parse
from schemas.topics import INFERENCE_REQUESTS, PREDICTIONS, SERVING_EVENTS
from streams.kafka.positions import Positions
from streams.kafka.records import Output, Record
from tests.support.models import SPECIFICATION
from tests.support.wait import eventually

NOW_MS = 1_700_000_000_000


class Follower:
    """The registry's topics, scripted: `late` is what only a read to the end would bring."""

    def __init__(self) -> None:
        self.table = VersionTable()
        self.late: list[ModelState] = []
        self.changed = False
        self.catch_ups = 0

    def say(self, state: ModelState) -> None:
        self.changed = self.table.apply_state(state) or self.changed

    def poll(self) -> bool:
        changed, self.changed = self.changed, False
        return changed

    def catch_up(self) -> bool:
        self.catch_ups += 1
        late, self.late = self.late, []
        applied = [self.table.apply_state(state) for state in late]
        return any(applied)


class Model:
    """Answers with its version's number; raises on rows whose x is 13."""

    def __init__(self, version: int) -> None:
        self.spec: Specification = parse(SPECIFICATION)
        self.version = version
        self.calls: list[int] = []

    def predict(self, rows: Sequence[Mapping[str, Scalar]]) -> list[Answer | None]:
        self.calls.append(len(rows))
        if any(row.get("x") == 13 for row in rows):
            raise ZeroDivisionError("thirteen")
        return [None if row.get("x") == 0 else (1, self.version / 10) for row in rows]


class World:
    """A handler with everything around it."""

    def __init__(self, served: Mapping[str, int] | None = None) -> None:
        self.follower = Follower()
        self.models: dict[int, Model] = {}
        self.ready = 0
        self.stage = Stage(self.load)  # type: ignore[arg-type]
        self.handler = ServingHandler(
            self.follower,  # type: ignore[arg-type]
            self.stage,
            worker="0",
            served=served,
            on_ready=self.count_ready,
        )
        self.offset = 0

    def count_ready(self) -> None:
        self.ready += 1

    def load(self, model: str, version: VersionState) -> Model:
        if version.artifact == "bad":
            raise ArtifactError("altered")
        self.models[version.version] = Model(version.version)
        return self.models[version.version]

    def say(self, epoch: int, champion: int | None, *versions: VersionState, settle: bool = True) -> None:
        state = ModelState(
            model="coin", epoch=epoch, task="binary", champion=champion, challenger=None, versions=list(versions)
        )
        self.follower.say(state)
        if settle:
            self.settle()

    def settle(self) -> None:
        """An empty batch that does not count, and whatever it asked to load."""
        self.handler.process([], positions(self.offset, self.offset), NOW_MS)
        self.handler.aborted()
        for model, version in self.follower.table.to_stage():
            eventually(lambda key=(model, version.version): self.stage.settled(key))  # type: ignore[misc]

    def batch(self, *values: bytes, commit: bool = True) -> list[Output]:
        records = [
            Record(INFERENCE_REQUESTS, 0, self.offset + i, b"k", value, None, NOW_MS) for i, value in enumerate(values)
        ]
        before = positions(self.offset, self.offset + len(values))
        outputs = list(self.handler.process(records, before, NOW_MS))
        if commit:
            self.offset += len(values)
            self.handler.committed(before.moved)
        else:
            self.handler.aborted()
        return outputs


def positions(start: int, end: int) -> Positions:
    tp = (INFERENCE_REQUESTS, 0)
    return Positions({tp: start}, {tp: end}, {tp: True})


def version(number: int, stage: str = "promoted", artifact: str = "good") -> VersionState:
    return VersionState(
        version=number, stage=stage, artifact=artifact, reference="", specification="", registered_epoch=number
    )


def ask(number: int, x: float = 1.0, **over: Any) -> bytes:
    return encode(
        InferenceRequest(request_id=f"r{number}", event_time_ms=1, **{"model": "coin", "features": {"x": x}, **over})
    )


def events(outputs: Sequence[Output], kind: type) -> list[Any]:
    found = [decode(o.value or b"", AnyServingEvent) for o in outputs if o.topic == SERVING_EVENTS]  # type: ignore[arg-type]
    return [event for event in found if isinstance(event, kind)]


def answered(outputs: Sequence[Output]) -> list[tuple[str, int]]:
    made = [decode(o.value or b"", Prediction) for o in outputs if o.topic == PREDICTIONS]
    return [(prediction.prediction_id, prediction.version) for prediction in made]


def dead(outputs: Sequence[Output]) -> list[str]:
    return [
        dict(o.headers or ())["__dlq.errors.reason"].decode()  # type: ignore[union-attr]
        for o in outputs
        if o.topic.startswith("dlq.")
    ]


@pytest.fixture
def world() -> World:
    return World()


def test_the_first_version_answers_from_the_first_request(world: World) -> None:
    world.say(1, 1, version(1))
    outputs = world.batch(ask(1), ask(2))
    (swap,) = events(outputs, ModelSwapped)
    assert (swap.from_version, swap.to_version, swap.offsets) == (None, 1, {INFERENCE_REQUESTS: {"0": 0}})
    assert answered(outputs) == [("r1", 1), ("r2", 1)]
    assert outputs[-1].key == b"r2"
    assert events(world.batch(ask(3)), ModelSwapped) == []


def test_requests_wait_for_the_first_version_to_be_loaded(world: World) -> None:
    world.say(1, 1, version(1), settle=False)
    assert answered(world.batch(ask(1))) == [("r1", 1)]


def test_a_swap_takes_effect_with_its_batch_and_names_its_offset(world: World) -> None:
    world.say(1, 1, version(1))
    world.batch(ask(1), ask(2))
    world.say(2, 1, version(1), version(2, "validated"))
    (staged,) = events(world.batch(), CandidateStaged)
    assert staged.version == 2
    assert events(world.batch(ask(3)), CandidateStaged) == []
    world.say(3, 2, version(1, "superseded"), version(2))
    outputs = world.batch(ask(4))
    (swap,) = events(outputs, ModelSwapped)
    assert (swap.from_version, swap.to_version, swap.epoch) == (1, 2, 3)
    assert swap.offsets == {INFERENCE_REQUESTS: {"0": 3}}
    assert answered(outputs) == [("r4", 2)]


def test_a_version_with_types_that_nobody_agreed_to_is_loaded_for_nobody(world: World) -> None:
    """Neither to be ready nor for a request that names it, until it is champion."""
    world.say(1, 1, version(1), msgspec.structs.replace(version(2, "approval-requested"), withheld=True))
    outputs = world.batch(ask(1), ask(2, version=2))
    assert (answered(outputs), dead(outputs)) == ([("r1", 1)], ["unknown-version"])
    assert set(world.models) == {1}
    world.say(2, 2, version(1, "superseded"), version(2))
    assert answered(world.batch(ask(3))) == [("r3", 2)]


def test_an_aborted_batch_takes_its_swap_along(world: World) -> None:
    world.say(1, 1, version(1))
    world.batch(ask(1))
    world.say(2, 2, version(1, "superseded"), version(2))
    first = events(world.batch(ask(2), commit=False), ModelSwapped)
    again = events(world.batch(ask(2)), ModelSwapped)
    assert [swap.event_id for swap in first] == [swap.event_id for swap in again]
    assert len(again) == 1


def test_a_swap_needs_no_traffic(world: World) -> None:
    world.say(1, 1, version(1))
    assert len(events(world.batch(), ModelSwapped)) == 1
    world.say(2, 2, version(1), version(2))
    assert len(events(world.batch(), ModelSwapped)) == 1


def test_a_refused_champion_leaves_the_last_good_version_in_place(world: World) -> None:
    world.say(1, 1, version(1))
    world.batch(ask(1))
    world.say(2, 2, version(1, "superseded"), version(2, artifact="bad"))
    outputs = world.batch(ask(2))
    (refused,) = events(outputs, ModelRefused)
    assert (refused.version, refused.reason) == (2, "altered")
    assert answered(outputs) == [("r2", 1)]
    assert events(world.batch(ask(3)), ModelRefused) == []


def test_after_a_restart_a_refused_champion_is_answered_for_by_the_former_one() -> None:
    world = World(served={"coin": 2})
    world.say(2, 2, version(1, "superseded"), version(2, artifact="bad"))
    outputs = world.batch(ask(2))
    assert answered(outputs) == [("r2", 1)]
    assert [(s.from_version, s.to_version) for s in events(outputs, ModelSwapped)] == [(2, 1)]


def test_nothing_to_answer_with_is_a_dead_letter(world: World) -> None:
    world.say(1, 1, version(1, artifact="bad"))
    assert dead(world.batch(ask(1))) == ["no-version"]
    world.say(2, None, version(1, artifact="bad"))
    assert dead(world.batch(ask(1))) == ["no-version"]


def test_an_unknown_model_is_looked_for_once_more(world: World) -> None:
    world.follower.late = [
        ModelState(model="coin", epoch=1, task="binary", champion=1, challenger=None, versions=[version(1)])
    ]
    outputs = world.batch(ask(1), ask(2, model="other"))
    assert answered(outputs) == [("r1", 1)]
    assert dead(outputs) == ["unknown-model"]
    assert world.follower.catch_ups == 1


def test_rows_the_model_cannot_take_do_not_take_the_others_along(world: World) -> None:
    world.say(1, 1, version(1))
    world.batch()
    outputs = world.batch(*(ask(i, x=13 if i == 5 else 1) for i in range(20)), ask(20, x=0))
    assert [name for name, _ in answered(outputs)] == [f"r{i}" for i in range(20) if i != 5]
    assert dead(outputs) == ["prediction-failed", "not-finite"]
    (refused,) = events(outputs, ModelRefused)
    assert "thirteen" in refused.reason
    assert events(world.batch(ask(30, x=13)), ModelRefused) == []


def test_a_model_that_always_raises_is_not_tried_row_by_row_for_ever(world: World) -> None:
    world.say(1, 1, version(1))
    world.batch()
    calls = len(world.models[1].calls)
    outputs = world.batch(*(ask(i, x=13) for i in range(2_000)))
    assert len(dead(outputs)) == 2_000
    assert len(world.models[1].calls) - calls < 200


def test_one_call_for_each_version_of_a_batch(world: World) -> None:
    world.say(1, 1, version(1), version(2, "validated"))
    world.batch()
    outputs = world.batch(ask(1), ask(2, version=2), ask(3), ask(4, version=1))
    assert answered(outputs) == [("r1", 1), ("r2", 2), ("r3", 1), ("r4", 1)]
    assert world.models[1].calls == [3]
    assert world.models[2].calls == [1]


def test_ready_is_said_once_when_champions_are_loaded(world: World) -> None:
    world.say(1, 1, version(1))
    world.batch()
    world.batch()
    assert world.ready == 1


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ArtifactError("altered", where="/somewhere", remedy="restore it"), "altered"),
        (ValueError("Input X contains NaN.\nSee https://example.org"), "ValueError: Input X contains NaN."),
        (ValueError(), "ValueError: "),
        (ValueError("x" * 1000), "ValueError: " + "x" * 187 + "…"),
    ],
)
def test_one_line_of_an_error_is_enough(error: Exception, said: str) -> None:
    assert first_line(error) == said


def on_probation(world: World, epoch: int, champion: int, shadow: int | None, *versions: VersionState) -> None:
    state = ModelState(
        model="coin",
        epoch=epoch,
        task="binary",
        champion=champion,
        challenger=None,
        versions=list(versions),
        shadow=shadow,
    )
    world.follower.say(state)
    world.settle()


def said(outputs: Sequence[Output]) -> list[tuple[str, int, bool]]:
    """Id, version and whether in shadow, of the predictions in their order."""
    found = [(decode(o.value or b"", Prediction), o) for o in outputs if o.topic == PREDICTIONS]
    return [(prediction.prediction_id, prediction.version, is_shadow(o.headers)) for prediction, o in found]


def test_the_champion_before_answers_in_shadow_during_a_probation() -> None:
    """Behind the answers, for the same rows, marked; what was asked of a version by name is not shadowed."""
    world = World()
    world.say(1, 1, version(1), version(2))
    world.batch(ask(1))
    on_probation(world, 2, 2, 1, version(1), version(2))
    pinned = ask(3, version=1)
    assert said(world.batch(ask(2), pinned, ask(4))) == [
        ("r2", 2, False),
        ("r3", 1, False),
        ("r4", 2, False),
        ("r2", 1, True),
        ("r4", 1, True),
    ]
    # Thirteen makes both raise, zero makes both answer nothing finite: dead letters as ever, and no shadow of them.
    outputs = world.batch(ask(5, x=13), ask(6, x=0), ask(7))
    assert said(outputs) == [("r7", 2, False), ("r7", 1, True)]
    assert dead(outputs) == ["prediction-failed", "not-finite"]
    on_probation(world, 3, 2, None, version(1), version(2))
    assert said(world.batch(ask(8))) == [("r8", 2, False)]


def test_a_shadow_is_no_reason_to_wait() -> None:
    """It cannot be loaded, or the champion is not served yet: requests are answered by one version."""
    world = World()
    world.say(1, 1, version(1), version(2))
    on_probation(world, 2, 2, 1, version(1, artifact="bad"), version(2))
    fresh = World()
    on_probation(fresh, 2, 2, 1, version(1, artifact="bad"), version(2))
    assert said(fresh.batch(ask(1))) == [("r1", 2, False)]
    slow = World(served={"coin": 1})
    on_probation(slow, 2, 2, 1, version(1), version(2, artifact="bad"))
    assert said(slow.batch(ask(1))) == [("r1", 1, False)]


def test_going_back_makes_the_shadow_the_champion_at_once() -> None:
    world = World()
    world.say(1, 1, version(1), version(2))
    on_probation(world, 2, 2, 1, version(1), version(2))
    world.batch(ask(1))
    on_probation(world, 3, 1, None, version(1), version(2, stage="rolled-back"))
    outputs = world.batch(ask(2))
    assert said(outputs) == [("r2", 1, False)]
    (swap,) = events(outputs, ModelSwapped)
    assert (swap.from_version, swap.to_version) == (2, 1)
