"""Windows as people write them, and what is said where they are wrong."""

from __future__ import annotations

import pytest

from schemas.errors import SpecificationError
from schemas.specification import parse
from schemas.windows import MOST_PANES, TimeWindow, check_windows, pane_of, parse_window
from tests.unit.schemas.test_specification import MINIMAL

HOUR = 3_600_000
DAY = 24 * HOUR


@pytest.mark.parametrize(
    ("text", "length_ms", "step_ms", "offset_ms"),
    [
        ("7d", 7 * DAY, 0, 0),
        ("7d/7d", 7 * DAY, 7 * DAY, 0),
        ("1w/1d", 7 * DAY, DAY, 0),
        ("7d/2d", 7 * DAY, 2 * DAY, 0),
        ("7d/7d+4d", 7 * DAY, 7 * DAY, 4 * DAY),
        ("1d/1d+5h", DAY, DAY, 5 * HOUR),
    ],
)
def test_time_windows(text: str, length_ms: int, step_ms: int, offset_ms: int) -> None:
    assert parse_window(text) == TimeWindow(text, length_ms, step_ms, offset_ms)


@pytest.mark.parametrize(
    ("text", "what", "remedy"),
    [
        ("soon", "'soon' is not a window", '"7d/7d"'),
        ("7d/", "'7d/' is not a window", '"1000n"'),
        ("/7d", "not a window", '"7d"'),
        ("0n", "not a window", '"1000n"'),
        ("7d/0d", "not a window", '"7d/1d"'),
        ("7d+4d", "not a window", '"7d/7d+4d"'),
        ("7d/7d+", "not a window", '"7d/7d+4d"'),
        ("7d/7d/7d", "not a window", '"7d/7d"'),
        ("1d/7d", "leave events out", 'write "7d/7d" or "1d/1d"'),
        ("1000n/500n", "a count window ends with every pane", '"1000n"'),
        ("7d/500n", "a count window ends with every pane", '"1000n"'),
        ("7d/7d+9d", "an offset is shorter than the step", 'write "7d/7d+2d"'),
        ("7d/7d+7d", "an offset is shorter than the step", 'write "7d/7d"'),
        ("1d/1d+1ms", "86,400,000 panes of 1ms", f"at most {MOST_PANES:,}"),
    ],
)
def test_errors_say_what_where_and_what_to_write(text: str, what: str, remedy: str) -> None:
    with pytest.raises(SpecificationError) as caught:
        parse(MINIMAL + f'windows = ["{text}"]\n', file="some/driftline.toml")
    assert what in caught.value.what
    assert caught.value.where == "some/driftline.toml [metrics.windows]"
    assert remedy in caught.value.remedy


def test_windows_must_fit_together() -> None:
    check_windows(["5m", "30d"])
    with pytest.raises(SpecificationError, match="'30d' would be made of 43,200 panes of 1m"):
        check_windows(["7m", "30d", "1000n"])


@pytest.mark.parametrize(
    ("windows", "pane_ms"),
    [
        (["7d/7d"], 7 * DAY),
        (["7d/7d", "1d"], DAY),
        (["7d/2d"], DAY),
        (["7d/7d+4d"], DAY),
        (["1d/1d+5h"], HOUR),
        (["6h/6h", "4h/4h"], 2 * HOUR),
        ([], 0),
    ],
)
def test_lengths_steps_and_offsets_are_whole_panes(windows: list[str], pane_ms: int) -> None:
    assert pane_of(map(parse_window, windows)) == pane_ms


def test_ends() -> None:
    monday = parse_window("7d/7d+4d")
    assert [at for at in range(30) if monday.ends_at(at * DAY)] == [4, 11, 18, 25]
    assert [monday.next_end(at * DAY) // DAY for at in (0, 4, 5, 11, 12)] == [4, 4, 11, 11, 18]
    sliding = parse_window("7d")
    assert sliding.ends_at(3 * DAY)
    assert sliding.next_end(3 * DAY) == 3 * DAY
