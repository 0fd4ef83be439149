"""Sealed predictions as they were, for whoever works with them in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from agents.subjects.keys import SubjectKeys
from agents.subjects.sealing import MARK, SEALED, key_id, key_ids, opened_features, place
from schemas.codec import decode, encode
from schemas.errors import DecodeError
from schemas.events import Prediction
from schemas.topics import PREDICTIONS
from streams.kafka.records import Record


class Opened(NamedTuple):
    """A prediction that was opened.

    Parameters
    ----------
    key : bytes
        Id of its subject's key.
    prediction_id : str
    event_time_ms : int
    visible : tuple of str
        Names of features and segments that were never encrypted.
    sealed, plain : bytes
        The record as it came, and opened.
    """

    key: bytes
    prediction_id: str
    event_time_ms: int
    visible: tuple[str, ...]
    sealed: bytes
    plain: bytes


def opened_records(
    keys: SubjectKeys, records: Sequence[Record], originals: dict[int, Record], told: list[Opened] | None = None
) -> Sequence[Record]:
    """Records of one partition of `predictions`, opened where that is possible.

    Parameters
    ----------
    originals : dict of int to Record
        Is given those that were opened, as they came, by offset: what is passed on has to be them.
    told : list of Opened, optional
        Is told whose they are.

    Notes
    -----
    What cannot be opened (its subject was erased) stays as it is: its personal features count as missing. Cost is a
    look at every value, and some 20 µs for each that is sealed.

    Raises
    ------
    DatabaseUnavailableError
    """
    listed = list(records)
    at = [number for number, record in enumerate(listed) if record.value is not None and MARK in record.value]
    predictions = {number: found for number in at if (found := _decoded(listed[number])) is not None}
    if not predictions:
        return records
    known = keys.of_ids(key_ids(prediction.features[SEALED] for prediction in predictions.values()))
    for number, prediction in predictions.items():
        id = key_id(prediction.features[SEALED])
        key = None if id is None else known.get(id)
        if key is None:
            continue
        bound = place(PREDICTIONS, prediction.model, prediction.prediction_id)
        plain = opened_features(prediction.features, prediction.segment, key, bound)
        if plain is not None:
            record, whole = listed[number], msgspec.structs.replace(prediction, features=plain[0], segment=plain[1])
            originals[record.offset] = record
            plain_value = encode(whole)
            listed[number] = record._replace(value=plain_value)
            if told is not None:
                visible = tuple({*prediction.features, *(prediction.segment or ())} - {SEALED})
                told.append(
                    Opened(
                        key.id,
                        prediction.prediction_id,
                        prediction.event_time_ms,
                        visible,
                        record.value or b"",
                        plain_value,
                    )
                )
    return listed


def _decoded(record: Record) -> Prediction | None:
    """A sealed prediction; None where it is none: whoever gets it finds out why."""
    try:
        prediction = decode(record.value or b"", Prediction)
    except DecodeError:
        return None
    return prediction if SEALED in prediction.features else None
