"""Losses are found, measured on simulated worlds, seeded; bounds and allowances are what they say."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from schemas.events import Observation
from schemas.reference import MetricReference
from streams import calibration as cal
from streams.drift.subjects import subjects
from tests.support.plans import plan
from tests.support.replay import DAY
from tests.support.simulate import World, learn, live, watching, worse

CALM = World()
STORMY = World(wobble=0.3, weather=0.5)


def _opened(observations: Iterable[Observation]) -> list[Observation]:
    return [o for o in observations if o.status == "opened"]


@pytest.mark.parametrize(
    ("task", "world", "wrong", "days"),
    [
        ("binary", CALM, {"wrong": 0.11}, 3),  # accuracy −5 points
        ("binary", STORMY, {"wrong": 0.11}, 7),
        ("binary", CALM, {"wrong": 0.055}, 14),  # −2.5 points: slow, found by longer windows
        ("regression", CALM, {"wrong": 0.1}, 7),  # MAE +20 %
    ],
)
def test_losses_are_found(task: str, world: World, wrong: dict[str, float], days: int) -> None:
    found = []
    for seed in range(3):
        rng = np.random.default_rng(100 + seed)
        learnt = learn(watching(task), world, 14, rng)
        observations = live(learnt, world, 15 + days + 1, rng, bad=worse(world, **wrong), since=15)
        since = [o for o in observations if o.status != "closed" and o.observed_at.timestamp() * 1000 >= 16 * DAY]
        # What opened as a small loss counts when it has become one to act on.
        found.append([o for o in since if o.kind == "quality" and o.severity != "info"])
    assert all(found)
    for observation in (o for run in found for o in run):
        assert observation.value is not None
        assert observation.n >= cal.MINIMUM_LABELLED


@pytest.mark.parametrize(
    ("wrong", "kind"), [({"shift": 0.5}, "data-drift"), ({"lost": 0.05}, "data-quality"), ({"rows": 800}, None)]
)
def test_features_that_moved_are_observed(wrong: dict[str, float], kind: str | None) -> None:
    rng = np.random.default_rng(7)
    learnt = learn(watching(), CALM, 14, rng)
    observations = live(learnt, CALM, 20, rng, bad=worse(CALM, **wrong), since=10)
    moved = {(o.kind, o.subject) for o in _opened(observations) if o.kind != "quality"}
    assert moved == ({(kind, "feature:distance")} if kind else set())


def test_a_loss_that_ends_closes_its_observations() -> None:
    rng = np.random.default_rng(8)
    learnt = learn(watching(windows=("1d", "3d")), CALM, 14, rng)
    bad = worse(CALM, wrong=0.3)
    first = live(learnt, bad, 8, rng, bad=CALM, since=4)
    statuses: dict[tuple[str, ...], list[str]] = {}
    for o in first:
        statuses.setdefault((o.kind, o.subject, str(o.segment), o.window), []).append(o.status)
    assert statuses
    windows = {key: seen for key, seen in statuses.items() if key[3] in {"1d", "3d"}}
    assert windows
    assert all(seen[-1] == "closed" for key, seen in windows.items() if key[3] == "1d")


def test_tumbling_windows_find_losses_too_and_stay_calm_otherwise() -> None:
    rng = np.random.default_rng(9)
    learnt = learn(watching(windows=("1d", "7d/7d")), CALM, 28, rng)
    calm = _opened(live(learnt, CALM, 60, rng))
    assert [o for o in calm if o.window == "7d/7d"] == []
    found = _opened(live(learnt, CALM, 60, rng, bad=worse(CALM, wrong=0.1, shift=0.5), since=30))
    weekly = [o for o in found if o.window == "7d/7d"]
    assert {o.kind for o in weekly} >= {"quality", "data-drift"}
    assert {o.window_end.timestamp() % (7 * 86_400) for o in weekly} == {0.0}
    assert min(o.window_end for o in weekly).timestamp() > 30 * 86_400


def _level(**over: float) -> MetricReference:
    given = {"value": 0.8, "spread": 0.01, "scale": 0.4, "pane_value": 0.8, "panes": 20, "n": 20_000}
    return MetricReference(**(given | over))  # type: ignore[arg-type]


def test_more_evidence_narrows_the_bound() -> None:
    by_n = [cal.quality_bound("accuracy", _level(), n=n, panes=1, p=1e-3).threshold for n in (100, 1000, 10_000)]
    by_panes = [cal.quality_bound("accuracy", _level(), n=10_000, panes=k, p=1e-3).threshold for k in (1, 7, 30)]
    by_p = [cal.quality_bound("accuracy", _level(), n=1000, panes=1, p=p).threshold for p in (1e-6, 1e-4, 1e-2)]
    for thresholds in (by_n, by_panes, by_p):
        assert all(later >= earlier for earlier, later in pairwise(thresholds))
        assert thresholds[0] < thresholds[-1] < 0.8


@pytest.mark.parametrize(
    ("name", "upper"),
    [
        ("accuracy", False),
        ("brier", True),
        ("mae", True),
        ("r2", False),
        ("recall[b]", False),
        ("top_3_accuracy", False),
        ("quantile_loss[0.9]", True),
    ],
)
def test_only_losses_cross(name: str, upper: bool) -> None:
    bound = cal.quality_bound(name, _level(), n=1000, panes=1, p=1e-3)
    assert bound.upper is upper
    sign = 1 if upper else -1
    assert bound.crossed(0.8 + sign * 0.3)
    assert not bound.crossed(0.8 - sign * 0.3)
    assert bound.recovered(0.8 - sign * 0.3)


def test_bias_crosses_to_both_sides() -> None:
    bound = cal.quality_bound("bias", _level(value=0.0, pane_value=0.0), n=1000, panes=1, p=1e-3)
    assert bound.crossed(0.5)
    assert bound.crossed(-0.5)
    assert not bound.crossed(0.0)


def test_a_loss_too_small_to_matter_is_none() -> None:
    bound = cal.quality_bound("accuracy", _level(spread=0.0), n=10**8, panes=7, p=0.01)
    assert bound.reference - bound.threshold == pytest.approx(cal.LEAST_LOSS)


def test_pooled_level_gives_way_to_the_level_of_single_panes() -> None:
    level = _level(pane_value=0.7)
    one, seven = (cal.quality_bound("roc_auc", level, n=1000, panes=k, p=1e-3).reference for k in (1, 7))
    assert one == pytest.approx(0.7)
    assert 0.7 < seven < 0.8


def test_allowance_never_spends_more_than_the_budget() -> None:
    for budget in ("1/30d", "1/365d"):
        p = plan(windows=("1d", "7d", "1000n"), watch=("brier", "accuracy"), budget=budget)
        a = cal.Allowance.of(p, subjects=4, segments=2)
        spent = 3 * (a.primary + 2 * a.other + 2 * 3 * a.segment)  # windows × (overall + segments × metrics)
        spent += 2 * (4 * a.drift + 2 * a.unusable) + 2 * a.sequential
        assert spent <= p.spec.budget_per_ms * p.pane_ms * 1.0001
        assert a.primary > a.other > a.segment


def test_windows_that_end_seldom_may_take_more_each() -> None:
    budget = "1/3650d"  # no share is cut at MOST_P
    often = cal.Allowance.of(plan(windows=("1d", "7d"), budget=budget), subjects=4, segments=2)
    p = plan(windows=("1d", "7d/7d"), budget=budget)
    a = cal.Allowance.of(p, subjects=4, segments=2)
    assert a.primary == pytest.approx(often.primary * 2 / (1 + 1 / 7))
    assert a.drift == pytest.approx(often.drift * 2 / (1 + 1 / 7))
    spent = (1 + 1 / 7) * (a.primary + 2 * a.segment + 4 * a.drift + 2 * a.unusable) + 2 * a.sequential
    assert spent <= p.spec.budget_per_ms * p.pane_ms * 1.0001


def test_drift_bound_holds_for_samples_of_the_reference() -> None:
    p = plan()
    subject = next(s for s in subjects(p) if s.name == "feature:distance")
    rng = np.random.default_rng(1)
    n = 500
    shares = subject.reference / subject.reference.sum()
    from streams.drift.distances import psi_rows

    values = psi_rows(rng.multinomial(n, rng.dirichlet(subject.reference + 1), size=4000), subject.reference)
    bound = cal.drift_bound(p, subject, "1d", n=n, p=0.01)
    assert np.mean(values > bound.threshold) <= 0.015
    moved = rng.multinomial(
        n, np.roll(shares, 1) * [0.2, 1.0, 1.0, 1.8] / (np.roll(shares, 1) * [0.2, 1, 1, 1.8]).sum()
    )
    assert psi_rows(moved[None, :], subject.reference)[0] > bound.threshold


@pytest.mark.parametrize("missing", [0, 3, 50])
def test_unusable_bound_holds_for_the_usual_rate(missing: int) -> None:
    p = plan()
    from dataclasses import replace

    subject = replace(subjects(p)[0], missing=missing)
    rate = (missing + 0.5) / (1000 + missing + 1)
    for n in (100, 1000, 10_000):
        bound = cal.unusable_bound(p, subject, "1d", n=n, p=1e-3)
        assert stats.binom.sf(math.floor(bound.threshold * n), n, rate) <= 1e-3
        assert bound.threshold <= rate + 0.15


def test_cusum_limit_gives_the_run_length_asked_for() -> None:
    allowance, p = 0.5, 1 / 200
    limit = cal.cusum_limit(p, allowance)
    rng = np.random.default_rng(2)
    lengths = []
    for _ in range(400):
        total, steps = 0.0, 0
        while total <= limit:
            total = max(total + rng.normal() - allowance, 0.0)
            steps += 1
        lengths.append(steps)
    assert np.mean(lengths) == pytest.approx(200, rel=0.25)


@pytest.mark.parametrize("days", [10, 30])
def test_a_cumulative_sum_allows_for_a_spread_that_few_days_told(days: int) -> None:
    """Of many models, each with a spread of its own guess, so many cross as were to cross; not so with the guess."""
    allowance, p, panes = 0.5, 2e-4, 100
    rng = np.random.default_rng(3)
    guessed = np.sqrt(rng.chisquare(days, 4000) / days)
    steps = rng.normal(size=(panes, 4000)) / guessed
    total, highest = np.zeros(4000), np.zeros(4000)
    for step in steps:
        total = np.maximum(total + step - allowance, 0.0)
        highest = np.maximum(highest, total)
    allowed = panes * p
    assert (highest > cal.cusum_limit(p, allowance, days)).mean() <= 1.5 * allowed
    assert (highest > cal.cusum_limit(p, allowance)).mean() > 2 * allowed


def test_fewer_days_that_follow_each_other_tell_less() -> None:
    def freedom(**over: float) -> tuple[float, ...]:
        given = {"value": 0.2, "spread": 0.02, "scale": 0.2, "panes": 28, "n": 2800, "memory": 0.3} | over
        level = MetricReference(**given)  # type: ignore[arg-type]
        return tuple(cal.known_sums(level, panes) for panes in (1, 7, 1e6))

    usual = freedom()
    assert usual[0] > usual[1] > usual[2] > 0  # how days follow each other is one more thing to be wrong about
    assert all(fewer < more for fewer, more in zip(freedom(panes=14, n=1400), usual, strict=True))
    assert all(less < more for less, more in zip(freedom(memory=0.8), usual, strict=True))
    # Where chance is all there is, nobody has to know how days differ.
    calm = MetricReference(value=0.2, spread=0.001, scale=0.2, panes=28, n=2800)
    assert cal.pane_errors(calm, 100).freedom > 1000 * cal.known_sums(calm, 1e6)


@pytest.mark.parametrize(("effect", "severity"), [(0.02, "info"), (0.05, "warning"), (0.2, "critical")])
def test_severity_follows_the_loss(effect: float, severity: str) -> None:
    bound = cal.quality_bound("accuracy", _level(), n=1000, panes=1, p=1e-3)
    assert cal.quality_severity("accuracy", bound, 0.8 - effect) == severity
