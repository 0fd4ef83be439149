"""One run, executed by a worker: data, training, gate, and one transaction that registers the candidate.

Notes
-----
What is wrong with project or data fails the run at once; trying again would not help. Everything else (a database that
does not answer, memory that runs out, a lease that was lost) ends the process, and the agent tries the run again.
"""

from __future__ import annotations

import logging
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.archiving.dataset import reached
from agents.artifacts import ArtifactStore
from agents.config import Settings
from agents.database.engine import Sessions, make_engine, session_factory
from agents.database.outbox import enqueue
from agents.registry.service import Registry
from agents.retraining import jobs
from agents.retraining.choice import EVERYTHING, Choice, Span, choose
from agents.retraining.data import load_registered, manifest, packed, training_table, unpacked, widened
from agents.retraining.learning import learn
from agents.retraining.lock import record
from agents.retraining.logic import REFERENCE, too_few
from agents.retraining.packing import restore_project
from agents.retraining.project import Project
from agents.retraining.register import find_champion
from agents.retraining.step_cache import Store, step_cache
from agents.retraining.submission import Submission, register_candidate
from agents.retraining.threads import computing, limited_threads
from agents.retraining.trainer import train
from agents.retraining.validation import Champion, validate
from agents.subjects import usage
from agents.subjects.keys import SubjectKeys
from agents.subjects.rows import ids_of
from schemas.codec import encode, utc
from schemas.errors import ArtifactError, ConfigurationError, ConflictError, DriftlineError, TrainingError
from schemas.specification import AUTO
from schemas.topics import REGISTRY_COMMANDS

if TYPE_CHECKING:
    import pandas as pd
    from sqlalchemy.orm import Session

    from agents.retraining.tables import RunRow

FATAL = (ConfigurationError, TrainingError, ArtifactError)
"""Errors that another attempt cannot mend."""
log = logging.getLogger("driftline.retraining")


class _Skipped(Exception):
    """The run ends before it trains."""


def execute_run(settings: Settings, run_id: str, owner: str) -> None:
    """Execute a leased run to its end.

    Raises
    ------
    ConflictError
        The lease was lost, or another version became champion meanwhile.
    DriftlineError
        Something that another attempt may find mended.
    """
    engine = make_engine(settings.database)
    sessions = session_factory(engine)
    try:
        with session_factory(engine, read_only=True)() as session:
            trigger = jobs.held(session, run_id, owner).trigger
        if trigger == REFERENCE:
            learn(settings, sessions, run_id, owner)
            return
        _execute(settings, sessions, run_id, owner)
    except _Skipped as reason:
        with sessions.begin() as session:
            jobs.skip(session, run_id, owner, str(reason))
    except FATAL as error:
        log.warning("run %s failed: %s", run_id, error)
        with sessions.begin() as session:
            jobs.fail(session, run_id, owner, _told(error))
    finally:
        engine.dispose()


@dataclass(frozen=True)
class _Inputs:
    """What a run starts from; `registered` is the hash of the table given at registration."""

    project: Project
    code: dict[str, Any]
    table: pd.DataFrame
    registered: str | None
    seasons: str | None
    champion: Champion
    seed: int
    as_of_ms: int
    reached: dict[str, dict[str, int]]
    change_ms: int | None
    requested_by: str


def _execute(settings: Settings, sessions: Sessions, run_id: str, owner: str) -> None:
    started = time.monotonic()
    artifacts = ArtifactStore.of(settings)
    registry = Registry(sessions, artifacts)
    keys = SubjectKeys.of(settings)
    with tempfile.TemporaryDirectory(prefix="driftline-run-") as folder:
        with session_factory(sessions.kw["bind"], read_only=True)() as session:
            inputs = _inputs(settings, registry, session, jobs.held(session, run_id, owner), Path(folder), keys=keys)
        spec = inputs.project.spec
        if (why := too_few(int(inputs.table[spec.data.label].notna().sum()), spec)) is not None:
            raise _Skipped(why)
        with sessions.begin() as session:
            jobs.started(session, run_id, owner)
        cache = step_cache(settings, spec)
        with limited_threads():
            choice = _choose(inputs, cache, started + settings.training_timeout_ms / 2000)
            # As a rebuild will have it: the same values in the same layout, so that the sums are the same too.
            table = unpacked(packed(choice.rows(inputs.table, spec)))
            candidate = train(
                *(inputs.project, table),
                where="training table",
                seed=inputs.seed,
                cache=cache,
                holdout_from_ms=choice.holdout_from_ms,
            )
            compute = computing()
            artifact, verdict = validate(artifacts, candidate, inputs.champion, seed=inputs.seed)
            # The rows to learn from may be few; what the seasons are is learnt from all there are.
            history = inputs.table if inputs.seasons is None else load_registered(artifacts, inputs.seasons, keys)
            reference = artifacts.put(encode(candidate.reference(history)), "reference")
    submission = Submission(
        spec_text=inputs.project.spec_text,
        artifact=artifact,
        reference=reference,
        code=inputs.code,
        dataset=manifest(
            *(table, spec),
            registered=inputs.registered,
            as_of_ms=inputs.as_of_ms,
            seasons=inputs.seasons,
            reached=inputs.reached,
            subjects=usage.record(artifacts, ids_of(spec, keys, table, history)),
        ),
        environment=record(artifacts, inputs.project.files),
        compute=compute,
        candidate=candidate,
        verdict=verdict,
        choice=choice.report or None,
        seed=inputs.seed,
        champion=inputs.champion.version,
        run_id=run_id,
        actor=inputs.requested_by,
        at=utc(inputs.as_of_ms),
    )
    _submit(sessions, registry, submission, run_id, owner)


def _inputs(
    settings: Settings, registry: Registry, session: Session, run: RunRow, folder: Path, *, keys: SubjectKeys
) -> _Inputs:
    info, champion = find_champion(registry, session, run.model)
    if info is None or champion is None:
        raise ConflictError("the model has no champion any more", where=f"model {run.model}")
    code = run.project or info.code.get("artifact")
    if code is None:
        raise TrainingError(
            f"version {info.version} was trained elsewhere: there is no project to train a successor with",
            where=f"model {run.model}",
            remedy="`driftline retrain MODEL --project DIR`, or register the next one with --artifact",
        )
    project = restore_project(registry.artifacts, code, folder)
    if project.spec.name != run.model:
        raise TrainingError(f"the project is of model {project.spec.name!r}, the run of {run.model!r}")
    sha = info.dataset.get("registered")
    registered = load_registered(registry.artifacts, sha, keys) if sha is not None else None
    wide = widened(project.spec, champion.spec, None if registered is None else list(registered.columns))
    git: dict[str, Any] = {"commit": None}
    if run.project is None:
        git = {name: info.code[name] for name in ("commit", "diff") if name in info.code}
    return _Inputs(
        project=project,
        code={"artifact": code, "tree": project.tree_hash, **git},
        table=training_table(session, settings.archive, wide, registered, as_of_ms=run.as_of_ms, keys=keys),
        registered=sha,
        seasons=info.dataset.get("seasons"),
        champion=champion,
        seed=info.seed,
        as_of_ms=run.as_of_ms,
        reached=reached(session),
        change_ms=run.change_ms,
        requested_by=run.requested_by,
    )


def _choose(inputs: _Inputs, cache: Store, deadline: float) -> Choice:
    """The rows to learn from: all that were read, or what validation chooses among them."""
    if inputs.project.spec.retraining.training_window != AUTO:
        return Choice(Span(EVERYTHING))
    return choose(
        inputs.project,
        inputs.table,
        change_ms=inputs.change_ms,
        seed=inputs.seed,
        cache=cache,
        may_go_on=lambda: time.monotonic() < deadline,
    )


def _submit(sessions: Sessions, registry: Registry, submission: Submission, run_id: str, owner: str) -> None:
    """Register the candidate and ask the registry to decide: all of it, or nothing."""
    candidate = submission.candidate
    model = candidate.spec.name
    with sessions.begin() as session:
        jobs.held(session, run_id, owner)
        champion = registry.champion(session, model)
        if champion is None or champion.version != submission.champion:
            raise ConflictError(
                f"the candidate was compared with version {submission.champion}, which is not champion any more",
                where=f"model {model}",
            )
        version = register_candidate(registry, session, submission)
        command = submission.command(version)
        enqueue(session, jobs.AGENT, REGISTRY_COMMANDS, model, command, command.command_id, datetime.now(UTC))
        jobs.submitted(
            session,
            run_id,
            owner,
            version=version,
            rows=candidate.trained_rows,
            reason=submission.verdict.reason,
            report=submission.report,
        )
    log.info("run %s: version %d of %s submitted: %s", run_id, version, model, submission.verdict.reason)


def _told(error: DriftlineError) -> str:
    """An error as the reason of a run: without paths of this machine's temporary folders."""
    where = Path(error.where).name if error.where.startswith("/") else error.where
    return f"{where}: {error.what}" if where else error.what
