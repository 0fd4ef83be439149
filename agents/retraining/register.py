"""`driftline register DIR`: train a project here, validate it, and register it in one transaction."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.access.logic import Principal
from agents.archiving.dataset import reached
from agents.artifacts import ArtifactStore
from agents.config import Settings
from agents.database.engine import make_engine, session_factory
from agents.database.migrate import migrated
from agents.database.outbox import enqueue
from agents.registry.service import Registry
from agents.registry.views import VersionInfo
from agents.retraining.data import KIND as TABLE
from agents.retraining.data import kept_bytes, load_registered, manifest, recalled, store_table, training_table, widened
from agents.retraining.lock import record
from agents.retraining.members import Given, Member
from agents.retraining.packing import store_project
from agents.retraining.project import Project, load_project
from agents.retraining.provenance import git_state
from agents.retraining.step_cache import step_cache
from agents.retraining.submission import Submission, register_candidate
from agents.retraining.table import of_frame, read_table
from agents.retraining.tables import RunRow
from agents.retraining.threads import computing, limited_threads
from agents.retraining.trainer import event_times_ms, train
from agents.retraining.validation import Champion, validate
from agents.subjects import usage
from agents.subjects.keys import SubjectKeys
from agents.subjects.rows import ids_of
from schemas.codec import derived_id, encode, utc
from schemas.errors import ConflictError, NotFoundError, TrainingError
from schemas.events import RunFinished, RunStarted
from schemas.specification import Specification
from schemas.topics import TRAINING_EVENTS
from streams.kafka.config import KafkaConfig
from streams.seasons import LEAST_SPAN_MS

if TYPE_CHECKING:
    import pandas as pd
    from sqlalchemy.orm import Session

RETENTION_MARGIN_MS = 86_400_000
SEED = 0


def register_project(
    settings: Settings,
    kafka: KafkaConfig | None,
    directory: Path,
    data: Path | Given | None,
    *,
    actor: str,
    seed: int = SEED,
    seasons: Path | None = None,
    member: Member | None = None,
    by: Principal | None = None,
) -> dict[str, Any]:
    """Train the project in `directory` and register the result as a version of its model.

    Parameters
    ----------
    settings : Settings
    kafka : KafkaConfig, optional
        Given: the retention of the topics is checked against the specification first.
    directory : Path
        Model project.
    data : Path or Given, optional
        Parquet or CSV file (or a dataset) with the columns that the specification names. Without it a model that is
        registered already is trained on its champion's table and the archive.
    actor : str
        Who registers.
    seed : int
        Given to steps that ask for it.
    seasons : Path, optional
        Table like `data` that spans a year: what the calendar does is learnt from it, for successors too. Default: what
        the champion was given, else the table itself where it spans a year.
    member : Member, optional
        Of a project for many models: the one to register.
    by : Principal, optional
        Whom the audit is to name as the one who did it.

    Returns
    -------
    dict
        ``model``, ``version``, ``decision``, ``reason``, ``run_id``, ``rows`` (learnt from), ``heldout``, ``metrics``
        (on the held-out rows), ``artifact``, ``seconds``.

    Raises
    ------
    ConfigurationError
        The specification or the pipeline is wrong.
    TrainingError
        The table is not usable, or a step failed.
    TopicError
        Topics forget records sooner than labels of this model may arrive.
    ConflictError
        Another version became champion meanwhile. Nothing is registered when anything is raised.
    """
    started_at, started = datetime.now(UTC), time.monotonic()
    project = load_project(directory, member=member.value if member is not None else None)
    spec = project.spec
    if kafka is not None:
        check_retention(kafka, spec)
    engine = migrated(settings.database)
    sessions = session_factory(engine, acts_for=by)
    artifacts = ArtifactStore.of(settings)
    registry = Registry(sessions, artifacts)
    keys = SubjectKeys.of(settings)
    with session_factory(engine, read_only=True)() as session:
        champion_info, champion = find_champion(registry, session, spec.name)
        as_of_ms: int | None = None
        come: dict[str, dict[str, int]] | None = None
        registered: pd.DataFrame | None = None
        also = champion.spec.features if champion is not None else {}
        if member is not None and member.rows is not None:
            table = registered = of_frame(member.rows, spec, also=also, where=f"{data} ({member.value})")
        elif isinstance(data, Given):
            table = registered = of_frame(data.rows, spec, also=also, where=str(data))
        elif data is not None:
            table = registered = read_table(data, spec, also=also)
        else:
            as_of_ms = int(time.time() * 1000)
            table = _archived_table(settings, session, project, champion_info, as_of_ms, keys=keys)
            come = reached(session)
        season_sha = _season_table(artifacts, seasons, spec, champion_info, keys)
    if registered is not None:
        # What is kept is what is learnt from: a rebuild, which has nothing else, then does the same sums.
        kept = kept_bytes(registered, spec, keys)
        table = recalled(kept, keys)
    with limited_threads():
        candidate = train(project, table, where=str(data or "archive"), seed=seed, cache=step_cache(settings, spec))
        compute = computing()
        artifact, verdict = validate(artifacts, candidate, champion, seed=seed)
        history = None if season_sha is None else load_registered(artifacts, season_sha, keys)
        reference = artifacts.put(encode(candidate.reference(history)), "reference")
    sha = artifacts.put(kept, TABLE) if registered is not None else _registered_sha(champion_info)
    code = {
        "artifact": store_project(artifacts, project),
        "tree": project.tree_hash,
        **git_state(artifacts, directory),
    }
    last_ms = as_of_ms if as_of_ms is not None else _last_event_ms(table, spec)
    run_id = derived_id("registration", spec.name, artifact, started_at.isoformat())
    submission = Submission(
        spec_text=project.spec_text,
        artifact=artifact,
        reference=reference,
        code=code,
        dataset=manifest(
            *(table, spec),
            registered=sha,
            as_of_ms=as_of_ms,
            seasons=season_sha,
            reached=come,
            subjects=usage.record(artifacts, ids_of(spec, keys, table, history)),
        )
        | ({"dataset": data.name} if isinstance(data, Given) else {}),
        environment=record(artifacts, project.files),
        compute=compute,
        candidate=candidate,
        verdict=verdict,
        seed=seed,
        champion=champion.version if champion is not None else None,
        run_id=run_id,
        actor=actor,
        at=utc(last_ms),
    )
    done = enter(registry, submission, champion, started_at)
    return done | {"seconds": round(time.monotonic() - started, 1)}


def enter(
    registry: Registry, submission: Submission, champion: Champion | None, started_at: datetime
) -> dict[str, Any]:
    """Register and decide on a candidate in one transaction; what is told of it, but for the time it took.

    Parameters
    ----------
    champion : Champion, optional
        What it was compared with.

    Raises
    ------
    ConflictError
        Another version became champion meanwhile. Nothing is registered then.
    """
    candidate, model = submission.candidate, submission.candidate.spec.name
    with registry.sessions.begin() as session:
        registry.register_model(session, submission.spec_text, submission.actor, at=submission.at)
        _check_champion(registry, session, model, champion)
        version = register_candidate(registry, session, submission)
        decision = registry.submit(session, submission.command(version))
        reason = registry.version(session, model, version).reason
        _record_run(session, submission, version, decision, started_at)
    return {
        "model": model,
        "version": version,
        "decision": decision,
        "reason": reason or submission.verdict.reason,
        "run_id": submission.run_id,
        "rows": candidate.trained_rows,
        "heldout": int(candidate.heldout.sum()),
        "metrics": submission.verdict.report["metrics"]["candidate"],
        "artifact": submission.artifact,
    }


def find_champion(registry: Registry, session: Session, model: str) -> tuple[VersionInfo | None, Champion | None]:
    """The registry's champion of a model, if it is registered and has one."""
    try:
        info = registry.champion(session, model)
    except NotFoundError:
        return None, None
    if info is None:
        return None, None
    return info, Champion.of(info, registry.specification(session, model, info.version))


def _archived_table(
    settings: Settings,
    session: Session,
    project: Project,
    info: VersionInfo | None,
    as_of_ms: int,
    *,
    keys: SubjectKeys,
) -> pd.DataFrame:
    """Table and archive of a model that is registered already."""
    if info is None:
        raise TrainingError(
            f"{project.spec.name} has no version yet, and no table was given",
            where=str(project.root),
            remedy="give one: driftline register DIR --data FILE",
        )
    artifacts = ArtifactStore.of(settings)
    sha = _registered_sha(info)
    registered = load_registered(artifacts, sha, keys) if sha is not None else None
    champion = Registry(session_factory(make_engine(settings.database)), artifacts).specification(
        session, info.model, info.version
    )
    wide = widened(project.spec, champion, None if registered is None else list(registered.columns))
    return training_table(session, settings.archive, wide, registered, as_of_ms=as_of_ms, keys=keys)


def _season_table(
    artifacts: ArtifactStore, path: Path | None, spec: Specification, info: VersionInfo | None, keys: SubjectKeys
) -> str | None:
    """SHA-256 of the table that the seasons are learnt from: the one given, else the champion's."""
    if path is None:
        return info.dataset.get("seasons") if info is not None else None
    table = read_table(path, spec)
    times = event_times_ms(table, spec)
    span_ms = int(times.max()) - int(times.min()) if len(times) else 0
    if span_ms < LEAST_SPAN_MS:
        raise TrainingError(
            f"the table spans {span_ms / 86_400_000:.0f} days, and seasons take a year",
            where=str(path),
            remedy="give rows of a whole year, or leave --seasons out",
        )
    return store_table(artifacts, table, spec, keys)


def _registered_sha(info: VersionInfo | None) -> str | None:
    return info.dataset.get("registered") if info is not None else None


def _last_event_ms(table: pd.DataFrame, spec: Specification) -> int:
    return int(event_times_ms(table, spec).max())


def _check_champion(registry: Registry, session: Session, model: str, champion: Champion | None) -> None:
    now = registry.champion(session, model)
    expected = champion.version if champion is not None else None
    found = now.version if now is not None else None
    if found != expected:
        raise ConflictError(
            f"version {found} became champion while this one was compared with "
            + (f"version {expected}" if expected is not None else "nothing"),
            where=f"model {model}",
            remedy="register again",
        )


def _record_run(session: Session, submission: Submission, version: int, decision: Any, started_at: datetime) -> None:
    """The run as `driftline runs` shows it, and its events; the registry's relay sends them."""
    model, run_id, at = submission.candidate.spec.name, submission.run_id, submission.at
    rows, reason = submission.candidate.trained_rows, submission.verdict.reason
    session.add(
        RunRow(
            run_id=run_id,
            request_id=run_id,
            model=model,
            trigger="registration",
            reason="registered by hand",
            requested_by=submission.actor,
            as_of_ms=round(at.timestamp() * 1000),
            status="finished",
            attempts=1,
            version=version,
            rows=rows,
            decision=decision,
            outcome=reason,
            report=submission.report,
            created_at=started_at,
            started_at=started_at,
            finished_at=datetime.now(UTC),
        )
    )
    started = RunStarted(
        event_id=derived_id(run_id, "started"),
        model=model,
        run_id=run_id,
        at=at,
        trigger="registration",
        reason="registered by hand",
    )
    finished = RunFinished(
        event_id=derived_id(run_id, "finished"),
        model=model,
        run_id=run_id,
        at=at,
        version=version,
        rows=rows,
        decision=decision,
        reason=reason,
        report=submission.report,
    )
    for event in (started, finished):
        enqueue(session, "registry", TRAINING_EVENTS, model, event, event.event_id, at)


def check_retention(kafka: KafkaConfig, spec: Specification) -> None:
    from streams.kafka.admin import check_retention

    check_retention(kafka, spec.max_label_delay_ms + spec.revision_horizon_ms + RETENTION_MARGIN_MS)
