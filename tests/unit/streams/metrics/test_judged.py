"""Windows of watched metrics with an argument are compared with the reference; what only describes is not."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from schemas.codec import utc
from schemas.events import Observation, QualityMetric
from schemas.metrics import LABEL_DELAYS
from schemas.reference import MetricReference
from streams.detectors import Detectors
from streams.metrics.batch import label_counters
from streams.metrics.compute import compute
from streams.panes import PanePlan
from streams.windows import Window
from tests.support.plans import reference, specification

DAY = 86_400_000


def _judged(name: str, of_b: int) -> list[Observation]:
    """What a day shows on which class b was never found, nor anything else wrong."""
    level = MetricReference(value=0.9, spread=0.01, scale=0.3, panes=30, n=10_000)
    known = msgspec.structs.replace(reference("multiclass"), metrics={name: level})
    plan = PanePlan(specification("multiclass", watch=(name, "label_delay_p50_s")), known)
    truth = np.array(["a"] * 500 + ["b"] * of_b, dtype=object)
    total = label_counters(plan, truth, np.full(len(truth), "a", dtype=object), None)[0]
    total[plan.slots["predicted"].start] = len(truth)
    total[plan.slots["delay"].start] = len(truth)
    values = compute(plan, total)
    assert set(LABEL_DELAYS) <= set(values)
    metric = QualityMetric(
        model="m",
        version=1,
        segment=None,
        window="1d",
        window_start=utc(0),
        window_end=utc(DAY),
        state="closed",
        revision=0,
        n=len(truth),
        coverage=1.0,
        metrics={**values},
    )
    found = Detectors("m", 1, plan).quality("", Window("1d", 0, DAY), metric, total=total, filled=1, now_ms=DAY)
    return list(found)


@pytest.mark.parametrize("name", ["recall[b]", "f1[b]"])
def test_a_class_that_is_no_longer_found_is_an_observation(name: str) -> None:
    (observation,) = _judged(name, 100)
    assert (observation.kind, observation.subject) == ("quality", name)
    assert observation.value == 0.0
    assert observation.threshold is not None
    assert observation.threshold < 0.9


def test_a_handful_of_a_class_says_nothing() -> None:
    assert _judged("recall[b]", 10) == []
