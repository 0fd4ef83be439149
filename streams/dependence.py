"""How much a model's predictions depend on each feature, seen from outside: for models of which only answers are known.

Permutation importance needs the model. What can be seen without it is how much of the predictions' variance each
feature explains alone (the correlation ratio), which ranks causes of drift well enough unless features only matter
together.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from schemas.reference import FeatureReference, NumericReference, ReferenceStatistics
from streams.columns import class_keys, floats_of, missing_in
from streams.sketches import coarsened


def explained(
    reference: ReferenceStatistics, features: Mapping[str, ArrayLike], answers: ArrayLike
) -> dict[str, float]:
    """Share of the answers' variance that each feature explains alone, 0–1.

    Parameters
    ----------
    reference : ReferenceStatistics
        Its bins and categories are those that features are grouped by.
    features : mapping of str to array, shape (n,)
    answers : array, shape (n,)
        Scores, or predictions: numbers as they are, classes as indicators.

    Notes
    -----
    What chance alone would explain (groups − 1 of n − 1 rows) is taken off.

    References
    ----------
    Fisher (1925), Statistical Methods for Research Workers: the correlation ratio.

    Examples
    --------
    >>> from schemas.reference import CategoricalReference as C, ReferenceStatistics as R
    >>> ab, nothing = C(categories=["a", "b"], counts=[2, 2], other=0, missing=0), C(categories=[], counts=[], other=0,
    ...     missing=0)
    >>> r = R(task="binary", rows=4, features={"x": ab}, scores=None, predictions=nothing, labels=nothing, classes=[],
    ...     segments={}, metrics={}, importances={}, drift={})
    >>> explained(r, {"x": ["a", "a", "b", "b"]}, [0.1, 0.1, 0.9, 0.9])
    {'x': 1.0}
    """
    targets = _targets(np.asarray(answers))
    total = float((targets - targets.mean(axis=0)).__pow__(2).sum()) if len(targets) else 0.0
    out: dict[str, float] = {}
    for name, compiled in reference.features.items():
        if name not in features or total <= 0.0:
            continue
        groups = _groups(compiled, np.asarray(features[name]))
        out[name] = round(_share(groups, targets, total), 6)
    return out


def _targets(answers: NDArray[np.generic]) -> NDArray[np.float64]:
    """Columns of numbers, shape (n, k)."""
    try:
        numbers = floats_of(answers)
    except (TypeError, ValueError):
        numbers = np.full(len(answers), np.nan)
    if np.isfinite(numbers).any():
        return np.where(np.isfinite(numbers), numbers, np.nanmean(numbers))[:, None]
    keys = np.asarray(class_keys(answers.astype(object)))
    return np.stack([(keys == key).astype(np.float64) for key in sorted(set(keys.tolist()))[:100]], axis=1)


def _groups(compiled: FeatureReference, column: NDArray[np.generic]) -> NDArray[np.int64]:
    if isinstance(compiled, NumericReference):
        values = floats_of(column)
        whole = coarsened(compiled)
        codes = np.searchsorted(whole.edges, values, side="right")
        return np.where(np.isnan(values), len(whole.counts), codes).astype(np.int64)
    objects = column.astype(object)
    missing = missing_in(column)
    objects[missing] = None
    table = {key: index for index, key in enumerate(compiled.categories)}
    rest = len(table)
    return np.array([table.get(key, rest) if key else rest + 1 for key in class_keys(objects)], dtype=np.int64)


def _share(groups: NDArray[np.int64], targets: NDArray[np.float64], total: float) -> float:
    n = len(groups)
    _, inverse, counts = np.unique(groups, return_inverse=True, return_counts=True)
    between = 0.0
    for target in targets.T:
        sums = np.bincount(inverse.reshape(-1), weights=target - target.mean())
        between += float((sums * sums / counts).sum())
    free = n - len(counts)
    if free <= 0:
        return 0.0
    chance = (total - between) / free * (len(counts) - 1)
    return min(max((between - chance) / total, 0.0), 1.0)
