"""The reference of predictions that a table carries: their first stretch, with the labels known at its end."""

from __future__ import annotations

import msgspec
import numpy as np

from agents.backtest.answers import Answers
from agents.backtest.history import History
from agents.retraining.trainer import event_times_ms, plain_values
from schemas.codec import iso, utc
from schemas.errors import TrainingError
from schemas.reference import ReferenceStatistics
from streams.dependence import explained
from streams.panes import class_key
from streams.reference import compile_reference


def recorded_reference(history: History, first: int, until_ms: int) -> ReferenceStatistics:
    """Compile the reference from the rows before `first`.

    Raises
    ------
    TrainingError
        There are none, or none of them had a label by then.
    """
    spec = history.spec
    assert history.recorded is not None
    table = history.known_at(0, until_ms)
    known = int(table[spec.data.label].notna().sum())
    if not known:
        raise TrainingError(
            f"{len(table)} rows lie before {iso(utc(until_ms))}, and none of them had a label by then",
            where="--train-until",
            remedy="name a later time: what comes before it is what later windows are compared with",
        )
    answers = Answers.of_recorded(spec, history.recorded)
    rows = np.arange(first)
    classes: tuple[str, ...] = ()
    if spec.task == "multiclass":
        labels = (value for value in plain_values(table[spec.data.label]) if value is not None)
        classes = tuple(sorted({class_key(value) for value in labels}))
    scored = answers.at(rows, classes)
    features = {name: plain_values(table[name]) for name in spec.features}
    reference = compile_reference(
        spec,
        features,
        labels=plain_values(table[spec.data.label]),
        predictions=answers.predictions[:first],
        scores=scored.scores,
        event_time_ms=event_times_ms(table, spec),
        probabilities=scored.probabilities,
        classes=classes,
        segments={name: plain_values(table[name]) for name in spec.data.segments},
    )
    # As of models that are watched: without the model, a feature matters by what it explains of the answers.
    said = answers.predictions[:first] if scored.scores is None else scored.scores
    return msgspec.structs.replace(reference, importances=explained(reference, features, said))
