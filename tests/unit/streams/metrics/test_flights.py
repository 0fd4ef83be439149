"""Ranking metrics of a year of real flights against scikit-learn: a model of early January, judged month by month."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from sklearn import metrics as sk

from schemas.specification import load
from streams.metrics.batch import evaluate, label_counters
from streams.metrics.compute import compute
from streams.panes import PanePlan
from streams.reference import compile_reference

EXAMPLE = Path(__file__).parents[4] / "examples" / "flights"
SPEC = load(EXAMPLE)


def _module(name: str) -> ModuleType:
    located = importlib.util.spec_from_file_location(f"flights_for_metrics_{name}", EXAMPLE / f"{name}.py")
    assert located is not None
    assert located.loader is not None
    module = importlib.util.module_from_spec(located)
    located.loader.exec_module(module)
    return module


def test_a_year_of_flights_agrees_with_sklearn() -> None:
    flights = _module("flights")
    table = flights.all_flights()
    table = table[table["late"].notna()]
    january, rest = table[table["month"] == 1], table[table["month"] > 1].iloc[::7]
    model = _module("pipeline").train(january.iloc[:5000], SPEC, 0)
    held = january.iloc[5000:15000]
    scores = model.predict_proba(held[SPEC.columns()])[:, 1]
    plan = PanePlan(
        SPEC,
        compile_reference(
            SPEC,
            {},
            labels=held["late"].astype(int).to_numpy(),
            predictions=(scores >= 0.5).astype(int),
            scores=scores,
            event_time_ms=held["scheduled_departure"].astype("int64").to_numpy(),
        ),
    )
    truth = rest["late"].astype(int).to_numpy()
    live = model.predict_proba(rest[SPEC.columns()])[:, 1]
    month = rest["month"].to_numpy()
    for number in (0, *range(2, 13)):
        rows = (month == number) | (number == 0)
        y, s = truth[rows], live[rows]
        decided = (s >= 0.5).astype(int)
        streamed = compute(plan, label_counters(plan, y, decided, s)[0])
        assert streamed["roc_auc"] == pytest.approx(sk.roc_auc_score(y, s), abs=1e-3), number
        pr_auc = compute(plan, label_counters(plan, y, decided, s)[0], ["pr_auc"])["pr_auc"]
        assert pr_auc == pytest.approx(sk.average_precision_score(y, s), abs=5e-3), number
        whole = evaluate(SPEC, y, predictions=decided, scores=s)
        for name, exact in (
            ("brier", sk.brier_score_loss(y, s)),
            ("accuracy", sk.accuracy_score(y, decided)),
        ):
            assert streamed[name] == pytest.approx(exact, abs=1e-6), number
            assert whole[name] == pytest.approx(exact, abs=1e-6), number
    assert np.unique(month).tolist() == list(range(2, 13))
