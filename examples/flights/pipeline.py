"""How a model of flight delays is trained: gradient boosting on the raw columns.

Every transform lives inside the estimator, so that training, validation and serving cannot differ. New airports and
carriers, and hours without a weather report, are treated as missing.
"""

import math

from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OrdinalEncoder


def prepare(data, spec):
    """Flights that arrived: cancelled and diverted ones have no label."""
    return data[data[spec.data.label].notna()]


def train(prepare, spec, seed):
    """Fit on the labelled flights."""
    categorical = [name for name, kind in spec.features.items() if kind == "categorical"]
    numeric = [name for name, kind in spec.features.items() if kind != "categorical"]
    encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=math.nan, encoded_missing_value=math.nan)
    columns = ColumnTransformer([("categories", encoder, categorical), ("numbers", "passthrough", numeric)])
    boosting = HistGradientBoostingClassifier(
        learning_rate=0.1,
        max_iter=80,
        max_leaf_nodes=31,
        min_samples_leaf=50,
        l2_regularization=1.0,
        early_stopping=False,
        random_state=seed,
    )
    model = Pipeline([("columns", columns), ("boosting", boosting)])
    return model.fit(prepare[spec.columns()], prepare[spec.data.label].astype(int))
