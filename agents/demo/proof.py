"""The end of a run: read the committed log and prove where every id is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from agents.demo.accounting import Expected, Identity, compare, expected
from agents.monitoring.totals import newest_totals
from schemas.codec import decode_ground_truth, decode_prediction, is_heartbeat, is_shadow
from schemas.errors import DecodeError
from schemas.events import GroundTruth, Prediction
from schemas.specification import Specification
from schemas.topics import DEAD_LETTERED, GROUND_TRUTH, INFERENCE_REQUESTS, PREDICTIONS, dead_letter_topic
from streams.kafka.config import KafkaConfig
from streams.kafka.reader import read_all
from streams.kafka.records import Record


@dataclass
class Proof:
    """What the log says, beside what was sent and what monitoring counted."""

    expectation: Expected
    totals: dict[str, int]
    dead_lettered: dict[str, int]
    lost: int
    duplicated: int
    requests: int
    shadow: Counter[str]
    """Predictions made in shadow, for a probation: how many, and how many are where."""
    differences: list[str] = field(default_factory=list)


def _decoded_predictions(records: Iterable[Record]) -> list[tuple[Prediction, bool]]:
    """Predictions, and whether they were made in shadow."""
    found = []
    for record in records:
        if is_heartbeat(record.headers) or record.value is None:
            continue
        try:
            found.append((decode_prediction(record.value), is_shadow(record.headers)))
        except DecodeError:
            continue
    return found


def _in_shadow(predictions: Iterable[tuple[Prediction, bool]], expectation: Expected) -> Counter[str]:
    """Where the identities are that answered nobody."""
    answered = {_identity(prediction) for prediction, shadow in predictions if not shadow}
    only = {_identity(prediction) for prediction, shadow in predictions if shadow} - answered
    revised = sum(identity[2] in expectation.revised_ids for identity in only)
    places = Counter(expectation.state[identity] for identity in only)
    return Counter({"predictions": len(only), "revised": revised, **places})


def _identity(prediction: Prediction) -> Identity:
    return prediction.model, prediction.version, prediction.prediction_id


def _decoded_truths(records: Iterable[Record]) -> list[GroundTruth]:
    found = []
    for record in records:
        if is_heartbeat(record.headers) or record.value is None:
            continue
        try:
            found.append(decode_ground_truth(record.value))
        except DecodeError:
            continue
    return found


def prove(
    kafka: KafkaConfig,
    spec: Specification,
    *,
    acknowledged: Counter[str],
    watermark_ms: int,
) -> tuple[Proof, list[Prediction]]:
    """Compare sets and counts of everything acknowledged with everything committed.

    Parameters
    ----------
    acknowledged : Counter of str
        Key of every request that the broker acknowledged → times it was sent.
    watermark_ms : int
        Event time of the last heartbeat.

    Returns
    -------
    (Proof, list of Prediction)
        The predictions that answered a request in offset order, for the scores.
    """
    found = _decoded_predictions(read_all(kafka, PREDICTIONS, timeout_s=120.0))
    predictions = [prediction for prediction, shadow in found if not shadow]
    truths = _decoded_truths(read_all(kafka, GROUND_TRUTH, timeout_s=120.0))
    dead = {
        dead_letter_topic(topic): read_all(kafka, dead_letter_topic(topic), timeout_s=60.0) for topic in DEAD_LETTERED
    }
    expectation = expected(
        [prediction for prediction, _ in found],
        truths,
        watermark_ms=watermark_ms,
        max_label_delay_ms=spec.max_label_delay_ms,
        revision_horizon_ms=spec.revision_horizon_ms,
    )
    totals = newest_totals(kafka)
    # A request is answered as often as it was sent: once in `predictions` or once among the dead letters.
    answers: Counter[str] = Counter(prediction.prediction_id for prediction in predictions)
    refused = dead[dead_letter_topic(INFERENCE_REQUESTS)]
    answers.update((record.key or b"").decode("utf-8", "replace") for record in refused)
    lost = sum((acknowledged - answers).values())
    duplicated = sum((answers - acknowledged).values())
    proof = Proof(
        expectation=expectation,
        totals=totals,
        dead_lettered={topic: len(records) for topic, records in dead.items() if records},
        lost=lost,
        duplicated=duplicated,
        requests=len(acknowledged),
        shadow=_in_shadow(found, expectation),
        differences=compare(expectation, totals),
    )
    return proof, predictions
