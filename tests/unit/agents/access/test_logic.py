"""Roles, grants, the shape of a key, how guessing is slowed."""

from __future__ import annotations

import pytest

from agents.access.logic import (
    ROLES,
    Grant,
    Principal,
    Role,
    Throttle,
    acting_name,
    checked_grant,
    checked_name,
    local_principal,
    refuse,
    token_parts,
    token_text,
)
from schemas.errors import ConfigurationError, ForbiddenError, UnauthenticatedError


def principal(*grants: Grant) -> Principal:
    return Principal("ann", "key", authenticated=True, credential="k", grants=grants)


@pytest.mark.parametrize(
    ("held", "may"),
    [
        ("viewer", {"viewer"}),
        ("producer", {"viewer", "producer"}),
        ("approver", {"viewer", "approver"}),
        ("admin", set(ROLES)),
    ],
)
def test_a_role_holds_what_it_holds(held: str, may: set[Role]) -> None:
    assert {role for role in ROLES if principal(Grant(held)).may(role, "m")} == may


@pytest.mark.parametrize(
    ("grant", "model", "team", "covered"),
    [
        (Grant("viewer"), "bus-1", "", True),
        (Grant("viewer", "bus-*"), "bus-1", "", True),
        (Grant("viewer", "bus-*"), "tram-1", "", False),
        (Grant("viewer", "bus-*"), "BUS-1", "", False),
        (Grant("viewer", "*", "north"), "bus-1", "north", True),
        (Grant("viewer", "*", "north"), "bus-1", "south", False),
        (Grant("viewer", "*", "north"), "bus-1", "", False),
        (Grant("viewer", "bus-*", "north"), "tram-1", "north", False),
    ],
)
def test_a_grant_is_about_the_models_of_its_pattern_and_team(
    grant: Grant, model: str, team: str, covered: bool
) -> None:
    assert principal(grant).may("viewer", model, team) is covered


def test_everywhere_is_said_of_all_models_alone() -> None:
    assert principal(Grant("viewer")).everywhere("viewer")
    for narrow in (Grant("admin", "bus-*"), Grant("admin", "*", "north")):
        assert not principal(narrow).everywhere("viewer")
        assert principal(narrow).may("viewer"), "on some model"
    assert not principal().may("viewer")


def test_a_refusal_says_what_is_missing_and_who_gives_it() -> None:
    error = refuse(principal(Grant("viewer", "bus-*")), "approver", "bus-7")
    assert "ann lacks the role approver on bus-7" in error.what
    assert "viewer on bus-*" in error.what
    assert "driftline keys grant ann --role approver --model 'bus-7'" in error.remedy
    assert "(has: nothing)" in refuse(principal(), "admin", "*").what


def test_a_proven_name_is_the_actor_and_no_other() -> None:
    assert acting_name(principal(), "") == acting_name(principal(), "ann") == "ann"
    with pytest.raises(ForbiddenError, match="cannot act as bea"):
        acting_name(principal(), "bea")
    assert acting_name(local_principal("root"), "bea") == "bea", "a claim, and recorded as one"
    assert acting_name(local_principal("root"), "", "http") == "http"
    assert acting_name(local_principal("root"), "") == "root"


def test_a_key_is_read_back_and_anything_else_is_not_repeated() -> None:
    text = token_text("a" * 16, "S" * 43)
    assert token_parts(f" {text}\n") == ("a" * 16, "S" * 43)
    for wrong in ("", "hunter2", text[:-1], text + "S", text.replace("dlk", "xyz"), text.replace("a", "A", 1)):
        with pytest.raises(UnauthenticatedError) as caught:
            token_parts(wrong)
        assert not wrong or wrong not in str(caught.value)


@pytest.mark.parametrize(
    "wrong", [lambda: checked_grant("boss", "*", None), lambda: checked_grant("viewer", "", None),
              lambda: checked_name("a b"), lambda: checked_name("-x"), lambda: checked_name("x" * 65)]
)  # fmt: skip
def test_what_is_no_role_pattern_or_name_is_refused(wrong: object) -> None:
    with pytest.raises(ConfigurationError) as caught:
        wrong()  # type: ignore[operator]
    assert caught.value.where
    assert caught.value.remedy


def test_guessing_doubles_the_wait_and_others_do_not_wait() -> None:
    throttle = Throttle(free=3, longest_s=60)
    waits = []
    now = 0.0
    for _ in range(12):
        now += throttle.wait_s(["eve"], now)
        throttle.failed(["eve"], now)
        waits.append(throttle.wait_s(["eve"], now))
    assert waits[:3] == [0, 0, 1]
    assert waits == sorted(waits)
    assert waits[-1] == 60
    assert throttle.wait_s(["ann"], now) == 0
    assert throttle.wait_s(["ann", "eve"], now) == 60
    assert throttle.total == 12
    assert throttle.wait_s(["eve"], now + 121) == 0, "forgotten"
    throttle.failed(["eve"], now + 122)
    assert throttle.wait_s(["eve"], now + 122) == 0


def test_the_right_key_ends_the_wait_and_memory_is_bounded() -> None:
    throttle = Throttle(free=1, most=3)
    for name in ("a", "b", "c", "d"):
        throttle.failed([name], 0.0)
    assert [throttle.wait_s([name], 0.0) > 0 for name in ("a", "b", "c", "d")] == [False, True, True, True]
    throttle.succeeded(["b"])
    assert throttle.wait_s(["b"], 0.0) == 0
