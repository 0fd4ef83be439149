"""What the join remembers of one prediction_id, in compact immutable structs.

An `Entry` is replaced, never changed, so that a batch that does not count is dropped by forgetting its replacements.
"""

from __future__ import annotations

import msgspec

from schemas.events import Label
from streams.panes import Compact

TOMBSTONE_REVISION = -(1 << 62)
"""Revision of a null record: it wins over everything before it and loses against every later label."""


class LabelFact(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One accepted label. `label` None withdraws."""

    event_time_ms: int
    revision: int
    label: Label | None


class WaitingLabel(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A label that came before its prediction, with the bytes that a dead letter would need.

    `event_time_ms` is 0 for a tombstone, which has none. `until_ms`: watermark at which it is orphaned, and event time
    from which on predictions are not its own any more.
    """

    event_time_ms: int
    revision: int
    label: Label | None
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] | None
    until_ms: int = 0


class JoinedPrediction(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One prediction and the label it holds.

    Parameters
    ----------
    model, version : str, int
        With the entry's prediction_id its identity.
    event_time_ms : int
    payload : bytes
        Hash of its bytes: tells a duplicate from a conflict.
    compact : Compact
        What a label needs of it.
    until_ms : int
        Newest event time of a label it takes: its own + max_label_delay at first, the first label's (or its own, if
        that is later) + revision_horizon from then on.
    effect_ms : int
        Event time of its newest contribution; effects of one prediction never go back in time.
    first_label_ms : int or None
        Event time of the first label it took.
    label : Label or None
        The label that counts now; None: none came, or it was withdrawn.
    expired : bool
        It ended without a label.
    revised : bool
        A later label changed an earlier one.
    """

    model: str
    version: int
    event_time_ms: int
    payload: bytes
    compact: Compact
    until_ms: int
    effect_ms: int
    first_label_ms: int | None = None
    label: Label | None = None
    expired: bool = False
    revised: bool = False

    @property
    def pending(self) -> bool:
        """Neither labelled nor expired."""
        return self.label is None and not self.expired


class Entry(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Everything known of one prediction_id.

    Parameters
    ----------
    keep_until_ms : int
        Forgotten once the watermark reaches it: the latest of what each record that touched it would ask for alone.
    generation : int
        Group of commits in which it began; a rebuild has to replay from the oldest one that lives.
    predictions : tuple of JoinedPrediction
        In the order they came. The first decides what happens to a label, the others take those they can.
    labels : tuple of LabelFact
        Labels taken by the first prediction, in order.
    waiting : tuple of WaitingLabel
        Labels that no prediction came for yet, or that are past what the first prediction could ever be told.
    """

    keep_until_ms: int
    generation: int
    predictions: tuple[JoinedPrediction, ...] = ()
    labels: tuple[LabelFact, ...] = ()
    waiting: tuple[WaitingLabel, ...] = ()

    @property
    def wake_ms(self) -> int:
        """Watermark at which something has to be done with it: expire, orphan or forget."""
        wake = self.keep_until_ms
        for label in self.waiting:
            wake = min(wake, label.until_ms)
        for prediction in self.predictions:
            if prediction.until_ms < wake and prediction.label is None and not prediction.expired:
                wake = prediction.until_ms + 1
        return wake
