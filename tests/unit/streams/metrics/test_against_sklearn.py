"""Streaming counters, array metrics and scikit-learn agree."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from schemas.metrics import LABEL_DELAYS, METRICS
from schemas.specification import Specification
from streams.metrics.batch import evaluate, label_counters
from streams.metrics.compute import compute
from streams.metrics.view import dense
from streams.panes import PanePlan, add_to
from streams.reference import compile_reference
from tests.support.plans import plan, prediction, specification


def _scores(case: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    n = 200_000
    if case == "rare":  # 0.1 % positives, scores near 0
        logit = rng.normal(-8.0, 1.5, n)
        truth = rng.random(n) < 1 / (1 + np.exp(-logit))
    elif case == "narrow":  # everything within a hundredth
        logit = rng.normal(0.0, 0.005, n)
        truth = rng.random(n) < 1 / (1 + np.exp(-(logit * 100)))
    elif case == "saturated":
        logit = rng.choice([-9.0, 9.0], n) + rng.normal(0, 1.0, n)
        truth = rng.random(n) < 1 / (1 + np.exp(-logit / 6))
    elif case == "few-values":
        logit = rng.choice([-2.0, -1.0, 0.0, 1.0], n)
        truth = rng.random(n) < 1 / (1 + np.exp(-logit))
    else:
        logit = rng.normal(-1.0, 1.2, n)
        truth = rng.random(n) < 1 / (1 + np.exp(-logit))
    return truth.astype(int), 1 / (1 + np.exp(-logit))


def _compiled(truth: np.ndarray, scores: np.ndarray, spec: Specification) -> PanePlan:
    n = len(truth)
    return PanePlan(
        spec,
        compile_reference(
            spec,
            {"distance": np.arange(n, dtype=float), "origin": np.full(n, "JFK", dtype=object)},
            labels=truth,
            predictions=(scores >= 0.5).astype(int),
            scores=scores,
            event_time_ms=np.arange(n) * 60_000,
        ),
    )


@pytest.mark.parametrize("case", ["plain", "rare", "narrow", "saturated", "few-values"])
def test_auc_of_bins_is_within_a_thousandth_of_sklearn(case: str) -> None:
    rng = np.random.default_rng(3)
    truth, scores = _scores(case, rng)
    half = len(truth) // 2
    p = _compiled(truth[:half], scores[:half], specification())
    live_truth, live = truth[half:], scores[half:]
    counts = label_counters(p, live_truth, (live >= 0.5).astype(int), live)[0]
    values = compute(p, counts, ["roc_auc", "pr_auc", "brier", "log_loss"])
    assert values["roc_auc"] == pytest.approx(sk.roc_auc_score(live_truth, live), abs=1e-3)
    assert values["pr_auc"] == pytest.approx(sk.average_precision_score(live_truth, live), abs=5e-3)
    assert values["brier"] == pytest.approx(sk.brier_score_loss(live_truth, live), abs=1e-5)
    assert values["log_loss"] == pytest.approx(sk.log_loss(live_truth, live), abs=1e-5)


def test_auc_of_rare_events_holds_when_live_scores_moved() -> None:
    rng = np.random.default_rng(4)
    truth, scores = _scores("plain", rng)
    p = _compiled(truth, scores, specification())
    rare_truth, rare = _scores("rare", rng)
    assert 50 < rare_truth.sum() < 1000
    counts = label_counters(p, rare_truth, np.zeros(len(rare), dtype=int), rare)[0]
    assert compute(p, counts, ["roc_auc"])["roc_auc"] == pytest.approx(sk.roc_auc_score(rare_truth, rare), abs=1e-3)


def test_binary_decisions_match_sklearn() -> None:
    rng = np.random.default_rng(5)
    truth, scores = _scores("plain", rng)
    guess = (scores >= 0.5).astype(int)
    for values in (
        evaluate(specification(), truth, predictions=guess, scores=scores),
        compute(plan(), label_counters(plan(), truth, guess, scores)[0], ["accuracy", "precision", "recall", "f1"]),
    ):
        assert values["accuracy"] == pytest.approx(sk.accuracy_score(truth, guess))
        assert values["precision"] == pytest.approx(sk.precision_score(truth, guess))
        assert values["recall"] == pytest.approx(sk.recall_score(truth, guess))
        assert values["f1"] == pytest.approx(sk.f1_score(truth, guess))


@pytest.mark.parametrize("case", ["plain", "rare", "saturated"])
def test_calibration_error_is_that_of_fifteen_even_bins(case: str) -> None:
    """scikit-learn has the bins (`calibration_curve`) and not their sum."""
    rng = np.random.default_rng(10)
    truth, scores = _scores(case, rng)
    truth, scores = truth[:20_000], np.clip(scores[:20_000] * 0.8, 0.0, 1.0)  # too modest a model
    hits, promised = calibration_curve(truth, scores, n_bins=15, strategy="uniform")
    sizes = np.bincount(np.minimum((scores * 15).astype(int), 14), minlength=15)
    wanted = float((np.abs(hits - promised) * sizes[sizes > 0]).sum() / len(truth))
    guess = (scores >= 0.5).astype(int)
    streamed = compute(plan(), label_counters(plan(), truth, guess, scores)[0], ["calibration_error"])
    exact = evaluate(specification(), truth, predictions=guess, scores=scores, names=["calibration_error"])
    assert wanted > 1e-4
    assert streamed["calibration_error"] == pytest.approx(wanted, abs=2**-20)
    assert exact["calibration_error"] == pytest.approx(wanted, abs=2**-20)


def test_cost_is_the_prices_times_the_mistakes() -> None:
    rng = np.random.default_rng(11)
    truth, guess = rng.integers(0, 2, 500), rng.integers(0, 2, 500)
    (_, false_positives), (false_negatives, _) = sk.confusion_matrix(truth, guess)
    prices = "{ false_negative = 5.0, false_positive = 0.25 }"
    p = plan(cost=prices)
    wanted = (5.0 * false_negatives + 0.25 * false_positives) / 500
    counts = label_counters(p, truth, guess, rng.random(500))[0]
    assert compute(p, counts, ["cost"])["cost"] == pytest.approx(wanted)
    assert evaluate(p.spec, truth, predictions=guess, scores=None, names=["cost"])["cost"] == pytest.approx(wanted)


def test_evaluate_is_exact_for_ranking() -> None:
    rng = np.random.default_rng(6)
    truth, scores = _scores("narrow", rng)
    values = evaluate(specification(), truth, predictions=truth, scores=scores)
    assert values["roc_auc"] == pytest.approx(sk.roc_auc_score(truth, scores), abs=1e-12)
    assert values["pr_auc"] == pytest.approx(sk.average_precision_score(truth, scores), abs=1e-12)
    assert "cost" not in values


def test_multiclass_matches_sklearn() -> None:
    rng = np.random.default_rng(7)
    classes = np.array(["a", "b", "c"], dtype=object)
    probabilities = rng.dirichlet([2, 1, 0.5], 20_000)
    truth = classes[[rng.choice(3, p=row) for row in probabilities]]
    guess = classes[probabilities.argmax(axis=1)]
    values = evaluate(
        specification("multiclass"),
        truth,
        predictions=guess,
        scores=probabilities.max(axis=1),
        probabilities=probabilities,
        classes=["a", "b", "c"],
    )
    assert set(values) == set(METRICS["multiclass"])
    assert values["accuracy"] == pytest.approx(sk.accuracy_score(truth, guess))
    assert values["precision_macro"] == pytest.approx(
        sk.precision_score(truth, guess, average="macro", zero_division=0)
    )
    assert values["recall_macro"] == pytest.approx(sk.recall_score(truth, guess, average="macro"))
    assert values["f1_macro"] == pytest.approx(sk.f1_score(truth, guess, average="macro"))
    assert values["f1_weighted"] == pytest.approx(sk.f1_score(truth, guess, average="weighted"))
    assert values["log_loss"] == pytest.approx(sk.log_loss(truth, probabilities, labels=["a", "b", "c"]), abs=1e-5)


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e9])
def test_regression_matches_sklearn_in_any_unit(unit: float) -> None:
    rng = np.random.default_rng(8)
    truth = rng.normal(200, 115, 20_000) * unit
    guess = truth + rng.normal(3, 13, 20_000) * unit
    spec = specification("regression")
    p = PanePlan(
        spec,
        compile_reference(
            spec, {}, labels=truth, predictions=guess, scores=None, event_time_ms=np.arange(20_000) * 60_000
        ),
    )
    exact = evaluate(spec, truth, predictions=guess)
    streamed = compute(p, label_counters(p, truth, guess, None)[0], METRICS["regression"])
    for values in (exact, streamed):
        assert values["mae"] == pytest.approx(sk.mean_absolute_error(truth, guess), rel=1e-5)
        assert values["rmse"] == pytest.approx(sk.root_mean_squared_error(truth, guess), rel=1e-4)
        assert values["r2"] == pytest.approx(sk.r2_score(truth, guess), abs=1e-4)
        assert values["bias"] == pytest.approx(float(np.mean(guess - truth)), rel=1e-4)
    clear = np.abs(truth) > 10 * unit  # ratios to labels near 0 are cut
    some = compute(p, label_counters(p, truth[clear], guess[clear], None)[0], ["mape"])
    assert some["mape"] == pytest.approx(sk.mean_absolute_percentage_error(truth[clear], guess[clear]), rel=1e-4)


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_arrays_count_exactly_what_single_labels_add_up_to(task: str) -> None:
    rng = np.random.default_rng(9)
    p = plan(task)
    n = 400
    scores = rng.random(n)
    proba = rng.dirichlet([1, 1, 1], n)
    labels: list[object]
    if task == "regression":
        labels = [*rng.normal(200, 500, n - 2).tolist(), 0.0, 1e12]
        guesses: list[object] = rng.normal(200, 500, n).tolist()
    elif task == "binary":
        labels = rng.integers(0, 2, n).tolist()
        guesses = rng.integers(0, 2, n).tolist()
    else:
        labels = rng.choice(["a", "b", "c", "z"], n).tolist()
        guesses = ["abc"[i] for i in proba.argmax(axis=1)]
        scores = proba.max(axis=1)
    total: dict[int, int] = {}
    for i in range(n):
        probability = dict(zip("abc", proba[i].tolist(), strict=True)) if task == "multiclass" else float(scores[i])
        c = p.compact(prediction(value=guesses[i], probability=probability))  # type: ignore[arg-type]
        add_to(total, p.labelled(c, labels[i], 0))  # type: ignore[arg-type]
    del total[p.slots["delay"].start]
    counted = label_counters(
        p, np.array(labels, dtype=object), np.array(guesses, dtype=object), scores, probabilities=proba
    )[0]
    assert (counted == dense(p, total)).all()


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_no_metric_of_little_is_nan(task: str) -> None:
    p = plan(task)
    label: object = {"binary": 1, "multiclass": "zebra", "regression": 0.0}[task]
    one = p.labelled(p.compact(prediction(value=1.0, probability=None)), label, 0)  # type: ignore[arg-type]
    for counters in ({}, one):
        names = [name for name in METRICS[task] if name != "cost"]
        for value in compute(p, counters, names).values():
            assert value is None or math.isfinite(value)


def test_metrics_depend_on_watched_by_default() -> None:
    p = plan(watch=("brier", "accuracy"))
    one: dict[int, int] = {}
    for value, score in ((1, 0.7), (0, 0.2)):
        add_to(one, p.labelled(p.compact(prediction(value=value, probability=score)), value, 0))
    assert list(compute(p, one)) == ["roc_auc", "brier", "accuracy", "calibration_error", *LABEL_DELAYS]
