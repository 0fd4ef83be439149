"""Versions: trained on what was known then, judged by the gate, with the reference that monitoring compares with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.alerting.triggers import Learnt
from agents.artifacts import ArtifactStore, load_model
from agents.backtest.history import NEVER, History
from agents.retraining.choice import Choice, choose
from agents.retraining.logic import too_few
from agents.retraining.project import Project
from agents.retraining.scoring import Scored, score
from agents.retraining.step_cache import Store
from agents.retraining.trainer import event_times_ms, train
from agents.retraining.validation import Champion, validate
from schemas.codec import iso, utc
from schemas.errors import ArtifactError, ConfigurationError, DriftlineError, TrainingError
from schemas.specification import Specification
from streams.panes import PanePlan

FATAL = (ConfigurationError, TrainingError, ArtifactError)
"""What ends a run as failed, as in the retraining agent."""


@dataclass(frozen=True)
class Version:
    """A version that can answer.

    Parameters
    ----------
    champion : Champion
        As the gate sees it.
    estimator : object
    plan : PanePlan
    report : dict
        The gate's validation report.
    learnt : Learnt
        What it was made from.
    """

    number: int
    champion: Champion
    estimator: Any
    plan: PanePlan
    report: dict[str, Any]
    learnt: Learnt

    def score(self, history: History, rows: NDArray[np.int64]) -> Scored:
        """Answers to rows.

        Raises
        ------
        TrainingError
            The model cannot take some of them.
        """
        features = history.table.iloc[rows][history.spec.columns()]
        return score(self.champion.spec, self.estimator, features)


@dataclass(frozen=True)
class Run:
    """What became of a training run. `version` is there wherever a candidate was trained, also a refused one."""

    decision: str
    reason: str
    rows: int
    version: Version | None = None


class Learning:
    """Trains versions from a history.

    Parameters
    ----------
    project : Project
    history : History
    artifacts : ArtifactStore
    from_ms : int
        End of the first training table: what comes later counts as archived traffic.
    seed : int
    cache : Store, optional
    """

    def __init__(
        self,
        project: Project,
        history: History,
        artifacts: ArtifactStore,
        *,
        from_ms: int,
        seed: int = 0,
        cache: Store | None = None,
    ) -> None:
        self.project = project
        self.history = history
        self.from_ms = from_ms
        self._artifacts = artifacts
        self._seed = seed
        self._cache = cache
        self._made = 0

    @property
    def spec(self) -> Specification:
        return self.project.spec

    def first(self) -> Run:
        """Version 1, from everything known at the end of the training table.

        Raises
        ------
        TrainingError
            There is nothing to learn from, a step failed, or the gate refused it: there is nothing to replay with.
        """
        table = self.history.known_at(0, self.from_ms)
        if table.empty:
            earliest = iso(utc(int(self.history.times_ms[0])))
            raise TrainingError(
                f"no row lies before {iso(utc(self.from_ms))}; the earliest is of {earliest}",
                where="--train-until",
                remedy="name a later time, so that there is something to learn from",
            )
        run = self._train(table, None, where=f"rows before {iso(utc(self.from_ms))}")
        if run.decision != "promoted":
            raise TrainingError(
                f"the first version was refused by the gate: {run.reason}",
                where="--train-until",
                remedy="give it more rows (a later --train-until), or mend pipeline.py",
            )
        return Run("initial", run.reason, run.rows, run.version)

    def successor(self, as_of_ms: int, champion: Version, *, change_ms: int | None = None) -> Run | str:
        """Train and judge a successor from what was known before `as_of_ms`; the reason where there is too little."""
        window_ms = self.spec.training_window_ms
        table = self._archived(0 if window_ms is None else max(as_of_ms - window_ms, 0), as_of_ms)
        labelled = int(table[self.spec.data.label].notna().sum())
        if (why := too_few(labelled, self.spec)) is not None:
            return why
        try:
            choice = None
            if window_ms is None:
                choice = choose(self.project, table, change_ms=change_ms, seed=self._seed, cache=self._cache)
                table = choice.rows(table, self.spec)
            return self._train(table, champion, where="training table", choice=choice)
        except FATAL as error:
            return Run("failed", _told(error), labelled)

    def _archived(self, from_ms: int, before_ms: int) -> Any:
        """Rows as the archive would hold them: labels that came too late for the join are not in it."""
        history = self.history
        table = history.known_at(from_ms, before_ms)
        first, last = np.searchsorted(history.times_ms, [from_ms, before_ms], side="left")
        times, told = history.times_ms[first:last], history.label_ms[first:last]
        late = (times >= self.from_ms) & (told != NEVER) & (told - times > self.spec.max_label_delay_ms)
        late &= table[self.spec.data.label].notna().to_numpy()
        if late.any():
            table.loc[late, self.spec.data.label] = None
        return table

    def _train(self, table: Any, champion: Version | None, *, where: str, choice: Choice | None = None) -> Run:
        candidate = train(
            self.project,
            table,
            where=where,
            seed=self._seed,
            cache=self._cache,
            holdout_from_ms=None if choice is None else choice.holdout_from_ms,
        )
        self._made += 1
        against = None if champion is None else champion.champion
        artifact, verdict = validate(self._artifacts, candidate, against, seed=self._seed)
        version = Version(
            number=self._made,
            champion=Champion(self._made, artifact, self.spec, candidate.cutoff_ms),
            estimator=load_model(self._artifacts, artifact, self.spec.model.allowed_types),
            plan=PanePlan(self.spec, candidate.reference()),
            report=verdict.report | ({} if choice is None else {"choice": choice.report}),
            learnt=Learnt(
                rows=int(table[self.spec.data.label].notna().sum()),
                until_ms=int(event_times_ms(table, self.spec).max()),
            ),
        )
        decision = "rejected"
        if verdict.passed:
            decision = "promoted" if self.spec.approval.mode == "auto" else "awaiting-approval"
        if champion is None and verdict.passed:
            decision = "promoted"
        return Run(decision, verdict.reason, candidate.trained_rows, version)


def _told(error: DriftlineError) -> str:
    return f"{error.where}: {error.what}" if error.where else error.what
