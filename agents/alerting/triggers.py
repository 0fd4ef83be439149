"""When to ask for a successor: the specification's triggers, by event time. Pure.

What changed outside of the traffic (``code``) is for the retraining agent to see: `agents.retraining.code`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from agents.alerting.crossing import DRIFT_KINDS, QUALITY_KINDS, Crossing
from schemas.codec import derived_id, utc
from schemas.durations import format_duration
from schemas.events import RetrainRequest
from schemas.specification import Specification

_WANTED: dict[str, frozenset[str]] = {
    "quality": QUALITY_KINDS,
    "drift": DRIFT_KINDS,
    "new-segment": frozenset({"new-segment"}),
}


NEW_ROWS: Final = 0.5
"""New labelled rows that the trigger ``data`` waits for, as a share of those the champion learnt from."""


class Learnt(msgspec.Struct, frozen=True, kw_only=True):
    """What a version was made from: labelled rows (None: nobody knows), and the event time of the last one."""

    rows: int | None
    until_ms: int


class Ground(msgspec.Struct, frozen=True, kw_only=True):
    """A reason to retrain: an open incident of the champion.

    `kinds`: what it is called, and the drift it holds; `changed_ms`: since when, by its evidence.
    """

    incident_id: str
    kinds: frozenset[str]
    segment: str
    title: str
    opened_ms: int
    changed_ms: int | None = None


def change_point(members: Iterable[Crossing]) -> int | None:
    """When things changed, by the crossings of an incident: a cumulative sum knows best, else the earliest window."""
    known = [(c.statistic != "cusum", c.start_ms) for c in members if c.start_ms is not None]
    return min(known)[1] if known else None


class RetrainState(msgspec.Struct, kw_only=True):
    """What has been asked for one model. Times are event time.

    `origin_ms` is where the schedule starts (the first pane seen); `open_request` is the request that no run has
    answered yet. `learnt_rows`: labelled rows that the champion was made from; `new_rows`: labelled rows of panes that
    began after `known_until_ms`, the end of what the champion or the last run could learn from.
    """

    origin_ms: int | None = None
    last_ms: int | None = None
    open_request: str | None = None
    learnt_rows: int | None = None
    known_until_ms: int = 0
    new_rows: int = 0


def counted(state: RetrainState, pane_start_ms: int, labelled: int) -> None:
    """A pane closed with so many labelled rows."""
    if pane_start_ms >= state.known_until_ms:
        state.new_rows += labelled


def replaced(state: RetrainState, learnt: Learnt) -> None:
    """Another version is champion. Rows are counted anew only where it knows more than the last run could."""
    state.learnt_rows = learnt.rows
    if learnt.until_ms > state.known_until_ms:
        state.known_until_ms, state.new_rows = learnt.until_ms, 0


def enough_rows(state: RetrainState, spec: Specification) -> int:
    """New labelled rows that the trigger ``data`` waits for."""
    return max(spec.retraining.min_labels, math.ceil(NEW_ROWS * (state.learnt_rows or 0)))


def due(
    state: RetrainState, model: str, spec: Specification, grounds: Sequence[Ground], now_ms: int
) -> RetrainRequest | None:
    """The request that is due at `now_ms`, if any; the caller records it with `asked`.

    Parameters
    ----------
    state : RetrainState
        Updated in place only by fixing the schedule's origin.
    model : str
    spec : Specification
        Its triggers, cool-down and schedule rule.
    grounds : sequence of Ground
        Open incidents of the champion.
    now_ms : int
        Event time at which the newest pane closed; becomes `as_of`.

    Returns
    -------
    RetrainRequest or None
        None while a request is open or the cool-down since the last one has not passed.

    Notes
    -----
    Incidents come before new rows and these before the schedule, quality before drift, overall before segments: the
    request names the strongest reason. An incident still open when the cool-down ends leads to the next request.
    """
    if state.origin_ms is None:
        state.origin_ms = now_ms
    if state.open_request is not None:
        return None
    if state.last_ms is not None and now_ms < state.last_ms + spec.cool_down_ms:
        return None
    asked_for = [trigger.partition(":")[0] for trigger in spec.retraining.triggers]
    for name in ("quality", "drift", "new-segment"):
        if name not in asked_for:
            continue
        fitting = sorted(
            (ground for ground in grounds if ground.kinds & _WANTED[name]),
            key=lambda ground: (ground.segment != "", ground.opened_ms, ground.incident_id),
        )
        if fitting:
            return _request(model, name, fitting[0].title, now_ms, fitting[0])
    if "data" in asked_for and state.new_rows >= enough_rows(state, spec):
        of = "" if state.learnt_rows is None else f", the champion learnt from {state.learnt_rows:,}"
        reason = f"{state.new_rows:,} labelled rows since {_day(state.known_until_ms)}{of}"
        return _request(model, "data", reason, now_ms, None)
    period = spec.schedule_ms
    since = state.last_ms if state.last_ms is not None else state.origin_ms
    if period is not None and now_ms >= since + period:
        return _request(model, "schedule", f"{format_duration(period)} passed since the last one", now_ms, None)
    return None


def asked(state: RetrainState, request: RetrainRequest, now_ms: int) -> None:
    """Record that `request` was sent. Whatever becomes of it, the next one for new rows waits for as many again."""
    state.last_ms = now_ms
    state.open_request = request.request_id
    state.known_until_ms, state.new_rows = max(now_ms, state.known_until_ms), 0


def answered(state: RetrainState) -> None:
    """A run ended (or was refused): the model may ask again after its cool-down."""
    state.open_request = None


def _day(ms: int) -> str:
    return f"{utc(ms):%Y-%m-%d}" if ms else "monitoring began"


def _request(model: str, trigger: str, reason: str, now_ms: int, ground: Ground | None) -> RetrainRequest:
    return RetrainRequest(
        request_id=derived_id("retrain", model, trigger, now_ms),
        model=model,
        trigger=trigger,
        reason=reason,
        as_of=utc(now_ms),
        incident_id=ground.incident_id if ground is not None else None,
        changed_at=utc(ground.changed_ms) if ground is not None and ground.changed_ms is not None else None,
    )
