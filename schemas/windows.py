"""Windows as people write them: ``7d``, ``7d/7d``, ``7d/1d``, ``7d/7d+4d``; count windows ``1000n``."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final, NamedTuple

from schemas.durations import format_duration, parse_count, parse_duration
from schemas.errors import SpecificationError

MOST_PANES: Final = 10_000
"""Panes in one window at most: every closing of a window adds up all of them."""
_ACCEPTED: Final = (
    'write a length ("7d": one window a pane), length/step ("7d/7d": one after the other, "7d/1d": one a day), '
    'length/step+offset ("7d/7d+4d": weeks from Monday), or a number of labelled events ("1000n")'
)


class TimeWindow(NamedTuple):
    """A window of event time.

    Parameters
    ----------
    name : str
        As it was written; series carry it.
    length_ms : int
    step_ms : int
        From the end of one to the end of the next; 0: one pane.
    offset_ms : int
        Ends lie at this time after midnight UTC of 1 January 1970, and at whole steps from there.

    Notes
    -----
    With a step as long as the window it tumbles, with a shorter one it hops, with that of a pane it slides.
    """

    name: str
    length_ms: int
    step_ms: int = 0
    offset_ms: int = 0

    def ends_at(self, end_ms: int) -> bool:
        """Whether one ends here, at the end of a pane."""
        return not self.step_ms or (end_ms - self.offset_ms) % self.step_ms == 0

    def next_end(self, end_ms: int) -> int:
        """End of the first one that ends here or later.

        Examples
        --------
        >>> TimeWindow("7d/7d+4d", 7, 7, 4).next_end(12)
        18
        """
        return end_ms + (self.offset_ms - end_ms) % self.step_ms if self.step_ms else end_ms


def parse_window(text: str, *, where: str = "") -> TimeWindow:
    """A time window from its name.

    Raises
    ------
    SpecificationError
        Naming `where`, what is wrong with it, and what to write instead.

    Examples
    --------
    >>> parse_window("7d/1d")
    TimeWindow(name='7d/1d', length_ms=604800000, step_ms=86400000, offset_ms=0)
    """
    length, slash, rest = text.partition("/")
    step, plus, offset = rest.partition("+")
    if slash and (parse_count(length) is not None or parse_count(step) is not None):
        raise SpecificationError(
            f"{text!r} has a step, but a count window ends with every pane", where=where,
            remedy='write a number of labelled events alone, such as "1000n"',
        )  # fmt: skip
    try:
        window = TimeWindow(
            text,
            parse_duration(length),
            parse_duration(step) if slash else 0,
            parse_duration(offset) if plus else 0,
        )
    except SpecificationError as error:
        raise SpecificationError(f"{text!r} is not a window", where=where, remedy=_ACCEPTED) from error
    if window.step_ms > window.length_ms:
        raise SpecificationError(
            f"{text!r} would leave events out: its step is longer than the window", where=where,
            remedy=f'write "{step}/{step}" or "{length}/{length}"',
        )  # fmt: skip
    if slash and window.offset_ms >= window.step_ms:
        left = window.offset_ms % window.step_ms
        shorter = f"+{format_duration(left)}" if left else ""
        raise SpecificationError(
            f"{text!r} begins as {length}/{step}{shorter} does: an offset is shorter than the step", where=where,
            remedy=f'write "{length}/{step}{shorter}"',
        )  # fmt: skip
    return window


def pane_of(windows: Iterable[TimeWindow]) -> int:
    """The longest pane that all windows consist of: lengths, steps and offsets are multiples of it; 0 without any."""
    return math.gcd(*(ms for _, *times in windows for ms in times))


def check_windows(windows: Iterable[str], *, where: str = "") -> None:
    """Check all windows of a specification, alone and together.

    Raises
    ------
    SpecificationError
    """
    timed = [parse_window(text, where=where) for text in windows if parse_count(text) is None]
    pane_ms = pane_of(timed)
    for window in timed:
        if window.length_ms // pane_ms > MOST_PANES:
            raise SpecificationError(
                f"{window.name!r} would be made of {window.length_ms // pane_ms:,} panes of "
                f"{format_duration(pane_ms)}, the longest time that divides all lengths, steps and offsets",
                where=where,
                remedy=f"at most {MOST_PANES:,}: write times that divide each other, such as 1h, 1d and 7d",
            )
