"""Models that are served elsewhere: predictions name their versions as they like, in every implementation alike."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from schemas.events import Prediction
from schemas.reference import ReferenceStatistics
from schemas.topics import PREDICTIONS
from streams.panes import PanePlan
from streams.reference import unlearnt_reference
from tests.support.differential import LIMITS
from tests.support.joins import IMPLEMENTATIONS, View, Worker, implementation
from tests.support.plans import plan, prediction, specification

SHAPE: dict[str, Any] = {"windows": ("50ms",), "delay": "100ms", "horizon": "200ms"}
TAUGHT = plan(**SHAPE)
UNTAUGHT = PanePlan(specification(**SHAPE), unlearnt_reference(specification(**SHAPE)))
PLANS = {("w", 1): UNTAUGHT, ("w", 2): TAUGHT, ("w", 7): TAUGHT, ("m", 1): TAUGHT}
NAMES = pytest.mark.parametrize("name", IMPLEMENTATIONS)


def _view(epoch: int, **numbers: tuple[int, ...]) -> View:
    view = View(PLANS, epoch)
    view.names = {("w", external): given for external, given in numbers.items()}
    return view


BEFORE = _view(1, rc1=(1,))
AFTER = _view(2, rc1=(1, 2), **{"1": (7,)})


def _of(version: int | str, key: str, at_ms: int, model: str = "w") -> Prediction:
    return msgspec.structs.replace(prediction(key, at_ms), model=model, version=version)


def _versions(worker: Worker) -> dict[int, int]:
    """Predictions counted overall, by version of the watched model."""
    at = {version: PLANS["w", version].slots["predicted"].start for version in (1, 2, 7)}
    counts: dict[int, int] = {}
    for (model, version, segment, _, _, position), count in worker.merged.items():
        if model == "w" and segment == "" and position == at[version]:
            counts[version] = counts.get(version, 0) + count
    return counts


@NAMES
def test_names_are_counted_under_their_numbers_whatever_else_is_there(name: str) -> None:
    worker = Worker(BEFORE, LIMITS, 0, implementation(name))
    worker.predict(_of("rc1", "a", 10))
    worker.predict(_of("rc1", "b", 10))
    worker.predict(_of(1, "c", 10, "m"))
    worker.predict(_of("rc1", "d", 10, "m"))  # trained here: such a version is not registered
    worker.label("a", 20)
    worker.step()
    assert _versions(worker) == {1: 2}
    assert worker.total["predictions"] == 3
    assert worker.total["predictions.skipped"] == 1
    assert worker.total["labels.matched"] == 1

    # From here on another reference: another number. A number in the record is a name like any other.
    worker.view = AFTER
    worker.predict(_of("rc1", "e", 20))
    worker.predict(_of(1, "f", 20))
    worker.predict(_of(1, "g", 20, "m"))
    worker.label("b", 30)
    worker.label("e", 30, 0)
    worker.step()
    assert _versions(worker) == {1: 2, 2: 1, 7: 1}
    assert worker.total["labels.matched"] == 3
    assert worker.join.digest() == worker.rebuilt(BEFORE, AFTER).digest()


@NAMES
def test_a_prediction_that_is_sent_again_keeps_its_number(name: str) -> None:
    worker = Worker(BEFORE, LIMITS, 0, implementation(name))
    worker.predict(_of("rc1", "a", 10))
    worker.step()
    worker.view = AFTER
    worker.predict(_of("rc1", "a", 10))
    worker.predict(_of("rc1", "a", 11))
    dead = worker.step()
    assert worker.total["predictions"] == 1
    assert worker.total["predictions.duplicate"] == 1
    assert [letter.reason for letter in dead] == ["conflicting-prediction"]
    assert _versions(worker) == {1: 1}
    assert worker.join.digest() == worker.rebuilt(BEFORE, AFTER).digest()


@NAMES
def test_a_version_for_which_there_is_no_number_any_more_is_told(name: str) -> None:
    worker = Worker(BEFORE, LIMITS, 0, implementation(name))
    worker.predict(_of("rc1", "a", 10))
    worker.predict(_of("request-4711", "b", 10))
    dead = worker.step()
    assert [(letter.record.topic, letter.reason) for letter in dead] == [(PREDICTIONS, "too-many-versions")]
    assert worker.total["predictions"] == 1
    assert worker.total["predictions.dead"] == 1


@NAMES
def test_a_checkpoint_goes_on_by_the_same_numbers(name: str) -> None:
    worker = Worker(AFTER, LIMITS, 0, implementation(name))
    worker.predict(_of("rc1", "a", 10))
    worker.predict(_of("1", "b", 10))
    worker.step()
    joins: Any = implementation(name)
    again = joins.from_snapshot(0, LIMITS, worker.join.snapshot())
    assert again.digest() == worker.join.digest()
    worker.join = again
    # 2 is a number here and no name: it must not be taken for one.
    worker.predict(_of(2, "c", 20))
    worker.predict(_of(1, "d", 20))
    worker.label("a", 30)
    dead = worker.step()
    assert [letter.reason for letter in dead] == ["too-many-versions"]
    assert _versions(worker) == {2: 1, 7: 2}
    assert worker.total["labels.matched"] == 1


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_what_has_no_reference_is_joined_and_counted(task: str) -> None:
    spec = specification(task, **SHAPE)
    nothing: ReferenceStatistics = unlearnt_reference(spec)
    assert nothing.rows == 0
    found = PanePlan(spec, nothing)
    value = {"binary": 1, "multiclass": "a", "regression": 3.5}[task]
    p = msgspec.structs.replace(prediction("a", 0), prediction=value, probability=0.7 if task == "binary" else None)
    assert found.accepts_prediction(p)
    assert found.accepts(value)
    assert found.traffic(p)[found.slots["predicted"].start] == 1
    assert found.labelled(found.compact(p), value, 5_000)[found.slots["labelled"].start] == 1
