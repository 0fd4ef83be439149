"""Predictions and labels that move in one segment are seen there, and nowhere else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from schemas.events import Observation
from schemas.reference import ReferenceStatistics
from streams.aggregate import AggregatePartition
from streams.drift.by_segment import SegmentTable
from streams.drift.subjects import subjects
from streams.panes import PanePlan
from tests.support.replay import DAY, watermark
from tests.support.simulate import ORIGINS, Day, World, day_of, learn, record_of, watching
from tests.support.troubles import CALM, TROUBLES, record_with


@pytest.fixture(scope="module")
def learnt() -> PanePlan:
    return learn(watching(windows=("1d",)), World(), 14, np.random.default_rng(1))


def moved(rows: Day, origin: str) -> Day:
    """The rows with high scores and positive labels in one segment."""
    there = rows["origin"] == origin
    score = np.where(there, np.maximum(rows["score"], 0.6), rows["score"])
    return rows | {"score": score, "guess": (score >= 0.5).astype(int), "label": np.where(there, 1, rows["label"])}


def run(plan: PanePlan, origin: str | None, days: int = 24, since: int = 16) -> list[Observation]:
    rng = np.random.default_rng(2)
    aggregate = AggregatePartition(1, lambda model, version: plan)
    out: list[Observation] = []
    for day in range(days):
        rows = day_of(World(), rng)
        aggregate.merge(record_of(plan, moved(rows, origin) if origin and day >= since else rows, day))
        out += [e for e in aggregate.merge(watermark((day + 1) * DAY)) if isinstance(e, Observation)]
    return out


def test_the_reference_keeps_a_distribution_for_each_large_segment(learnt: PanePlan) -> None:
    reference: ReferenceStatistics = learnt.reference
    by_name = {s.name: s for s in subjects(learnt)}
    assert set(reference.segment_drift) == {"prediction", "label"}
    for name, of_name in reference.segment_drift.items():
        assert sorted(of_name) == [f"origin={origin}" for origin in ORIGINS]
        # Every row lies in one of the segments: together they are the whole.
        assert np.sum(list(of_name.values()), axis=0).tolist() == by_name[name].reference.tolist()


def test_what_moves_in_a_segment_is_observed_there(learnt: PanePlan) -> None:
    told = [o for o in run(learnt, "LGA") if o.segment is not None and o.status == "opened"]
    found = [o for o in told if o.kind not in {"quality", "calibration"}]
    assert {(o.kind, o.subject, str(o.segment)) for o in found} == {
        ("prediction-drift", "prediction", "{'origin': 'LGA'}"),
        ("label-drift", "label", "{'origin': 'LGA'}"),
    }
    assert {o.evidence["p"] for o in found} == {found[0].evidence["p"]}


def test_calm_segments_say_nothing(learnt: PanePlan) -> None:
    assert [o for o in run(learnt, None, days=40) if o.kind in {"prediction-drift", "label-drift"}] == []


def test_a_segment_without_traffic_is_not_judged(learnt: PanePlan) -> None:
    subject = next(s for s in subjects(learnt) if s.name == "prediction")
    table = SegmentTable(learnt, subject)
    counts = np.zeros(learnt.segment_size, np.int64)
    counts[learnt.slots["scores"]] = 1
    measured = table.measure({"origin=JFK": counts, "origin=elsewhere": counts})
    where = learnt.slots["scores"]
    assert dict(zip(table.segments, measured.n.tolist(), strict=True)) == {
        "origin=EWR": 0.0, "origin=JFK": float(where.stop - where.start), "origin=LGA": 0.0,
    }  # fmt: skip
    assert SegmentTable(learnt, None).segments == []


def test_labels_that_come_late_everywhere_are_told_once(learnt: PanePlan) -> None:
    trouble = replace(TROUBLES["label-delay"], world=CALM)
    rng = np.random.default_rng(4)
    aggregate = AggregatePartition(1, lambda model, version: learnt)
    told: list[Observation] = []
    for day in range(20):
        record = record_with(learnt, trouble, day, rng)
        assert record is not None
        aggregate.merge(record)
        told += [o for o in aggregate.merge(watermark((day + 1) * DAY)) if isinstance(o, Observation)]
    late = [o for o in told if o.kind == "label-delay"]
    assert {o.subject for o in late} == {"label_delay_p50_s", "label_delay_p90_s"}
    assert [o for o in late if o.segment is not None] == []
