"""However bad it looks: too few values say nothing, of whatever is watched; enough of them do."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from schemas.codec import segment_of, utc
from schemas.events import Observation, QualityMetric
from streams import calibration as cal
from streams.detectors import COVERAGE_PANES, Detectors
from streams.drift.delays import UsualDelay
from streams.metrics.compute import compute
from streams.metrics.delay import delay_bin
from streams.packed import unpack_counters
from streams.panes import PanePlan
from streams.windows import Window
from tests.support.replay import DAY
from tests.support.simulate import Day, World, day_of, learn, record_of, watching

Counts = NDArray[np.int64]
Totals = Mapping[str, Counts]
Look = Callable[[Detectors, int, Totals], Iterable[Observation]]
WINDOW = Window("1d", 0, DAY)
EWR = "origin=EWR"


@pytest.fixture(scope="module")
def learnt() -> PanePlan:
    spec = watching(windows=("1d",), watch=("accuracy", "brier"), segment_features=("distance",))
    return learn(spec, World(), 14, np.random.default_rng(1))


def rows_of(n: int, positive: int | None = None) -> Day:
    """All of one segment, out of range, surely positive and wrong; the first `positive` labels are not."""
    label = (np.arange(n) < (positive or 0)).astype(int)
    score = np.where(label, 0.1, 0.9)
    return {
        "distance": np.full(n, 40.0), "origin": np.full(n, "EWR", object), "label": label,
        "guess": (score > 0.5).astype(int), "score": score,
    }  # fmt: skip


def totals_of(plan: PanePlan, rows: Day) -> Totals:
    """Counters of a day, by segment; labels took nine hours."""
    out = {}
    for pane in record_of(plan, rows, 0).panes:
        counts = np.zeros(plan.size if not pane.segment else plan.segment_size, np.int64)
        at, amounts = unpack_counters(pane.counters)
        counts[at] = amounts
        labelled, seconds = int(counts[plan.slots["labelled"].start]), 9 * 3600
        counts[plan.slots["delay"]] = 0
        counts[plan.slots["delay"].start + delay_bin(seconds)] = labelled
        counts[plan.slots["delay_total"]] = labelled * seconds
        out[pane.segment] = counts
    return out


def detectors_of(plan: PanePlan) -> Detectors:
    """Detectors that know what is usual."""
    knows = Detectors("m", 1, plan)
    knows.since_ms = -10 * DAY
    knows.coverage = [0.9] * COVERAGE_PANES
    knows.coverages = {EWR: (90_000, COVERAGE_PANES)}
    knows.delays = [(3600.0, 3600.0)] * 14
    usual = UsualDelay(14, math.log1p(3600.0))
    knows.segment_delays = {EWR: (usual, usual)}
    return knows


def _quality(segment: str) -> Look:
    def look(knows: Detectors, n: int, totals: Totals) -> Iterable[Observation]:
        metric = QualityMetric(
            model="m", version=1, window="1d", window_start=utc(0), window_end=utc(DAY), state="closed", revision=0,
            n=n, coverage=1.0, metrics=compute(knows.plan, totals[segment]), segment=segment_of(segment),
        )  # fmt: skip
        return knows.quality(segment, WINDOW, metric, total=totals[segment], filled=1, now_ms=DAY)

    return look


def _estimated(knows: Detectors, n: int, totals: Totals) -> Iterable[Observation]:
    scores = totals[""].copy()
    where = knows.plan.slots["scores"]
    scores[where] = 0
    scores[where.start + (where.stop - where.start) // 2] = scores[knows.plan.slots["predicted"]] = 2_000
    (found,) = knows.estimates.make([(WINDOW, scores)])
    assert found is not None
    return knows.estimated(WINDOW, found._replace(n=n), DAY)


def _unlabelled(knows: Detectors, n: int, totals: Totals) -> Iterable[Observation]:
    counts = totals[""].copy()
    counts[knows.plan.slots["labelled"]] = 0
    return knows.pane(WINDOW._replace(name="pane"), counts, DAY)


LOOKS: dict[str, Look] = {
    "features": lambda knows, n, totals: knows.traffic(WINDOW, totals[""], DAY),
    "features in segments": lambda knows, n, totals: knows.cells(WINDOW, totals, DAY),
    "predictions in segments": lambda knows, n, totals: knows.segments("prediction", WINDOW, totals, DAY),
    "labels": lambda knows, n, totals: knows.labels(WINDOW, totals[""], DAY),
    "labels in segments": lambda knows, n, totals: knows.segments("label", WINDOW, totals, DAY),
    "quality": _quality(""),
    "quality in segments": _quality(EWR),
    "estimated quality": _estimated,
    "label delay and sums of panes": lambda knows, n, totals: knows.pane(WINDOW._replace(name="pane"), totals[""], DAY),
    "coverage": _unlabelled,
    "coverage in segments": lambda knows, n, totals: knows.covered(WINDOW, {"": (9_000, 9_000), EWR: (n, 0)}, DAY),
    "label delay in segments": lambda knows, n, totals: knows.delayed(
        WINDOW._replace(name="pane"), {key: totals[key] for key in knows.busy({EWR: (n, n), "origin=SFO": (n, n)})}, DAY
    ),
    "new segment": lambda knows, n, totals: knows.segment("origin=SFO", WINDOW, n, DAY),
}


@pytest.mark.parametrize("name", LOOKS)
def test_too_few_say_nothing_and_enough_do(name: str, learnt: PanePlan) -> None:
    for n, said in ((cal.MINIMUM_TRAFFIC - 1, False), (600, True)):
        found = list(LOOKS[name](detectors_of(learnt), n, totals_of(learnt, rows_of(n))))
        assert bool(found) == said, (n, [(o.kind, o.subject) for o in found])
    if name == "label delay and sums of panes":
        assert {o.kind for o in found} == {"label-delay", "quality"}


def test_missing_values_of_too_few_predictions_say_nothing(learnt: PanePlan) -> None:
    for n, said in ((cal.MINIMUM_TRAFFIC - 1, False), (600, True)):
        rows = rows_of(n) | {"distance": np.full(n, np.nan)}
        totals, knows = totals_of(learnt, rows), detectors_of(learnt)
        found = [*knows.traffic(WINDOW, totals[""], DAY), *knows.cells(WINDOW, totals, DAY)]
        assert bool([o for o in found if o.subject == "feature:distance"]) == said


def test_too_few_close_nothing_either(learnt: PanePlan) -> None:
    """What is open in a segment stays open however good its last few predictions look."""
    knows, totals = detectors_of(learnt), totals_of(learnt, rows_of(600))
    assert list(knows.segments("prediction", WINDOW, totals, DAY))
    day = dict(totals_of(learnt, {name: column[:400] for name, column in day_of(World(), rng_of(3)).items()}))
    assert day[EWR][learnt.slots["predicted"]].sum() > cal.MINIMUM_TRAFFIC
    few = {
        EWR: totals_of(learnt, {name: column[:60] for name, column in only(day_of(World(), rng_of(3))).items()})[EWR]
    }
    for _ in range(4):
        assert list(knows.segments("prediction", WINDOW, few, DAY)) == []
    closed = [o for _ in range(2) for o in knows.segments("prediction", WINDOW, day, DAY)]
    assert [o.status for o in closed] == ["closed"]


def rng_of(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def only(rows: Day, origin: str = "EWR") -> Day:
    """The rows of one segment."""
    return {name: column[rows["origin"] == origin] for name, column in rows.items()}


@pytest.mark.parametrize(("positive", "said"), [(cal.MINIMUM_CLASS - 1, False), (cal.MINIMUM_CLASS, True)])
def test_a_ranking_needs_enough_of_each_class(positive: int, said: bool, learnt: PanePlan) -> None:
    found = list(_quality("")(detectors_of(learnt), 600, totals_of(learnt, rows_of(600, positive))))
    assert ("roc_auc" in {o.subject for o in found}) == said
    assert "accuracy" in {o.subject for o in found}


def test_the_minimum_of_labels_is_the_specifications(learnt: PanePlan) -> None:
    alarms = msgspec.structs.replace(learnt.spec.alarms, minimum_labelled=700)
    plan = PanePlan(msgspec.structs.replace(learnt.spec, alarms=alarms), learnt.reference)
    for n, said in ((699, False), (700, True)):
        totals = totals_of(plan, rows_of(n))
        assert bool(list(_quality("")(detectors_of(plan), n, totals))) == said
        assert bool(list(LOOKS["label delay and sums of panes"](detectors_of(plan), n, totals))) == said
