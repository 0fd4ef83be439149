"""The reference of a watched model that is learnt from its first stable days, out of the archive.

Notes
-----
Everything is decided by event time: which days, when they are complete, when their labels are. The same log leads to
the same reference, whenever the agents ran. A day that is not like the others moves the window on by a day, at most by
its own length; then it is taken as it is, which is told.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from sqlalchemy import func, select

from agents.archiving.dataset import joined
from agents.artifacts import ArtifactStore
from agents.config import Settings
from agents.database.engine import Sessions, session_factory
from agents.registry import watched
from agents.registry.change import find_model
from agents.registry.service import Registry
from agents.retraining import jobs
from agents.retraining.data import left_over
from agents.retraining.logic import REFERENCE
from agents.retraining.tables import RunRow
from agents.subjects.keys import SubjectKeys
from schemas.codec import derived_id, encode, to_ms, utc
from schemas.errors import ConflictError
from schemas.events import PaneClosed, RetrainRequest
from schemas.specification import Specification

if TYPE_CHECKING:
    import pandas as pd
    from sqlalchemy.orm import Session

    from schemas.reference import ReferenceStatistics

DAY_MS: Final = 86_400_000
LEAST_LABELS: Final = 30
"""Labels of a day below which its quality says nothing."""
log = logging.getLogger("driftline.retraining")


def due(registry: Registry, session: Session, pane: PaneClosed) -> str | None:
    """Queue the run that learns a model's reference once it is due by event time; its id, where one was queued.

    Notes
    -----
    The first day that was seen is left out: it may have begun before anything was produced. The days' labels have had
    `max_label_delay` to come.
    """
    row = find_model(session, pane.model)
    if row.reference is not None or row.reference_window is None:
        return None
    if row.learning_from_ms is None:
        start = to_ms(pane.pane_start)
        row.learning_from_ms = start - start % DAY_MS + DAY_MS
    spec = registry.specification(session, pane.model)
    due_ms = row.learning_from_ms + watched.learning_span_ms(row) + spec.max_label_delay_ms
    if to_ms(pane.observed_at) < due_ms or jobs.open_run(session, pane.model) is not None:
        return None
    request = RetrainRequest(
        request_id=derived_id("reference", pane.model, row.epoch, due_ms),
        model=pane.model,
        trigger=REFERENCE,
        reason=f"the {row.reference_window} from {utc(row.learning_from_ms):%Y-%m-%d} are complete",
        as_of=utc(due_ms),
        requested_by="retraining",
    )
    return None if jobs.known(session, request.request_id) else jobs.accept(session, request)


def learn(settings: Settings, sessions: Sessions, run_id: str, owner: str) -> None:
    """Execute a run that learns a reference: compile it from the archive, and give it to the versions without one.

    Raises
    ------
    ConflictError
        The lease was lost, or somebody gave the model a reference meanwhile.
    TrainingError
        The days hold too little.
    """
    from agents.retraining.elsewhere import compile_watched

    artifacts = ArtifactStore.of(settings)
    registry = Registry(sessions, artifacts)
    with session_factory(sessions.kw["bind"], read_only=True)() as session:
        run = jobs.held(session, run_id, owner)
        model, as_of_ms = run.model, run.as_of_ms
        row = find_model(session, model)
        spec = registry.specification(session, model)
        from_ms, window = row.learning_from_ms, row.reference_window
        if row.reference is not None or from_ms is None:
            raise ConflictError("has a reference meanwhile", where=f"model {model}")
        span = watched.learning_span_ms(row)
        moved = _moved(session, model, as_of_ms, span)
        table, guesses, scores = _days(session, settings, spec, from_ms, from_ms + span, as_of_ms)
    with sessions.begin() as session:
        jobs.started(session, run_id, owner)
    days = f"{window} from {utc(from_ms):%Y-%m-%d}"
    # Days without anything leave nothing to compile: that they are not stable comes first.
    statistics = None
    if len(table) >= LEAST_LABELS:
        statistics = compile_watched(spec, table, guesses, scores, where=f"archive, {days}")
    trouble = (
        "hardly any prediction" if statistics is None else unlike(spec, statistics, table, guesses, scores, from_ms)
    )
    if trouble is not None and moved < span // DAY_MS:
        with sessions.begin() as session:
            find_model(session, model).learning_from_ms = from_ms + DAY_MS
            jobs.skip(session, run_id, owner, f"the {days} are not stable ({trouble}): the window moves on by a day")
        return
    if statistics is None:
        statistics = compile_watched(spec, table, guesses, scores, where=f"archive, {days}")
    sha = artifacts.put(encode(statistics), "reference")
    why = f"reference learnt from {statistics.rows} predictions of the {days}"
    if trouble is not None:
        why += f"; they are not stable ({trouble}), nor were those before"
    with sessions.begin() as session:
        numbers = watched.learnt(registry, session, model, sha, actor="retraining", at=utc(from_ms + span), reason=why)
        jobs.learnt(session, run_id, owner, version=numbers[-1] if numbers else None, rows=statistics.rows, why=why)
    log.info("%s: %s", model, why)


def _moved(session: Session, model: str, as_of_ms: int, span_ms: int) -> int:
    """How often the window moved on before this run."""
    statement = select(func.count()).where(
        RunRow.model == model,
        RunRow.trigger == REFERENCE,
        RunRow.status == "skipped",
        RunRow.as_of_ms < as_of_ms,
        RunRow.as_of_ms >= as_of_ms - span_ms,
    )
    return int(session.scalar(statement) or 0)


def _days(  # noqa: PLR0917 - a window with where it is read
    session: Session, settings: Settings, spec: Specification, from_ms: int, until_ms: int, as_of_ms: int
) -> tuple[pd.DataFrame, Any, Any]:
    """What was predicted from `from_ms` up to `until_ms`, with the labels known at `as_of_ms`."""
    import pandas as pd

    from agents.retraining.table import normalise
    from agents.retraining.trainer import plain_values

    keys = SubjectKeys.of(settings)
    found = joined(session, settings.archive, spec, event_time_from_ms=from_ms, as_of_ms=as_of_ms, keys=keys)
    rows = left_over(found.to_pandas())
    rows = rows[rows[spec.data.event_time] < pd.Timestamp(until_ms, unit="ms", tz="UTC")].reset_index(drop=True)
    if rows.empty:
        return rows, np.array([]), None
    table = normalise(rows, spec, where="archive")
    order = pd.Index(rows[spec.data.id].astype("str")).get_indexer(pd.Index(table[spec.data.id]))
    ordered = rows.iloc[order].reset_index(drop=True)
    scores = np.asarray(ordered["_score"].to_numpy(dtype="float64", na_value=np.nan), dtype=np.float64)
    return table, plain_values(ordered["_prediction"]), scores


def unlike(  # noqa: PLR0917 - the rows column by column
    spec: Specification,
    statistics: ReferenceStatistics,
    table: pd.DataFrame,
    guesses: Any,
    scores: Any,
    from_ms: int,
) -> str | None:
    """What differs among the days of a learning window, in words; None where they are stable."""
    from agents.retraining.trainer import event_times_ms, plain_values
    from streams.columns import floats_of, missing_in
    from streams.metrics.batch import label_counters
    from streams.metrics.compute import compute
    from streams.panes import PanePlan
    from streams.stability import Day, instability

    times = event_times_ms(table, spec)
    day = (times - from_ms) // DAY_MS
    count = max(int(day.max()) + 1, 2)
    plan = PanePlan(spec, statistics)
    labels = plain_values(table[spec.data.label])
    known = ~missing_in(labels)
    score = None if spec.task == "regression" or scores is None or not np.isfinite(scores).any() else scores
    counted = label_counters(
        plan, labels[known], guesses[known], None if score is None else score[known], groups=day[known],
        group_count=count,
    )  # fmt: skip
    labelled = plan.slots["labelled"].start
    found = []
    for number in range(count):
        enough = int(counted[number][labelled]) >= LEAST_LABELS
        quality = compute(plan, counted[number], [spec.metrics.primary]).get(spec.metrics.primary) if enough else None
        found.append(Day(f"{utc(from_ms + number * DAY_MS):%Y-%m-%d}", int((day == number).sum()), quality))
    answers = floats_of(guesses) if spec.task == "regression" else score
    if answers is None:
        return instability(found, np.zeros(1, np.int64), np.zeros(1, np.int64))
    edges = np.unique(np.nanquantile(answers, np.linspace(0.1, 0.9, 9)))
    bins = np.searchsorted(edges, np.nan_to_num(answers), side="right")
    halves = [np.bincount(bins[part], minlength=len(edges) + 1) for part in (day < count // 2, day >= count // 2)]
    return instability(found, *halves)
