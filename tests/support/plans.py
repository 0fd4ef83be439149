"""Small specifications, references and plans for tests of the monitoring path."""

from __future__ import annotations

from schemas.events import Prediction
from schemas.reference import CategoricalReference, MetricReference, NumericReference, ReferenceStatistics
from schemas.specification import Specification, parse
from streams.panes import PanePlan

_METRICS = {"binary": "roc_auc", "multiclass": "accuracy", "regression": "mae"}


def specification(
    task: str = "binary",
    *,
    windows: tuple[str, ...] = ("1d", "7d"),
    watch: tuple[str, ...] = (),
    delay: str = "3d",
    horizon: str = "7d",
    budget: str = "1/30d",
    cost: str = "{}",
    segment_features: tuple[str, ...] = (),
    segments: tuple[str, ...] = ("origin",),
) -> Specification:
    """A specification with one numeric and one categorical feature and segments by the latter."""
    return parse(
        f"""
[model]
name = "m"
task = "{task}"
[data]
id = "id"
event_time = "at"
label = "y"
max_label_delay = "{delay}"
revision_horizon = "{horizon}"
segments = [{", ".join(f'"{name}"' for name in segments)}]
[features]
distance = "numeric"
origin = "categorical"
[metrics]
primary = "{_METRICS[task]}"
watch = [{", ".join(f'"{name}"' for name in watch)}]
windows = [{", ".join(f'"{name}"' for name in windows)}]
cost = {cost}
[alarms]
budget = "{budget}"
segment_features = [{", ".join(f'"{name}"' for name in segment_features)}]
"""
    )


def _level(value: float, spread: float, scale: float) -> MetricReference:
    return MetricReference(value=value, spread=spread, scale=scale, panes=30, n=10_000)


def reference(task: str = "binary") -> ReferenceStatistics:
    """A hand-written reference for `specification(task)`."""
    classes = {"binary": ["0", "1"], "multiclass": ["a", "b", "c"], "regression": []}[task]
    numbers = NumericReference(
        edges=[100.0, 200.0, 300.0],
        counts=[250, 250, 250, 250],
        missing=0,
        minimum=0.0,
        maximum=400.0,
        mean=200.0,
        std=115.0,
    )
    of_classes = CategoricalReference(
        categories=classes, counts=[1000 // max(len(classes), 1)] * len(classes), other=0, missing=0
    )
    scores = NumericReference(
        edges=[0.25, 0.5, 0.75], counts=[250] * 4, missing=0, minimum=0.0, maximum=1.0, mean=0.5, std=0.29
    )
    values = numbers if task == "regression" else of_classes
    levels = {
        "binary": {
            "roc_auc": _level(0.75, 0.01, 0.8),
            "accuracy": _level(0.8, 0.01, 0.4),
            "brier": _level(0.2, 0.005, 0.2),
        },
        "multiclass": {"accuracy": _level(0.8, 0.01, 0.4)},
        "regression": {"mae": _level(10.0, 0.2, 8.0), "rmse": _level(13.0, 0.3, 10.0)},
    }[task]
    return ReferenceStatistics(
        task=task,
        rows=1000,
        features={
            "distance": numbers,
            "origin": CategoricalReference(categories=["JFK", "LGA"], counts=[600, 400], other=0, missing=0),
        },
        scores=numbers if task == "regression" else scores,
        predictions=values,
        labels=values,
        classes=classes,
        segments={"origin=JFK": 600, "origin=LGA": 400},
        metrics=levels,
        importances={"distance": 0.05, "origin": 0.01},
        drift={},
        label_mean=200.0,
        label_std=115.0,
    )


def plan(task: str = "binary", **specified: object) -> PanePlan:
    """A plan for `task`."""
    return PanePlan(specification(task, **specified), reference(task))  # type: ignore[arg-type]


def prediction(
    key: str = "p1",
    at_ms: int = 0,
    *,
    value: float | str | bool = 1,
    probability: float | None = 0.7,
    **features: object,
) -> Prediction:
    """A prediction of version 1 of model ``m``."""
    given = {"distance": 150.0, "origin": "JFK"} | features
    return Prediction(
        prediction_id=key,
        model="m",
        version=1,
        event_time_ms=at_ms,
        features=given,  # type: ignore[arg-type]
        prediction=value,
        probability=probability,
    )
