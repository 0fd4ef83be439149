"""Answers batches of requests and swaps versions between two of them."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from agents.serving import logic
from agents.serving.model import Answer, ServedModel
from agents.serving.private import GROUP, Asked, Privacy
from agents.serving.registry_follower import RegistryFollower
from agents.serving.staging import Key, Stage, first_line
from schemas.codec import SHADOW, Headers, cloudevent_headers, decode_request, derived_id, encode, utc
from schemas.errors import DecodeError
from schemas.events import (
    CandidateStaged,
    InferenceRequest,
    ModelRefused,
    ModelSwapped,
    Prediction,
    Scalar,
    ServingEvent,
)
from schemas.topics import MAX_MESSAGE_BYTES, PREDICTIONS, SERVING_EVENTS
from streams.kafka.positions import Positions, TopicPartition
from streams.kafka.records import Output, Record, dead_letter

log = logging.getLogger("driftline.serving")

SOURCE = "/driftline/serving"
_LOAD_TIMEOUT_S = 90.0
_MOST_PINNED = 4
_MOST_ATTEMPTS = 64
"""Calls of a model that raises, while looking for the rows it cannot take."""


@dataclass
class _Overlay:
    """What the batch changes if it is committed."""

    served: dict[str, int]
    told: set[tuple[str, Key]] = field(default_factory=set)


class ServingHandler:
    """The `BatchHandler` of serving.

    Parameters
    ----------
    follower : RegistryFollower
    stage : Stage
    worker : str
        Slot of this worker, named in its events.
    served : mapping of str to int
        Version that this worker answered with last, by model (from its own events): a restart tells nothing twice.
    privacy : Privacy, optional
        Of people's data; without it no specification may name a subject.
    on_ready : callable
        Called once, when partitions are assigned and every champion is loaded or refused.

    Notes
    -----
    A swap happens between two batches: the batch in which it is emitted is the first that the new version answers, and
    event and answers are one transaction. When that is aborted, so is the swap, and the next batch makes it again.
    While a version is being loaded the last good one goes on; only when there is none do requests wait.
    """

    def __init__(
        self,
        follower: RegistryFollower,
        stage: Stage,
        *,
        worker: str,
        served: Mapping[str, int] | None = None,
        privacy: Privacy | None = None,
        on_ready: Callable[[], None] = lambda: None,
    ) -> None:
        self._follower = follower
        self._table = follower.table
        self._stage = stage
        self._worker = worker
        self._served = dict(served or {})
        self._privacy = privacy
        self._told: set[tuple[str, Key]] = set()
        self._overlay: _Overlay | None = None
        self._pinned: OrderedDict[Key, None] = OrderedDict()
        self._on_ready: Callable[[], None] | None = on_ready
        self._stage_wanted()

    # --------------------------------------------------------------------------------- BatchHandler

    def restore(
        self, partitions: Sequence[int], committed: Mapping[TopicPartition, int | None]
    ) -> Mapping[TopicPartition, int] | None:
        """Serving has no state per partition."""
        return None

    def process(self, records: Sequence[Record], positions: Positions, now_ms: int) -> Sequence[Output]:
        """Answer `records`; swap first where a version is due."""
        overlay = self._overlay = _Overlay(dict(self._served))
        outputs: list[Output] = []
        asked = self._decode(records, outputs)
        if self._follower.poll() or self._unknown(asked):
            self._stage_wanted()
        if self._privacy is not None:
            asked = self._privacy.opened(self._table, asked, outputs)
        outputs += self._news(overlay, now_ms)
        outputs += self._swaps({one.request.model for one in asked}, overlay, positions, now_ms)
        outputs += self._answers(asked, overlay, now_ms)
        self._say_ready()
        return outputs

    def wants_commit(self) -> bool:
        """Everything worth a commit is an output."""
        return False

    def committed(self, offsets: Mapping[TopicPartition, int]) -> None:
        """The swaps and news of the batch count."""
        if self._overlay is not None:
            self._served = self._overlay.served
            self._told |= self._overlay.told
            self._overlay = None

    def aborted(self) -> None:
        """They do not."""
        self._overlay = None

    def released(self, partitions: Sequence[int]) -> None:
        """Nothing is kept per partition."""

    # ------------------------------------------------------------------------------------- requests

    def _decode(self, records: Sequence[Record], outputs: list[Output]) -> list[Asked]:
        asked = []
        for record in records:
            try:
                asked.append(Asked(record, decode_request(record.value or b"")))
            except DecodeError as error:
                withheld = self._privacy is not None and self._privacy.withheld(self._table, record)
                outputs.append(dead_letter(record, error.reason, error.what, GROUP, withheld=withheld))
        return asked

    def _withheld(self, one: Asked) -> bool:
        """Whether a request of no model that is known may be a person's that nobody could erase."""
        if self._privacy is None or one.request.model in self._table:
            return False
        return self._privacy.withheld(self._table, one.record)

    def _unknown(self, asked: Sequence[Asked]) -> bool:
        """Ask the registry's topic again before a model counts as unknown; whether anything changed."""
        missing = {one.request.model for one in asked if one.request.model not in self._table}
        return bool(missing) and self._follower.catch_up()

    def _answers(self, asked: Sequence[Asked], overlay: _Overlay, now_ms: int) -> list[Output]:
        """Predictions and dead letters in the order of the requests; one model call per version."""
        groups: dict[Key, list[int]] = {}
        answers: list[Output | None] = [None] * len(asked)
        for at, one in enumerate(asked):
            chosen = self._choose(one.request, overlay)
            if isinstance(chosen, tuple):
                groups.setdefault(chosen, []).append(at)
            else:
                answers[at] = one.letter(*_split(chosen), withheld=self._withheld(one))
        events: list[Output] = []
        for key, places in groups.items():
            served = self._loaded(key)
            if served is None:
                why = self._stage.refused(key) or "it is not loaded"
                for at in places:
                    answers[at] = asked[at].letter("no-version", f"{key[0]} version {key[1]}: {why}")
                continue
            raised = self._answer_group(key, served, places, asked, answers)
            if raised is not None and ("raised", key) not in self._told:
                overlay.told.add(("raised", key))
                events.append(self._refused(key, f"predict raised {raised}", now_ms))
        # Behind the answers of the batch: whoever reads an id's first prediction reads the one that counts.
        shadows = self._shadowed(groups, asked, answers, overlay)
        return [*events, *(answer for answer in answers if answer is not None), *shadows]

    def _shadowed(
        self,
        groups: Mapping[Key, Sequence[int]],
        asked: Sequence[Asked],
        answers: Sequence[Output | None],
        overlay: _Overlay,
    ) -> list[Output]:
        """What the champions before would have said, while their successors are on probation.

        Notes
        -----
        Only what the champion of the registry answered, unasked for by version, is answered in shadow: both versions
        have the same rows then. A shadow that is not loaded or raises leaves a gap, never a wait or a dead letter.
        """
        outputs: list[Output] = []
        for (model, version), places in groups.items():
            state = self._table.shadow(model)
            if state is None or version != overlay.served.get(model) or version != self._table.champion(model):
                continue
            served = self._stage.ready((model, state.version))
            if served is None:
                continue
            open_ones = [at for at in places if asked[at].request.version is None and _answered(answers[at])]
            good = [at for at in open_ones if logic.refusal(asked[at].request, served.spec.features) is None]
            results, raised = _predict(served, [asked[at] for at in good])
            if raised is not None:
                log.warning("%s version %d, in shadow: predict raised %s", model, state.version, raised)
            for at, result in zip(good, results, strict=True):
                if isinstance(result, tuple):
                    prediction = logic.prediction(asked[at].request, served.spec, state.version, result)
                    output = _output(asked[at], prediction, shadow=True)
                    if output.topic == PREDICTIONS:
                        outputs.append(output)
        return outputs

    def _choose(self, request: InferenceRequest, overlay: _Overlay) -> Key | str:
        """The version that answers, or ``reason: message``."""
        model = request.model
        if model not in self._table:
            return f"unknown-model: no model {model!r} is registered"
        if request.version is None:
            version = overlay.served.get(model)
            return f"no-version: no version of {model!r} can be served" if version is None else (model, version)
        state = self._table.version(model, request.version)
        if state is None:
            return f"unknown-version: {model!r} has no version {request.version}"
        if state.stage in logic.UNPROVEN:
            return (
                f"unknown-version: version {request.version} of {model!r} is {state.stage}: it did not pass validation"
            )
        if state.withheld is True and request.version != self._table.champion(model):
            return f"unknown-version: version {request.version} of {model!r} waits for somebody to agree to its types"
        return model, request.version

    def _answer_group(
        self,
        key: Key,
        served: ServedModel,
        places: Sequence[int],
        asked: Sequence[Asked],
        answers: list[Output | None],
    ) -> str | None:
        """Fill in the answers of one version; what it raised, if it did."""
        features = served.spec.features
        good = []
        for at in places:
            refused = logic.refusal(asked[at].request, features, private=asked[at].private)
            if refused is None:
                good.append(at)
            else:
                answers[at] = asked[at].letter(*refused)
        results, raised = _predict(served, [asked[at] for at in good])
        for at, result in zip(good, results, strict=True):
            one = asked[at]
            if isinstance(result, Exception):
                answers[at] = one.letter("prediction-failed", _said(result, private=one.private))
            elif result is None:
                answers[at] = one.letter("not-finite", "the model's answer is not finite")
            else:
                answers[at] = _output(one, logic.prediction(one.request, served.spec, key[1], result))
        return raised

    def _loaded(self, key: Key) -> ServedModel | None:
        """The version, loaded now if it has to be (pinned by a request, or the first of its model)."""
        served = self._stage.ready(key)
        if served is None:
            state = self._table.version(*key)
            if state is not None:
                self._stage.want(key[0], state)
                served = self._stage.wait(key, _LOAD_TIMEOUT_S)
        if key[1] != self._served.get(key[0]):
            self._pinned[key] = None
            self._pinned.move_to_end(key)
            while len(self._pinned) > _MOST_PINNED:
                self._pinned.popitem(last=False)
        return served

    # ------------------------------------------------------------------------------------- versions

    def _stage_wanted(self) -> None:
        shadows = [(model, v) for model in self._table.models() if (v := self._table.shadow(model)) is not None]
        wanted = [*self._table.to_stage(), *shadows]
        for model, version in wanted:
            self._stage.want(model, version)
        # The latest former champion stays, so that a roll-back is a switch too.
        former = [(model, v.version) for model in self._table.models() for v in self._table.fallbacks(model)[:1]]
        self._stage.keep([*((model, v.version) for model, v in wanted), *former, *self._served.items(), *self._pinned])

    def _swaps(self, asked_for: set[str], overlay: _Overlay, positions: Positions, now_ms: int) -> list[Output]:
        """Let the champions that are ready answer from this batch on."""
        outputs = []
        for model in self._table.models():
            champion, current = self._table.champion(model), overlay.served.get(model)
            if champion is None or (champion == current and self._stage.ready((model, champion))):
                continue
            began = time.perf_counter()
            version = self._next_version(model, champion, current, wait=model in asked_for)
            if version is None or version == current:
                continue
            overlay.served[model] = version
            event = ModelSwapped(
                event_id=derived_id("swap", model, version, self._table.epoch(model), self._worker),
                model=model,
                at=utc(now_ms),
                from_version=current,
                to_version=version,
                epoch=self._table.epoch(model),
                offsets=_nested(positions.start),
                pause_ms=round((time.perf_counter() - began) * 1000, 3),
                worker=self._worker,
            )
            log.info("%s: version %s → %d", model, current, version)
            outputs.append(_event(event, now_ms))
        return outputs

    def _next_version(self, model: str, champion: int, current: int | None, *, wait: bool) -> int | None:
        """The version to answer with now; None when there is none yet.

        With a version in memory nothing waits. Without one, requests of this batch wait for the champion, and where
        that is refused for the latest former champion.
        """
        if self._stage.ready((model, champion)):
            return champion
        if current is not None and self._stage.ready((model, current)):
            return current
        if not wait and not self._stage.settled((model, champion)):
            return None
        known = [self._table.version(model, number) for number in (champion, current) if number is not None]
        for state in [*known, *self._table.fallbacks(model)]:
            if state is not None:
                self._stage.want(model, state)
                if self._stage.wait((model, state.version), _LOAD_TIMEOUT_S) is not None:
                    return state.version
        return None

    def _news(self, overlay: _Overlay, now_ms: int) -> list[Output]:
        """Events about versions that were loaded or refused since, each told once."""
        outputs = []
        for model, version in self._table.to_stage():
            key = (model, version.version)
            reason = self._stage.refused(key)
            if reason is not None and ("refused", key) not in self._told:
                overlay.told.add(("refused", key))
                outputs.append(self._refused(key, reason, now_ms))
            elif self._stage.ready(key) and ("staged", key) not in self._told:
                overlay.told.add(("staged", key))
                if version.version not in (self._table.champion(model), overlay.served.get(model)):
                    outputs.append(
                        _event(
                            CandidateStaged(
                                event_id=derived_id("staged", model, version.version, self._worker),
                                model=model,
                                at=utc(now_ms),
                                version=version.version,
                                artifact=version.artifact,
                                worker=self._worker,
                            ),
                            now_ms,
                        )
                    )
        return outputs

    def _refused(self, key: Key, reason: str, now_ms: int) -> Output:
        log.error("%s version %d refused: %s", *key, reason)
        event = ModelRefused(
            event_id=derived_id("refused", *key, reason, self._worker),
            model=key[0],
            at=utc(now_ms),
            version=key[1],
            reason=reason,
            worker=self._worker,
        )
        return _event(event, now_ms)

    def _say_ready(self) -> None:
        if self._on_ready is None:
            return
        champions = [(model, self._table.champion(model)) for model in self._table.models()]
        if all(number is None or self._stage.settled((model, number)) for model, number in champions):
            self._on_ready()
            self._on_ready = None


def _predict(served: ServedModel, asked: Sequence[Asked]) -> tuple[list[Answer | Exception | None], str | None]:
    """Answers of all requests, and what the model raised first, if it did: that is told where nobody encrypts it.

    Where it raises, halves are tried, so that one bad row does not take the others along.
    """
    raised: str | None = None
    attempts = 0

    def attempt(part: Sequence[Mapping[str, Scalar]]) -> list[Answer | Exception | None]:
        nonlocal raised, attempts
        if not part:
            return []
        attempts += 1
        try:
            return list(served.predict(part))
        except Exception as error:  # noqa: BLE001  the model is a stranger's code
            # The newest version says what is personal; the one that answers may be older and name no subject.
            private = served.spec.data.subject is not None or any(one.private for one in asked)
            raised = raised or _said(error, private=private)
            if len(part) == 1 or attempts >= _MOST_ATTEMPTS:
                return [error] * len(part)
        middle = len(part) // 2
        return attempt(part[:middle]) + attempt(part[middle:])

    return attempt([one.request.features for one in asked]), raised


def _said(error: Exception, *, private: bool) -> str:
    """What people read of a model's error; where it may quote somebody's values, its type alone."""
    return type(error).__name__ if private else first_line(error)


def _answered(output: Output | None) -> bool:
    return output is not None and output.topic == PREDICTIONS


def _output(one: Asked, prediction: Prediction, *, shadow: bool = False) -> Output:
    value = encode(one.hidden(prediction))
    if len(value) > MAX_MESSAGE_BYTES:
        return one.letter("oversize", f"the prediction would have {len(value)} bytes")
    event_id = f"{prediction.model}/{prediction.version}/{prediction.prediction_id}"
    headers = _headers(prediction, event_id)
    return Output(PREDICTIONS, value, prediction.prediction_id.encode(), [*headers, SHADOW] if shadow else headers)


def _headers(prediction: Prediction, event_id: str) -> Headers:
    return cloudevent_headers(prediction, event_id=event_id, source=SOURCE)


def _event(event: ServingEvent, now_ms: int) -> Output:
    headers = cloudevent_headers(event, event_id=event.event_id, source=SOURCE, at=utc(now_ms))
    return Output(SERVING_EVENTS, encode(event), event.model.encode(), headers)


def _nested(offsets: Mapping[TopicPartition, int]) -> dict[str, dict[str, int]]:
    nested: dict[str, dict[str, int]] = {}
    for (topic, partition), offset in sorted(offsets.items()):
        nested.setdefault(topic, {})[str(partition)] = offset
    return nested


def _split(text: str) -> tuple[str, str]:
    reason, _, message = text.partition(": ")
    return reason, message
