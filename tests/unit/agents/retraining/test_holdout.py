"""The holdout: the newest labelled rows, enough to judge and not more than a quarter."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.retraining.holdout import LONGEST_MS, SHARE, cutoff_ms

DAY = 86_400_000


@pytest.mark.parametrize(
    ("days", "per_day", "held_days"),
    [
        (90, 1000, 7),  # a week
        (16, 1000, 4),  # a quarter, from the start of a day
        (365, 1000, 7),
        (100, 50, 20),  # at least 1000 rows
        (10, 50, 5),  # half, where there are fewer than 2000
    ],
)
def test_how_much_is_held_out(days: int, per_day: int, held_days: int) -> None:
    times = np.arange(days * per_day) * (DAY // per_day)
    cutoff = cutoff_ms(times, np.ones(len(times), dtype=bool), DAY)
    held = (times >= cutoff).sum() / per_day
    assert held == pytest.approx(held_days, abs=1)
    assert cutoff % DAY == 0


def test_rows_without_a_label_do_not_count() -> None:
    times = np.arange(20_000) * (DAY // 100)
    labelled = np.arange(20_000) < 10_000
    assert cutoff_ms(times, labelled, DAY) == cutoff_ms(times[:10_000], labelled[:10_000], DAY)


@given(
    st.lists(st.integers(0, 400 * DAY), min_size=4, max_size=300),
    st.sampled_from([3_600_000, DAY, 7 * DAY]),
)
def test_something_is_held_out_and_something_is_left_unless_all_times_are_one(times: list[int], pane: int) -> None:
    array = np.array(times)
    cutoff = cutoff_ms(array, np.ones(len(array), dtype=bool), pane)
    held = int((array >= cutoff).sum())
    assert held >= 1
    assert held >= min(1000, len(times) // 2)
    if len(set(times)) == len(times):
        assert held < len(times)
        assert held <= max(len(times) * SHARE + 1, min(1000, len(times) // 2) + 1) or (
            array.max() - cutoff <= LONGEST_MS
        )
