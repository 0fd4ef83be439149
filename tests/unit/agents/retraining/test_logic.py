"""Which requests lead to runs, and what the registry's events mean for them."""

from __future__ import annotations

from typing import Any

import pytest

from agents.retraining.logic import outcome, refusal, too_few
from schemas.codec import utc
from schemas.events import (
    ApprovalRequested,
    ModelPromoted,
    ModelRolledBack,
    RetrainRequest,
    VersionApproved,
    VersionRejected,
    VersionValidated,
)
from schemas.specification import parse
from tests.unit.agents.retraining.projects import SPEC

SPECIFICATION = parse(SPEC)  # cool-down of 2 days, at least 500 labels
DAY = 86_400_000


@pytest.mark.parametrize(
    ("trigger", "known", "words"),
    [
        ("quality", {}, None),
        ("quality", {"open_run": "abcdefgh1234"}, "run abcdefgh of this model has not ended"),
        ("manual", {"open_run": "abcdefgh1234"}, "has not ended"),
        ("manual", {"champion": None}, "no version"),
        ("drift", {"last_as_of_ms": 9 * DAY}, "cool-down of 2d since the last run has not passed: 1.0 days"),
        ("drift", {"last_as_of_ms": 8 * DAY}, None),
        ("drift", {"last_as_of_ms": 12 * DAY}, "cool-down"),
        ("manual", {"last_as_of_ms": 9 * DAY}, None),
        ("code", {"last_as_of_ms": 9 * DAY}, "cool-down"),
        ("data", {"last_as_of_ms": 9 * DAY}, "cool-down"),
        ("registration", {"last_as_of_ms": 9 * DAY}, None),
    ],
)
def test_refusals(trigger: str, known: dict[str, Any], words: str | None) -> None:
    request = RetrainRequest(request_id="r", model="toy", trigger=trigger, reason="", as_of=utc(10 * DAY))
    facts = {"open_run": None, "champion": 1, "last_as_of_ms": None, **known}
    found = refusal(request, SPECIFICATION, as_of_ms=10 * DAY, **facts)
    assert found is None if words is None else words in (found or "")


def test_too_few_labels() -> None:
    assert too_few(500, SPECIFICATION) is None
    assert too_few(499, SPECIFICATION) == "499 labelled rows in the training window of 25d, 500 are needed"


COMMON: dict[str, Any] = {"event_id": "e", "epoch": 1, "at": utc(0), "model": "m", "actor": "a", "version": 2}


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (ModelPromoted(previous=1, artifact="x", **COMMON), (2, "promoted")),
        (VersionRejected(reason="worse", **COMMON), (2, "rejected")),
        (ApprovalRequested(approvers=1, **COMMON), (2, "awaiting-approval")),
        (ModelRolledBack(previous=3, artifact="x", reason="", **COMMON), (3, "rolled-back")),
        (VersionValidated(artifact="x", **COMMON), None),
        (VersionApproved(**COMMON), None),
    ],
)
def test_outcomes(event: Any, expected: object) -> None:
    assert outcome(event) == expected
