"""From a training table to a candidate: fit once before the holdout, score the holdout, compile the reference.

The estimator that was validated is the one that is deployed: nothing is fitted again afterwards.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from agents.retraining.environment import environment_hash
from agents.retraining.holdout import cutoff_ms
from agents.retraining.importance import permutation_importances
from agents.retraining.pipeline import execute, first_line
from agents.retraining.project import Project
from agents.retraining.scoring import Scored, score
from agents.retraining.step_cache import Store
from agents.retraining.table import check_labels
from agents.skops_file import dump_model
from schemas.errors import TrainingError
from schemas.reference import ReferenceStatistics
from schemas.specification import Specification

if TYPE_CHECKING:
    import pandas as pd

    from streams.reference import History


@dataclass(frozen=True)
class Candidate:
    """A trained model with what its validation needs.

    Parameters
    ----------
    spec : Specification
    estimator : object
    model_bytes : bytes
        The skops file: what will be deployed.
    table : DataFrame
        All rows, learnt from and held out.
    heldout : array of bool, shape (n,)
        Labelled rows that the estimator has not seen.
    scored : Scored
        Of the held-out rows.
    cutoff_ms : int
        Event time from which rows are held out.
    importances : dict of str to float
        Loss of the primary metric when a feature is shuffled.
    reused : tuple of str
        Steps that came from the cache.
    project_checks : dict or None
        What the project's `validate` returned.
    """

    spec: Specification
    estimator: Any
    model_bytes: bytes
    table: pd.DataFrame
    heldout: NDArray[np.bool_]
    scored: Scored
    cutoff_ms: int
    importances: dict[str, float]
    reused: tuple[str, ...]
    project_checks: dict[str, Any] | None

    @property
    def held(self) -> pd.DataFrame:
        """The held-out rows."""
        return self.table[self.heldout].reset_index(drop=True)

    @property
    def trained_rows(self) -> int:
        """Labelled rows before the holdout."""
        known = self.table[self.spec.data.label].notna().to_numpy()
        return int((known & (event_times_ms(self.table, self.spec) < self.cutoff_ms)).sum())

    def reference(self, history: pd.DataFrame | None = None) -> ReferenceStatistics:
        """Reference statistics of the whole table, levels from the held-out rows.

        Parameters
        ----------
        history : DataFrame, optional
            Normalised rows that the seasons are learnt from where they span a year; default: the table.
        """
        from streams.reference import compile_reference

        n = len(self.table)
        predictions = np.full(n, None, dtype=object)
        predictions[self.heldout] = self.scored.predictions
        scores = None
        if self.scored.scores is not None:
            scores = np.full(n, np.nan)
            scores[self.heldout] = self.scored.scores
        probabilities = None
        if self.scored.probabilities is not None:
            probabilities = np.zeros((n, len(self.scored.classes)))
            probabilities[self.heldout] = self.scored.probabilities
        return compile_reference(
            self.spec,
            {name: plain_values(self.table[name]) for name in self.spec.features},
            labels=plain_values(self.table[self.spec.data.label]),
            predictions=predictions,
            scores=scores,
            event_time_ms=event_times_ms(self.table, self.spec),
            importances=self.importances,
            heldout=self.heldout,
            probabilities=probabilities,
            classes=self.scored.classes,
            segments={name: plain_values(self.table[name]) for name in self.spec.data.segments},
            history=self._history(self.table if history is None else history),
        )

    def _history(self, rows: pd.DataFrame) -> History | None:
        """All rows with what this version predicts of them; None where they are shorter than a year."""
        from streams.reference import History
        from streams.seasons import LEAST_SPAN_MS

        times = event_times_ms(rows, self.spec)
        if len(times) == 0 or int(times.max()) - int(times.min()) < LEAST_SPAN_MS:
            return None
        scored = score(self.spec, self.estimator, rows[self.spec.columns()])
        return History(
            features={name: plain_values(rows[name]) for name in self.spec.features},
            labels=plain_values(rows[self.spec.data.label]),
            predictions=scored.predictions,
            scores=scored.scores,
            event_time_ms=times,
        )


def fit(
    project: Project, rows: pd.DataFrame, *, where: str, seed: int = 0, cache: Store | None = None
) -> tuple[Any, tuple[str, ...]]:
    """Run the project's steps on `rows`; returns the estimator and the steps that came from the cache.

    Raises
    ------
    TrainingError
        There is nothing to learn from, or a step failed.
    """
    check_labels(rows, project.spec, where=where)
    run = execute(
        project,
        {"data": rows, "seed": seed, "spec": project.spec},
        {
            "data": table_hash(rows),
            "seed": str(seed),
            "spec": hashlib.sha256(project.spec_text.encode()).hexdigest(),
        },
        cache=cache,
        environment=environment_hash(),
    )
    return run.values["train"], tuple(run.reused)


def train(
    project: Project,
    table: pd.DataFrame,
    *,
    where: str,
    seed: int = 0,
    cache: Store | None = None,
    holdout_from_ms: int | None = None,
) -> Candidate:
    """Fit the project's model on the rows before the holdout.

    Parameters
    ----------
    project : Project
    table : DataFrame
        Normalised (`agents.retraining.table`), in order of event time.
    where : str
        How errors name the table.
    seed : int
        Given to steps that ask for it.
    cache : Store, optional
    holdout_from_ms : int, optional
        Event time at which the holdout begins; default: as `agents.retraining.holdout` says.

    Raises
    ------
    TrainingError
        There is nothing to learn from, a step failed, or what `train` returned cannot be used.
    """
    spec = project.spec
    check_labels(table, spec, where=where)
    labelled = table[spec.data.label].notna().to_numpy()
    if int(labelled.sum()) < 2:
        raise TrainingError("one labelled row is not enough", where=where)
    times = event_times_ms(table, spec)
    cutoff = holdout_from_ms if holdout_from_ms is not None else cutoff_ms(times, labelled, spec.pane_ms)
    before = table[times < cutoff].reset_index(drop=True)
    estimator, reused = fit(project, before, where=f"{where}, rows before the holdout", seed=seed, cache=cache)
    held = labelled & (times >= cutoff)
    rows = table[held].reset_index(drop=True)
    scored = score(spec, estimator, rows[spec.columns()])
    checks = _project_checks(project, estimator, rows, seed)
    return Candidate(
        spec=spec,
        estimator=estimator,
        model_bytes=_dump(estimator),
        table=table,
        heldout=held,
        scored=scored,
        cutoff_ms=cutoff,
        importances=permutation_importances(spec, estimator, rows, seed=seed),
        reused=reused,
        project_checks=checks,
    )


def _project_checks(project: Project, estimator: Any, rows: pd.DataFrame, seed: int) -> dict[str, Any] | None:
    """Run the project's own `validate` on the held-out rows; a falsy bool or an exception refuses the candidate."""
    if "validate" not in project.functions:
        return None
    run = execute(
        project,
        {"data": rows, "seed": seed, "spec": project.spec, "train": estimator},
        {"data": "", "seed": "", "spec": "", "train": ""},
        roots=("validate",),
    )
    outcome = run.values["validate"]
    if outcome is None or isinstance(outcome, bool | np.bool_):
        return {"passed": outcome is None or bool(outcome)}
    if isinstance(outcome, dict):
        return {"passed": True, **{str(key): _plain(value) for key, value in outcome.items()}}
    raise TrainingError(
        f"validate returned a {type(outcome).__name__}",
        where=str(project.root / "pipeline.py"),
        remedy='return None, True, False or a dict ("passed": bool and what should be reported)',
    )


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _dump(estimator: Any) -> bytes:
    try:
        return dump_model(estimator)
    except Exception as error:
        raise TrainingError(
            f"the model cannot be written as a skops file: {first_line(error)}",
            where="pipeline.py",
            remedy="use estimators and transformers of scikit-learn (no lambdas, no classes of your own)",
        ) from error


def event_times_ms(table: pd.DataFrame, spec: Specification) -> NDArray[np.int64]:
    """Event times of a normalised table in milliseconds."""
    return np.asarray(table[spec.data.event_time].astype("datetime64[ms, UTC]").astype("int64"), dtype=np.int64)


def plain_values(column: pd.Series[Any]) -> NDArray[Any]:
    """A column as numpy knows it: float64, or objects with None for missing."""
    if column.dtype == "float64":
        return column.to_numpy()
    values = column.astype(object)
    out: NDArray[Any] = values.where(values.notna(), None).to_numpy()
    return out


def table_hash(table: pd.DataFrame) -> str:
    """SHA-256 over names, types and values of a table."""
    import pandas as pd

    digest = hashlib.sha256()
    for name in table.columns:
        column = table[name]
        digest.update(f"{name}\x1f{column.dtype}\x1e".encode())
        digest.update(pd.util.hash_pandas_object(column, index=False).to_numpy().tobytes())
    return digest.hexdigest()
