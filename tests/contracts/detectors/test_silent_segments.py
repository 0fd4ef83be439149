"""Volume of segments in stationary worlds: no more crossings than allowed, whatever days are like; silence is found."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from schemas.events import Observation
from streams import calibration as cal
from streams.detectors import Detectors
from streams.drift.volume import VolumeState
from streams.panes import PanePlan
from streams.series import Pane, Series
from streams.versions import Versions
from streams.windows import PANE, Frame, Window
from tests.support.replay import DAY
from tests.support.simulate import ORIGINS, World, learn, watching

BUDGET_DAYS = 5
"""One false alarm in so many days: generous, so that the bound below means something within a few seconds."""
WEEKS, MODELS = 16, 14
MEANS = {"EWR": 320.0, "JFK": 300.0, "LGA": 50.0}
FLAT, WEEKEND = np.ones(7), np.array([1.0, 1.0, 1.0, 1.0, 0.9, 0.4, 0.3])


@dataclass(frozen=True)
class Days:
    """What a world's days are like.

    Parameters
    ----------
    spread : float
        Of every segment's own level, as a logarithm: another one every day.
    common : float
        The same of all segments together.
    clumped : float
        Shape of the gamma distribution that a segment's level has (negative binomial counts); 0: none.
    memory : float
        Correlation of a level with that of the day before.
    week : array, shape (7,)
    """

    spread: float = 0.0
    common: float = 0.0
    clumped: float = 0.0
    memory: float = 0.0
    week: NDArray[np.float64] = None  # type: ignore[assignment]


WORLDS = {
    "chance": Days(week=FLAT),
    "weekdays": Days(spread=0.1, week=WEEKEND),
    "days differ": Days(spread=0.3, common=0.2, week=WEEKEND),
    "clumped": Days(clumped=4.0, week=WEEKEND),
    "days like the day before": Days(spread=0.3, common=0.2, memory=0.6, week=WEEKEND),
}


def _levels(days: Days, n: int, rng: np.random.Generator, spread: float) -> NDArray[np.float64]:
    z = rng.normal(size=n)
    for at in range(1, n):
        z[at] = days.memory * z[at - 1] + np.sqrt(1 - days.memory**2) * z[at]
    return np.exp(spread * z)


def counts_of(days: Days, rng: np.random.Generator) -> dict[str, NDArray[np.int64]]:
    """Predictions by segment and day; whole weeks of one world in random order, which are as likely in any."""
    n = WEEKS * 7
    together = _levels(days, n, rng, days.common) * np.tile(days.week, WEEKS)
    order = (rng.permutation(WEEKS)[:, None] * 7 + np.arange(7)).ravel()
    out = {}
    for name, mean in MEANS.items():
        level = mean * together * _levels(days, n, rng, days.spread)
        if days.clumped:
            level = level * rng.gamma(days.clumped, 1 / days.clumped, n)
        out[f"origin={name}"] = rng.poisson(level)[order]
    return out


@pytest.fixture(scope="module")
def plan() -> PanePlan:
    assert set(MEANS) == set(ORIGINS)
    return learn(watching(windows=("1d",), budget=f"1/{BUDGET_DAYS}d"), World(rows=200), 14, np.random.default_rng(1))


class Volumes:
    """A model of which nothing but the volume is looked at; every day anew, as if nothing were open."""

    def __init__(self, plan: PanePlan) -> None:
        self.detectors = Detectors("m", 1, plan)
        self.series = Series("m", 1, plan.layout, Frame.of(plan))
        self.usual, self.packed = VolumeState(), b""

    def day(self, day: int, counts: dict[str, int]) -> list[Observation]:
        """What the volume of a day says."""
        start = day * DAY
        every = {"": sum(counts.values()), **counts}
        self.series.panes = {key: {start: Pane(b"", n, 0)} for key, n in every.items() if n}
        self.series.first_traffic, self.series.last_traffic = -DAY, start
        versions = Versions([self.series], self.usual, self.packed)
        self.detectors.watches.open = {}
        pane = Window(PANE, start, start + DAY)
        found = [*self.detectors.volume(pane, versions, pane.end_ms)]
        found += self.detectors.volumes(pane, versions, pane.end_ms)
        versions.learn()
        self.packed = versions.segments.packed()
        return found


@pytest.mark.parametrize("name", WORLDS)
def test_no_more_crossings_than_allowed_and_silence_is_found(name: str, plan: PanePlan) -> None:
    rng = np.random.default_rng(23)
    crossed, missed = 0, dict.fromkeys(MEANS, 0)
    for _ in range(MODELS):
        model, counts = Volumes(plan), counts_of(WORLDS[name], rng)
        for day in range(WEEKS * 7):
            found = model.day(day, {key: int(n[day]) for key, n in counts.items()})
            crossed += sum(o.segment is not None for o in found)
        for key in MEANS:
            # A Monday: the last day of the simulation was a Sunday.
            silent = model.day(WEEKS * 7, {at: int(n[0]) for at, n in counts.items() if at != f"origin={key}"})
            # Half of the model may be gone with it, which is then what is said.
            missed[key] += not any(o.segment in ({"origin": key}, None) for o in silent)
    allowed = cal.SEGMENT_VOLUME_SHARE / BUDGET_DAYS * MODELS * (WEEKS - 1) * 7
    assert crossed <= allowed + 5 * np.sqrt(allowed), (crossed, allowed)
    assert missed["EWR"] + missed["JFK"] <= (0 if name in {"chance", "weekdays"} else MODELS // 4), missed
