"""`driftline register DIR --artifact FILE`: a model that was trained elsewhere, judged and served here."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from agents.access.logic import Principal
from agents.artifacts import MAX_MODEL_BYTES, ArtifactStore, check_in_child, load_model
from agents.config import Settings
from agents.database.engine import session_factory
from agents.database.migrate import migrated
from agents.onnx_check import is_onnx, require
from agents.registry.service import Registry
from agents.retraining.data import KIND, kept_bytes, manifest, recalled
from agents.retraining.environment import environment, installed
from agents.retraining.importance import permutation_importances
from agents.retraining.register import check_retention, enter, find_champion
from agents.retraining.scoring import score
from agents.retraining.submission import Submission
from agents.retraining.table import read_table
from agents.retraining.threads import computing, limited_threads
from agents.retraining.trainer import Candidate, event_times_ms
from agents.retraining.validation import validate
from agents.subjects import usage
from agents.subjects.keys import SubjectKeys
from agents.subjects.rows import ids_of
from schemas import specification
from schemas.codec import derived_id, encode, utc
from schemas.errors import ArtifactError, TrainingError
from schemas.inheritance import resolved_text
from streams.kafka.config import KafkaConfig


def register_given(
    settings: Settings,
    kafka: KafkaConfig | None,
    directory: Path,
    artifact: Path,
    data: Path | None,
    *,
    actor: str,
    by: Principal | None = None,
) -> dict[str, Any]:
    """Register a skops or ONNX file as a version of the model that ``driftline.toml`` in `directory` describes.

    Parameters
    ----------
    artifact : Path
        A skops or ONNX file; opened in a limited child process first.
    data : Path
        Labelled rows that the model has not seen: it is judged on all of them, and its reference is theirs.

    Returns
    -------
    dict
        As `register_project`.

    Raises
    ------
    SpecificationError, TrainingError, TopicError, ConflictError
    ArtifactError
        The file cannot be read, holds types (of ONNX: operators) that are not allowed, or does not predict
        these features.
    """
    started_at, started = datetime.now(UTC), time.monotonic()
    spec_text = resolved_text(directory / specification.FILE_NAME)
    spec = specification.parse(spec_text, file=str(directory / specification.FILE_NAME))
    if kafka is not None:
        check_retention(kafka, spec)
    if data is None:
        raise TrainingError(
            "a model from elsewhere is judged on labelled rows it has not seen, and none were given",
            where="driftline register --artifact",
            remedy="give them with --data FILE",
        )
    model_bytes = _read(artifact)
    onnx = is_onnx(model_bytes)
    if onnx:
        require(str(artifact))
    engine = migrated(settings.database)
    sessions = session_factory(engine, acts_for=by)
    artifacts = ArtifactStore.of(settings)
    registry = Registry(sessions, artifacts)
    with session_factory(engine, read_only=True)() as session:
        _, champion = find_champion(registry, session, spec.name)
    keys = SubjectKeys.of(settings)
    given = read_table(data, spec, also=champion.spec.features if champion is not None else {})
    kept = kept_bytes(given, spec, keys)
    table = recalled(kept, keys)
    sha, allowed = artifacts.put(model_bytes, "model"), spec.model.allowed_types
    check_in_child(artifacts, sha, features=spec.features, allowed=allowed)
    estimator = load_model(artifacts, sha, allowed)
    times = event_times_ms(table, spec)
    held = table[spec.data.label].notna().to_numpy(dtype=bool)
    if int(held.sum()) < 2:
        raise TrainingError("one labelled row is not enough", where=str(data))
    with limited_threads():
        rows = table[held].reset_index(drop=True)
        candidate = Candidate(
            spec=spec,
            estimator=estimator,
            model_bytes=model_bytes,
            table=table,
            heldout=np.asarray(held),
            scored=score(spec, estimator, rows[spec.columns()]),
            cutoff_ms=int(times.min()),
            importances=permutation_importances(spec, estimator, rows, seed=0),
            reused=(),
            project_checks=None,
        )
        compute = computing()
        _, verdict = validate(artifacts, candidate, champion)
        reference = artifacts.put(encode(candidate.reference()), "reference")
    run_id = derived_id("given", spec.name, sha, started_at.isoformat())
    submission = Submission(
        spec_text=spec_text,
        artifact=sha,
        reference=reference,
        code={"artifact": None, "tree": None, "commit": None},
        dataset=manifest(
            *(table, spec),
            registered=artifacts.put(kept, KIND),
            as_of_ms=None,
            subjects=usage.record(artifacts, ids_of(spec, keys, table)),
        ),
        environment=environment() | (installed("onnx", "onnxruntime") if onnx else {}),
        compute=compute,
        candidate=candidate,
        verdict=verdict,
        seed=0,
        champion=champion.version if champion is not None else None,
        run_id=run_id,
        actor=actor,
        at=utc(int(times.max())),
    )
    done = enter(registry, submission, champion, started_at)
    return done | {"seconds": round(time.monotonic() - started, 1)}


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_MODEL_BYTES:
            raise ArtifactError(f"larger than the {MAX_MODEL_BYTES} bytes that are accepted", where=str(path))
        return path.read_bytes()
    except OSError as error:
        raise ArtifactError(
            f"cannot be read: {error.strerror}", where=str(path), remedy="name a skops or ONNX file"
        ) from error
