"""Compile reference statistics: what a version's training data looked like, and how much it moves by itself.

Monitoring compares every window with these numbers and never rereads training data. Two things are kept besides the
distributions: the level of each metric on held-out rows with its spread between panes and per event, and how far the
reference's own panes lie from the whole (drift that is no news). Thresholds are calibrated to both.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from schemas.errors import SpecificationError
from schemas.metrics import FAMILIES, split
from schemas.reference import (
    CategoricalReference,
    FeatureReference,
    MetricReference,
    NumericReference,
    ReferenceStatistics,
    Seasons,
)
from schemas.specification import Specification
from streams.cells import CellReferences, cells_of, check_cells
from streams.columns import Floats, Indexes, Mask, Values, class_keys, codes_by_key, count_keys, floats_of, missing_in
from streams.drift.scatter import Coded, own_windows
from streams.drift.subjects import subjects
from streams.drift.weekly import WeekLearner
from streams.estimate.compile import compile_estimate
from streams.metrics.levels import Levels, Outcomes
from streams.panes import PanePlan, class_key
from streams.seasons import learn
from streams.sketches import coarse_edges, coarsened

BINS: Final = 10
FINE_BINS: Final = 20
"""Of numeric features: pairs of them are the ten that PSI compares, all of them what KS and Wasserstein need."""
SCORE_BINS: Final = 256
CATEGORIES: Final = 100
KLL_K: Final = 200
FEW: Final = 32
"""A numeric feature of so many different values at most has a bin for each."""
QUANTILES: Final = 128
MINIMUM_SEGMENT: Final = 200
MOST_SEGMENTS: Final = 50
"""Segments whose distributions of predictions and labels are kept."""
ESTIMATED_SEGMENTS: Final = 20
"""Segments whose quality is estimated before labels come."""


class History(NamedTuple):
    """Rows that the seasons are learnt from.

    Parameters
    ----------
    features : mapping of str to array, shape (n,)
    labels, predictions : array, shape (n,)
        None and NaN where unknown.
    scores : array of float, shape (n,), or None
        As of `compile_reference`.
    event_time_ms : array of int, shape (n,)
    """

    features: Mapping[str, ArrayLike]
    labels: ArrayLike
    predictions: ArrayLike
    scores: ArrayLike | None
    event_time_ms: ArrayLike


def compile_reference(
    spec: Specification,
    features: Mapping[str, ArrayLike],
    *,
    labels: ArrayLike,
    predictions: ArrayLike,
    scores: ArrayLike | None,
    event_time_ms: ArrayLike,
    importances: Mapping[str, float] | None = None,
    heldout: ArrayLike | None = None,
    probabilities: ArrayLike | None = None,
    classes: Sequence[object] = (),
    segments: Mapping[str, ArrayLike] | None = None,
    history: History | None = None,
    unlabelled: bool = False,
) -> ReferenceStatistics:
    """Compile a version's reference statistics.

    Parameters
    ----------
    spec : Specification
    features : mapping of str to array, shape (n,)
        Raw feature columns by name; None and NaN are missing.
    labels : array, shape (n,)
        None and NaN where unknown.
    predictions : array, shape (n,)
        What the version predicts; may be missing outside `heldout`.
    scores : array of float, shape (n,), optional
        Binary: probability of the positive class; multiclass: of the predicted class; regression: not needed.
    event_time_ms : array of int, shape (n,)
    importances : mapping of str to float, optional
        Permutation importance by feature; negative ones count 0.
    heldout : array of bool, shape (n,), optional
        Rows the model was not fitted on: levels, scores and predictions come from these. None: all rows are.
    probabilities : array of float, shape (n, classes), optional
        Multiclass: columns in the order of `classes`.
    classes : sequence, optional
        Classes of the model in its own order; default: those among the labels, sorted.
    segments : mapping of str to array, optional
        Columns of segments that are no features.
    history : History, optional
        What the seasons are learnt from, where it spans a year; default: these rows.
    unlabelled : bool
        It may be that no row has a label: quality has no level then, and is not judged.

    Returns
    -------
    ReferenceStatistics

    Raises
    ------
    ValueError
        Where arrays differ in length, or no row has a label (unless `unlabelled`).
    SpecificationError
        Where a metric of a class is watched that the model does not know.

    Notes
    -----
    About a second for 300,000 rows of 11 features; the same rows give the same bytes.
    """
    times = np.asarray(event_time_ms).astype(np.int64)
    truth = np.asarray(labels)
    guesses = np.asarray(predictions)
    n = len(times)
    for name, column in (
        ("labels", truth),
        ("predictions", guesses),
        *((k, np.asarray(v)) for k, v in features.items()),
    ):
        if len(column) != n:
            raise ValueError(f"{name} has {len(column)} rows, event_time_ms {n}")
    known = ~missing_in(truth)
    if not known.any() and not unlabelled:
        raise ValueError("no row has a label")
    held = (np.ones(n, dtype=bool) if heldout is None else np.asarray(heldout, dtype=bool)) & ~missing_in(guesses)
    score = None if scores is None else np.asarray(scores, dtype=np.float64)
    keys = _classes(spec, truth[known] if known.any() else guesses[held], classes)
    _check_watched(spec, keys)
    regression = spec.task == "regression"
    score_values = guesses[held].astype(np.float64) if regression else (None if score is None else score[held])
    compiled = {
        name: _numeric(floats_of(features[name]), FINE_BINS, means=True)
        if kind == "numeric"
        else _categorical(np.asarray(features[name]))
        for name, kind in spec.features.items()
        if name in features
    }
    numbers = truth[known].astype(np.float64) if regression else None
    # What labels are measured in, where there are none: the predictions are meant to be like them.
    measure = numbers if numbers is None or len(numbers) else guesses[held].astype(np.float64)
    predicted = _numeric(guesses[held].astype(np.float64)) if regression else _classified(guesses[held], keys)
    reference = ReferenceStatistics(
        task=spec.task,
        rows=n,
        features=compiled,
        scores=None if score_values is None else _numeric(score_values, BINS if regression else SCORE_BINS),
        predictions=predicted,
        labels=_classified(truth[known], keys) if numbers is None else _numeric(numbers),
        classes=keys,
        segments=_segment_counts(_segment_columns(spec, features, segments)),
        metrics={},
        importances={name: max(float(value), 0.0) for name, value in (importances or {}).items()},
        drift={},
        label_mean=0.0 if measure is None else float(measure.mean()),
        label_std=1.0 if measure is None else (float(measure.std()) or 1.0),
        start_ms=int(times.min()),
        end_ms=int(times.max()),
    )
    rows = held & known
    if regression and rows.any():
        miss = guesses[rows].astype(np.float64) - truth[rows].astype(np.float64)
        rmse = float(np.sqrt(np.mean(miss * miss)))
        reference = msgspec.structs.replace(
            reference, metrics={"rmse": MetricReference(value=rmse, spread=0.0, scale=0.0)}
        )
    plan = PanePlan(spec, reference)
    columns = _segment_columns(spec, features, segments)
    proba = None if probabilities is None else np.asarray(probabilities, dtype=np.float64)
    outcomes = Outcomes(truth, guesses, score, proba, times)
    levels = Levels(plan, outcomes)
    drift: dict[str, float] = {}
    week = WeekLearner(plan, times)
    binned: list[tuple[Indexes, int]] = []
    watched = {subject.name: subject for subject in subjects(plan)}
    by_segment: dict[str, dict[str, list[int]]] = {}
    check_cells(plan, reference)
    cells = CellReferences(plan, _largest(reference.segments), partial(_in_segment, columns), times)
    for coded in _subjects(plan, features, outcomes, known, held):
        scatter = own_windows(plan, coded, times, watched.get(coded.subject))
        drift.update(scatter)
        week.take(coded, scatter)
        if coded.subject.removeprefix("feature:") in plan.of_segments:
            cells.add(coded, watched.get(coded.subject), drift)
        if coded.subject in {"prediction", "label"}:
            by_segment[coded.subject] = _by_segment(coded, columns, reference.segments)
        if coded.missing is not None and spec.task == "regression":
            binned.append((np.where(coded.missing, coded.size, coded.codes), coded.size + 1))
    overall = levels.of(rows) or reference.metrics
    own = History(features, truth, guesses, score, times)
    return msgspec.structs.replace(
        reference,
        metrics=overall,
        segment_metrics={
            key: _at_least_as_spread(of_segment, overall)
            for key in reference.segments
            if (of_segment := levels.of(rows & _in_segment(columns, key), least=MINIMUM_SEGMENT))
        },
        drift=drift | cells.drift,
        segment_drift=by_segment | cells.counts,
        segment_missing=cells.missing,
        seasons=_seasons(plan, own if history is None else history, None if history is None else (own, held)),
        weekdays=week.weekdays(),
        estimate=compile_estimate(
            plan, outcomes, rows, binned, overall, segments=_estimated_segments(columns, reference, rows)
        )
        if spec.alarms.estimate
        else None,
    )


def _estimated_segments(
    columns: Mapping[str, NDArray[np.object_]], reference: ReferenceStatistics, rows: Mask
) -> dict[str, Mask]:
    """Rows of the largest segments, as far as enough of them are held out and labelled."""
    largest = sorted(reference.segments, key=lambda key: (-reference.segments[key], key))[:ESTIMATED_SEGMENTS]
    found = {key: _in_segment(columns, key) for key in sorted(largest)}
    return {key: mask for key, mask in found.items() if int((mask & rows).sum()) >= MINIMUM_SEGMENT}


def _seasons(plan: PanePlan, history: History, ordinary: tuple[History, Mask] | None) -> Seasons | None:
    """Distributions by month; `ordinary` are rows whose predictions tell what ordinary ones lie off their season."""
    coded, times = _history(plan, history)
    if ordinary is None:
        return learn(plan, coded, times)
    rows, held = ordinary
    own, own_times = _history(plan, rows, held)
    return learn(plan, coded, times, checks=[(c, own_times) for c in own if c.subject == "prediction"])


def _history(plan: PanePlan, history: History, held: Mask | None = None) -> tuple[Iterator[Coded], Indexes]:
    truth, guesses = np.asarray(history.labels), np.asarray(history.predictions)
    times = np.asarray(history.event_time_ms).astype(np.int64)
    score = None if history.scores is None else np.asarray(history.scores, dtype=np.float64)
    outcomes = Outcomes(truth, guesses, score, None, times)
    predicted = ~missing_in(guesses) if held is None else held
    features = {name: column for name, column in history.features.items() if name in plan.reference.features}
    columns = _segment_columns(plan.spec, history.features, None) if plan.of_segments else {}
    keys = [key for key in _largest(_segment_counts(columns)) if key in plan.reference.segments]

    def everything() -> Iterator[Coded]:
        for coded in _subjects(plan, features, outcomes, ~missing_in(truth), predicted):
            yield coded
            if coded.subject.removeprefix("feature:") in plan.of_segments:
                yield from cells_of(coded, keys, partial(_in_segment, columns))

    return everything(), times


def unlearnt_reference(spec: Specification) -> ReferenceStatistics:
    """What a version is compared with before there is a reference: nothing, so that it is joined and counted only."""
    regression = spec.task == "regression"
    nothing: FeatureReference = (
        _numeric(np.array([])) if regression else CategoricalReference(categories=[], counts=[], other=0, missing=0)
    )
    return ReferenceStatistics(
        task=spec.task,
        rows=0,
        features={},
        scores=None,
        predictions=nothing,
        labels=nothing,
        classes=["", class_key(spec.model.positive)] if spec.task == "binary" else [],
        segments={},
        metrics={},
        importances={},
        drift={},
    )


def _largest(segments: Mapping[str, int]) -> list[str]:
    return sorted(sorted(segments, key=lambda key: (-segments[key], key))[:MOST_SEGMENTS])


def _by_segment(
    coded: Coded, columns: Mapping[str, NDArray[np.object_]], segments: Mapping[str, int]
) -> dict[str, list[int]]:
    """Counts by bin in the largest segments."""
    out = {}
    for key in _largest(segments):
        rows = coded.rows & _in_segment(columns, key)
        if int(rows.sum()) >= MINIMUM_SEGMENT:
            out[key] = np.bincount(coded.codes[rows], minlength=coded.size).tolist()
    return out


def _at_least_as_spread(
    levels: Mapping[str, MetricReference], overall: Mapping[str, MetricReference]
) -> dict[str, MetricReference]:
    """A segment's days differ at least as those of the whole do, which more events tell better."""
    return {
        name: msgspec.structs.replace(level, spread=max(level.spread, overall[name].spread))
        if name in overall
        else level
        for name, level in levels.items()
    }


# ------------------------------------------------------------------------------------------- distributions


def _numeric(values: Floats, bins: int = BINS, *, means: bool = False) -> NumericReference:
    present = values[np.isfinite(values)]
    missing = len(values) - len(present)
    if len(present) == 0:
        return NumericReference(
            edges=[], counts=[0], missing=missing, minimum=0.0, maximum=0.0, mean=0.0, std=0.0, sketch=""
        )
    ordered = np.sort(present)
    distinct = ordered[np.concatenate([[True], ordered[1:] != ordered[:-1]])]
    if len(distinct) <= (FEW if means else bins):
        edges = distinct[1:]
    else:
        at = (np.arange(1, bins) * len(ordered)) // bins
        edges = np.unique(ordered[at])
        edges = edges[edges > ordered[0]]
    starts = np.concatenate([[0], np.searchsorted(ordered, edges, side="left")])
    counts = np.diff(starts, append=len(ordered))
    return NumericReference(
        edges=edges.tolist(),
        counts=counts.tolist(),
        missing=missing,
        minimum=float(ordered[0]),
        maximum=float(ordered[-1]),
        mean=float(present.mean()),
        std=float(present.std()),
        sketch=_sketch(ordered),
        means=(np.add.reduceat(ordered, starts) / counts).tolist() if means else [],
        tails=(float(ordered[: counts[0]].std()), float(ordered[starts[-1] :].std())) if means else (0.0, 0.0),
    )


def _sketch(ordered: Floats) -> str:
    """KLL sketch of sorted values.

    It gets their exact quantiles rather than every value: KLL compacts at random, and the same rows must compile to
    the same bytes.
    """
    from datasketches import kll_doubles_sketch

    sketch = kll_doubles_sketch(KLL_K)
    size = min(len(ordered), QUANTILES)
    sketch.update(ordered[((np.arange(size) + 0.5) * len(ordered) / size).astype(np.int64)])
    return base64.b64encode(sketch.serialize()).decode()


def _categorical(values: Values) -> CategoricalReference:
    missing = missing_in(values)
    counted = count_keys(values[~missing])
    kept = counted[:CATEGORIES]
    return CategoricalReference(
        categories=[key for key, _ in kept],
        counts=[count for _, count in kept],
        other=sum(count for _, count in counted[CATEGORIES:]),
        missing=int(missing.sum()),
    )


def _classified(values: Values, classes: Sequence[str]) -> CategoricalReference:
    counts = dict(count_keys(values))
    kept = [counts.pop(key, 0) for key in classes]
    return CategoricalReference(categories=list(classes), counts=kept, other=sum(counts.values()), missing=0)


def _check_watched(spec: Specification, classes: Sequence[str]) -> None:
    """A class that is watched but that the model does not know would never show: a misspelling, most likely."""
    for name in spec.watched:
        family, argument = split(name)
        if FAMILIES[family].argument == "class" and argument not in classes:
            raise SpecificationError(
                f"{name!r} names a class that the model does not know",
                where="[metrics.watch]",
                remedy="classes: " + ", ".join(classes),
            )


def _classes(spec: Specification, truth: Values, given: Sequence[object]) -> list[str]:
    if spec.task == "regression":
        return []
    if spec.task == "binary":
        positive = class_key(spec.model.positive)
        seen = [key for key, _ in count_keys(truth) if key != positive]
        return [seen[0] if seen else "", positive]
    return [class_key(c) for c in given] if len(given) else sorted(key for key, _ in count_keys(truth))  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------ segments


def _segment_columns(
    spec: Specification, features: Mapping[str, ArrayLike], given: Mapping[str, ArrayLike] | None
) -> dict[str, NDArray[np.object_]]:
    """Segment key of every row by segment name (empty where there is none)."""
    out = {}
    for name in spec.data.segments:
        column = (given or {}).get(name, features.get(name))
        if column is None:
            continue
        values = np.asarray(column)
        keys = class_keys(_blanked(values))
        out[name] = np.array([f"{name}={key}" if key else "" for key in keys], dtype=object)
    return out


def _blanked(values: Values) -> NDArray[np.object_]:
    out = values.astype(object)
    out[missing_in(values)] = None
    return out


def _segment_counts(columns: Mapping[str, NDArray[np.object_]]) -> dict[str, int]:
    out: dict[str, int] = {}
    for column in columns.values():
        out.update((key, count) for key, count in count_keys(column) if key)
    return out


def _in_segment(columns: Mapping[str, NDArray[np.object_]], key: str) -> Mask:
    return np.asarray(columns[key.partition("=")[0]] == key, dtype=bool)


# --------------------------------------------------------------------------------------------------- drift


def _subjects(
    plan: PanePlan, features: Mapping[str, ArrayLike], outcomes: Outcomes, known: Mask, held: Mask
) -> Iterator[Coded]:
    """Features, prediction and label as codes of their bins."""
    reference = plan.reference
    everything = np.ones(len(outcomes.times), dtype=bool)
    for name, compiled in reference.features.items():
        if name not in features:
            continue
        column = np.asarray(features[name])
        codes, size, missing = _codes(compiled, column)
        numbers = _standard(floats_of(column), compiled) if isinstance(compiled, NumericReference) else None
        yield Coded(f"feature:{name}", codes, size, everything, missing, numbers)
    if not known.any():
        pass
    elif isinstance(reference.labels, NumericReference):
        codes = np.searchsorted(reference.labels.edges, floats_of(outcomes.truth), side="right")
        yield Coded("label", codes, len(reference.labels.counts), known)
    else:
        yield Coded("label", codes_by_key(outcomes.truth, plan.class_index), len(plan.classes) + 1, known)
    scores = floats_of(outcomes.guesses) if plan.task == "regression" else outcomes.score
    if reference.scores is None or scores is None:
        yield Coded("prediction", codes_by_key(outcomes.guesses, plan.class_index), len(plan.classes) + 1, held)
        return
    edges = coarse_edges(reference.scores)
    scored = np.isfinite(scores)
    codes = np.searchsorted(edges, np.where(scored, scores, 0.0), side="right")
    yield Coded("prediction", codes, len(edges) + 1, held & scored, None, _standard(scores, reference.scores))


def _standard(values: Floats, compiled: NumericReference) -> Floats | None:
    """Numbers in the reference's standard deviations from its mean."""
    return (values - compiled.mean) / compiled.std if compiled.std > 0 else None


def _codes(compiled: FeatureReference, column: Values) -> tuple[Indexes, int, Mask]:
    if isinstance(compiled, NumericReference):
        values = floats_of(column)
        missing = np.isnan(values)
        whole = coarsened(compiled)
        return np.searchsorted(whole.edges, values, side="right"), len(whole.counts), missing
    missing = missing_in(column)
    table = {key: index for index, key in enumerate(compiled.categories)}
    return codes_by_key(column, table), len(table) + 1, missing
