"""Real streams: flights out of New York, and two of River's bundled sets with a feature that breaks half way.

What changes in the flights nobody wrote down: they show how often everybody speaks up, not who is right. In River's
sets nothing is known to change before the most useful feature gets stuck at one value, as a broken sensor does.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.detection.streams.base import Change, Floats, Rows, Stream

_FLIGHTS = Path(__file__).parents[3] / "examples" / "flights"
_FOLDS = 5


def flights() -> Stream:
    """The year 2013 under a model that knows January only; panes are days, the reference is January out of fold."""
    from sklearn.model_selection import KFold

    from schemas import specification

    spec = specification.load(_FLIGHTS)
    source, pipeline = _example("flights"), _example("pipeline")
    january, year = (part[part["late"].notna()] for part in (source.january_table(), source.replay()))
    scores = np.zeros(len(january))
    for fitted, left_out in KFold(_FOLDS).split(january):
        model = pipeline.train(january.iloc[fitted], spec, 0)
        scores[left_out] = model.predict_proba(january.iloc[left_out][spec.columns()])[:, 1]
    model = pipeline.train(january, spec, 0)
    return Stream(
        "flights",
        0,
        _by_day(january, scores),
        _by_day(year, model.predict_proba(year[spec.columns()])[:, 1]),
    )


def bananas() -> Stream:
    """River's `Bananas`: 5,300 rows, panes of 100."""
    from river import datasets

    return _broken("bananas", datasets.Bananas(), train=1_000, reference_panes=21, rows=100)


def shuttle() -> Stream:
    """River's `Shuttle`: 49,097 rows, panes of 200."""
    from river import datasets

    return _broken("shuttle", datasets.Shuttle(), train=5_000, reference_panes=30, rows=200)


REAL: Mapping[str, Callable[[], Stream]] = {"flights": flights, "bananas": bananas, "shuttle": shuttle}


def _example(name: str) -> Any:
    located = importlib.util.spec_from_file_location(f"flights_{name}", _FLIGHTS / f"{name}.py")
    assert located is not None
    assert located.loader is not None
    module = importlib.util.module_from_spec(located)
    located.loader.exec_module(module)
    return module


def _by_day(table: Any, scores: Floats) -> list[Rows]:
    day = table["scheduled_departure"].dt.floor("D").to_numpy()
    late, temp = table["late"].to_numpy().astype(np.int64), table["temp"].to_numpy(dtype=np.float64)
    origin = table["origin"].to_numpy(dtype=object)
    among = ((day == at).nonzero()[0] for at in np.unique(day))
    return [_rows(scores[rows], late[rows], temp[rows], origin[rows]) for rows in among]


def _rows(score: Floats, label: NDArray[np.int64], number: Floats, kind: NDArray[np.object_]) -> Rows:
    return Rows(score=score, label=label, temperature=number, kind=kind)


def _broken(name: str, dataset: Any, *, train: int, reference_panes: int, rows: int) -> Stream:
    """Boosted trees on the first rows, in the order of the file; the rest in panes."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.inspection import permutation_importance

    pairs = list(dataset)
    columns = list(pairs[0][0])
    x = np.array([[row[column] for column in columns] for row, _ in pairs], dtype=np.float64)
    y = np.array([int(label) for _, label in pairs])
    model = HistGradientBoostingClassifier(random_state=0, max_iter=60).fit(x[:train], y[:train])
    panes = (len(x) - train) // rows
    start = (panes - reference_panes) // 2
    broken_from = train + (reference_panes + start) * rows
    held = slice(train, train + reference_panes * rows)
    importance = permutation_importance(model, x[held], y[held], n_repeats=3, random_state=0).importances_mean
    best = int(np.argmax(importance))
    x[broken_from:, best] = np.median(x[:train, best])
    score = model.predict_proba(x[train:])[:, 1]
    kind = np.array(["only"] * rows, dtype=object)
    cut = [
        _rows(score[at : at + rows], y[train + at : train + at + rows], x[train + at : train + at + rows, best], kind)
        for at in range(0, panes * rows, rows)
    ]
    live = cut[reference_panes:]
    return Stream(name, 0, cut[:reference_panes], live, [Change(start, len(live))])
