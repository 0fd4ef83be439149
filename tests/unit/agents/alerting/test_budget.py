"""The fleet's budget: which crossings open incidents when thousands of models share it."""

from __future__ import annotations

import msgspec
import pytest

from agents.alerting.budget import is_quiet, share
from agents.alerting.logic import AlertBook
from schemas.durations import parse_rate
from tests.unit.agents.alerting.test_logic import drift, observation, pane, spec, statuses

FLEET = parse_rate("1/1d")


@pytest.mark.parametrize(
    ("models", "p_value", "quiet"),
    [
        (1, 1e-3, False),  # the fleet's budget is larger than the model's own
        (30, 1e-3, False),  # both are the same
        (31, 1e-3, True),
        (3_000, 1e-5, False),  # a hundredth of the chance for a hundredth of the budget
        (3_000, 1.1e-5, True),
        (18_000, 1e-9, False),
    ],
)
def test_the_more_models_the_less_likely_a_crossing_has_to_be(models: int, p_value: float, quiet: bool) -> None:
    assert is_quiet({"p": 1e-3, "p_value": p_value}, spec(), share(FLEET, models)) is quiet


def test_without_a_p_value_a_crossing_is_what_its_test_was_allowed() -> None:
    assert is_quiet({"p": 1e-3}, spec(), share(FLEET, 31))
    assert not is_quiet({"p": 1e-3}, spec(), share(FLEET, 30))


def test_what_no_chance_is_said_of_is_never_quiet() -> None:
    """Thresholds that people set: nothing to hold against a budget."""
    assert not is_quiet({}, spec(), share(FLEET, 10**6))
    assert not is_quiet({"p": 1e-3, "p_value": 1e-3}, None, share(FLEET, 10**6))
    assert not is_quiet({"p": 1e-3, "p_value": 1e-3}, spec(), None)


def test_a_quiet_crossing_opens_an_incident_once_it_is_unlikely_enough() -> None:
    book = AlertBook(model="bus")
    allowed = share(FLEET, 3_000)
    first = observation(1, evidence={"p": 1e-3, "p_value": 5e-4})
    assert book.observed(first, spec(), allowed).alerts == []
    again = observation(2, status="updated", evidence={"p": 1e-3, "p_value": 1e-6})
    assert statuses(book.observed(again, spec(), allowed)) == ["opened"]


def test_a_quiet_crossing_joins_what_another_opened() -> None:
    book = AlertBook(model="bus")
    allowed = share(FLEET, 3_000)
    book.observed(observation(1, "brier", evidence={"p": 1e-3, "p_value": 5e-4}), spec(), allowed)
    ((_, alert),) = book.observed(observation(1, evidence={"p": 1e-3, "p_value": 1e-8}), spec(), allowed).alerts
    assert {member["subject"] for member in alert.evidence["observations"]} == {"brier", "roc_auc"}


def test_drift_that_chance_brings_to_a_fleet_is_no_incident() -> None:
    for p_value, opened in ((5e-4, []), (1e-9, ["opened"])):
        book = AlertBook(model="bus")
        moved = drift(1, "temp", 0.9, evidence={"importance": 0.9, "p": 1e-3, "p_value": p_value})
        assert statuses(book.observed(moved, spec(), share(FLEET, 3_000))) == opened


def test_the_cool_down_of_alarms_decides_what_is_the_same_trouble() -> None:
    """Two days after it closed: with a cool-down of a week it is back, with one of a day it is another."""
    for cool_down, first in (("7d", "updated"), ("1d", "opened")):
        given = spec()
        given = msgspec.structs.replace(given, alarms=msgspec.structs.replace(given.alarms, cool_down=cool_down))
        book = AlertBook(model="m")
        book.observed(observation(1), given)
        book.observed(observation(2, status="closed"), given)
        closed = [status for day in (3, 4, 5) for status in statuses(book.pane_closed(pane(day), given))]
        assert closed == ["closed"]
        assert statuses(book.observed(observation(7), given)) == [first]
