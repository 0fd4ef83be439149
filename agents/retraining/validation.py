"""Puts a candidate before the gate: stores it, reads it back, fetches the champion, measures both."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from agents.artifacts import ArtifactStore, load_model
from agents.retraining.gate import Evidence, Verdict, judge
from agents.retraining.scoring import Scored, score
from agents.retraining.trainer import Candidate, event_times_ms
from schemas.errors import ArtifactError, TrainingError
from schemas.specification import Specification

if TYPE_CHECKING:
    import pandas as pd

    from agents.registry.views import VersionInfo

TIMED_ROWS = 1000
TIMED_RUNS = 3


@dataclass(frozen=True)
class Champion:
    """The version in production, as far as the gate needs it."""

    version: int
    artifact: str
    spec: Specification
    learnt_until_ms: int

    @classmethod
    def of(cls, info: VersionInfo, spec: Specification) -> Champion:
        """From the registry's record. Versions say in their parameters where their holdout began."""
        until = info.parameters.get("holdout_from_ms")
        return cls(info.version, info.artifact, spec, int(until) if until is not None else 0)


def validate(
    artifacts: ArtifactStore, candidate: Candidate, champion: Champion | None, *, seed: int = 0
) -> tuple[str, Verdict]:
    """Store the candidate and judge it; returns the artifact's SHA-256 and the verdict.

    Raises
    ------
    ArtifactError
        The candidate holds types that may not be loaded.
    TrainingError
        The champion cannot be asked about these rows.
    """
    artifact = artifacts.put(candidate.model_bytes, "model")
    restored = load_model(artifacts, artifact, candidate.spec.model.allowed_types)
    rows = candidate.held
    features = rows[candidate.spec.columns()]
    again = score(candidate.spec, restored, features)
    times = event_times_ms(rows, candidate.spec)
    mine = _time_of(restored, features)
    scored, theirs, unseen = None, mine, None
    if champion is not None:
        estimator = _load(artifacts, champion)
        champion_rows = _columns_of(champion, rows)
        scored = score(champion.spec, estimator, champion_rows)
        theirs = _time_of(estimator, champion_rows)
        unseen = times >= champion.learnt_until_ms
    evidence = Evidence(
        rows=rows,
        blocks=times // candidate.spec.pane_ms,
        candidate=candidate.scored,
        champion=scored,
        unseen=unseen,
        latency_ms=(mine, theirs),
        round_trip=_same(candidate.scored, again),
        project_checks=candidate.project_checks,
        champion_version=champion.version if champion is not None else None,
    )
    return artifact, judge(candidate.spec, evidence, seed=seed)


def _load(artifacts: ArtifactStore, champion: Champion) -> Any:
    try:
        return load_model(artifacts, champion.artifact, champion.spec.model.allowed_types)
    except ArtifactError as error:
        raise ArtifactError(
            f"the champion, version {champion.version}, cannot be compared with: {error.what}",
            where=error.where,
            remedy="restore its artifact, or roll back to a version that can be loaded",
        ) from error


def _columns_of(champion: Champion, rows: pd.DataFrame) -> pd.DataFrame:
    lacking = [name for name in champion.spec.columns() if name not in rows.columns]
    if lacking:
        raise TrainingError(
            f"the rows lack {', '.join(lacking)}, which the champion, version {champion.version}, needs",
            where="training table",
            remedy="give a table that holds the champion's features too, so that both can be judged on the same rows",
        )
    return rows[champion.spec.columns()]


def _same(one: Scored, other: Scored) -> bool:
    if not np.array_equal(one.predictions, other.predictions):
        return False
    return (one.scores is None and other.scores is None) or np.array_equal(one.scores, other.scores)  # type: ignore[arg-type]


def _time_of(estimator: Any, features: pd.DataFrame) -> float:
    """Milliseconds for 1000 rows, the fastest of a few calls."""
    call = estimator.predict_proba if hasattr(estimator, "predict_proba") else estimator.predict
    sample = features.head(TIMED_ROWS)
    taken = []
    for _ in range(TIMED_RUNS):
        started = time.perf_counter()
        call(sample)
        taken.append(time.perf_counter() - started)
    return min(taken) * 1000 * TIMED_ROWS / max(len(sample), 1)
