"""The replay: pane by pane in event time, answered, joined, watched, and retrained where the rules say so.

What is decided at the end of a pane knows what happened before it, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np

from agents.alerting.triggers import Learnt
from agents.backtest.answers import Answers
from agents.backtest.events import LabelFeed, predictions
from agents.backtest.front import Front, Refused
from agents.backtest.history import History
from agents.backtest.learning import Learning, Run, Version
from agents.backtest.monitor import Monitor, Plans
from agents.retraining.logic import BY_HAND, refusal
from agents.retraining.probation import Outcome, Probation
from schemas.codec import to_ms
from schemas.events import RetrainRequest
from streams.native.choice import JoinCore
from streams.panes import PanePlan

PROBATION: Final = "probation"
Progress = Callable[[int], None]


class Retraining(NamedTuple):
    """A run and what became of it; `at_ms` is event time."""

    at_ms: int
    trigger: str
    run: Run


class Swap(NamedTuple):
    """From `at_ms` (event time) on, `version` answers."""

    at_ms: int
    version: int


@dataclass
class World:
    """One replay: what answered, what was seen, what was decided.

    `skipped` are requests that led to no run, with the reason.
    """

    monitor: Monitor
    answers: Answers
    requests: list[RetrainRequest] = field(default_factory=list)
    retrainings: list[Retraining] = field(default_factory=list)
    skipped: list[Retraining] = field(default_factory=list)
    swaps: list[Swap] = field(default_factory=list)
    refused: dict[int, Refused] = field(default_factory=dict)
    end_ms: int = 0


@dataclass
class _Trial:
    """A probation: the champion before goes on answering in shadow, until the outcome."""

    probation: Probation
    front: Front
    read: int

    @classmethod
    def begin(cls, history: History, monitor: Monitor, version: Version, before: Version, row: int) -> _Trial | None:
        """The probation of a version that answers from `row` on; None where its specification wants none."""
        probation = Probation.begin(history.spec, version=version.number, previous=before.number, report=version.report)
        if probation is None:
            return None
        front = Front(history, Answers(history.spec, len(history)), before, row)
        return cls(probation, front, len(monitor.quality))

    def outcome(self, monitor: Monitor) -> Outcome | None:
        """Take in the windows that were closed since; the outcome, once there is one."""
        while self.read < len(monitor.quality):
            self.read += 1
            if (found := self.probation.take(monitor.quality[self.read - 1])) is not None:
                return found
        return None


class _Pane(NamedTuple):
    """Rows and labels before the end of a pane that were not replayed yet."""

    first: int
    last: int
    label_first: int
    label_last: int
    until_ms: int


def _panes(history: History, first: int, feed: LabelFeed, monitor: Monitor) -> Iterator[_Pane]:
    """Pane by pane; a gap is left out once nothing waits to be closed any more."""
    pane_ms = history.spec.pane_ms
    times, told = history.times_ms, feed.times_ms
    row, label, until = first, 0, 0
    while row < len(times) or label < len(told):
        comes = min([int(of[at]) for of, at in ((times, row), (told, label)) if at < len(of)])
        next_end = comes // pane_ms * pane_ms + pane_ms
        if row == first:
            # Labels may be known before the first event: they wait for it.
            next_end = max(next_end, int(times[first]) // pane_ms * pane_ms + pane_ms)
        until = min(until + pane_ms, next_end) if until and monitor.waiting else next_end
        last = int(np.searchsorted(times, until, side="left"))
        label_last = int(np.searchsorted(told, until, side="left"))
        yield _Pane(row, last, label, label_last, until)
        row, label = last, label_last


class Replay:
    """One replay of the rows from `first` on.

    Parameters
    ----------
    history : History
    first : int
    core : {"auto", "native", "reference"}
    progress : callable
        Told the row that was reached.
    """

    def __init__(
        self, history: History, first: int, *, core: JoinCore = "auto", progress: Progress = lambda row: None
    ) -> None:
        self.history = history
        self.first = first
        self._core = core
        self._progress = progress
        self._feed = LabelFeed.of(history, first)

    def recorded(self, plan: PanePlan) -> World:
        """Watch the predictions that the table carries, all versions compared with one reference.

        Notes
        -----
        The newest version seen is the champion. Requests for a successor are noted; nobody answers them but the book,
        which may ask again.
        """
        history = self.history
        assert history.recorded is not None
        answers = Answers.of_recorded(history.spec, history.recorded)
        plans = dict.fromkeys(map(int, np.unique(answers.versions[self.first :])), plan)
        world = self._world(answers, plans)
        champion = 0
        for pane in _panes(history, self.first, self._feed, world.monitor):
            newest = int(answers.versions[pane.first : pane.last].max(initial=0))
            if newest > champion:
                champion = newest
                first = pane.first + int(np.argmax(answers.versions[pane.first : pane.last] == newest))
                world.monitor.champion(champion, Learnt(rows=None, until_ms=int(history.times_ms[first])))
                world.swaps.append(Swap(int(history.times_ms[pane.first]), champion))
            for request in self._advance(world, pane):
                world.requests.append(request)
                world.monitor.book.run_ended()
        return world

    def frozen(self, version: Version) -> World:
        """Let `version` answer to the end."""
        world = self._world(Answers(self.history.spec, len(self.history)), {version.number: version.plan})
        front = Front(self.history, world.answers, version, self.first, world.refused)
        world.monitor.champion(version.number, version.learnt)
        for pane in _panes(self.history, self.first, self._feed, world.monitor):
            front.answer(pane.last)
            for request in self._advance(world, pane):
                world.requests.append(request)
                world.monitor.book.run_ended()
        return world

    def live(self, version: Version, learning: Learning) -> tuple[World, Answers]:
        """Retrain and swap by the rules, beginning with `version`.

        Returns
        -------
        World
        Answers
            What would have been answered, had every candidate been promoted.
        """
        spec = self.history.spec
        world = self._world(Answers(spec, len(self.history)), {version.number: version.plan})
        front = Front(self.history, world.answers, version, self.first, world.refused)
        always = Front(self.history, Answers(spec, len(self.history)), version, self.first)
        world.monitor.champion(version.number, version.learnt)
        world.swaps.append(Swap(int(self.history.times_ms[self.first]), version.number))
        trial: _Trial | None = None
        for pane in _panes(self.history, self.first, self._feed, world.monitor):
            front.answer(pane.last)
            always.answer(pane.last)
            if trial is not None:
                trial.front.answer(pane.last)
            requests = self._advance(world, pane, None if trial is None else trial.front.answers)
            if trial is not None and (outcome := trial.outcome(world.monitor)) is not None:
                if outcome.decision == "rolled-back":
                    run = Run("rolled-back", outcome.reason, 0, front.version)
                    world.retrainings.append(Retraining(pane.until_ms, PROBATION, run))
                    self._swap(world, front, trial.front.version, pane)
                trial = None
            for request in requests:
                world.requests.append(request)
                ended = self._run(world, front.version, learning, request)
                if ended is None or ended.version is None:
                    continue
                always.switch(ended.version, pane.last)
                if ended.decision == "promoted":
                    trial = _Trial.begin(self.history, world.monitor, ended.version, front.version, pane.last)
                    world.monitor.plans.plans[ended.version.number] = ended.version.plan
                    self._swap(world, front, ended.version, pane)
        return world, always.answers

    @staticmethod
    def _swap(world: World, front: Front, version: Version, pane: _Pane) -> None:
        front.switch(version, pane.last)
        world.monitor.champion(version.number, version.learnt)
        world.swaps.append(Swap(pane.until_ms, version.number))

    def _run(self, world: World, champion: Version, learning: Learning, request: RetrainRequest) -> Run | None:
        """Answer a request as the retraining agent does; None where it leads to no run."""
        as_of_ms = to_ms(request.as_of)
        automatic = [run.at_ms for run in world.retrainings if run.trigger not in {*BY_HAND, PROBATION}]
        why = refusal(
            request,
            self.history.spec,
            open_run=None,
            champion=champion.number,
            last_as_of_ms=max(automatic, default=None),
            as_of_ms=as_of_ms,
        )
        change_ms = None if request.changed_at is None else to_ms(request.changed_at)
        run = learning.successor(as_of_ms, champion, change_ms=change_ms) if why is None else why
        world.monitor.book.run_ended()
        if isinstance(run, str):
            world.skipped.append(Retraining(as_of_ms, request.trigger, Run("skipped", run, 0)))
            return None
        world.retrainings.append(Retraining(as_of_ms, request.trigger, run))
        return run

    def _world(self, answers: Answers, plans: Mapping[int, PanePlan]) -> World:
        spec = self.history.spec
        return World(Monitor(spec, Plans(spec.name, spec.revision_horizon_ms, dict(plans)), self._core), answers)

    def _advance(self, world: World, pane: _Pane, shadow: Answers | None = None) -> list[RetrainRequest]:
        answered = predictions(self.history, world.answers, pane.first, pane.last)
        if shadow is not None:
            answered = answered.beside(predictions(self.history, shadow, pane.first, pane.last))
        step = world.monitor.advance(
            answered,
            self._feed.batch(self.history, pane.label_first, pane.label_last),
            pane.until_ms,
        )
        world.end_ms = pane.until_ms
        self._progress(pane.last)
        return step.requests
