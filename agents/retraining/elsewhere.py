"""`driftline register DIR --monitor-only`: a model that lives elsewhere, and what it is compared with."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from agents.access.logic import Principal
from agents.artifacts import ArtifactStore
from agents.config import Settings
from agents.database.engine import session_factory
from agents.database.migrate import migrated
from agents.registry import watched
from agents.registry.service import Registry
from agents.retraining.members import Member
from agents.retraining.shares import share_of_maps, sides
from agents.retraining.table import normalise, read_frame
from agents.retraining.trainer import event_times_ms, plain_values
from schemas import fleets
from schemas.codec import encode, utc
from schemas.durations import parse_duration
from schemas.errors import ConfigurationError, TrainingError
from schemas.inheritance import resolved_text
from schemas.reference import ReferenceStatistics
from schemas.specification import FILE_NAME, Specification, parse
from streams.columns import missing_in
from streams.kafka.config import KafkaConfig

if TYPE_CHECKING:
    import pandas as pd

PREDICTION: Final = "prediction"
PROBABILITY: Final = "probability"
LEAST_ROWS: Final = 100
DAY_MS: Final = 86_400_000


def register_watched(
    settings: Settings,
    kafka: KafkaConfig | None,
    directory: Path,
    reference: Path | None,
    *,
    window: str | None,
    external: str | None,
    actor: str,
    member: Member | None = None,
    by: Principal | None = None,
) -> dict[str, Any]:
    """Register a model that is only watched, or give one that is another specification or reference.

    Parameters
    ----------
    kafka : KafkaConfig, optional
        Given: the retention of the topics is checked against the specification first.
    directory : Path
        Folder with `driftline.toml`, or that file; `pipeline.py` is not needed.
    reference : Path, optional
        Past predictions: the specification's columns and ``prediction``.
    window : str, optional
        How long to learn the reference instead.
    external : str, optional
        The one version that `reference` is of.
    member : Member, optional
        Of a specification for many models: the one to register.
    by : Principal, optional
        Whom the audit is to name as the one who did it.

    Returns
    -------
    dict
        ``model``, ``monitored``, ``reference`` (hash or null), ``reference_window``, ``rows``, ``labelled``,
        ``versions`` (numbers that are compared with it from now on), ``reason``, ``seconds``.

    Raises
    ------
    ConfigurationError
        The specification or the options are wrong.
    TrainingError
        The reference is not usable.
    TopicError
        Topics forget records sooner than labels of this model may arrive.
    ConflictError, NotFoundError
        The registry refused.
    """
    started = time.monotonic()
    if (reference is None) == (window is None):
        raise ConfigurationError(
            "a watched model needs something to compare with" if reference is None else "two references are given",
            where="driftline register --monitor-only",
            remedy="--reference FILE (past predictions) or --reference-window 14d (learn it from the first days)",
        )
    if window is not None:
        check_window(window)
        if external is not None:
            raise ConfigurationError(
                "a window is learnt for all versions", where="--version", remedy="use --version with --reference FILE"
            )
    text, spec = _specification(directory, member.value if member is not None else None)
    if kafka is not None:
        from agents.retraining.register import check_retention

        check_retention(kafka, spec)
    engine = migrated(settings.database)
    artifacts = ArtifactStore.of(settings)
    registry = Registry(session_factory(engine, acts_for=by), artifacts)
    sha, rows, labelled, at = None, 0, 0, None
    if reference is not None:
        given = read_frame(reference, spec, option="--reference") if member is None else member.rows
        assert given is not None
        where = str(reference) if member is None else f"{reference} ({member.value})"
        statistics, rows, labelled = reference_of_frame(given, spec, where)
        sha = artifacts.put(encode(statistics), "reference")
        at = utc(statistics.end_ms) if statistics.end_ms else datetime.now(UTC)
    with registry.sessions.begin() as session:
        versions = watched.register(
            registry, session, text, actor, reference=sha, window=window, external=external, at=at
        )
    engine.dispose()
    return {
        "model": spec.name,
        "monitored": True,
        "reference": sha,
        "reference_window": window,
        "rows": rows,
        "labelled": labelled,
        "versions": versions,
        "reason": (
            f"the reference holds {rows} predictions, {labelled} of them labelled"
            if sha is not None
            else f"the reference is learnt from the first {window} of event time that are complete and stable"
        ),
        "seconds": round(time.monotonic() - started, 1),
    }


def check_window(text: str) -> int:
    """A learning window in milliseconds: whole days. Raises `ConfigurationError`."""
    span = parse_duration(text, where="--reference-window")
    if span < 2 * DAY_MS or span % DAY_MS:
        raise ConfigurationError(
            f"{text} is no time to learn from", where="--reference-window", remedy="write whole days, two at least: 14d"
        )
    return span


def _specification(directory: Path, member: str | None) -> tuple[str, Specification]:
    file = directory / FILE_NAME if directory.is_dir() else directory
    text = resolved_text(file)
    spec = parse(text, file=str(file))
    if member is not None:
        return fleets.member(text, member, file=str(file))
    if spec.is_fleet:
        raise ConfigurationError(
            f"the specification stands for many models, one for each {spec.model.per}",
            where=f"{file} [model.per]",
            remedy="their predictions name one model each: register them with `driftline register DIR --monitor-only`",
        )
    return text, spec


# ------------------------------------------------------------------------------------------------ the reference


def reference_of_file(path: Path, spec: Specification) -> tuple[ReferenceStatistics, int, int]:
    """Compile the reference from a file of past predictions; with its rows and how many are labelled.

    Raises
    ------
    TrainingError
        A column is missing or of the wrong type. `where` names file and column.
    """
    return reference_of_frame(read_frame(path, spec, option="--reference"), spec, str(path))


def reference_of_frame(frame: pd.DataFrame, spec: Specification, where: str) -> tuple[ReferenceStatistics, int, int]:
    """As `reference_of_file`, of rows at hand that errors call `where`."""
    import pandas as pd

    data = spec.data
    needed = list(dict.fromkeys([*spec.features, *data.segments, PREDICTION]))
    missing = [name for name in needed if name not in frame.columns]
    if missing:
        raise TrainingError(
            f"the reference lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}",
            where=where,
            remedy=f"it has: {', '.join(map(str, frame.columns[:40]))}; features are named as in {FILE_NAME}, "
            f"what the model said is {PREDICTION!r}",
        )
    frame = frame.reset_index(drop=True)
    if data.id not in frame.columns or frame[data.id].isna().any():
        frame[data.id] = [f"row-{row:012d}" for row in range(len(frame))]
    if data.event_time not in frame.columns:
        frame[data.event_time] = pd.Timestamp(0, tz="UTC")
    if data.label not in frame.columns:
        frame[data.label] = pd.Series([None] * len(frame), dtype=object)
    if data.label_time is not None and data.label_time not in frame.columns:
        frame[data.label_time] = frame[data.event_time]
    table = normalise(frame, spec, where=where)
    order = pd.Index(frame[data.id].astype("str")).get_indexer(pd.Index(table[data.id]))
    guesses = plain_values(frame[PREDICTION].iloc[order].reset_index(drop=True))
    scores = None
    if PROBABILITY in frame.columns:
        column = share_of_maps(frame[PROBABILITY].iloc[order], guesses, spec)
        scores = _probabilities(column, f"{where} [{PROBABILITY}]")
    statistics = compile_watched(spec, table, guesses, scores, where=where)
    return statistics, len(table), int(table[data.label].notna().sum())


def _probabilities(column: pd.Series[Any], where: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    try:
        values = np.asarray(column.astype("Float64").to_numpy(dtype="float64", na_value=np.nan), dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TrainingError(
            f"a probability is no number: {error}",
            where=where,
            remedy="binary: of the positive class; multiclass: of the predicted one; or a map of class to number",
        ) from error
    known = values[np.isfinite(values)]
    if ((known < 0) | (known > 1)).any():
        strange = known[(known < 0) | (known > 1)][0]
        raise TrainingError(f"{strange:g} is no probability", where=where, remedy="write numbers from 0 to 1")
    return values


def compile_watched(
    spec: Specification,
    table: pd.DataFrame,
    guesses: np.ndarray[Any, Any],
    scores: np.ndarray[Any, np.dtype[np.float64]] | None,
    *,
    where: str,
) -> ReferenceStatistics:
    """Reference statistics of what a foreign model predicted.

    Parameters
    ----------
    table : DataFrame
        Normalised; labels may be missing.
    guesses : array, shape (n,)
        Predictions, row by row.
    scores : array of float, optional
        Probabilities, NaN where there is none.

    Raises
    ------
    TrainingError
        Too few rows, or predictions of the wrong type.
    """
    from streams.dependence import explained
    from streams.reference import compile_reference

    column = f"{where} [{PREDICTION}]"
    if len(table) < LEAST_ROWS:
        raise TrainingError(
            f"{len(table)} predictions are no reference", where=where, remedy=f"give {LEAST_ROWS} at least"
        )
    guesses, scores = _task_types(spec, guesses, scores, column)
    labels = plain_values(table[spec.data.label])
    features = {name: plain_values(table[name]) for name in spec.features}
    segments = {
        name: plain_values(table[name])
        for name in spec.data.segments
        if name not in spec.features and name in table.columns
    }
    known = ~missing_in(labels)
    _check_classes(spec, table, known, where)
    try:
        statistics = compile_reference(
            spec,
            features,
            labels=labels,
            predictions=guesses,
            scores=scores,
            event_time_ms=event_times_ms(table, spec),
            segments=segments,
            unlabelled=True,
        )
    except (TypeError, ValueError) as error:
        raise TrainingError(f"the reference cannot be compiled: {error}", where=where) from error
    answers = guesses if scores is None else scores
    return msgspec.structs.replace(statistics, importances=explained(statistics, features, answers))


def _task_types(
    spec: Specification, guesses: np.ndarray[Any, Any], scores: np.ndarray[Any, np.dtype[np.float64]] | None, where: str
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, np.dtype[np.float64]] | None]:
    values = guesses.tolist()
    if missing_in(guesses).any():
        raise TrainingError("a prediction is missing", where=where, remedy="leave rows without a prediction out")
    if spec.task == "regression":
        try:
            return guesses.astype(np.float64), None
        except (TypeError, ValueError) as error:
            raise TrainingError(
                f"a prediction is no number: {error}", where=where, remedy="write numbers: the task is regression"
            ) from error
    if scores is not None and not np.isfinite(scores).any():
        scores = None
    if spec.task == "binary" and scores is None and guesses.dtype == np.float64:
        between = (guesses > 0) & (guesses < 1)
        if between.any() and ((guesses >= 0) & (guesses <= 1)).all():
            # As in traffic: the model says the probability itself.
            scores = guesses
            negative, positive = sides(spec)
            guesses = np.array([positive if s >= spec.model.threshold else negative for s in values], dtype=object)
    return guesses, scores


def _check_classes(spec: Specification, table: pd.DataFrame, known: np.ndarray[Any, Any], where: str) -> None:
    """A binary model's labels must be two classes, one of them the positive; all or none may be missing."""
    if spec.task != "binary" or not known.any():
        return
    from streams.panes import class_key

    classes = list(dict.fromkeys(class_key(value) for value in table[spec.data.label].dropna().unique().tolist()))
    positive = class_key(spec.model.positive)
    if len(classes) > 2 or (len(classes) == 2 and positive not in classes):
        raise TrainingError(
            f"the task is binary with the positive label {positive!r}, and the labels are {', '.join(classes[:5])}",
            where=f"{where} [{spec.data.label}]",
            remedy='set positive in [model], or task = "multiclass"',
        )
