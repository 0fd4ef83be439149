"""The harness's streams are what they say and the same every time; alarms are scored by the truth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from unittest.mock import ANY

import numpy as np
import pytest

from benchmarks.detection import fleet
from benchmarks.detection.contenders.base import Alarms
from benchmarks.detection.contenders.driftline import Driftline, panes_in_alarm, specification
from benchmarks.detection.contenders.elsewhere import AlibiDetect, Evidently, NannyML
from benchmarks.detection.equal import calibrate
from benchmarks.detection.fleet import Fleet
from benchmarks.detection.fleet_world import World
from benchmarks.detection.memory import Memory, Remembered
from benchmarks.detection.run import run
from benchmarks.detection.scoring import LONGEST, episodes, score
from benchmarks.detection.streams import GENERATED, REAL, TWINS, stationary
from benchmarks.detection.streams.base import ERROR, Change, Rows, Stream
from benchmarks.environments import is_there

CACHE = Path(__file__).parents[3] / ".bench"


def _error(panes: Sequence[Rows]) -> float:
    return float(np.concatenate([rows.errors for rows in panes]).mean())


@pytest.mark.parametrize("kind", GENERATED)
def test_a_seed_is_a_stream(kind: str) -> None:
    first, again, other = GENERATED[kind](3, 50), GENERATED[kind](3, 50), GENERATED[kind](4, 50)
    assert first.changes == again.changes
    for one, two in zip([*first.reference, *first.live], [*again.reference, *again.live], strict=True):
        np.testing.assert_array_equal(one.score, two.score)
        np.testing.assert_array_equal(one.label, two.label)
        np.testing.assert_array_equal(one.temperature, two.temperature)
    assert _error(first.live) != _error(other.live)


@pytest.mark.parametrize(("kind", "more"), [("abrupt", 0.05), ("gradual", 0.06), ("recurring", 0.07)])
def test_errors_rise_where_a_stream_says_so_and_nowhere_else(kind: str, more: float) -> None:
    stream = GENERATED[kind](1, 400)
    bad = [rows for change in stream.changes for rows in stream.live[change.start : change.end]]
    assert _error(stream.reference) == pytest.approx(ERROR, abs=0.01)
    assert _error(stream.live[: stream.changes[0].start]) == pytest.approx(ERROR, abs=0.01)
    assert _error(bad) == pytest.approx(ERROR + more, abs=0.01)


@pytest.mark.parametrize("kind", TWINS)
def test_nothing_changes_in_a_twin(kind: str) -> None:
    assert not TWINS[kind](1, 50).changes


@pytest.mark.parametrize(
    ("alarms", "starts"),
    [
        ([], []),
        ([3], [3]),
        ([3, 4, 5, 11], [3]),
        ([3, 4, 13], [3, 13]),
        (list(range(3 * LONGEST)), [0, LONGEST, 2 * LONGEST]),
    ],
)
def test_alarms_close_to_each_other_are_one_but_not_for_ever(alarms: Alarms, starts: Alarms) -> None:
    assert episodes(alarms) == starts


@pytest.mark.parametrize(
    ("alarms", "false", "delay"),
    [
        ([], 0, math.inf),
        ([20], 0, 1.0),
        ([5, 24], 1, 5.0),
        ([19, 20], 1, math.nan),
        ([31], 0, math.inf),  # just over: neither found nor false
        ([45], 1, math.inf),
    ],
)
def test_alarms_are_scored_by_the_truth(alarms: Alarms, false: int, delay: float) -> None:
    panes = [Rows(np.zeros(1), np.zeros(1, np.int64), np.zeros(1), np.array(["bus"], object))] * 60
    own = score([Stream("x", 0, panes[:5], panes, [Change(20, 30)])], [alarms])
    assert own.false == false
    assert own.delays == [delay] or (math.isnan(delay) and own.excluded == 1)


class _Threshold:
    """Fires where the share of errors is beyond its setting."""

    name, knob, default, shy, eager, costly = "threshold", "share", 0.2, 0.9, 0.05, False

    def prepare(self, cache: Path) -> str:
        return "1"

    def __init__(self) -> None:
        self.asked: list[int] = []

    def about(self) -> dict[str, object]:
        return {}

    def code(self) -> list[Path]:
        return [Path(__file__)]

    def alarms(self, streams: Sequence[Stream], setting: float) -> list[Alarms]:
        self.asked += [stream.seed for stream in streams]
        return [[at for at, rows in enumerate(s.live) if rows.errors.mean() > setting] for s in streams]


def test_calibration_finds_the_most_eager_setting_below_the_rate() -> None:
    twins = [TWINS["abrupt"](seed, 100) for seed in range(4)]
    found = calibrate(_Threshold(), twins, 1 / 60)
    assert 0 < found.found.rate <= 1 / 60
    closer = score(twins, _Threshold().alarms(twins, found.setting * 0.97))
    assert closer.rate > 1 / 60


def test_what_was_answered_once_is_not_asked_again(tmp_path: Path) -> None:
    made = [TWINS["abrupt"](seed, 50) for seed in range(3)]
    whole = _Threshold().alarms(made, 0.2)

    def asked(streams: Sequence[Stream], setting: float) -> tuple[list[int], list[Alarms]]:
        contender = _Threshold()
        remembered = Remembered(contender, Memory(tmp_path))
        remembered.prepare(tmp_path)
        return contender.asked, remembered.alarms(streams, setting)

    assert asked(made[:2], 0.2) == ([0, 1], whole[:2])
    kept = tmp_path / "threshold.jsonl"
    kept.write_text(kept.read_text() + '["half a li')  # stopped while it was being written
    # The same rows made again are the same stream; another setting is another question.
    assert asked([TWINS["abrupt"](seed, 50) for seed in range(3)], 0.2) == ([2], whole)
    assert asked(made[:1], 0.1)[0] == [0]


def test_a_fleet_that_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "CHUNK", 2)
    small = Fleet(models=3, days=3, reference_days=7, world=World(features=1), budget="1000/1d")
    whole = fleet.tally(small, 3)
    assert fleet.tally(small, 3, memory=Memory(tmp_path)) == replace(whole, cpu_seconds=ANY)
    kept = tmp_path / "fleet.jsonl"
    kept.write_text(kept.read_text().strip().splitlines()[0])  # stopped after the first two models
    said: list[str] = []
    again = fleet.tally(small, 3, memory=Memory(tmp_path), note=said.append)
    assert again == replace(whole, cpu_seconds=ANY)
    assert said == ["3 of 3 models"]
    monkeypatch.setattr(fleet, "lives", None)  # all is known now
    assert fleet.tally(small, 3, memory=Memory(tmp_path)) == again
    # Those that lose quality are another question.
    with pytest.raises(TypeError):
        fleet.tally(small, 3, worse=True, memory=Memory(tmp_path))


def test_numbers_are_judged_at_any_setting_after_one_run(tmp_path: Path) -> None:
    class Numbers(_Threshold):
        def scores(self, streams: Sequence[Stream]) -> list[list[float]]:
            self.asked += [stream.seed for stream in streams]
            return [[float(rows.errors.mean()) for rows in stream.live] for stream in streams]

    stream, contender = TWINS["abrupt"](1, 50), Numbers()
    remembered = Remembered(contender, Memory())
    remembered.prepare(tmp_path)
    assert remembered.alarms([stream], 0.2) == _Threshold().alarms([stream], 0.2)
    assert remembered.alarms([stream], 0.1) == _Threshold().alarms([stream], 0.1)
    assert contender.asked == [1]


def test_ours_tells_of_a_jump_through_the_production_code() -> None:
    stream = GENERATED["abrupt"](1, 200)
    assert score([stream], Driftline().alarms([stream], 1 / 30)).delays[0] <= 10


def test_the_document_has_a_row_for_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stationary, "PANES", 30)
    document = run(seeds=2, rows=100, kinds=["abrupt"], peers=["river_adwin"], steps=1, cache=CACHE)
    assert [row["name"] for row in document["rows"]] == [
        f"abrupt/{name}/{at}" for name in ("driftline", "river_adwin") for at in ("default", "equal")
    ]
    assert document["ratios"].keys() == document["ratio_range"].keys() == {"driftline/river_adwin"}


@pytest.mark.slow
@pytest.mark.parametrize("contender", [NannyML, Evidently, AlibiDetect])
def test_adapters_of_other_environments_find_a_large_jump(contender: type[NannyML | Evidently | AlibiDetect]) -> None:
    if not is_there(CACHE, contender.distribution):
        pytest.skip(f"no environment of {contender.distribution}: driftline bench detection makes it")
    good, bad = GENERATED["stationary"](1, 60), GENERATED["stationary"](2, 60)
    wrong = [Rows(rows.score, 1 - rows.guess, rows.temperature, rows.kind) for rows in bad.live[:3]]
    stream = Stream("x", 0, good.reference[:10], [*good.live[:5], *wrong], [Change(5, 8)])
    other = contender()
    other.prepare(CACHE)
    assert 5 in other.alarms([stream], other.default)[0]


def test_what_a_day_s_traffic_says_is_no_alarm_of_the_day_before() -> None:
    """A feature gets stuck: that is known before the labels of the day are."""
    stream = REAL["bananas"]()
    alarms = panes_in_alarm(stream, specification(1 / 30))
    assert alarms[0] == stream.changes[0].start
    assert score([stream], [alarms]).delays == [1]
