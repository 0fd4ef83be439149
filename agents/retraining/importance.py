"""Permutation importance: how much of the primary metric is lost when a feature's values are dealt out at random.

References
----------
Breiman (2001), Random Forests; Fisher, Rudin and Dominici (2019), All models are wrong, but many are useful.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from agents.retraining.scoring import score
from schemas.metrics import loss
from schemas.specification import Specification

if TYPE_CHECKING:
    import pandas as pd

ROWS: Final = 3000


def permutation_importances(
    spec: Specification, estimator: Any, rows: pd.DataFrame, *, seed: int = 0
) -> dict[str, float]:
    """Importance by feature, ≥ 0, on at most 3000 labelled rows; empty where the metric is not defined on them."""
    from agents.retraining.quality import metric_of

    rng = np.random.default_rng(seed)
    if len(rows) > ROWS:
        rows = rows.iloc[np.sort(rng.choice(len(rows), ROWS, replace=False))].reset_index(drop=True)
    labels = rows[spec.data.label]
    features = rows[spec.columns()]
    name = spec.metrics.primary
    whole = metric_of(spec, name, labels, score(spec, estimator, features))
    if whole is None:
        return {}
    # One call for all features: the rows once more for each, with that feature shuffled.
    order = rng.permutation(len(rows))
    stacked = _stack(features, order)
    scored = score(spec, estimator, stacked)
    found = {}
    for number, feature in enumerate(features.columns):
        part = np.arange(number * len(rows), (number + 1) * len(rows))
        value = metric_of(spec, name, labels, scored.at(part))
        found[str(feature)] = max(loss(name, value) - loss(name, whole), 0.0) if value is not None else 0.0
    return found


def _stack(features: pd.DataFrame, order: Any) -> pd.DataFrame:
    import pandas as pd

    copies = []
    for name in features.columns:
        copy = features.copy()
        copy[name] = features[name].to_numpy()[order]
        copies.append(copy.astype({name: features[name].dtype}))
    return pd.concat(copies, ignore_index=True)
