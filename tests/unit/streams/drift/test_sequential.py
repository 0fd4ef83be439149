from __future__ import annotations

import numpy as np
import pytest

from streams.drift.sequential import MOST_HISTORY, AdaptiveWindow, PageState, page_test


def test_page_test_finds_small_lasting_losses_and_recovers() -> None:
    rng = np.random.default_rng(1)
    state = PageState()
    calm = [page_test(state, z, allowance=0.5, limit=6.0, pane_start_ms=i) for i, z in enumerate(rng.normal(0, 1, 100))]
    assert not any(calm)
    worse = [
        page_test(state, z, allowance=0.5, limit=6.0, pane_start_ms=100 + i)
        for i, z in enumerate(rng.normal(1.5, 1, 20))
    ]
    assert any(worse)
    assert 95 <= state.since_ms <= 110
    for i, z in enumerate(rng.normal(0, 1, 40)):
        page_test(state, z, allowance=0.5, limit=6.0, pane_start_ms=200 + i)
    assert state.total < 3.0


def test_gains_never_alarm() -> None:
    state = PageState()
    assert not any(page_test(state, -3.0, allowance=0.5, limit=1.0, pane_start_ms=i) for i in range(50))


@pytest.mark.parametrize("cut", [5, 40, MOST_HISTORY, MOST_HISTORY + 100])
def test_adwin_restored_from_its_history_goes_on_the_same(cut: int) -> None:
    rng = np.random.default_rng(2)
    values = np.concatenate([rng.normal(0.0, 1.0, 400), rng.normal(2.0, 1.0, 300)]).tolist()
    whole = AdaptiveWindow(0.002)
    changes = [whole.update(value) for value in values]
    first = AdaptiveWindow(0.002)
    for value in values[:cut]:
        first.update(value)
    second = AdaptiveWindow(0.002, first.history)
    assert [second.update(value) for value in values[cut:]] == changes[cut:]
    found = [i for i, change in enumerate(changes) if change is not None]
    assert found
    assert 400 <= found[0] <= 430
    assert len(whole.history) <= MOST_HISTORY


def test_adwin_tells_changes_upwards_only() -> None:
    rng = np.random.default_rng(3)
    window = AdaptiveWindow(0.002)
    down = np.concatenate([rng.normal(2.0, 1.0, 100), rng.normal(0.0, 1.0, 100)])
    assert all(window.update(value) is None for value in down.tolist())


def test_a_sum_that_was_cut_still_tells_how_large_it_would_be() -> None:
    state = PageState()
    for pane in range(50):
        page_test(state, 2.0, allowance=0.5, limit=4.0, pane_start_ms=pane)
    assert (state.total, state.whole) == (12.0, 75.0)
    further = PageState()
    for pane in range(50):
        page_test(further, 2.0, allowance=0.5, limit=4.0, pane_start_ms=pane, most=20.0)
    assert (further.total, further.whole) == (20.0, 75.0)
    while state.total > 0:
        page_test(state, -2.0, allowance=0.5, limit=4.0, pane_start_ms=50)
    page_test(state, 1.5, allowance=0.5, limit=4.0, pane_start_ms=99)
    assert (state.total, state.whole, state.since_ms) == (1.0, 1.0, 99)
