"""Days of one world in random orders: nothing crosses more often than the budget allows it to."""

from __future__ import annotations

from collections import Counter

import msgspec
import numpy as np
import pytest

from schemas.events import Observation
from schemas.specification import DriftMeasure
from streams import calibration as cal
from streams.aggregate import AggregatePartition
from streams.drift.measures import MEASURES
from tests.support.replay import DAY, watermark
from tests.support.simulate import World, day_of, learn_from, record_of, watching

REFERENCE_DAYS = 14
LIVE_DAYS = 50
ORDERS = 4
BUDGET_DAYS = 5
"""One false alarm in so many days: generous, so that the bound below means something within a few seconds."""
SHARES = {
    "data-drift": cal.DRIFT_SHARE + cal.SEGMENT_DRIFT_SHARE + cal.SHAPE_SHARE,
    "prediction-drift": cal.DRIFT_SHARE + cal.SEGMENT_DRIFT_SHARE,
    "label-drift": cal.DRIFT_SHARE + cal.SEGMENT_DRIFT_SHARE,
    "data-quality": cal.USABLE_SHARE + cal.SHAPE_SHARE + cal.VOLUME_SHARE + cal.SEGMENT_VOLUME_SHARE,
    "label-delay": cal.DELAY_SHARE,
    "calibration": cal.CALIBRATION_SHARE,
    "quality": cal.QUALITY_SHARE + cal.CUSUM_SHARE + cal.SEQUENTIAL_SHARE,
}


@pytest.mark.parametrize("measure", MEASURES)
def test_no_kind_crosses_more_often_than_its_share_of_the_budget(measure: DriftMeasure) -> None:
    """Openings are at most binomial with (days, share / budget); five standard deviations more would be a defect.

    The days differ among themselves (shifts of inputs and of the error), and every order of them is as likely: what a
    reference of fourteen of them says of the others is all that a detector may use.
    """
    spec = watching(windows=("1d",), budget=f"1/{BUDGET_DAYS}d", segment_features=("distance",))
    spec = msgspec.structs.replace(spec, alarms=msgspec.structs.replace(spec.alarms, drift=measure))
    rng = np.random.default_rng(11)
    days = [day_of(World(rows=200, wobble=0.1, weather=0.15), rng) for _ in range(REFERENCE_DAYS + LIVE_DAYS)]
    opened: Counter[str] = Counter()
    for _ in range(ORDERS):
        order = [days[at] for at in rng.permutation(len(days))]
        plan = learn_from(spec, order[:REFERENCE_DAYS])
        aggregate = AggregatePartition(1, lambda model, version, plan=plan: plan)  # type: ignore[misc]
        for day, rows in enumerate(order[REFERENCE_DAYS:]):
            aggregate.merge(record_of(plan, rows, day))
            for event in aggregate.merge(watermark((day + 1) * DAY)):
                if isinstance(event, Observation) and event.status == "opened":
                    opened[event.kind] += 1
    looks = ORDERS * LIVE_DAYS
    for kind, count in opened.items():
        chance = SHARES[kind] / BUDGET_DAYS
        assert count <= chance * looks + 5 * np.sqrt(chance * (1 - chance) * looks), opened
    assert opened.total() <= looks / BUDGET_DAYS, opened
