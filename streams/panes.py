"""Panes: what one prediction or one label adds to the integer counters that every metric is computed from.

A `PanePlan` is compiled from a version's specification and reference statistics. It fixes the layout, the meaning of
each counter position, and turns events into contributions: sparse dicts of position to integer. Contributions add up
exactly in any order, and subtracting one restores the exact state before it; sums of real numbers are therefore kept
in fixed point. The layout depends only on the two inputs, so both monitoring stages compile the same one.
"""

from __future__ import annotations

import hashlib
import math
import sys
from bisect import bisect_right
from collections.abc import Mapping, MutableMapping
from typing import Final, NamedTuple

import msgspec

from schemas.events import Label, Prediction, Scalar
from schemas.reference import NumericReference, ReferenceStatistics
from schemas.specification import Specification
from streams.metrics.delay import delay_bin

Counters = Mapping[int, int]
"""Position in the layout → signed integer."""

LAYOUT_VERSION: Final = 3
FINE: Final = 1 << 20
"""Fixed point of losses, ratios and standardised labels: each is rounded to 2^-20, a mean is off by 2^-21 at most."""
COARSE: Final = 1 << 16
"""Fixed point of standardised features and of regression errors."""
TAIL: Final = 1 << 8
"""Fixed point of the standardised features that lie in the first or the last bin: a state holds two such sums each."""
CLIP: Final = 256.0
"""Standardised features beyond are cut: an absurd value must not overflow the sums."""
LIMB_BITS: Final = 32
LIMB: Final = (1 << LIMB_BITS) - 1
"""Largest fixed-point error or label (larger ones are cut, and counted as clipped): the limbs of its square, and sums
of a billion of either, fit in 63 bits."""
MOST_APE: Final = 4096.0
"""Largest error in proportion to the label; larger ones are cut."""
LEAST_ERROR_SCALE: Final = 2.0**-16
"""Smallest unit of errors, in standard deviations of the label: a reference without errors must not cut all others."""
_CLIP_FIXED: Final = CLIP * COARSE
_TO_TAIL: Final = TAIL / COARSE
SMALLEST_PROBABILITY: Final = 2.0**-52
CALIBRATION_BINS: Final = 15
MAX_SEGMENT_LENGTH: Final = 128
_LOGIT_EDGES: Final = tuple(1.0 / (1.0 + math.exp(-step / 8)) for step in range(-110, 111))


def class_key(value: Scalar) -> str:
    """The text under which a class or category is counted: 1, 1.0 and true are one, as in a column of a table.

    Examples
    --------
    >>> class_key(1.0), class_key(True), class_key("UA"), class_key(0.5)
    ('1', '1', 'UA', '0.5')
    """
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    try:
        number = float(value)
    except OverflowError:  # JSON knows integers of any length
        return "inf" if value > 0 else "-inf"
    if abs(number) < 1e18 and number.is_integer():
        return str(int(number))
    return repr(number)


def is_finite(value: float) -> bool:
    """Whether a number is finite as a float: JSON knows integers that are not."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def score_edges(reference: NumericReference | None) -> tuple[float, ...]:
    """Inner edges of probability bins: a grid even in the logit, joined with the reference's quantiles.

    Notes
    -----
    The grid keeps ROC AUC of rare events exact where scores crowd towards 0 or 1; the quantiles keep it exact where a
    model's scores crowd anywhere else.
    """
    edges = set(_LOGIT_EDGES)
    if reference is not None:
        edges.update(edge for edge in reference.edges if 0.0 < edge < 1.0)
    return tuple(sorted(edges))


class Compact(msgspec.Struct, frozen=True, gc=False, array_like=True, omit_defaults=True):
    """What a later label needs of a prediction.

    Parameters
    ----------
    predicted : int
        Class index in the plan (`len(classes)`: none of the known); 0 for regression.
    score : float or None
        Binary: probability of the positive class; multiclass: of the predicted class; regression: the prediction.
    segments : tuple of str
        Segment keys, the overall ``""`` first.
    probabilities : tuple of float
        Multiclass: probability by class index, where the prediction carried them.
    """

    predicted: int
    score: float | None
    segments: tuple[str, ...]
    probabilities: tuple[float, ...] = ()


class FeatureSlots(NamedTuple):
    """Where one feature is counted: bins (or categories and one for all other), then the rest.

    `total`, `first_total`, `last_total`: sums of standardised values, of all and of those in the first and last bin.
    """

    name: str
    numeric: bool
    bins: slice
    missing: int
    invalid: int
    low: int
    high: int
    total: int
    first_total: int
    last_total: int


class _Numeric(NamedTuple):
    name: str
    edges: list[float]
    minimum: float
    maximum: float
    mean: float
    unit: float
    where: FeatureSlots


class PanePlan:
    """Layout and contributions of one model version.

    Parameters
    ----------
    spec : Specification
    reference : ReferenceStatistics
        Of the same version.

    Attributes
    ----------
    pane_ms, max_label_delay_ms, revision_horizon_ms : int
    delay_bins : int
        Bins of the label delay (`streams.metrics.delay`), up to the longest.
    layout : str
        Hash of the layout; deltas carry it, so that positions are never read with another plan.
    size, segment_size : int
        Number of positions, overall and for segments (features that are counted overall only come last).
    of_segments : frozenset of str
        Features that are counted in segments, too (`[alarms] segment_features`).
    slots : dict of str to slice
        Positions by name; `features` holds those of the features.
    classes : tuple of str
        Class keys (`class_key`); binary: negative, positive.
    class_by_value : dict
        Class index by the text of a class and, where it is one, by its whole number.
    score_edges : tuple of float
        Inner edges of the score bins.
    error_scale : float
        Unit of regression errors: the reference's RMSE, unless that is (next to) nothing.
    """

    def __init__(self, spec: Specification, reference: ReferenceStatistics) -> None:
        self.spec = spec
        self.reference = reference
        self.task = spec.task
        self.pane_ms = spec.pane_ms
        self.max_label_delay_ms = spec.max_label_delay_ms
        self.revision_horizon_ms = spec.revision_horizon_ms
        self.delay_bins = delay_bin(spec.max_label_delay_ms // 1000) + 1
        self.positive = class_key(spec.model.positive)
        self.classes = self._classes()
        self.class_index: dict[str, int] = {key: index for index, key in enumerate(self.classes)}
        self.label_mean = reference.label_mean if is_finite(reference.label_mean) else 0.0
        self.label_std = reference.label_std if 0 < reference.label_std < math.inf else 1.0
        rmse = reference.metrics.get("rmse")
        known = rmse.value if rmse is not None and 0 < rmse.value < math.inf else self.label_std
        self.error_scale = max(known, self.label_std * LEAST_ERROR_SCALE)
        self.score_edges = self._score_edges()
        self.label_edges: tuple[float, ...] = (
            tuple(reference.labels.edges) if isinstance(reference.labels, NumericReference) else ()
        )
        self.slots: dict[str, slice] = {}
        self.features: dict[str, FeatureSlots] = {}
        self.size = 0
        self.segment_size = 0
        self._place()
        self.layout = self._hash()
        self._compile()

    # ------------------------------------------------------------------------------------------- layout

    def _classes(self) -> tuple[str, ...]:
        if self.task == "regression":
            return ()
        if self.task == "multiclass":
            return tuple(self.reference.classes)
        negative = [key for key in self.reference.classes if key != self.positive]
        return (negative[0] if negative else "", self.positive)

    def _score_edges(self) -> tuple[float, ...]:
        if self.task == "regression":
            return tuple(self.reference.scores.edges) if self.reference.scores is not None else ()
        return score_edges(self.reference.scores)

    def _take(self, name: str, count: int = 1) -> slice:
        taken = slice(self.size, self.size + count)
        self.slots[name] = taken
        self.size += count
        return taken

    def _place(self) -> None:
        scores = len(self.score_edges) + 1
        for name in ("predicted", "labelled", "expired", "delay_total", "score_missing"):
            self._take(name)
        self._take("delay", self.delay_bins)
        self._take("scores", scores)
        if self.task == "regression":
            self._take("labels", len(self.label_edges) + 1)
            for name in ("scored", "clipped", "error", "error_abs", "error_square_high", "error_square_low"):
                self._take(name)
            for name in ("ape", "ape_n", "label_total", "label_square_high", "label_square_low"):
                self._take(name)
            for name in ("bin_scored", "bin_error_abs"):  # errors by bin of the prediction: estimates follow them
                self._take(name, scores)
        else:
            classes = len(self.classes) + 1
            self._take("predictions", classes)
            if self.task == "binary":
                self._take("confusion", classes * classes)
            else:  # what the metrics need; a matrix would grow with the square of the classes
                self._take("truth", classes)
                self._take("decided", classes)
                self._take("hits", classes - 1)
                self._take("ranks", classes - 1)
            for name in ("scored", "brier", "log_loss"):
                self._take(name)
            if self.task == "binary":
                self._take("positives", scores)
                self._take("negatives", scores)
            for name in ("calibration_n", "calibration_hits", "calibration_total"):
                self._take(name, CALIBRATION_BINS)
        known = [name for name in self.spec.features if name in self.reference.features]
        self.of_segments = frozenset(self.spec.segment_features) & frozenset(known)
        placed = {name: self._place_feature(name) for name in known if name in self.of_segments}
        self.segment_size = self.size
        placed |= {name: self._place_feature(name) for name in known if name not in self.of_segments}
        self.features = {name: placed[name] for name in known}

    def _place_feature(self, name: str) -> FeatureSlots:
        feature = self.reference.features[name]
        numeric = isinstance(feature, NumericReference)
        bins = self._take(f"feature:{name}", len(feature.counts) + (0 if numeric else 1))
        rest = self._take(f"feature:{name}:rest", 7)
        return FeatureSlots(name, numeric, bins, *range(rest.start, rest.stop))

    def _hash(self) -> str:
        described = [
            LAYOUT_VERSION,
            self.task,
            self.pane_ms,
            self.classes,
            self.score_edges,
            self.label_edges,
            self.error_scale,
            self.label_mean,
            self.label_std,
            [(name, where.start, where.stop) for name, where in self.slots.items()],
            [(name, self.reference.features[name]) for name in self.features],
            # What has none keeps the name that it had before there were any.
            *([sorted(self.of_segments)] if self.of_segments else []),
        ]
        return hashlib.sha256(msgspec.json.encode(described)).hexdigest()[:16]

    def _compile(self) -> None:
        """Positions and tables the contributions are made of, looked up once."""
        at = {name: where.start for name, where in self.slots.items()}
        self._at = at
        self._edges = list(self.score_edges)
        self.class_by_value: dict[Label, int] = {}
        for key, index in self.class_index.items():
            self.class_by_value[key] = index
            if key.lstrip("-").isdecimal():
                self.class_by_value[int(key)] = index
        self._categorical: list[tuple[str, dict[str, int], int, int]] = []
        self._numeric: list[_Numeric] = []
        for name, where in self.features.items():
            feature = self.reference.features[name]
            if isinstance(feature, NumericReference):
                unit = self.unit(feature)
                edges = list(feature.edges)
                self._numeric.append(_Numeric(name, edges, feature.minimum, feature.maximum, feature.mean, unit, where))
            else:
                table = {category: where.bins.start + index for index, category in enumerate(feature.categories)}
                self._categorical.append((name, table, where.bins.stop - 1, where.missing))
        self._in_segments = (
            [numeric for numeric in self._numeric if numeric.name in self.of_segments],
            [category for category in self._categorical if category[0] in self.of_segments],
        )

    @staticmethod
    def unit(feature: NumericReference) -> float:
        """Fixed-point steps in one unit of a numeric feature: `COARSE` a standard deviation."""
        return COARSE / feature.std if feature.std > 0 else float(COARSE)

    # ------------------------------------------------------------------------------------- of predictions

    def segments(self, prediction: Prediction) -> tuple[str, ...]:
        """Segment keys a prediction counts in: ``""`` (overall) first, then ``name=value``.

        The prediction's own `segment` wins over the feature of that name; a missing value has no segment.
        """
        names = self.spec.data.segments
        if not names:
            return ("",)
        keys = [""]
        given = prediction.segment or {}
        for name in names:
            value: Scalar = given.get(name)
            if value is None:
                value = prediction.features.get(name)
            key = value if value.__class__ is str else class_key(value)
            if key and key != "nan":
                keys.append(sys.intern(f"{name}={key[:MAX_SEGMENT_LENGTH]}"))
        return tuple(keys)

    def _class_of(self, value: Label) -> int:
        """Class index; values are looked up as they are first, because making a key costs more."""
        found = self.class_by_value.get(value)
        if found is None:
            found = self.class_index.get(class_key(value), len(self.classes))
        return found

    def accepts_prediction(self, prediction: Prediction) -> bool:
        """Whether the prediction is of the type the task predicts (else: dead letter)."""
        value = prediction.prediction
        if self.task != "regression":
            return isinstance(value, str) or is_finite(value)
        return isinstance(value, int | float) and is_finite(value)

    def compact(self, prediction: Prediction) -> Compact:
        """What a later label needs of this prediction."""
        segments = self.segments(prediction)
        value = prediction.prediction
        if self.task == "regression":
            usable = isinstance(value, int | float) and is_finite(value)
            return Compact(0, float(value) if usable else None, segments)
        probability = prediction.probability
        predicted = self._class_of(value)
        if self.task == "binary":
            score = probability.get(self.positive) if isinstance(probability, dict) else probability
            if (
                score is None
                and predicted == len(self.classes)
                and isinstance(value, int | float)
                and 0.0 <= value <= 1.0
            ):
                score = float(value)  # the producer sent the probability as its prediction
            if predicted == len(self.classes) and score is not None:
                predicted = int(score >= self.spec.model.threshold)
            return Compact(predicted, None if score is None else float(score), segments)
        if isinstance(probability, dict):
            by_class = tuple(float(probability.get(name, 0.0)) for name in self.classes)
            return Compact(predicted, float(probability.get(class_key(value), 0.0)), segments, by_class)
        return Compact(predicted, None if probability is None else float(probability), segments)

    def traffic(self, prediction: Prediction, segment: str = "", compact: Compact | None = None) -> dict[int, int]:
        """Contribution of an arrival to one of its segments.

        Parameters
        ----------
        prediction : Prediction
        segment : str
            In segments only the features `of_segments` are counted.
        compact : Compact, optional
            Spares computing it again.
        """
        at = self._at
        c = compact if compact is not None else self.compact(prediction)
        out = {at["predicted"]: 1}
        if c.score is None:
            out[at["score_missing"]] = 1
        else:
            out[at["scores"] + bisect_right(self._edges, c.score)] = 1
        if self.classes:
            out[at["predictions"] + c.predicted] = 1
        numbers, categories = self._in_segments if segment else (self._numeric, self._categorical)
        get = prediction.features.get
        for name, edges, low, high, mean, unit, where in numbers:
            value = get(name)
            if value.__class__ is not float and value.__class__ is not int:
                value = self._odd_number(out, value, where)
                if value is None:
                    continue
            # Beyond the clip or not finite: both are rare, and NaN fails every comparison.
            try:
                standard = (value - mean) * unit
            except OverflowError:
                standard = math.inf
            if not -_CLIP_FIXED <= standard <= _CLIP_FIXED:
                value = self._odd_number(out, value, where)
                if value is None:
                    continue
                standard = _CLIP_FIXED if standard > 0 else -_CLIP_FIXED
            bin_ = bisect_right(edges, value)
            out[where.bins.start + bin_] = 1
            if bin_ == 0:
                _put(out, where.first_total, round(standard * _TO_TAIL))
            if bin_ == len(edges):
                _put(out, where.last_total, round(standard * _TO_TAIL))
            if value < low:
                out[where.low] = 1
            elif value > high:
                out[where.high] = 1
            total = round(standard)
            if total:
                out[where.total] = total
        for name, table, other, missing in categories:
            text = get(name)
            position = table.get(text)  # type: ignore[arg-type]
            if position is not None:
                out[position] = 1
            elif text is None or (text.__class__ is float and math.isnan(text)):
                out[missing] = 1
            else:
                out[table.get(class_key(text), other)] = 1
        return out

    @staticmethod
    def _odd_number(out: dict[int, int], value: Scalar, where: FeatureSlots) -> float | None:
        """The number, if it is one after all; what is missing or of the wrong type is counted."""
        if value is None:
            out[where.missing] = 1
            return None
        if isinstance(value, str):
            out[where.invalid] = 1
            return None
        if not is_finite(value):
            out[where.missing if value.__class__ is float and math.isnan(value) else where.invalid] = 1
            return None
        return float(value)

    # ------------------------------------------------------------------------------------------ of labels

    def accepts(self, label: Label) -> bool:
        """Whether a label is of the type the task needs (else: dead letter).

        A class that multiclass training never saw is accepted (and counted as none of the known); a third class of a
        binary model is not.
        """
        if self.task == "regression":
            return isinstance(label, int | float) and not isinstance(label, bool) and is_finite(label)
        if not isinstance(label, str) and not is_finite(label):
            return False
        if self.task == "multiclass" or not self.classes[0]:
            return True
        return self._class_of(label) < len(self.classes)

    def labelled(self, compact: Compact, label: Label, delay_ms: int) -> dict[int, int]:
        """Contribution of a label to every segment of the prediction; negate it to take it back.

        Parameters
        ----------
        compact : Compact
            Of the prediction.
        label : float, int, str or bool
            One that the plan `accepts`.
        delay_ms : int
            Label's event time − prediction's event time; negative counts as 0.
        """
        at = self._at
        delay_s = max(delay_ms, 0) // 1000
        out = {at["labelled"]: 1, at["delay"] + min(delay_bin(delay_s), self.delay_bins - 1): 1}
        if delay_s:
            out[at["delay_total"]] = delay_s
        if self.task == "regression":
            self._regression(out, compact, float(label))
            return out
        truth = self._class_of(label)
        if self.task == "binary":
            self._binary(out, compact, min(truth, 1) if truth < len(self.classes) else 0)
        else:
            self._multiclass(out, compact, truth)
        return out

    def _binary(self, out: dict[int, int], c: Compact, truth: int) -> None:
        at = self._at
        out[at["confusion"] + truth * 3 + c.predicted] = 1
        score = c.score
        if score is None:
            return
        out[at["positives" if truth else "negatives"] + bisect_right(self._edges, score)] = 1
        self._confidence(out, score, truth == 1)
        miss = truth - score
        # A product, not a power: the native core has to arrive at the same bits.
        _put(out, at["brier"], round(miss * miss * FINE))
        out[at["scored"]] = 1
        _put(out, at["log_loss"], _surprise(score if truth else 1.0 - score))

    def _multiclass(self, out: dict[int, int], c: Compact, truth: int) -> None:
        at = self._at
        out[at["truth"] + truth] = 1
        out[at["decided"] + c.predicted] = 1
        hit = truth == c.predicted < len(self.classes)
        if hit:
            out[at["hits"] + truth] = 1
        if c.score is not None:
            self._confidence(out, c.score, hit)
        if not c.probabilities:
            return
        out[at["scored"]] = 1
        known = truth < len(c.probabilities)
        of_truth = c.probabilities[truth] if known else 0.0
        _put(out, at["log_loss"], _surprise(of_truth))
        # In integers from here on: sums of floats depend on the order.
        squares = 0 if known else FINE * FINE
        rank = 0
        for index, value in enumerate(c.probabilities):
            fixed = round(value * FINE) - (FINE if index == truth else 0)
            squares += fixed * fixed
            rank += value > of_truth or (value == of_truth and index > truth)
        _put(out, at["brier"], (squares + FINE // 2) // FINE)
        if known:
            out[at["ranks"] + rank] = 1

    def _confidence(self, out: dict[int, int], score: float, hit: bool) -> None:
        at = self._at
        bin_ = min(int(score * CALIBRATION_BINS), CALIBRATION_BINS - 1)
        out[at["calibration_n"] + bin_] = 1
        if hit:
            out[at["calibration_hits"] + bin_] = 1
        _put(out, at["calibration_total"] + bin_, round(score * FINE))

    def _regression(self, out: dict[int, int], c: Compact, label: float) -> None:
        at = self._at
        out[at["labels"] + bisect_right(self.label_edges, label)] = 1
        if c.score is None:
            return
        out[at["scored"]] = 1
        miss = c.score - label
        error = _fixed(miss / self.error_scale, COARSE)
        value = _fixed((label - self.label_mean) / self.label_std, FINE)
        if abs(error) == LIMB or abs(value) == LIMB:
            out[at["clipped"]] = 1
        _put(out, at["error"], error)
        _put(out, at["error_abs"], abs(error))
        bin_ = bisect_right(self._edges, c.score)
        out[at["bin_scored"] + bin_] = 1
        _put(out, at["bin_error_abs"] + bin_, abs(error))
        self._square(out, "error_square", error)
        _put(out, at["label_total"], value)
        self._square(out, "label_square", value)
        if label != 0.0:
            _put(out, at["ape"], round(min(abs(miss / label), MOST_APE) * FINE))
            out[at["ape_n"]] = 1

    def _square(self, out: dict[int, int], name: str, value: int) -> None:
        _put(out, self._at[f"{name}_high"], value * value >> LIMB_BITS)
        _put(out, self._at[f"{name}_low"], value * value & LIMB)

    def expired(self, compact: Compact) -> dict[int, int]:
        """Contribution of a prediction that no label came for in time."""
        return {self._at["expired"]: 1}


def _put(out: dict[int, int], position: int, amount: int) -> None:
    if amount:
        out[position] = amount


def _fixed(value: float, unit: int) -> int:
    """A number in fixed point, cut to what a limb holds."""
    scaled = value * unit
    return round(scaled) if -LIMB < scaled < LIMB else LIMB if scaled > 0 else -LIMB


def _surprise(probability: float) -> int:
    """Fixed-point loss of the probability that was given to the truth."""
    return round(-math.log(max(probability, SMALLEST_PROBABILITY)) * FINE)


def negated(contribution: Counters) -> dict[int, int]:
    """The contribution that takes another back."""
    return {position: -count for position, count in contribution.items()}


def add_to(total: MutableMapping[int, int], contribution: Counters) -> None:
    """Add a contribution in place; positions that become zero go, so that equal states compare equal."""
    for position, count in contribution.items():
        value = total.get(position, 0) + count
        if value:
            total[position] = value
        else:
            total.pop(position, None)
