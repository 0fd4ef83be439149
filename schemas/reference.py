"""Reference statistics: what a version's training data looked like, compiled once at registration.

Monitoring compares every pane with these numbers and never rereads training data. The struct is stored as JSON in the
artifact store and addressed by its hash.
"""

from __future__ import annotations

import msgspec


class NumericReference(msgspec.Struct, frozen=True, kw_only=True, tag="numeric"):
    """`edges` (m inner bin edges, ascending, distinct quantiles) and `counts` (m + 1); missing counted apart.

    `means` of the values in each bin (m + 1), and `tails`: standard deviations of those in the first and in the last;
    empty in references that an earlier release compiled.
    """

    edges: list[float]
    counts: list[int]
    missing: int
    minimum: float
    maximum: float
    mean: float
    std: float
    sketch: str = ""
    means: list[float] = msgspec.field(default_factory=list)
    tails: tuple[float, float] = (0.0, 0.0)


class CategoricalReference(msgspec.Struct, frozen=True, kw_only=True, tag="categorical"):
    """Counts of the kept categories, most frequent first; `other` counts the rest."""

    categories: list[str]
    counts: list[int]
    other: int
    missing: int


FeatureReference = NumericReference | CategoricalReference


class MetricReference(msgspec.Struct, frozen=True, kw_only=True):
    """Level of one metric on held-out reference rows, with its spread.

    `spread` is the standard deviation between panes beyond what their sample size explains; `scale` the standard
    deviation of one event's contribution, so that a pane of n events has standard error sqrt(spread² + scale² / n).
    `pane_value` is the mean over single panes, which pooling can differ from (a model that tells stormy days from calm
    ones ranks a month better than any day); None: as `value`. `panes` and `n` say how much evidence stands behind it.
    `memory` is the correlation between neighbouring panes of what `spread` measures, 0–1. `week`: how far each weekday
    (Monday first, UTC) usually lies from that; empty where weekdays do not differ.
    """

    value: float
    spread: float
    scale: float
    pane_value: float | None = None
    panes: int = 0
    n: int = 0
    memory: float = 1 / 3
    week: list[float] = []


class Seasons(msgspec.Struct, frozen=True, kw_only=True):
    """Distributions by month of the year, from a history that spans one.

    `months`: by subject (``feature:NAME``, ``prediction``, ``label``) twelve lists of counts, January first, in the
    bins that its drift is measured in. `drift`: how far the history's own windows lie from their season, keyed as
    `ReferenceStatistics.drift`. Twelve times the bins of every subject: 20 features take some 20 kB.
    """

    months: dict[str, list[list[int]]]
    drift: dict[str, float]
    start_ms: int
    end_ms: int


class Weekdays(msgspec.Struct, frozen=True, kw_only=True):
    """Distributions by weekday (UTC) of the subjects whose days differ by that, from a reference of four weeks or more.

    `days`: by subject seven lists of counts, Monday first, in the bins that its drift is measured in. `drift`: how far
    the reference's own windows lie from their weekdays, keyed as `ReferenceStatistics.drift`.
    """

    days: dict[str, list[list[int]]]
    drift: dict[str, float]


class EstimateReference(msgspec.Struct, frozen=True, kw_only=True):
    """What estimates of quality before the labels start from (`streams.estimate`), from held-out rows.

    Classification: `knots` (logits of the score), `offsets` (logit of the share of hits − logit of the score, by knot),
    `information` on them (upper triangle of a matrix, by rows) and `spread` between panes (weight, sum of squares).
    Regression: by metric `losses` (mean, variance in squared means, weights by bin) and `levels` (logarithm of realised
    over expected, information, weight, sum of squares); by bin of the prediction `bin_losses` (mean loss by metric) and
    `bin_errors` (variance of an absolute error in squared means; mean absolute error by bin; information by bin).
    `errors`: by metric what became of estimates of rows left out (`streams.estimate.trust.Errors`). `segments`: by key
    what a segment lies off by and the information on it, one of each a measure (`streams.estimate.parts`), with
    `segment_spread` (weights, sums of squares) and `segment_errors` as `errors`.
    """

    knots: list[float] = msgspec.field(default_factory=list)
    offsets: list[float] = msgspec.field(default_factory=list)
    information: list[float] = msgspec.field(default_factory=list)
    spread: tuple[float, float] = (0.0, 0.0)
    losses: dict[str, tuple[float, float, list[float]]] = msgspec.field(default_factory=dict)
    levels: dict[str, tuple[float, float, float, float]] = msgspec.field(default_factory=dict)
    errors: dict[str, list[float]] = msgspec.field(default_factory=dict)
    bin_losses: dict[str, list[float]] = msgspec.field(default_factory=dict)
    bin_errors: tuple[float, list[float], list[float]] = (0.0, [], [])
    segments: dict[str, tuple[list[float], list[float]]] = msgspec.field(default_factory=dict)
    segment_spread: tuple[list[float], list[float]] = ([], [])
    segment_errors: dict[str, list[float]] = msgspec.field(default_factory=dict)


class ReferenceStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Everything monitoring knows of the reference.

    `scores`: distribution of the score (binary: probability of the positive class; regression: prediction; multiclass:
    probability of the predicted class). `labels`, `predictions`: class counts, for regression the binned values.
    `segments`: rows by segment key. `metrics`: by metric name. `importances`: permutation importance by feature, ≥ 0.
    `drift`: what the reference's own panes show against the whole, by ``subject@window`` and statistic
    (`streams.reference.drift_key`). `segment_metrics`: as `metrics`, by segment key and metric name. `segment_drift`:
    counts of ``prediction``, ``label`` and the features that are watched in segments by segment key, in the bins that
    the whole is compared in; `segment_missing`: missing values of these features, likewise. `seasons`: None where no
    history of a year was given. `weekdays`: None where no subject's days differ by weekday, or the reference holds less
    than four weeks. `estimate`: None where nothing can be estimated before labels come.
    """

    task: str
    rows: int
    features: dict[str, FeatureReference]
    scores: NumericReference | None
    predictions: FeatureReference
    labels: FeatureReference
    classes: list[str]
    segments: dict[str, int]
    metrics: dict[str, MetricReference]
    importances: dict[str, float]
    drift: dict[str, float]
    label_mean: float = 0.0
    label_std: float = 1.0
    start_ms: int = 0
    end_ms: int = 0
    segment_metrics: dict[str, dict[str, MetricReference]] = msgspec.field(default_factory=dict)
    segment_drift: dict[str, dict[str, list[int]]] = msgspec.field(default_factory=dict)
    segment_missing: dict[str, dict[str, int]] = msgspec.field(default_factory=dict)
    seasons: Seasons | None = None
    weekdays: Weekdays | None = None
    estimate: EstimateReference | None = None
    schema_version: int = 1
