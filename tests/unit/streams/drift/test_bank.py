"""River's detectors with limits from a budget: rates on stationary losses, changes found, state that is a history."""

from __future__ import annotations

import numpy as np
import pytest

from streams.drift.bank import RIVER, WARM_PANES, Bank
from streams.drift.sequential import MOST_HISTORY, AdaptiveWindow

PANES = 300


@pytest.mark.parametrize("p", [1 / 300, 1 / 1500])
@pytest.mark.parametrize("name", RIVER)
def test_stationary_losses_alarm_no_more_often_than_allowed(name: str, p: float) -> None:
    rng = np.random.default_rng(1)
    alarms = 0
    models = 100
    for _ in range(models):
        bank = Bank([name], p)
        alarms += sum(bool(bank.update(float(z))) for z in rng.normal(size=PANES))
    looks = models * PANES
    assert alarms <= p * looks + 4 * np.sqrt(p * looks)


@pytest.mark.parametrize(("name", "within"), [("page-hinkley", 15), ("ddm", 60), ("hddm", 60)])
def test_a_loss_that_comes_is_found(name: str, within: int) -> None:
    rng = np.random.default_rng(2)
    delays = []
    for _ in range(20):
        bank = Bank([name], 1 / 1500)
        for z in rng.normal(size=60):
            bank.update(float(z))
        found = [at for at, z in enumerate(rng.normal(2.0, 1.0, 100)) if name in bank.update(float(z))]
        delays.append(found[0] if found else 100)
    assert np.median(delays) <= within


def test_a_change_for_the_better_is_none() -> None:
    rng = np.random.default_rng(3)
    bank = Bank(RIVER, 1 / 300)
    losses = np.concatenate([rng.normal(0, 1, 60), rng.normal(-3, 1, 100)])
    assert not any(bank.update(float(z)) for z in losses)


def test_a_jump_says_what_was_and_what_is() -> None:
    bank = Bank(["page-hinkley"], 1 / 300)
    found = [bank.update(z) for z in [0.0, 0.2] * 20 + [4.0] * 10]
    (jump,) = next(jumps for jumps in found if jumps).values()
    assert jump.before == pytest.approx(0.1, abs=0.1)
    assert jump.after > 1


def test_the_history_is_the_whole_state() -> None:
    """Restored at any point from what ADWIN keeps, the bank goes on as if it had never stopped."""
    rng = np.random.default_rng(4)
    losses = np.concatenate([rng.normal(0, 1, MOST_HISTORY + 40), rng.normal(1.5, 1, 60)]).tolist()
    window, bank, found = AdaptiveWindow(0.002), Bank(RIVER, 1 / 300), []
    for at, z in enumerate(losses):
        if at % 37 == 0:
            bank = Bank(RIVER, 1 / 300, window.history)
        found.append(bank.update(z))
        window.update(z)
        assert len(window.history) <= MOST_HISTORY
    whole = Bank(RIVER, 1 / 300)
    assert found == [whole.update(z) for z in losses]
    assert any(found[MOST_HISTORY + 40 :])


def test_nothing_is_said_while_they_warm_up() -> None:
    bank = Bank(RIVER, 0.01)
    assert not any(bank.update(z) for z in [0.0] * 5 + [9.0] * (WARM_PANES - 5))
