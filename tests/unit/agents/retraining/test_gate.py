"""The gate lets better candidates pass, refuses worse ones, and says why with numbers."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from agents.retraining.gate import Evidence, Verdict, judge
from agents.retraining.quality import compare, metric_of
from agents.retraining.scoring import Scored
from schemas.specification import Specification, parse
from tests.unit.agents.retraining.projects import SPEC

SPECIFICATION = parse(SPEC)
N = 4000
Floats = NDArray[np.float64]


def _tolerant(overall: float = 0.0, segment: float = 0.02, **metrics: Any) -> Specification:
    tolerance = msgspec.structs.replace(SPECIFICATION.validation.tolerance, overall=overall, segment=segment)
    return msgspec.structs.replace(
        SPECIFICATION,
        validation=msgspec.structs.replace(SPECIFICATION.validation, tolerance=tolerance),
        metrics=msgspec.structs.replace(SPECIFICATION.metrics, **metrics),
    )


class World:
    """Held-out rows of fourteen days with two regions; scores are as good as their noise lets them be."""

    def __init__(self, n: int = N, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.x = self.rng.normal(size=n)
        self.y = (self.rng.random(n) < 1 / (1 + np.exp(-2 * self.x))).astype(int)
        self.region = self.rng.choice(["north", "south"], size=n, p=[0.8, 0.2])
        self.blocks = np.sort(self.rng.integers(0, 14, size=n))
        self.rows = pd.DataFrame({"y": self.y, "region": self.region})

    def model(self, noise: float | Floats = 0.0, *, seed: int = 1) -> Scored:
        wrong = np.random.default_rng(seed).normal(size=len(self.x)) * noise
        score = 1 / (1 + np.exp(-2 * (self.x + wrong)))
        return Scored((score >= 0.5).astype(int), score, None, (0, 1))

    def judge(self, candidate: Scored, champion: Scored | None, spec: Specification, **more: Any) -> Verdict:
        return judge(spec, Evidence(rows=self.rows, blocks=self.blocks, candidate=candidate, champion=champion, **more))


WORLD = World()
GOOD, WORSE = WORLD.model(0.3), WORLD.model(0.8)


def test_a_better_candidate_passes_and_the_reason_has_numbers() -> None:
    verdict = WORLD.judge(GOOD, WORSE, SPECIFICATION, champion_version=3)
    assert verdict.passed
    assert verdict.reason.startswith("roc_auc 0.8")
    assert "better by" in verdict.reason
    assert "90 % interval" in verdict.reason
    primary = verdict.report["primary"]
    assert primary["low"] > 0
    assert primary["gain"] == pytest.approx(primary["candidate"] - primary["champion"], abs=1e-5)
    assert verdict.report["champion_version"] == 3
    assert msgspec.json.encode(verdict.report)


def test_a_worse_candidate_is_refused() -> None:
    verdict = WORLD.judge(WORSE, GOOD, SPECIFICATION)
    assert not verdict.passed
    assert "worse by" in verdict.reason
    assert "0 allowed" in verdict.reason
    assert verdict.report["primary"]["high"] < 0


def test_a_candidate_of_shuffled_labels_is_refused() -> None:
    spoiled = Scored(GOOD.predictions, WORLD.rng.permutation(GOOD.scores), None, (0, 1))
    verdict = WORLD.judge(spoiled, GOOD, _tolerant(0.05))
    assert not verdict.passed
    assert verdict.report["primary"]["candidate"] == pytest.approx(0.5, abs=0.05)


def test_an_equal_candidate_passes_at_tolerance_zero() -> None:
    verdict = WORLD.judge(GOOD, GOOD, SPECIFICATION)
    assert verdict.passed
    assert "equal" in verdict.reason
    assert (verdict.report["primary"]["low"], verdict.report["primary"]["high"]) == (0.0, 0.0)


@pytest.mark.parametrize(("tolerance", "passed"), [(0.0, False), (0.2, True)])
def test_the_tolerance_is_what_may_be_lost(tolerance: float, passed: bool) -> None:
    assert WORLD.judge(WORSE, GOOD, _tolerant(tolerance, 1.0)).passed is passed


def test_one_segment_that_lost_refuses_a_candidate_that_is_better_overall() -> None:
    champion = WORLD.model(0.9)
    candidate = WORLD.model(np.where(WORLD.region == "south", 2.0, 0.0))
    verdict = WORLD.judge(candidate, champion, SPECIFICATION)
    assert verdict.report["primary"]["gain"] > 0
    assert not verdict.passed
    assert "in segment region=south" in verdict.reason
    assert WORLD.judge(candidate, champion, _tolerant(segment=0.9)).passed


def test_a_segment_with_few_rows_is_not_judged_but_named() -> None:
    world = World()
    world.rows["region"] = np.where(np.arange(N) < 40, "islet", world.region)
    verdict = world.judge(world.model(0.2), world.model(0.5), SPECIFICATION)
    assert verdict.report["segments_not_judged"] == ["region=islet"]
    assert "too few rows" in verdict.reason


def test_chance_alone_seldom_refuses_by_segment() -> None:
    """Candidates as good as the champion: the tolerance decides overall, and segments seldom do."""
    refused = 0
    for seed in range(10):
        world = World(1500, seed)
        verdict = world.judge(world.model(0.5, seed=100 + seed), world.model(0.5, seed=200 + seed), _tolerant(1.0, 0.0))
        refused += not verdict.passed
    assert refused <= 3


def test_many_segments_together_seldom_refuse_an_equal_candidate() -> None:
    """Sixteen segments with a tolerance of zero: each alone at one in twenty would refuse every other candidate."""
    refused = 0
    for seed in range(6):
        world = World(seed=seed)
        world.rows["region"] = np.arange(N) % 16
        verdict = world.judge(world.model(0.5, seed=100 + seed), world.model(0.5, seed=200 + seed), _tolerant(1.0, 0.0))
        assert len(verdict.report["segments"]) == 16
        refused += not verdict.passed
    assert refused <= 1


def test_values_with_few_rows_are_judged_together() -> None:
    """Nowhere to hide: a candidate that lost in thirty small segments lost in all of them."""
    world = World()
    small = np.arange(N) < 1200
    world.rows["region"] = np.where(small, np.arange(N) % 30, 99)
    world.rows.loc[world.rows.index % 600 == 0, "region"] = None
    verdict = world.judge(world.model(np.where(small, 3.0, 0.0)), world.model(0.9), SPECIFICATION)
    assert list(verdict.report["segments"]) == ["region=99.0", "region=(others)"]
    assert "segments_not_judged" not in verdict.report
    assert not verdict.passed
    assert "in segment region=(others)" in verdict.reason


def test_lower_is_better_is_understood() -> None:
    spec = _tolerant(primary="brier")
    assert WORLD.judge(GOOD, WORSE, spec).passed
    assert not WORLD.judge(WORSE, GOOD, spec).passed


def test_cost_beyond_chance_refuses() -> None:
    spec = _tolerant(1.0, 1.0, cost={"false_negative": 5.0, "false_positive": 1.0})
    verdict = WORLD.judge(WORSE, GOOD, spec)
    assert not verdict.passed
    assert verdict.reason.startswith("cost ")
    assert WORLD.judge(GOOD, WORSE, spec).passed


def test_rows_that_the_champion_has_learnt_from_are_left_out() -> None:
    unseen = WORLD.blocks >= 7
    flattered = WORLD.model(np.where(unseen, 0.8, 0.0))
    candidate = WORLD.model(0.7)
    assert not WORLD.judge(candidate, flattered, SPECIFICATION).passed
    verdict = WORLD.judge(candidate, flattered, SPECIFICATION, unseen=unseen)
    assert verdict.passed
    assert verdict.report["compared_rows"] == int(unseen.sum())
    assert "left out" in verdict.reason


def test_where_too_few_rows_are_left_all_are_used_and_that_is_said() -> None:
    unseen = np.arange(N) < 50
    verdict = WORLD.judge(GOOD, WORSE, SPECIFICATION, unseen=unseen)
    assert verdict.report["compared_rows"] == N
    assert "has learnt from 3950" in verdict.reason


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"round_trip": False}, "read back from its file"),
        ({"latency_ms": (5000.0, 20.0)}, "5000 ms for 1000 rows"),
        ({"project_checks": {"passed": False, "floor": 0.7}}, "validate in pipeline.py refuses it (floor 0.7)"),
    ],
)
def test_other_reasons(more: dict[str, Any], words: str) -> None:
    verdict = WORLD.judge(GOOD, WORSE, SPECIFICATION, **more)
    assert not verdict.passed
    assert words in verdict.reason


def test_a_slow_machine_refuses_nobody() -> None:
    assert WORLD.judge(GOOD, WORSE, SPECIFICATION, latency_ms=(900.0, 20.0)).passed


def test_a_first_version_needs_a_metric_that_is_defined() -> None:
    verdict = WORLD.judge(GOOD, None, SPECIFICATION)
    assert verdict.passed
    assert "first version" in verdict.reason
    one_class = World()
    one_class.rows["y"] = 1
    assert not one_class.judge(GOOD, None, SPECIFICATION).passed


def test_the_same_evidence_gives_the_same_verdict() -> None:
    assert WORLD.judge(WORLD.model(0.5), WORLD.model(0.6), SPECIFICATION) == WORLD.judge(
        WORLD.model(0.5), WORLD.model(0.6), SPECIFICATION
    )


def test_the_bias_report_tells_groups_apart() -> None:
    world = World()
    always = Scored(np.where(world.region == "north", 1, 0), GOOD.scores, None, (0, 1))
    report = world.judge(always, None, SPECIFICATION).report["bias"]["region"]
    assert report["groups"]["north"]["selection_rate"] == 1.0
    assert report["groups"]["south"]["true_positive_rate"] == 0.0
    assert report["difference"]["selection_rate"] == 1.0
    assert report["groups"]["north"]["n"] == int((world.region == "north").sum())


REGRESSION = parse(
    SPEC.replace('"binary"', '"regression"')
    .replace('"roc_auc"', '"rmse"', 1)
    .replace('["roc_auc", "brier", "accuracy"]', '["rmse", "mae", "bias", "r2"]')
)
MULTICLASS = parse(
    SPEC.replace('"binary"', '"multiclass"')
    .replace('"roc_auc"', '"f1_macro"', 1)
    .replace('["roc_auc", "brier", "accuracy"]', '["f1_macro", "accuracy", "log_loss"]')
)


@pytest.mark.parametrize("primary", ["rmse", "mae", "r2", "bias", "quantile_loss[0.8]"])
def test_regression(primary: str) -> None:
    spec = msgspec.structs.replace(REGRESSION, metrics=msgspec.structs.replace(REGRESSION.metrics, primary=primary))
    rng = np.random.default_rng(0)
    y = rng.normal(size=1000)
    rows = pd.DataFrame({"y": y, "region": "all"})
    good, worse = Scored(y + rng.normal(size=1000) * 0.1), Scored(y + 0.5 + rng.normal(size=1000) * 0.5)
    blocks = np.arange(1000) // 100
    assert judge(spec, Evidence(rows=rows, blocks=blocks, candidate=good, champion=worse)).passed
    refused = judge(spec, Evidence(rows=rows, blocks=blocks, candidate=worse, champion=good))
    assert not refused.passed
    assert primary in refused.reason


@pytest.mark.parametrize("primary", ["f1_macro", "accuracy", "log_loss", "recall[b]", "top_2_accuracy", "brier"])
def test_multiclass(primary: str) -> None:
    spec = msgspec.structs.replace(MULTICLASS, metrics=msgspec.structs.replace(MULTICLASS.metrics, primary=primary))
    rng = np.random.default_rng(0)
    names = np.array(["a", "b", "c"])
    truth = rng.integers(0, 3, size=900)
    rows = pd.DataFrame({"y": names[truth], "region": "all"})

    def model(sharpness: float) -> Scored:
        logits = rng.normal(size=(900, 3))
        logits[np.arange(900), truth] += sharpness
        chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        best = chances.argmax(axis=1)
        return Scored(names[best], chances.max(axis=1), chances, ("a", "b", "c"))

    good, worse = model(4.0), model(1.0)
    blocks = np.arange(900) // 100
    assert judge(spec, Evidence(rows=rows, blocks=blocks, candidate=good, champion=worse)).passed
    assert not judge(spec, Evidence(rows=rows, blocks=blocks, candidate=worse, champion=good)).passed


@pytest.mark.parametrize("name", ["roc_auc", "brier", "accuracy", "f1"])
def test_the_bootstrap_interval_holds_the_truth_about_as_often_as_it_says(name: str) -> None:
    """Of 30 samples from one world, the 90 % interval holds the difference in a very large sample most times."""
    big = World(60_000, 7)
    one, other = big.model(0.3, seed=1), big.model(0.6, seed=2)
    labels = big.rows["y"].to_numpy(dtype=object)
    a, b = metric_of(SPECIFICATION, name, labels, one), metric_of(SPECIFICATION, name, labels, other)
    assert a is not None
    assert b is not None
    truth = b - a if name == "brier" else a - b
    held = 0
    for sample in range(30):
        chosen = np.arange(sample * 1500, (sample + 1) * 1500)
        found = compare(
            SPECIFICATION,
            name,
            labels[chosen],
            one.at(chosen),
            other.at(chosen),
            blocks=np.arange(1500) % 3,
            seed=sample,
        )
        assert found is not None
        held += found.low <= truth <= found.high
    # 27 of 30 are expected; fewer than 22 come once in a hundred times.
    assert held >= 22


def test_whole_days_are_resampled_where_there_are_enough() -> None:
    """When days differ, resampling rows would promise too much."""
    rng = np.random.default_rng(0)
    days = np.repeat(np.arange(14), 200)
    y = rng.integers(0, 2, size=len(days)).astype(object)
    shift = np.repeat(rng.normal(size=14) * 0.3, 200)
    one = Scored((rng.random(len(days)) < 0.5 + shift).astype(int), rng.random(len(days)), None, (0, 1))
    exact = Scored(np.where(rng.random(len(days)) < 0.5 + shift, y, 1 - y), one.scores, None, (0, 1))
    by_day = compare(SPECIFICATION, "accuracy", y, exact, one, blocks=days)
    by_row = compare(SPECIFICATION, "accuracy", y, exact, one, blocks=np.zeros(len(days), dtype=np.int64))
    assert by_day is not None
    assert by_row is not None
    assert by_day.high - by_day.low > 1.5 * (by_row.high - by_row.low)
