"""Every window that both stages tell, worked out from the raw events: what it holds, and when it is told."""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from schemas.codec import encode, segment_key, to_ms
from schemas.events import GroundTruth, QualityMetric
from schemas.topics import GROUND_TRUTH, PREDICTIONS
from streams.join.batch import JoinLimits
from tests.support import naive
from tests.support.joins import IMPLEMENTATIONS, implementation
from tests.support.naive import TOMBSTONE, Content, Guess, Key, Row, Rules, Span, Told
from tests.support.plans import plan, prediction
from tests.support.stages import Batch, Heard, Sent, Stages

S = 1_000
GRACE_MS = 40 * S
SPAN_MS = 700 * S
LIMITS = JoinLimits(grace_ms=GRACE_MS, future_tolerance_ms=1_000)
NAMES = pytest.mark.parametrize("name", IMPLEMENTATIONS)
SCORES = (0.05, 0.2, 0.35, 0.45, 0.6, 0.8, 0.95)
"""Each in a bin of its own, so that the histogram of scores loses nothing."""

RULES = {
    ("m", 1): Rules(
        "binary", 50 * S, 100 * S, 300 * S,
        {"50s": Span(50 * S), "150s": Span(150 * S), "150s/150s": Span(150 * S, 150 * S),
         "200s/100s+50s": Span(200 * S, 100 * S, 50 * S), "5n": 5, "2n": 2},
    ),
    ("m", 2): Rules(
        "binary", 30 * S, 150 * S, 60 * S,
        {"60s/60s": Span(60 * S, 60 * S), "90s/30s": Span(90 * S, 30 * S), "30s": Span(30 * S), "3n": 3},
    ),
    ("k", 1): Rules(
        "multiclass", 40 * S, 100 * S, 110 * S,
        {"80s/80s": Span(80 * S, 80 * S), "120s": Span(120 * S), "4n": 4},
    ),
    ("n", 1): Rules(
        "regression", 5 * S, 52 * S, 100 * S,
        {"60s/20s": Span(60 * S, 20 * S), "30s/30s+5s": Span(30 * S, 30 * S, 5 * S), "10n": 10},
    ),
}  # fmt: skip
WATCHED = {task: tuple(name for name in of if not name.startswith("label_delay")) for task, of in naive.OF_TASK.items()}
PLANS = {
    identity: plan(
        rules.task,
        windows=tuple(rules.windows),
        watch=WATCHED[rules.task],
        delay=f"{rules.delay_ms // S}s",
        horizon=f"{rules.horizon_ms // S}s",
        cost="{ false_negative = 5.0, false_positive = 1.0 }" if rules.task == "binary" else "{}",
    )
    for identity, rules in RULES.items()
}
ERROR = 13.0
"""The reference's RMSE: the unit that errors of regressions are rounded in."""


class Traffic(NamedTuple):
    """Records in the order they arrive, and what they mean."""

    sent: list[Sent]
    guesses: list[Guess]
    told: list[Told]
    duplicates: int
    conflicts: int


class _Made(NamedTuple):
    sent: Sent
    meaning: Guess | Told | None


def traffic(seed: int, ids: int, *, tombstones: bool) -> Traffic:
    """Traffic of so many ids; the first ones are the same however many there are."""
    made = [item for number in range(ids) for item in _of_id(random.Random(f"{seed}-{number}"), number, tombstones)]
    made.sort(key=lambda item: item.sent.arrives_ms)
    seen: dict[tuple[str, str, int], bytes | None] = {}
    guesses, told = [], []
    count: Counter[str] = Counter()
    for sent, meaning in made:
        if isinstance(meaning, Told):
            told.append(meaning)
        elif isinstance(meaning, Guess):
            identity = (meaning.key, meaning.model, meaning.version)
            if identity not in seen:
                seen[identity] = sent.value
                guesses.append(meaning)
            else:
                count["duplicate" if seen[identity] == sent.value else "conflict"] += 1
    return Traffic([item.sent for item in made], guesses, told, count["duplicate"], count["conflict"])


def _of_id(rng: random.Random, number: int, tombstones: bool) -> list[_Made]:
    model = rng.choice("mmmnk")
    key, partition = f"{model}{number}", number % 2
    born = 50 * S + rng.randrange(SPAN_MS)
    made = []
    versions = rng.choice([[1], [1], [2], [1, 2], [2, 1]]) if model == "m" else [1]
    for version in versions if rng.random() > 0.05 else []:
        at = born + rng.choice([0, 0, 7 * S])
        guess, value = _predict(rng, key, model, version, at)
        arrives = at + rng.randrange(GRACE_MS)
        made.append(_Made(Sent(arrives, PREDICTIONS, partition, value, key.encode()), guess))
        while rng.random() < 0.15:  # once more, or with another payload
            arrives = rng.randint(arrives, at + GRACE_MS)
            other = value if rng.random() < 0.6 else _predict(rng, key, model, version, at)[1]
            made.append(_Made(Sent(arrives, PREDICTIONS, partition, other, key.encode()), guess))
    at = born + S * rng.choice([-20, 0, 5, 10, 20, 40, 50, 51, 52, 53, 80, 99, 100, 101, 150, 152])
    for revision in range(rng.choice([0, 1, 1, 1, 2, 3, 5])):
        label = None if rng.random() < 0.15 else rng.choice(LABELS[model])
        truth = Told(key, max(at, 0), label, rng.choice([0, revision, revision, revision, revision, -1]))
        made += _tell(rng, partition, truth)
        if tombstones and at <= born + 40 * S and rng.random() < 0.2:
            made.append(
                _Made(
                    Sent(made[-1].sent.arrives_ms, GROUND_TRUTH, partition, None, key.encode()),
                    Told(key, 0, None, TOMBSTONE),
                )
            )
        at += S * rng.choice([-60, -20, -15, -10, -10, -5, 0, 1, 10, 30, 60, 100, 110, 200, 290])
    return made


LABELS: Mapping[str, list[Any]] = {"m": [0, 1], "k": ["a", "b", "c"], "n": [0.0, 3.5, 120.0, 250.5]}


def _tell(rng: random.Random, partition: int, truth: Told) -> list[_Made]:
    value = encode(
        GroundTruth(prediction_id=truth.key, event_time_ms=truth.at_ms, label=truth.label, revision=truth.revision)
    )
    sent = Sent(truth.at_ms + rng.randrange(GRACE_MS), GROUND_TRUTH, partition, value, truth.key.encode())
    return [_Made(sent, truth)] * rng.choice([1, 1, 1, 1, 2])


def _predict(rng: random.Random, key: str, model: str, version: int, at: int) -> tuple[Guess, bytes]:
    origin = rng.choice(["JFK", "LGA", None])
    score: Any
    probability: Any = None
    if model == "n":
        score = decision = rng.choice([0.0, 5.25, 100.0, 260.0])
    elif model == "k":
        parts = rng.sample([0.125, 0.25, 0.625], 3)
        score = probability = dict(zip("abc", parts, strict=True))
        decision = rng.choice([*"abc", max(score, key=lambda name: score[name])])
    else:
        score = probability = rng.choice(SCORES)
        decision = rng.choice([0, 1, int(score >= 0.5), int(score >= 0.5)])
    p = msgspec.structs.replace(
        prediction(key, at, value=decision, origin=origin), model=model, version=version, probability=probability
    )
    segments = ("", f"origin={origin}") if origin else ("",)
    return Guess(key, model, version, at, decision, score, segments), encode(p)


# ------------------------------------------------------------------------------------------------ comparing


def heard(run: Stages) -> dict[Key, list[Heard]]:
    """What was told of each window, in order."""
    found: dict[Key, list[Heard]] = defaultdict(list)
    for item in run.heard:
        if isinstance(item.event, QualityMetric):
            found[_key(item.event)].append(item)
    return found


def _key(metric: QualityMetric) -> Key:
    end = to_ms(metric.window_end)
    return metric.model, metric.version, segment_key(metric.segment), metric.window, end


def differs(metric: QualityMetric, content: Content) -> str | None:
    """What a window shows that it should not; None: nothing."""
    if to_ms(metric.window_start) != content.start_ms:
        return f"starts at {to_ms(metric.window_start)}"
    if metric.n != content.labelled or metric.coverage != content.labelled / content.predicted:
        return f"n {metric.n}, coverage {metric.coverage}"
    wanted = content.metrics
    for name in wanted.keys() | metric.metrics.keys():
        got = metric.metrics.get(name)
        if name in DESCRIBED:
            continue
        if got is None or name not in wanted or abs(got - wanted[name]) > _bound(name, wanted[name]):
            return f"{name} {got}"
    return None


DESCRIBED = {"label_delay_p50_s", "label_delay_p90_s", "label_delay_p99_s"}
"""Quantiles of a histogram: `tests/unit/streams/metrics/test_delay.py` holds them to their bound."""


def _bound(name: str, value: float) -> float:
    """What `docs/reference/metrics.md` says; sums of floats are off by a little more."""
    if name == "r2":
        return (1 - value) * 2**-9 + 1e-9
    return 2**-16 * ERROR if name in {"mae", "bias", "rmse", "quantile_loss[0.9]"} else 2**-18


def check_story(story: list[tuple[int, Content]], told: list[Heard]) -> None:
    """What was told is what was to be told: first closed, then each change once, each as its time is passed."""
    revisions = []
    changes: list[Heard] = []
    for item in told:
        assert isinstance(item.event, QualityMetric)
        assert item.event.state == ("revised" if revisions else "closed")
        revisions.append(item.event.revision)
        shown = changes[-1].event if changes else None
        if not isinstance(shown, QualityMetric) or _shown(shown) != _shown(item.event):
            changes.append(item)
    assert revisions == list(range(len(told)))
    assert len(changes) == len(story), (story, told)
    for (moment, content), item in zip(story, changes, strict=True):
        assert isinstance(item.event, QualityMetric)
        assert differs(item.event, content) is None, (differs(item.event, content), content, item)
        assert item.before_ms < moment <= item.after_ms, (moment, item)


def _shown(metric: QualityMetric) -> tuple[Any, ...]:
    return metric.window_start, metric.n, metric.coverage, metric.metrics


def check(name: str, events: Traffic, schedule: list[Batch], cut: int, *, timed: bool = True) -> None:
    """Run both stages and hold everything they tell to the raw events."""
    run = Stages(PLANS, LIMITS, events.sent, schedule, implementation(name), restart_at=cut)
    check_open(run, events)
    run.finish(5_000 * S)
    stories, count = naive.stories(events.guesses, events.told, RULES)
    told = heard(run)
    assert told.keys() == stories.keys()
    for key, story in stories.items():
        if timed:
            check_story(story, told[key])
        last = told[key][-1].event
        assert isinstance(last, QualityMetric)
        assert differs(last, story[-1][1]) is None, (differs(last, story[-1][1]), key, story[-1], last)
    totals = run.totals
    for kind in ("labelled", "expired", "withdrawn", "revised"):
        assert totals[kind] == count[kind], kind
    for kind in ("matched", "duplicate", "late", "orphaned"):
        assert totals[f"labels.{kind}"] == count[kind], kind
    assert totals["predictions"] == len(events.guesses)
    assert (totals["predictions.duplicate"], totals["predictions.dead"]) == (events.duplicates, events.conflicts)
    assert totals["labels"] == len(events.told)


def check_open(run: Stages, events: Traffic) -> None:
    """The windows that are open show everything that was read, whatever the watermark."""
    run.aggregate.touch()
    shown = {_key(metric): metric for metric in run.aggregate.provisional()}
    wanted = {}
    for identity, rules in RULES.items():
        known = _known(events, identity)
        for segment in sorted({segment for guess, _ in known for segment in guess.segments}):
            rows = [row for row in known if segment in row[0].segments]
            newest = (max(guess.at_ms for guess, _ in known) // rules.pane_ms + 1) * rules.pane_ms
            for name, window in rules.windows.items():
                end = newest
                while isinstance(window, Span) and window.step_ms and (end - window.offset_ms) % window.step_ms:
                    end += rules.pane_ms
                content = naive.look(rules, window, end, rows, math.inf)
                if content is not None:
                    wanted[*identity, segment, name, end] = content
    assert shown.keys() == wanted.keys()
    for key, content in wanted.items():
        assert differs(shown[key], content) is None, (differs(shown[key], content), content, shown[key])
        assert shown[key].state == "provisional"


def _known(events: Traffic, identity: tuple[str, int]) -> list[tuple[Guess, naive.Known]]:
    found = []
    for key in {guess.key for guess in events.guesses if (guess.model, guess.version) == identity}:
        guesses = [guess for guess in events.guesses if guess.key == key]
        known, _ = naive.outcome(guesses, [label for label in events.told if label.key == key], RULES)
        found += [
            (guess, of) for guess, of in zip(guesses, known, strict=True) if (guess.model, guess.version) == identity
        ]
    return found


batches = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 9), st.integers(0, 9), st.integers(0, 1)), max_size=20)
given_traffic = given(
    seed=st.integers(0, 2**32),
    ids=st.integers(0, 60),
    schedule=batches,
    cut=st.integers(0, 20),
    tombstones=st.booleans(),
)


@NAMES
@settings(max_examples=6, deadline=None)
@given_traffic
def test_every_window_is_what_the_raw_events_make_it(
    name: str, seed: int, ids: int, schedule: list[Batch], cut: int, tombstones: bool
) -> None:
    # A tombstone has no event time: when it is seen in a window depends on the batches, what it comes to does not.
    check(name, traffic(seed, ids, tombstones=tombstones), schedule, cut, timed=not tombstones)


@pytest.mark.slow
@pytest.mark.timeout(3_600)
@NAMES
@settings(max_examples=600, deadline=None)
@given_traffic
def test_every_window_is_what_the_raw_events_make_it_thoroughly(
    name: str, seed: int, ids: int, schedule: list[Batch], cut: int, tombstones: bool
) -> None:
    check(name, traffic(seed, 3 * ids, tombstones=tombstones), schedule, cut, timed=not tombstones)


@pytest.mark.parametrize("seed", range(20))
def test_metrics_on_paper_are_those_of_sklearn(seed: int) -> None:
    rng = random.Random(seed)
    rows = [Row(rng.randrange(2), rng.choice(SCORES), rng.randrange(2), 0) for _ in range(rng.randint(5, 40))]
    truth, scores, guesses = ([getattr(row, name) for row in rows] for name in ("label", "score", "decision"))
    own = naive.metrics("binary", rows)
    assert own["roc_auc"] == pytest.approx(sk.roc_auc_score(truth, scores))
    assert own["pr_auc"] == pytest.approx(sk.average_precision_score(truth, scores))
    assert own["f1"] == pytest.approx(sk.f1_score(truth, guesses))
    assert own["log_loss"] == pytest.approx(sk.log_loss(truth, scores))
    classes = [Row(rng.choice("abc"), {"a": 0.5, "b": 0.3, "c": 0.2}, rng.choice("abc"), 0) for _ in range(30)]
    truth, guesses = ([getattr(row, name) for row in classes] for name in ("label", "decision"))
    own = naive.metrics("multiclass", classes)
    for average in ("macro", "weighted"):
        wanted = sk.precision_recall_fscore_support(truth, guesses, average=average, zero_division=0)[:3]
        assert [own[f"{name}_{average}"] for name in ("precision", "recall", "f1")] == pytest.approx(list(wanted))
    numbers = [Row(0.0, rng.random() * 9, rng.choice([0.0, 2.5, 7.0]), 0) for _ in range(30)]
    truth, scores = ([getattr(row, name) for row in numbers] for name in ("label", "score"))
    own = naive.metrics("regression", numbers)
    assert own["r2"] == pytest.approx(sk.r2_score(truth, scores))
    assert own["rmse"] == pytest.approx(sk.root_mean_squared_error(truth, scores))
    assert own["quantile_loss[0.9]"] == pytest.approx(sk.mean_pinball_loss(truth, scores, alpha=0.9))
