"""Seeded traffic for benchmarks: predictions of ~210 bytes with four features, and their labels."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from schemas.codec import encode
from schemas.events import GroundTruth, Prediction

START_MS = 1_760_000_000_000
"""Event time of the first prediction: a fixed moment of the past, so that runs are equal."""

CARRIERS = ("AA", "B6", "DL", "EV", "UA")


def scores_and_truths(count: int, seed: int = 1) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Scores of `predictions(count, seed=seed)` and the truth of each; scores are calibrated."""
    scores = np.round(np.random.default_rng(seed).beta(2, 5, count), 4)
    return scores, np.random.default_rng(seed + 1).random(count) < scores


def predictions(
    count: int, *, model: str = "bench", seed: int = 1, span_ms: int = 3_600_000
) -> Iterator[tuple[bytes, bytes]]:
    """(key, value) of predictions in event time.

    Parameters
    ----------
    count : int
    seed : int
    span_ms : int
        Event time that the whole lot covers.
    """
    rng = np.random.default_rng(seed)
    scores = np.round(rng.beta(2, 5, count), 4)
    numbers = np.round(rng.normal(0, 1, (count, 3)), 3)
    carriers = rng.integers(0, len(CARRIERS), count)
    for i in range(count):
        key = f"p{seed:02d}{i:09d}"
        value = Prediction(
            prediction_id=key,
            model=model,
            version=1,
            event_time_ms=START_MS + i * span_ms // count,
            features={
                "x": float(numbers[i, 0]),
                "y": float(numbers[i, 1]),
                "z": float(numbers[i, 2]),
                "carrier": CARRIERS[carriers[i]],
            },
            prediction=int(scores[i] >= 0.5),
            probability=float(scores[i]),
            segment={"carrier": CARRIERS[carriers[i]]},
        )
        yield key.encode(), encode(value)


def labels(
    count: int, *, seed: int = 1, span_ms: int = 3_600_000, delay_ms: int = 60_000
) -> Iterator[tuple[bytes, bytes]]:
    """(key, value) of the labels of `predictions(count, seed=seed)`, each `delay_ms` later."""
    _, truths = scores_and_truths(count, seed)
    for i in range(count):
        key = f"p{seed:02d}{i:09d}"
        value = GroundTruth(
            prediction_id=key, event_time_ms=START_MS + i * span_ms // count + delay_ms, label=int(truths[i])
        )
        yield key.encode(), encode(value)
