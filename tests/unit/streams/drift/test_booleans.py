"""Boolean features, and versions that have nothing to be compared with yet."""

from __future__ import annotations

import msgspec
import numpy as np

from schemas.events import Observation
from schemas.specification import Specification
from streams.detectors import Detectors
from streams.drift.volume import VolumeState
from streams.panes import PanePlan
from streams.reference import compile_reference, unlearnt_reference
from streams.versions import Versions
from streams.windows import PANE, Window
from tests.support.plans import prediction, specification

DAY = 86_400_000


def _spec() -> Specification:
    return msgspec.structs.replace(specification(windows=("1d",)), features={"distance": "numeric", "paid": "boolean"})


def _observed(plan: PanePlan, values: list[object]) -> list[Observation]:
    """A calm week, then a day with these values of the boolean feature."""
    rng = np.random.default_rng(1)
    detectors = Detectors("m", 1, plan)
    out: list[Observation] = []
    for day in range(8):
        given = values if day == 7 else (rng.random(len(values)) < 0.3).tolist()
        total = np.zeros(plan.size, np.int64)
        for value in given:
            event = prediction(distance=float(rng.normal()), paid=value, probability=float(rng.random()))
            for at, count in plan.traffic(event).items():
                total[at] += count
        window = Window("1d", day * DAY, (day + 1) * DAY)
        out += [*detectors.traffic(window, total, window.end_ms)]
    return [o for o in out if o.subject == "feature:paid"]


def _plan() -> PanePlan:
    rng = np.random.default_rng(2)
    n = 5000
    reference = compile_reference(
        _spec(),
        {"distance": rng.normal(size=n), "paid": rng.random(n) < 0.3},
        labels=(rng.random(n) < 0.5).astype(int),
        predictions=(rng.random(n) < 0.5).astype(int),
        scores=rng.random(n),
        event_time_ms=np.arange(n) * (14 * DAY // n),
    )
    return PanePlan(_spec(), reference)


def test_booleans_are_two_categories_however_they_are_written() -> None:
    plan = _plan()
    reference = plan.reference.features["paid"]
    assert sorted(reference.categories) == ["0", "1"]  # type: ignore[union-attr]
    mixed = [[True, 1, 1.0, False, 0][at % 5] if at % 2 else False for at in range(400)]
    assert _observed(plan, mixed) == []


def test_a_boolean_that_turns_is_drift_and_one_that_stands_still_is_broken() -> None:
    plan = _plan()
    (turned,) = _observed(plan, [at % 10 < 8 for at in range(400)])
    assert (turned.kind, turned.evidence["statistic"]) == ("data-drift", "psi")
    assert {o.kind for o in _observed(plan, [False] * 400)} == {"data-drift", "data-quality"}


def test_text_in_a_boolean_is_a_new_category() -> None:
    (found,) = _observed(_plan(), ["true" if at % 3 == 0 else False for at in range(400)])
    assert found.kind == "data-drift"
    assert "new_rate" in {found.evidence["statistic"], *found.evidence.get("also", {})}


def test_a_version_without_a_reference_is_counted_only() -> None:
    plan = PanePlan(_spec(), unlearnt_reference(_spec()))
    detectors = Detectors("m", 1, plan)
    total = np.zeros(plan.size, np.int64)
    total[plan.slots["predicted"]] = 500
    for day in range(20):
        window = Window("1d", day * DAY, (day + 1) * DAY)
        assert [*detectors.traffic(window, total, window.end_ms)] == []
        assert [*detectors.labels(window, total, window.end_ms)] == []
        assert [*detectors.segments("prediction", window, {}, window.end_ms)] == []
        assert [*detectors.pane(window._replace(name=PANE), total, window.end_ms)] == []
        assert [*detectors.volume(window._replace(name=PANE), Versions([], VolumeState()), window.end_ms)] == []
