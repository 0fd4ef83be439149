"""Label delay per pane against the version's first stable panes."""

from __future__ import annotations

import numpy as np
import pytest

from schemas.events import Observation
from streams.detectors import Detectors
from streams.drift.delays import KNOWN_PANES, STABLE_PANES, UsualDelay, delay_bound, delay_severity
from streams.metrics.delay import delay_bin
from streams.panes import PanePlan
from streams.windows import PANE, Window
from tests.support.plans import plan

DAY = 86_400_000
HOUR_S = 3600


def test_nothing_is_known_before_a_week() -> None:
    known = [HOUR_S * 1.0] * (KNOWN_PANES - 1)
    assert delay_bound(known, 86_400, 1e-3) is None
    assert delay_bound([*known, HOUR_S * 1.0], 86_400, 1e-3) is not None


def test_steady_delays_cross_no_more_often_than_allowed() -> None:
    rng = np.random.default_rng(1)
    crossed = looks = 0
    for _ in range(100):
        usual = HOUR_S * np.exp(rng.normal(0, 0.4, STABLE_PANES + 40))
        bound = delay_bound(usual[:STABLE_PANES].tolist(), 86_400, 0.01)
        assert bound is not None
        crossed += sum(bound.crossed(value) for value in usual[STABLE_PANES:])
        looks += 40
    # Panes of one model share a bound: the deviation allowed is that of so many models, not of so many looks.
    assert crossed <= 0.01 * looks + 5 * np.sqrt(0.01 * looks * 4)


@pytest.mark.parametrize(("factor", "severity"), [(1.6, "info"), (2.5, "warning"), (6.0, "critical")])
def test_severity_is_how_many_times_longer_labels_take(factor: float, severity: str) -> None:
    bound = delay_bound([HOUR_S * 1.0] * STABLE_PANES, 86_400, 1e-3)
    assert bound is not None
    assert delay_severity(bound, HOUR_S * factor) == severity


def test_seconds_more_are_no_news() -> None:
    bound = delay_bound([2.0] * STABLE_PANES, 86_400, 0.01)
    assert bound is not None
    assert not bound.crossed(20.0)


def pane_of(p: PanePlan, hours: float, n: int = 400) -> np.ndarray:
    total = np.zeros(p.size, np.int64)
    total[p.slots["predicted"]] = total[p.slots["labelled"]] = n
    total[p.slots["delay"].start + delay_bin(int(hours * HOUR_S))] = n
    total[p.slots["delay_total"]] = int(n * hours * HOUR_S)
    return total


def test_labels_that_take_longer_are_an_observation_until_they_do_not() -> None:
    p = plan()
    detectors = Detectors("m", 1, p)
    found: list[Observation] = []
    hours = [1.0] * 20 + [8.0] * 4 + [1.0] * 4
    for day, of_day in enumerate(hours):
        pane = Window(PANE, day * DAY, (day + 1) * DAY)
        found += [o for o in detectors.pane(pane, pane_of(p, of_day), pane.end_ms) if o.kind == "label-delay"]
        detectors = Detectors.from_snapshot("m", 1, p, detectors.snapshot())
    told = [(o.subject, o.status, int(o.window_end.timestamp() * 1000) // DAY) for o in found]
    assert told == [
        ("label_delay_p50_s", "opened", 21),
        ("label_delay_p90_s", "opened", 21),
        ("label_delay_p50_s", "closed", 26),
        ("label_delay_p90_s", "closed", 26),
    ]
    assert {o.severity for o in found if o.status == "opened"} == {"critical"}
    assert len(detectors.delays) == STABLE_PANES


def test_what_is_kept_of_a_segment_is_all_that_a_bound_needs() -> None:
    rng = np.random.default_rng(7)
    known: list[float] = []
    kept = UsualDelay()
    for seconds in (HOUR_S * np.exp(rng.normal(0.0, 0.4, STABLE_PANES))).tolist():
        whole, bound = delay_bound(known, 86_400, 1e-3), kept.bound(86_400, 1e-3)
        assert (whole is None) == (bound is None)
        if whole is not None and bound is not None:
            assert bound[:3] == pytest.approx(whole[:3])
        known, kept = [*known, seconds], kept.with_pane(seconds)
    assert kept.panes == STABLE_PANES
    assert kept.with_pane(1e9) == kept
