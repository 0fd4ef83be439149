"""The join with time, kept as a clerk would: every card is looked at after every batch, nothing is clever.

What `tests.support.oracle` says holds within the grace. Here nothing is promised about order: watermarks, idle topics
and versions registered on the way decide with. It shares no code with `streams.join`; its cost is that of all cards.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from schemas.codec import decode_ground_truth, decode_heartbeat, decode_prediction, is_heartbeat
from schemas.errors import DecodeError
from schemas.events import Label, Prediction
from schemas.topics import GROUND_TRUTH, PREDICTIONS
from streams.kafka.records import Record
from streams.panes import PanePlan

TOMBSTONE = -(2**62)
PlanOf = Callable[[str, int], PanePlan | None]


@dataclass
class Told:
    """A label as it came. `until`: when it is given up, None while that is not known."""

    record: Record
    at: int
    revision: int
    label: Label | None
    until: int

    @property
    def tombstone(self) -> bool:
        return self.revision == TOMBSTONE


@dataclass
class Guess:
    """A prediction and what it knows of the truth."""

    prediction: Prediction
    value: bytes
    plan: PanePlan
    until: int
    effect: int
    first_label: int | None = None
    label: Label | None = None
    expired: bool = False
    revised: bool = False


@dataclass
class Card:
    """All that is known of an id."""

    keep_until: int
    guesses: list[Guess] = field(default_factory=list)
    taken: list[tuple[int, int, Label | None]] = field(default_factory=list)
    waiting: list[Told] = field(default_factory=list)


class Ledger:
    """Cards, counts and contributions of one partition."""

    def __init__(self, grace_ms: int, future_ms: int, now_ms: int) -> None:
        self.grace, self.future, self.now = grace_ms, future_ms, now_ms
        self.cards: dict[str, Card] = {}
        self.count: Counter[str] = Counter()
        self.sums: Counter[tuple[Any, ...]] = Counter()
        self.dead: set[tuple[str, int, str]] = set()
        self.newest = {PREDICTIONS: -1, GROUND_TRUTH: -1}
        self.watermark = -1

    def batch(
        self, records: Mapping[str, list[Record]], idle: Mapping[str, bool], plan_of: PlanOf, horizon_ms: int
    ) -> None:
        """Predictions, then labels, then time."""
        before = self.watermark
        seen = dict(self.newest)
        for topic in (PREDICTIONS, GROUND_TRUTH):
            for record in records[topic]:
                try:
                    if is_heartbeat(record.headers):
                        at = self._not_future(record, decode_heartbeat(record.value or b"").event_time_ms)
                        self.count["heartbeats"] += 1
                    elif topic == PREDICTIONS:
                        at = self._prediction(record, plan_of, before)
                    else:
                        at = self._label(record, before, horizon_ms)
                    seen[topic] = max(seen[topic], at)
                except DecodeError as error:
                    self._refuse(record, error.reason)
        self.newest = seen
        active = [at for topic, at in seen.items() if not idle[topic]]
        self.watermark = max(before, min(active) if active else max(seen.values()))
        for key in sorted(self.cards):
            self._pass_time(key)

    def _not_future(self, record: Record, at: int) -> int:
        if at > (record.timestamp_ms if record.timestamp_ms > 0 else self.now) + self.future:
            raise DecodeError("", reason="future")
        return at

    def _refuse(self, record: Record, reason: str) -> None:
        self.dead.add((record.topic, record.offset, reason))
        if record.topic == PREDICTIONS:
            self.count["predictions.dead"] += 1
        else:
            self.count["labels"] += record.topic == GROUND_TRUTH and reason not in {"late", "label-type"}
            self.count["labels.late" if reason == "late" else "labels.dead"] += 1

    # ------------------------------------------------------------------------------------------ predictions

    def _prediction(self, record: Record, plan_of: PlanOf, watermark: int) -> int:
        p = decode_prediction(record.value or b"")
        at = self._not_future(record, p.event_time_ms)
        plan = plan_of(p.model, p.version)
        if plan is None:
            self.count["predictions.skipped"] += 1
            return -1
        keep = at + plan.max_label_delay_ms + plan.revision_horizon_ms + 1
        card = self.cards.get(p.prediction_id)
        for guess in card.guesses if card else ():
            if (guess.prediction.model, guess.prediction.version) == (p.model, p.version):
                assert card is not None
                card.keep_until = max(card.keep_until, keep)
                if guess.value == record.value:
                    self.count["predictions.duplicate"] += 1
                else:
                    self._refuse(record, "conflicting-prediction")
                return at - self.grace
        if keep <= watermark:
            self._refuse(record, "late")
        elif not plan.accepts_prediction(p):
            self._refuse(record, "prediction-type")
        else:
            self._begin(record, p, plan, keep)
        return at - self.grace

    def _begin(self, record: Record, p: Prediction, plan: PanePlan, keep: int) -> None:
        at = p.event_time_ms
        card = self.cards.setdefault(p.prediction_id, Card(keep))
        card.keep_until = max(card.keep_until, keep)
        guess = Guess(p, record.value or b"", plan, at + plan.max_label_delay_ms, at)
        self.count.update(["predictions", "pending"])
        for segment in plan.compact(p).segments:
            self._put(guess, segment, at, plan.traffic(p, segment))
        card.guesses.append(guess)
        if len(card.guesses) > 1:
            for taken in card.taken:
                self._learn(guess, *taken)
            return
        waiting, card.waiting = card.waiting, []
        for told in waiting:
            self.count["labels.waiting"] -= 1
            self._judge(card, told)

    # ----------------------------------------------------------------------------------------------- labels

    def _label(self, record: Record, watermark: int, horizon_ms: int) -> int:
        if record.value is None:
            if not record.key:
                raise DecodeError("", reason="empty")
            key, told = record.key.decode(), Told(record, 0, TOMBSTONE, None, 0)
        else:
            truth = decode_ground_truth(record.value)
            if truth.revision <= TOMBSTONE:
                raise DecodeError("", reason="schema")
            at = self._not_future(record, truth.event_time_ms)
            key, told = truth.prediction_id, Told(record, at, truth.revision, truth.label, at + horizon_ms + 1)
        self.count["labels"] += 1
        card = self.cards.get(key)
        if card is None:
            if told.tombstone:
                self.count["labels.orphaned"] += 1
                return -1
            if told.until <= watermark:
                self._refuse(record, "late")
                return told.at - self.grace
            card = self.cards[key] = Card(told.until)
        if not told.tombstone:
            card.keep_until = max(card.keep_until, told.until)
        if card.guesses:
            self._judge(card, told)
        else:
            if told.tombstone:
                told.until = card.waiting[-1].until
            card.waiting.append(told)
            self.count["labels.waiting"] += 1
        return -1 if told.tombstone else told.at - self.grace

    def _judge(self, card: Card, told: Told) -> None:
        first = card.guesses[0]
        plan, born = first.plan, first.prediction.event_time_ms
        if told.at > born + plan.max_label_delay_ms + plan.revision_horizon_ms:
            card.waiting.append(told)
            self.count["labels.waiting"] += 1
            return
        last = card.taken[-1] if card.taken else None
        new = (told.at, told.revision, told.label)
        if told.tombstone:
            new = (last[0] if last else 0, TOMBSTONE, None)
        if (told.tombstone and last is None) or (not told.tombstone and told.until <= born):
            self.count["labels.orphaned"] += 1
        elif new == last or (last and not told.tombstone and told.revision < last[1]):
            self.count["labels.duplicate"] += 1
        elif told.label is not None and not plan.accepts(told.label):
            self._refuse(told.record, "label-type")
        elif not told.tombstone and (first.expired or told.at > first.until):
            self._refuse(told.record, "late")
        else:
            self.count["labels.matched"] += 1
            self.count["labels.revised"] += last is not None
            card.taken.append(new)
            for guess in card.guesses:
                self._learn(guess, *new)

    def _learn(self, guess: Guess, at: int, revision: int, label: Label | None) -> None:
        del revision
        plan, born = guess.plan, guess.prediction.event_time_ms
        if guess.expired or at > guess.until or (label is not None and not plan.accepts(label)):
            return
        compact, old = plan.compact(guess.prediction), guess.label
        if guess.first_label is None:
            guess.first_label = at
            guess.until = max(at, born) + plan.revision_horizon_ms
        elif old != label and not guess.revised:
            guess.revised = True
            self.count["revised"] += 1
        guess.effect = max(guess.effect, at)
        guess.label = label
        for segment in compact.segments:
            delay = guess.first_label - born
            if old is not None:
                self._put(guess, segment, guess.effect, plan.labelled(compact, old, delay), -1)
            if label is not None:
                self._put(guess, segment, guess.effect, plan.labelled(compact, label, delay))
        known = (label is not None) - (old is not None)
        self.count["labelled"] += known
        self.count["pending"] -= known
        self.count["withdrawn"] += known < 0

    # ------------------------------------------------------------------------------------------------- time

    def _pass_time(self, key: str) -> None:
        card = self.cards[key]
        gone = card.keep_until <= self.watermark
        for told in [told for told in card.waiting if gone or told.until <= self.watermark]:
            card.waiting.remove(told)
            self.count["labels.waiting"] -= 1
            self.count["labels.orphaned"] += 1
        for guess in card.guesses:
            if guess.label is None and not guess.expired and (gone or guess.until < self.watermark):
                guess.expired = True
                guess.effect = max(guess.until, guess.effect)
                self.count["pending"] -= 1
                self.count["expired"] += 1
                compact = guess.plan.compact(guess.prediction)
                for segment in compact.segments:
                    self._put(guess, segment, guess.effect, guess.plan.expired(compact))
        if gone:
            del self.cards[key]

    def _put(self, guess: Guess, segment: str, effect: int, contribution: Mapping[int, int], sign: int = 1) -> None:
        p, pane_ms = guess.prediction, guess.plan.pane_ms
        pane, effect = (at // pane_ms * pane_ms for at in (p.event_time_ms, effect))
        for position, n in contribution.items():
            self.sums[p.model, p.version, segment, pane, effect, position] += sign * n
