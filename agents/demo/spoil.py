"""The deliberately spoiled candidate: the same project, trained on shuffled labels. The gate has to refuse it."""

from __future__ import annotations

import shutil
from pathlib import Path

from agents.config import Settings
from agents.database.outbox import Sign
from schemas.codec import derived_id, encode, utc
from schemas.events import RetrainRequest
from schemas.topics import RETRAIN_REQUESTS
from streams.kafka.producer import EventProducer

SHUFFLE = '''

_honest_train = train


def train(prepare, spec, seed):
    """Spoiled on purpose: labels are dealt out at random before the fit."""
    import numpy as np

    spoiled = prepare.copy()
    spoiled[spec.data.label] = np.random.default_rng(seed).permutation(spoiled[spec.data.label].to_numpy())
    return _honest_train(spoiled, spec, seed)
'''


def submit_spoiled(
    settings: Settings, project: Path, model: str, as_of_ms: int, *, producer: EventProducer, sign: Sign
) -> str:
    """Ask for a run of the spoiled project; returns the request id. `sign` makes the agents believe it."""
    from agents.artifacts import ArtifactStore
    from agents.retraining.packing import pack_project

    folder = settings.home / "spoiled-project"
    shutil.copytree(project, folder, dirs_exist_ok=True)
    pipeline = folder / "pipeline.py"
    pipeline.write_text(pipeline.read_text(encoding="utf-8") + SHUFFLE, encoding="utf-8")
    request = RetrainRequest(
        request_id=derived_id("spoiled", model, as_of_ms),
        model=model,
        trigger="manual",
        reason="spoiled on purpose: labels shuffled",
        as_of=utc(as_of_ms),
        requested_by="demo",
        project=pack_project(ArtifactStore.of(settings), folder),
    )
    value, key = encode(request), model.encode()
    producer.send(RETRAIN_REQUESTS, value, key, sign(key, value))
    producer.flush(30.0)
    return request.request_id
