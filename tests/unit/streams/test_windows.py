from __future__ import annotations

import pytest

from streams.windows import (
    MOST_COUNT_PANES,
    Frame,
    Window,
    count_window_start,
    stepped_windows_ending,
    windows_ending,
    windows_open,
)
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


def test_where_a_count_window_starts_does_not_depend_on_what_is_forgotten() -> None:
    end = 200 * DAY
    within = {150 * DAY: 1, 199 * DAY: 1}
    assert count_window_start(10, end, DAY, within) == count_window_start(10, end, DAY, {0: 99} | within) == 150 * DAY


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


def test_windows_with_a_step_end_at_their_times_only() -> None:
    frame = Frame.of(plan(windows=("7d/7d+4d", "3d/2d", "1d", "50n")))
    ends = {
        name: [day for day in range(1, 30) if name in {w.name for w in windows_ending(frame, day * DAY, {})}]
        for name in ("7d/7d+4d", "3d/2d", "1d", "50n")
    }
    assert ends == {
        "7d/7d+4d": [4, 11, 18, 25],
        "3d/2d": list(range(2, 30, 2)),
        "1d": list(range(1, 30)),
        "50n": list(range(1, 30)),
    }
    assert Window("7d/7d+4d", 4 * DAY, 11 * DAY, stepped=True) in windows_ending(frame, 11 * DAY, {})
    assert [w.name for w in stepped_windows_ending(frame, 18 * DAY)] == ["7d/7d+4d", "3d/2d"]
    assert stepped_windows_ending(Frame.of(plan(windows=("1d", "7d"))), 7 * DAY) == []


def test_the_window_that_is_open_holds_the_newest_pane_and_ends_next() -> None:
    frame = Frame.of(plan(windows=("7d/7d", "4d/2d", "1d", "5n")))
    assert windows_open(frame, 9 * DAY, {8 * DAY: 9}) == [
        Window("7d/7d", 7 * DAY, 14 * DAY, stepped=True),
        Window("4d/2d", 6 * DAY, 10 * DAY, stepped=True),
        Window("1d", 8 * DAY, 9 * DAY),
        Window("5n", 8 * DAY, 9 * DAY, 5),
    ]


@pytest.mark.parametrize(
    ("windows", "steadiest"),
    [
        (("1d", "7d"), "7d"),
        (("1d", "7d/7d"), "1d"),
        (("7d/7d", "3d/1d", "1d/1d"), "3d/1d"),
        (("7d/7d",), "7d/7d"),
        (("100n",), "pane"),
    ],
)
def test_new_segments_are_looked_for_in_the_window_that_ends_most_often(
    windows: tuple[str, ...], steadiest: str
) -> None:
    assert Frame.of(plan(windows=windows)).steadiest == steadiest
