"""Which version answered, and from when until when, by the event times of what it answered. Pure.

Predictions are counted by hour. Traffic of two versions overlaps a little around a swap, and a request may ask for an
older version by its number: who answers most of an hour has it, and the others are named beside.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

HOUR_MS: Final = 3_600_000

Name = int | str
"""A version: its number, or what it is called elsewhere."""


class Share(NamedTuple):
    """What one version answered in one hour: how much, and the first and last event time (milliseconds)."""

    hour: int
    version: Name
    predictions: int
    first_ms: int
    last_ms: int


class Stint(NamedTuple):
    """A version's time: event times of its first and last answer, how many, and who answered before and after it.

    `beside`: other versions that answered in the hour that was asked about, with how many.
    """

    version: Name
    since_ms: int
    until_ms: int
    predictions: int
    before: Name | None
    after: Name | None
    beside: dict[Name, int]


def stint(shares: Iterable[Share], at_ms: int) -> Stint | None:
    """The stint that an event time lies in: of whoever gave the newest answer until then; None before the first one.

    Parameters
    ----------
    shares : iterable of Share
        Of one model, in any order.
    at_ms : int

    Examples
    --------
    >>> old = [Share(0, 1, 90, 0, 3_599_000), Share(1, 1, 20, 3_600_000, 4_000_000)]
    >>> stint([*old, Share(1, 2, 70, 4_001_000, 7_000_000)], 5_000_000)
    Stint(version=2, since_ms=4001000, until_ms=7000000, predictions=70, before=1, after=None, beside={1: 20})
    """
    hours: dict[int, list[Share]] = {}
    for share in shares:
        hours.setdefault(share.hour, []).append(share)
    order = sorted(hours)
    begun = [hour for hour in order if any(share.first_ms <= at_ms for share in hours[hour])]
    if not begun:
        return None
    here = order.index(begun[-1])
    mine = _answering(hours[begun[-1]], at_ms)
    held = [mine]
    if _top(hours[order[here]]) == mine or mine.first_ms <= min(s.first_ms for s in hours[order[here]]):
        held = [*_onward(hours, order[here - 1 :: -1] if here else [], mine.version, back=True), *held]
    if _top(hours[order[here]]) == mine or mine.last_ms >= max(s.last_ms for s in hours[order[here]]):
        held = [*held, *_onward(hours, order[here + 1 :], mine.version, back=False)]
    since, until = min(share.first_ms for share in held), max(share.last_ms for share in held)
    return Stint(
        version=mine.version,
        since_ms=since,
        until_ms=until,
        predictions=sum(share.predictions for share in held),
        before=_beyond(hours, order, mine.version, since, back=True),
        after=_beyond(hours, order, mine.version, until, back=False),
        beside={s.version: s.predictions for s in hours[order[here]] if s.version != mine.version},
    )


def _top(shares: Sequence[Share]) -> Share:
    return max(shares, key=lambda share: (share.predictions, share.last_ms))


def _answering(shares: Sequence[Share], at_ms: int) -> Share:
    """Of those that had answered until then, who gave the newest answer; where several answered all along, most."""
    begun = [share for share in shares if share.first_ms <= at_ms]
    newest = max(begun, key=lambda share: (min(share.last_ms, at_ms), share.first_ms))
    during = [share for share in begun if share.last_ms >= min(newest.last_ms, at_ms)]
    return _top([newest, *during])


def _onward(hours: Mapping[int, list[Share]], order: Sequence[int], version: Name, *, back: bool) -> list[Share]:
    """A version's shares of the hours that follow, as long as it has them; the swap may lie within the last of them."""
    held = []
    for hour in order:
        mine = next((share for share in hours[hour] if share.version == version), None)
        if mine is None:
            break
        top = _top(hours[hour])
        if top != mine:
            if (mine.last_ms > top.last_ms) if back else (mine.first_ms < top.first_ms):
                held.append(mine)
            break
        held.append(mine)
        if back and any(s.first_ms < mine.first_ms and s.last_ms <= mine.first_ms for s in hours[hour] if s != mine):
            break
    return held[::-1] if back else held


def _beyond(
    hours: Mapping[int, list[Share]], order: Sequence[int], version: Name, edge_ms: int, *, back: bool
) -> Name | None:
    """Who was next on the other side of an edge: of those who answered in the nearest hour there, the nearest one."""
    for hour in reversed(order) if back else order:
        others = [
            share
            for share in hours[hour]
            if share.version != version and (share.first_ms < edge_ms if back else share.last_ms > edge_ms)
        ]
        if others:
            nearest = max(others, key=_end) if back else min(others, key=_beginning)
            return nearest.version
    return None


def _beginning(share: Share) -> int:
    return share.first_ms


def _end(share: Share) -> int:
    return share.last_ms
