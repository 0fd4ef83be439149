"""Plans of every kind, with short times: what arbitrary traffic is joined with."""

from __future__ import annotations

import msgspec

from schemas.reference import CategoricalReference, MetricReference, NumericReference, ReferenceStatistics
from schemas.specification import parse
from streams.panes import PanePlan

Plans = dict[tuple[str, int], PanePlan]


def _numbers(*edges: float, low: float, high: float, mean: float, std: float) -> NumericReference:
    counts = [100] * (len(edges) + 1)
    return NumericReference(edges=list(edges), counts=counts, missing=0, minimum=low, maximum=high, mean=mean, std=std)


def _classes(*names: str) -> CategoricalReference:
    return CategoricalReference(categories=list(names), counts=[100] * len(names), other=0, missing=0)


DISTANCE = _numbers(-1.5, 0.0, 100.0, 200.0, 200.5, low=-10.0, high=400.0, mean=150.0, std=115.0)
CONSTANT = _numbers(low=3.0, high=3.0, mean=3.0, std=0.0)
TINY = _numbers(1e-300, 1e-9, low=0.0, high=1e-8, mean=1e-9, std=1e-9)
ORIGIN = _classes("JFK", "LGA", "1", "é\u4e2d", "true")
FEATURES = {"distance": DISTANCE, "constant": CONSTANT, "tiny": TINY, "origin": ORIGIN, "vip": _classes("0", "1")}


def make(
    task: str,
    classes: tuple[str, ...] = (),
    *,
    positive: str = "1",
    threshold: float = 0.5,
    segments: tuple[str, ...] = ("origin",),
    features: tuple[str, ...] = tuple(FEATURES),
    cells: tuple[str, ...] = (),
    scores: NumericReference | None = None,
    pane: str = "50ms",
    delay: str = "100ms",
    horizon: str = "200ms",
) -> PanePlan:
    """A plan with the features asked for; one more, `unseen`, has no reference."""
    kinds = {"origin": "categorical", "vip": "boolean"}
    primary = {"binary": "roc_auc", "multiclass": "accuracy", "regression": "mae"}[task]
    spec = parse(
        f"""
[model]
name = "m"
task = "{task}"
positive = {positive}
threshold = {threshold}
[data]
id = "id"
event_time = "at"
label = "y"
max_label_delay = "{delay}"
revision_horizon = "{horizon}"
segments = [{", ".join(f'"{name}"' for name in segments)}]
[features]
{"".join(f'{name} = "{kinds.get(name, "numeric")}"' + chr(10) for name in (*features, "unseen"))}
[metrics]
primary = "{primary}"
windows = ["{pane}"]
[alarms]
segment_features = [{", ".join(f'"{name}"' for name in cells)}]
"""
    )
    numeric = task == "regression"
    values = DISTANCE if numeric else _classes(*classes)
    level = MetricReference(value=10.0, spread=0.2, scale=8.0, panes=30, n=10_000)
    return PanePlan(
        spec,
        ReferenceStatistics(
            task=task,
            rows=600,
            features={name: msgspec.convert(FEATURES[name], type=type(FEATURES[name])) for name in features},
            scores=DISTANCE if numeric else scores,
            predictions=values,
            labels=values,
            classes=list(classes),
            segments={},
            metrics={primary: level, **({"rmse": level} if numeric else {})},
            importances={},
            drift={},
            label_mean=120.0,
            label_std=40.0,
        ),
    )


_SCORES = _numbers(0.001, 0.25, 0.5, 0.75, low=0.0, high=1.0, mean=0.5, std=0.3)

FIRST: Plans = {
    ("m", 1): make("binary", ("0", "1"), scores=_SCORES),
    ("m", 2): make(
        "binary",
        ("no", "yes"),
        positive='"yes"',
        threshold=0.3,
        segments=("origin", "vip"),
        cells=("vip", "tiny"),
        delay="150ms",
        horizon="60ms",
    ),
    ("m\u00e9\U0001f600", 1): make(
        "binary", ("1",), segments=(), features=(), pane="30ms", delay="40ms", horizon="40ms"
    ),
    ("k", 1): make(
        "multiclass", ("a", "b", "1", "true"), segments=("vip",), features=("origin", "distance"), cells=("*",)
    ),
    ("n", 1): make(
        "regression",
        segments=("distance",),
        features=("distance", "tiny"),
        cells=("tiny",),
        pane="20ms",
        delay="300ms",
    ),
}
LATER: Plans = FIRST | {
    ("m", 3): make("binary", ("0", "1"), positive="true", threshold=0.9, scores=_SCORES, horizon="400ms"),
    ("x", 1): make("multiclass", ("0", "1", "2"), delay="50ms", horizon="50ms"),
}
"""What is registered at epoch 1 and at epoch 2."""
