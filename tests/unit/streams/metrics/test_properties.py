"""What holds for all counters: any order, any grouping, taking back; and errors within the stated bounds."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from schemas.events import Prediction
from schemas.metrics import METRICS, accepted
from schemas.reference import MetricReference
from streams.metrics.batch import evaluate, label_counters
from streams.metrics.catalogue import DEFINITIONS
from streams.metrics.compute import compute
from streams.metrics.ranking import average_precision, roc_auc
from streams.metrics.view import dense
from streams.panes import LIMB, PanePlan, add_to, negated
from tests.support.plans import plan, prediction, reference, specification

TASKS = ["binary", "multiclass", "regression"]
CLASSES = ["a", "b", "c"]
NAMES = {
    "binary": [name for name in accepted("binary") if name != "cost"],
    "multiclass": [
        *METRICS["multiclass"],
        *(f"{rate}[{key}]" for rate in ("precision", "recall", "f1") for key in [*CLASSES, "zebra"]),
        "top_1_accuracy",
        "top_2_accuracy",
        "top_99_accuracy",
    ],
    "regression": [*METRICS["regression"], "quantile_loss[0.5]", "quantile_loss[0.95]", "clipped_ratio"],
}
LABELS: dict[str, st.SearchStrategy[Any]] = {
    "binary": st.sampled_from([0, 1]),
    "multiclass": st.sampled_from([*CLASSES, "zebra"]),
    "regression": st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.floats(-1e3, 1e3), st.just(0.0)),
}


@st.composite
def predictions(draw: st.DrawFn, task: str) -> Prediction:
    """A prediction of any kind that the codec lets through."""
    share = st.floats(0.0, 1.0)
    if task == "regression":
        return prediction(value=draw(LABELS[task]), probability=None)
    if task == "binary":
        return prediction(value=draw(st.sampled_from([0, 1, "maybe"])), probability=draw(st.none() | share))
    by_class = st.dictionaries(st.sampled_from([*CLASSES, "zebra"]), share, min_size=1)
    probability = draw(st.one_of(st.none(), share, by_class))
    return prediction(value=draw(st.sampled_from([*CLASSES, "zebra"])), probability=probability)  # type: ignore[arg-type]


@st.composite
def contributions(draw: st.DrawFn, p: PanePlan) -> list[dict[int, int]]:
    """What some labelled predictions of a plan add."""
    events = draw(
        st.lists(st.tuples(predictions(p.task), LABELS[p.task], st.integers(-5, 4 * 86_400_000)), max_size=12)
    )
    return [p.labelled(p.compact(sent), label, delay) for sent, label, delay in events]


@pytest.mark.parametrize("task", TASKS)
@given(data=st.data())
def test_any_order_grouping_and_detour_gives_the_same_metrics(task: str, data: st.DataObject) -> None:
    p = plan(task)
    kept, passing = data.draw(contributions(p)), data.draw(contributions(p))
    straight: dict[int, int] = {}
    for one in kept:
        add_to(straight, one)
    steps = data.draw(st.permutations([*kept, *passing, *(negated(one) for one in passing)]))
    groups: list[dict[int, int]] = [{}, {}, {}]
    for step in steps:
        add_to(groups[data.draw(st.integers(0, 2))], step)
    merged: dict[int, int] = {}
    for group in groups:
        add_to(merged, group)
    assert merged == straight
    assert compute(p, merged, NAMES[task]) == compute(p, straight, NAMES[task])


@pytest.mark.parametrize("task", TASKS)
@given(data=st.data())
def test_no_metric_is_ever_other_than_a_finite_number(task: str, data: st.DataObject) -> None:
    p = plan(task)
    total: dict[int, int] = {}
    for one in data.draw(contributions(p)):
        add_to(total, one)
    for value in compute(p, total, NAMES[task]).values():
        assert isinstance(value, float)
        assert math.isfinite(value)
    if not total:
        assert compute(p, total, NAMES[task]) == {}


@pytest.mark.parametrize("task", TASKS)
def test_all_that_can_be_watched_is_defined(task: str) -> None:
    assert set(DEFINITIONS[task]) == set(accepted(task))


# ------------------------------------------------------------------------------------------------- ranking

SCORED = st.lists(st.tuples(st.floats(0.0, 1.0), st.booleans()), min_size=1, max_size=60)


def _halved(positives: np.ndarray, negatives: np.ndarray) -> float:
    """Stated bound of ROC AUC: half the share of pairs in one bin."""
    return float((positives * negatives).sum()) / 2 / (float(positives.sum()) * float(negatives.sum()))


def _best_and_worst(positives: np.ndarray, negatives: np.ndarray) -> tuple[float, float]:
    """Average precision if every bin ranked all its positives first, as one, or last, one by one."""
    hits = shown = 0
    best = worst = 0.0
    for p, n in zip(positives[::-1].tolist(), negatives[::-1].tolist(), strict=True):
        best += p * (hits + p) / (shown + p) if p else 0.0
        worst += sum((hits + j) / (shown + n + j) for j in range(1, p + 1))
        hits, shown = hits + p, shown + p + n
    return best / hits, worst / hits


@settings(deadline=None)
@given(rows=SCORED)
def test_ranking_is_within_its_bounds_of_sklearn_for_any_scores(rows: list[tuple[float, bool]]) -> None:
    p = plan()
    scores, truth = np.array([s for s, _ in rows]), np.array([int(t) for _, t in rows])
    counts = label_counters(p, truth, (scores >= 0.5).astype(int), scores)[0]
    positives, negatives = counts[p.slots["positives"]], counts[p.slots["negatives"]]
    area, precision = roc_auc(positives, negatives), average_precision(positives, negatives)
    if 0 < truth.sum() < len(truth):
        assert area is not None
        assert abs(area - sk.roc_auc_score(truth, scores)) <= _halved(positives, negatives) + 1e-12
    else:
        assert area is None
    if truth.any():
        best, worst = _best_and_worst(positives, negatives)
        assert precision is not None
        for value in (precision, sk.average_precision_score(truth, scores)):
            assert worst - 1e-12 <= value <= best + 1e-12
    else:
        assert precision is None


# ---------------------------------------------------------------------------------------------- regression


def _regression_plan(rmse: float, std: float) -> PanePlan:
    import msgspec

    changed = msgspec.structs.replace(
        reference("regression"),
        metrics={"rmse": MetricReference(value=rmse, spread=0.0, scale=0.0)},
        label_std=std,
    )
    return PanePlan(specification("regression"), changed)


@settings(deadline=None)
@given(
    rows=st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(-1e4, 1e4)), min_size=2, max_size=40),
    rmse=st.floats(1.0, 1e5),
    q=st.sampled_from(["0.05", "0.5", "0.9"]),
)
def test_regression_is_within_its_rounding_of_sklearn(rows: list[tuple[float, float]], rmse: float, q: str) -> None:
    p = _regression_plan(rmse, 1e3)
    truth, miss = np.array([y for y, _ in rows]), np.array([e for _, e in rows])
    guess = truth + miss
    counts = label_counters(p, truth, guess, None)[0]
    found = compute(p, counts, [*METRICS["regression"], f"quantile_loss[{q}]", "clipped_ratio"])
    assert found["clipped_ratio"] == 0.0
    bound = p.error_scale * 2**-17 + 1e-9
    assert abs(found["mae"] - sk.mean_absolute_error(truth, guess)) <= bound
    assert abs(found["rmse"] - sk.root_mean_squared_error(truth, guess)) <= bound
    assert abs(found["bias"] - float(np.mean(guess - truth))) <= bound
    assert abs(found[f"quantile_loss[{q}]"] - sk.mean_pinball_loss(truth, guess, alpha=float(q))) <= bound
    exact = evaluate(p.spec, truth, predictions=guess)
    assert exact["mae"] == pytest.approx(sk.mean_absolute_error(truth, guess))
    spread = float(np.std(truth))
    if spread > p.label_std / 900:
        lost = float(np.mean((guess - truth) ** 2)) / spread**2
        of_rounding = 2 * bound * math.sqrt(lost) / spread + (bound / spread) ** 2
        assert abs(found["r2"] - sk.r2_score(truth, guess)) <= lost * 2**-9 + 1.01 * of_rounding + 1e-9
    elif spread < p.label_std / 1100:
        assert "r2" not in found


def test_r2_keeps_its_digits_far_from_the_reference() -> None:
    rng = np.random.default_rng(2)
    truth = rng.normal(200 + 115 * 500, 115, 5000)  # the labels moved by 500 standard deviations
    guess = truth + rng.normal(0, 13, 5000)
    p = plan("regression")
    found = compute(p, label_counters(p, truth, guess, None)[0], ["r2"])
    assert found["r2"] == pytest.approx(sk.r2_score(truth, guess), abs=1e-5)


def test_a_reference_without_errors_does_not_cut_later_ones() -> None:
    p = _regression_plan(1e-12, 115.0)
    rng = np.random.default_rng(3)
    truth = rng.normal(200, 115, 1000)
    guess = truth + rng.normal(0, 20, 1000)
    found = compute(p, label_counters(p, truth, guess, None)[0], ["mae", "rmse", "clipped_ratio"])
    assert found["mae"] == pytest.approx(sk.mean_absolute_error(truth, guess), rel=1e-6)
    assert found["rmse"] == pytest.approx(sk.root_mean_squared_error(truth, guess), rel=1e-6)
    assert found["clipped_ratio"] == 0.0


def test_absurd_labels_are_cut_and_counted() -> None:
    p = plan("regression")
    counts = p.labelled(p.compact(prediction(value=1.0, probability=None)), 1e300, 0)
    assert compute(p, counts, ["clipped_ratio"]) == {"clipped_ratio": 1.0}
    assert counts[p.slots["error"].start] == -LIMB
    in_arrays = label_counters(p, [1e300], [1.0], None)[0]
    assert {i: int(c) for i, c in enumerate(in_arrays) if c} == {
        i: c for i, c in counts.items() if i != p.slots["delay"].start
    }


# ---------------------------------------------------------------------------------------------- multiclass


@pytest.mark.parametrize("decimals", [1, 8])  # with one, many probabilities are equal
def test_multiclass_agrees_with_sklearn(decimals: int) -> None:
    rng = np.random.default_rng(4)
    p = plan("multiclass")
    n = 4000
    probabilities = np.round(rng.dirichlet([2, 1, 0.7], n), decimals)
    truth = np.array([CLASSES[i] for i in rng.integers(0, 3, n)], dtype=object)
    guess = np.array([CLASSES[i] for i in probabilities.argmax(axis=1)], dtype=object)
    counts = label_counters(p, truth, guess, probabilities.max(axis=1), probabilities=probabilities)[0]
    found = compute(p, counts, NAMES["multiclass"])
    known = list(range(3))
    y, g = (np.array([CLASSES.index(v) for v in values]) for values in (truth, guess))
    rates = {"precision": sk.precision_score, "recall": sk.recall_score, "f1": sk.f1_score}
    for name, of in rates.items():
        for average in ("macro", "weighted"):
            assert found[f"{name}_{average}"] == pytest.approx(of(y, g, average=average))
        by_class = of(y, g, average=None, labels=known)
        for index, key in enumerate(CLASSES):
            assert found[f"{name}[{key}]"] == pytest.approx(by_class[index])
        assert f"{name}[zebra]" not in found
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(y, g))
    for k in (1, 2):
        assert found[f"top_{k}_accuracy"] == pytest.approx(sk.top_k_accuracy_score(y, probabilities, k=k, labels=known))
    assert found["top_99_accuracy"] == 1.0
    one_hot = np.eye(3)[y]
    assert found["brier"] == pytest.approx(float(((probabilities - one_hot) ** 2).sum(axis=1).mean()), abs=2**-18)
    exact = evaluate(
        p.spec, truth, predictions=guess, scores=probabilities.max(axis=1), probabilities=probabilities,
        classes=CLASSES, names=NAMES["multiclass"],
    )  # fmt: skip
    assert {name: value for name, value in exact.items() if value is not None} == found


def test_a_truth_that_no_class_knows_is_never_right() -> None:
    p = plan("multiclass")
    sent = prediction(value="zebra", probability={"a": 0.5, "b": 0.3, "c": 0.2})  # type: ignore[arg-type]
    found = compute(p, p.labelled(p.compact(sent), "zebra", 0), [*NAMES["multiclass"]])
    assert found["accuracy"] == found["top_99_accuracy"] == found["f1_macro"] == 0.0
    assert found["brier"] == pytest.approx(1.0 + 0.25 + 0.09 + 0.04, abs=2**-18)


def test_confusion_at_the_threshold() -> None:
    p = plan()
    total: dict[int, int] = {}
    for value, truth in [(1, 1), (1, 1), (1, 0), (0, 1), (0, 0), (0, 0), (0, 0)]:
        add_to(total, p.labelled(p.compact(prediction(value=value)), truth, 0))
    names = ["true_positives", "false_positives", "true_negatives", "false_negatives"]
    assert compute(p, total, names) == dict(zip(names, [2.0, 1.0, 3.0, 1.0], strict=True))
    assert compute(p, dense(p, {}), names) == {}
