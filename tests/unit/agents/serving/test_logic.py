"""Which version answers, and how a request becomes a prediction."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import pytest
from msgspec.structs import replace

from agents.serving import logic
from agents.serving.logic import VersionTable
from schemas.events import InferenceRequest, ModelPromoted, ModelRolledBack, ModelState, Scalar, VersionState
from schemas.specification import parse

SPEC = parse(
    """
    [model]
    name = "m"
    task = "binary"
    [data]
    id = "id"
    event_time = "at"
    label = "y"
    max_label_delay = "1d"
    segments = ["origin", "region"]
    [features]
    x = "numeric"
    flag = "boolean"
    origin = "categorical"
    [metrics]
    primary = "roc_auc"
    """
)
AT = datetime(2026, 1, 1, tzinfo=UTC)


def version(number: int, stage: str = "promoted") -> VersionState:
    return VersionState(
        version=number, stage=stage, artifact=f"a{number}", reference="r", specification="s", registered_epoch=number
    )


def state(epoch: int, champion: int | None, *versions: VersionState) -> ModelState:
    return ModelState(
        model="m", epoch=epoch, task="binary", champion=champion, challenger=None, versions=list(versions)
    )


def promoted(epoch: int, number: int) -> ModelPromoted:
    return ModelPromoted(
        event_id=str(epoch), epoch=epoch, at=AT, model="m", actor="t", version=number, previous=None, artifact="a"
    )


def request(**features: Scalar) -> InferenceRequest:
    return InferenceRequest(request_id="r1", model="m", event_time_ms=5, features=features)


def test_an_older_epoch_never_moves_the_champion() -> None:
    table = VersionTable()
    assert table.apply_state(state(5, 2, version(1, "superseded"), version(2)))
    assert not table.apply_event(promoted(4, 1))
    assert not table.apply_event(promoted(5, 1))
    assert not table.apply_state(state(3, 1, version(1)))
    assert (table.champion("m"), table.epoch("m")) == (2, 5)
    back = ModelRolledBack(
        event_id="6", epoch=6, at=AT, model="m", actor="t", version=1, previous=2, artifact="a1", reason="bad"
    )
    assert table.apply_event(back)
    assert (table.champion("m"), table.epoch("m")) == (1, 6)


def test_an_older_state_still_tells_versions_that_were_not_known() -> None:
    table = VersionTable()
    table.apply_state(state(5, 2, version(2)))
    assert table.apply_state(state(4, 1, version(1), version(3, "registered")))
    assert table.champion("m") == 2
    assert table.version("m", 1) is not None


def test_a_promotion_to_an_unknown_version_waits_for_the_state() -> None:
    table = VersionTable()
    table.apply_state(state(1, 1, version(1)))
    assert not table.apply_event(promoted(3, 2))
    assert table.champion("m") == 1
    assert table.apply_state(state(3, 2, version(1, "superseded"), version(2)))
    assert table.champion("m") == 2


def test_events_of_unknown_models_change_nothing() -> None:
    table = VersionTable()
    assert not table.apply_event(promoted(3, 2))
    assert "m" not in table


def test_stages_the_champion_first_then_proven_candidates() -> None:
    table = VersionTable()
    table.apply_state(
        state(
            9,
            2,
            version(1, "superseded"),
            version(2),
            version(3, "validated"),
            version(4, "rejected"),
            version(5, "registered"),
            version(6, "approval-requested"),
        )
    )
    assert [v.version for _, v in table.to_stage()] == [2, 3, 6]
    assert [v.version for v in table.fallbacks("m")] == [1]
    table.forget("m")
    assert table.to_stage() == []


def test_what_nobody_has_agreed_to_is_not_loaded_before_it_is_champion() -> None:
    table = VersionTable()
    table.apply_state(state(1, 1, version(1), replace(version(2, "approval-requested"), withheld=True)))
    assert [v.version for _, v in table.to_stage()] == [1]
    table.apply_event(promoted(2, 2))
    assert [v.version for _, v in table.to_stage()] == [2], "the promotion is the agreement, and may come first"


def test_same_state_again_changes_nothing() -> None:
    table = VersionTable()
    table.apply_state(state(5, 2, version(2)))
    assert not table.apply_state(state(5, 2, version(2)))


@pytest.mark.parametrize(
    ("features", "reason"),
    [
        ({"x": 1.0, "flag": True, "origin": "JFK"}, None),
        ({}, None),
        ({"x": None, "origin": 7}, None),
        ({"x": "1.0"}, "schema"),
        ({"flag": "yes"}, "schema"),
        ({"x": math.inf}, "not-finite"),
        ({"x": math.nan}, "not-finite"),
        ({"unknown": "anything"}, None),
    ],
)
def test_refuses_features_of_the_wrong_type(features: dict[str, Scalar], reason: str | None) -> None:
    refused = logic.refusal(request(**features), SPEC.features)
    assert (refused[0] if refused else None) == reason


def test_a_prediction_takes_identity_and_time_from_its_request() -> None:
    made = logic.prediction(request(x=1.0, origin="JFK"), SPEC, 3, (1, 0.75))
    assert (made.prediction_id, made.model, made.version, made.event_time_ms) == ("r1", "m", 3, 5)
    assert (made.prediction, made.probability) == (1, 0.75)
    assert made.segment == {"origin": "JFK"}
    assert made.features == {"x": 1.0, "origin": "JFK"}
    assert logic.prediction(request(x=1.0), SPEC, 3, (1, 0.75)).segment is None
