"""Who answered at an event time: across swaps, roll-backs, gaps, overlaps, and requests that name a version."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.provenance.stints import HOUR_MS, Name, Share, stint

M = 60_000


def shares(answers: list[tuple[int, Name]]) -> list[Share]:
    """Of (minute, version), as the archive counts them."""
    found: dict[tuple[int, Name], list[int]] = {}
    for minute, version in answers:
        found.setdefault((minute * M // HOUR_MS, version), []).append(minute * M)
    return [Share(hour, version, len(at), min(at), max(at)) for (hour, version), at in found.items()]


def every(step: int, since: int, until: int, version: Name) -> list[tuple[int, Name]]:
    return [(minute, version) for minute in range(since, until, step)]


SWAPPED = every(1, 0, 200, 1) + every(1, 200, 400, 2) + every(1, 400, 600, 1)
"""Version 1, then 2, then 1 again: brought back."""
GAP = every(1, 0, 30, 1) + every(1, 6000, 6030, 2)
GUESTS = every(1, 0, 300, 2) + every(1, 300, 600, 3) + every(20, 7, 600, 1)
"""Somebody asks for version 1 by its number all the time."""


@pytest.mark.parametrize(
    ("answers", "minute", "wanted"),
    [
        (SWAPPED, 100, (1, 0, 199, 200, None, 2)),
        (SWAPPED, 199, (1, 0, 199, 200, None, 2)),
        (SWAPPED, 200, (2, 200, 399, 200, 1, 1)),
        (SWAPPED, 399, (2, 200, 399, 200, 1, 1)),
        (SWAPPED, 590, (1, 400, 599, 200, 2, None)),
        (SWAPPED, 9_999, (1, 400, 599, 200, 2, None)),
        (GAP, 29, (1, 0, 29, 30, None, 2)),
        (GAP, 3_000, (1, 0, 29, 30, None, 2)),
        (GAP, 6_001, (2, 6_000, 6_029, 30, 1, None)),
        (GUESTS, 148, (2, 0, 299, 300, None, 3)),
        (GUESTS, 147, (2, 0, 299, 300, None, 3)),
        (GUESTS, 587, (3, 300, 599, 300, 2, None)),
        (every(1, 0, 90, "2024-11-rc1"), 70, ("2024-11-rc1", 0, 89, 90, None, None)),
    ],
)
def test_the_version_its_span_and_its_neighbours(
    answers: list[tuple[int, Name]], minute: int, wanted: tuple[object, ...]
) -> None:
    found = stint(shares(answers), minute * M)
    assert found is not None
    assert (
        found.version,
        found.since_ms // M,
        found.until_ms // M,
        found.predictions,
        found.before,
        found.after,
    ) == wanted


def test_before_the_first_answer_nobody_did() -> None:
    assert stint(shares(every(1, 10, 20, 1)), 9 * M) is None
    assert stint([], 0) is None


def test_who_else_answered_in_that_hour_is_named() -> None:
    found = stint(shares(GUESTS), 150 * M)
    assert found is not None
    assert found.beside == {1: 3}


@given(st.lists(st.integers(1, 300), min_size=1, max_size=6), st.data())
def test_of_versions_that_follow_each_other_it_is_exact(lengths: list[int], data: st.DataObject) -> None:
    answers, began = [], 0
    spans = []
    for version, length in enumerate(lengths, 1):
        answers += every(1, began, began + length, version)
        spans.append((version, began, began + length - 1))
        began += length
    minute = data.draw(st.integers(0, began - 1))
    found = stint(shares(answers), minute * M)
    assert found is not None
    version, since, until = next(span for span in spans if span[1] <= minute <= span[2])
    assert (found.version, found.since_ms // M, found.until_ms // M) == (version, since, until)
    assert found.predictions == until - since + 1
    assert found.before == (version - 1 or None)
    assert found.after == (version + 1 if version < len(lengths) else None)
