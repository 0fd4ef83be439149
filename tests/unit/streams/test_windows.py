from __future__ import annotations

import pytest

from streams.windows import MOST_COUNT_PANES, Frame, Window, count_window_start, windows_ending
from tests.support.plans import plan
from tests.support.replay import DAY


@pytest.mark.parametrize(
    ("count", "labelled", "start"),
    [
        (100, {0: 80, 10: 70, 20: 60}, 10),
        (60, {0: 80, 10: 70, 20: 60}, 20),
        (61, {0: 80, 10: 70, 20: 60}, 10),
        (1000, {0: 80, 10: 70, 20: 60}, 0),  # as many as there are
        (100, {0: 100, 20: 1}, 0),  # over a pane without any
        (10, {}, 20),
        (10, {30: 99}, 20),  # after the end: not looked at
    ],
)
def test_count_windows_hold_the_newest_panes_with_enough(count: int, labelled: dict[int, int], start: int) -> None:
    assert count_window_start(count, 30, 10, labelled) == start


def test_count_windows_look_back_a_bounded_way() -> None:
    labelled = {day * DAY: 1 for day in range(1000)}
    start = count_window_start(10**6, 1000 * DAY, DAY, labelled)
    assert (1000 * DAY - start) // DAY == MOST_COUNT_PANES


def test_windows_of_a_plan() -> None:
    p = plan(windows=("1d", "7d", "50n"))
    windows = windows_ending(Frame.of(p), 10 * DAY, {9 * DAY: 20, 8 * DAY: 40})
    assert windows == [
        Window("1d", 9 * DAY, 10 * DAY),
        Window("7d", 3 * DAY, 10 * DAY),
        Window("50n", 8 * DAY, 10 * DAY, 50),
    ]
    assert [w.timed for w in windows] == [True, True, False]
    assert Frame.of(plan(windows=("1d", "7d"))).lookback_ms == 7 * DAY
    assert Frame.of(p).lookback_ms == MOST_COUNT_PANES * DAY
