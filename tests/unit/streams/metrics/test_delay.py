"""Label delays: bins, quantiles within their bound, and the way from labels to the series."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.events import QualityMetric
from schemas.metrics import LABEL_DELAYS
from streams.aggregate import AggregatePartition
from streams.metrics.delay import delay_bin, delay_edge, label_delays
from tests.support.plans import plan, prediction
from tests.support.replay import DAY, Event, deltas, watermark

LONGEST = 10**7
DELAYS = st.lists(st.integers(0, LONGEST), min_size=1, max_size=200)


def _counted(delays: list[int]) -> np.ndarray:
    return np.bincount([delay_bin(s) for s in delays], minlength=delay_bin(LONGEST) + 1).astype(np.int64)


@given(st.integers(0, 2**40))
def test_a_delay_lies_between_the_edges_of_its_bin(seconds: int) -> None:
    position = delay_bin(seconds)
    low, high = delay_edge(position), delay_edge(position + 1)
    assert low <= seconds < high
    assert high - low <= max(1, low / 8)


def test_bins_leave_none_out() -> None:
    assert [delay_bin(delay_edge(position)) for position in range(300)] == list(range(300))


@given(DELAYS)
def test_quantiles_are_within_an_eighth_or_a_second(delays: list[int]) -> None:
    found = label_delays(_counted(delays), sum(delays), LONGEST)
    assert tuple(found) == LABEL_DELAYS
    assert found["label_delay_mean_s"] == pytest.approx(np.mean(delays))
    for name, q in (("label_delay_p50_s", 0.5), ("label_delay_p90_s", 0.9), ("label_delay_p99_s", 0.99)):
        true = float(np.quantile(delays, q, method="inverted_cdf"))
        assert abs(found[name] - true) <= max(1.0, true / 8)
        assert 0 <= found[name] <= LONGEST


def test_spread_delays_are_known_much_better() -> None:
    delays = np.random.default_rng(1).lognormal(9.0, 0.5, 50_000).astype(int)
    found = label_delays(_counted(delays.tolist()), int(delays.sum()), LONGEST)
    for name, q in (("label_delay_p50_s", 0.5), ("label_delay_p90_s", 0.9), ("label_delay_p99_s", 0.99)):
        assert found[name] == pytest.approx(np.quantile(delays, q), rel=0.01)


def test_nothing_is_absent() -> None:
    assert label_delays(np.zeros(10, dtype=np.int64), 0, LONGEST) == {}


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_closed_windows_tell_how_late_labels_came(task: str) -> None:
    p = plan(task)
    value: dict[str, float | str] = {"binary": 1, "multiclass": "a", "regression": 5.0}
    delays = [60_000 * minutes for minutes in range(1, 101)]
    events = [Event(prediction(f"{d}", 1000, value=value[task], probability=None), value[task], d) for d in delays]
    aggregate = AggregatePartition(1, lambda model, version: p)
    out = [event for record in (deltas(p, events), watermark(4 * DAY)) for event in aggregate.merge(record)]
    windows = [m for m in out if isinstance(m, QualityMetric) and m.window == "1d" and m.segment is None]
    assert [m.n for m in windows] == [100]
    assert windows[0].metrics["label_delay_mean_s"] == pytest.approx(50.5 * 60)
    assert windows[0].metrics["label_delay_p50_s"] == pytest.approx(50 * 60, rel=1 / 8)
    assert windows[0].metrics["label_delay_p99_s"] == pytest.approx(99 * 60, rel=1 / 8)
