"""The traffic and the models of the benchmark of many models."""

from __future__ import annotations

from benchmarks.models import CATEGORICAL, NUMERIC, SPECIFICATION, _base, _own, labels, model_name, predictions
from schemas.codec import decode_ground_truth, decode_prediction
from schemas.specification import parse
from streams.panes import PanePlan


def test_the_same_events_go_to_any_number_of_models() -> None:
    one, many = ([decode_prediction(value) for _, value in predictions(n, 500, 300)] for n in (1, 50))
    assert {p.model for p in one} == {model_name(0)}
    assert len({p.model for p in many}) > 40
    assert [(p.prediction_id, p.features, p.probability) for p in one] == [
        (p.prediction_id, p.features, p.probability) for p in many
    ]
    assert {*one[0].features} == {*NUMERIC, *CATEGORICAL}
    truths = [decode_ground_truth(value) for _, value in labels(50, 500, 300)]
    assert [t.prediction_id for t in truths] == [p.prediction_id for p in many]
    assert all(t.event_time_ms - p.event_time_ms == 60_000 for t, p in zip(truths, many, strict=True))
    assert 0.1 < sum(int(t.label or 0) for t in truths) / 300 < 0.5


def test_no_two_models_share_a_layout_and_all_are_of_one_size() -> None:
    base = _base()
    plans = [PanePlan(parse(SPECIFICATION.replace("NAME", model_name(n))), _own(base, n)) for n in range(4)]
    assert len({plan.layout for plan in plans}) == 4
    assert len({plan.size for plan in plans}) == 1
    assert len(plans[0].features) == 20
