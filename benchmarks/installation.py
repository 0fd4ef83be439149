"""An installation for one measurement on a shared broker: topics, settings and models under a prefix of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from agents.artifacts import ArtifactStore
from agents.config import Settings, load_settings
from benchmarks.bulk import Bulk
from benchmarks.traffic import CARRIERS, START_MS
from schemas.codec import encode
from schemas.events import ModelState, VersionState
from schemas.reference import ReferenceStatistics
from schemas.specification import parse
from schemas.topics import REGISTRY_STATE
from streams.kafka.admin import ensure_topics
from streams.kafka.config import KafkaConfig
from streams.kafka.producer import EventProducer
from streams.reference import compile_reference

PARTITIONS: Final = 4
COMMIT_INTERVAL_MS: Final = 200
DAY_MS: Final = 86_400_000
WHOLE: Final = "1d"
"""A window that holds all of a benchmark's event time: its provisional metric counts everything labelled so far."""

SPECIFICATION: Final = f"""
[model]
name = "NAME"
task = "binary"
[data]
id = "id"
event_time = "at"
label = "y"
max_label_delay = "1d"
segments = ["carrier"]
[features]
x = "numeric"
y = "numeric"
z = "numeric"
carrier = "categorical"
[metrics]
primary = "roc_auc"
watch = ["roc_auc", "brier", "accuracy"]
windows = ["10m", "{WHOLE}"]
"""
_ROWS: Final = 20_000


@dataclass(frozen=True)
class Installation:
    """Settings of a worker, and how to reach its topics."""

    settings: Settings
    kafka: KafkaConfig

    def slot(self, number: int) -> Settings:
        """Settings of one of several workers of this installation."""
        return self.settings.model_copy(update={"slot": str(number)})


def install(
    servers: str, home: Path, name: str, *, models: tuple[str, ...] = ("bench",), **settings: Any
) -> Installation:
    """Topics with the prefix `name`, a home folder below `home`, and registered models.

    Parameters
    ----------
    servers : str
    home : Path
    name : str
    models : tuple of str
        Each gets the same specification and reference: four features, one segment, drift on.
    **settings
        Over those that all benchmarks share.
    """
    place = prepare(servers, home, name, **settings)
    reference = _reference(models[0])
    announce(place, ((model, SPECIFICATION.replace("NAME", model), reference) for model in models))
    return place


def prepare(servers: str, home: Path, name: str, **settings: Any) -> Installation:
    """As `install`, without models."""
    found = load_settings(
        **{
            "home": home / name,
            "bootstrap_servers": servers,
            "partitions": PARTITIONS,
            "prefix": f"{name}-",
            "database_url": "",
            "artifacts_url": "",
            "archive_url": "",
            "commit_interval_ms": COMMIT_INTERVAL_MS,
            **settings,
        }
    )
    found.home.mkdir(parents=True)
    kafka = KafkaConfig(servers, prefix=found.prefix)
    ensure_topics(kafka, found.partitions)
    return Installation(found, kafka)


def announce(place: Installation, models: Iterable[tuple[str, str, ReferenceStatistics]]) -> None:
    """Put models onto `registry-state` as the registry would, without artifacts: name, specification, reference."""
    store = ArtifactStore.of(place.settings)
    with EventProducer(place.kafka) as producer:
        for epoch, (model, specification, reference) in enumerate(models, 1):
            version = VersionState(
                version=1,
                stage="promoted",
                artifact="",
                reference=store.put(encode(reference), "reference"),
                specification=store.put(specification.encode(), "specification"),
                registered_epoch=epoch,
            )
            state = ModelState(model=model, epoch=epoch, task="binary", champion=1, challenger=None, versions=[version])
            producer.send(REGISTRY_STATE, encode(state), model.encode())


def described(settings: Mapping[str, object] | None = None) -> dict[str, object]:
    """What all these benchmarks have in common, for the document."""
    return {
        "partitions": PARTITIONS,
        "commit_interval_ms": COMMIT_INTERVAL_MS,
        "prediction_bytes": len(Bulk(1).predictions(0, 1)[1][0]),
        "label_bytes": len(Bulk(1).labels(np.zeros(1, dtype=np.uint64))[1][0]),
        "features": 4,
        "segments": 1,
        "windows": ["10m", WHOLE],
        "compression": "lz4",
        **(settings or {}),
    }


def _reference(model: str) -> ReferenceStatistics:
    columns = Bulk(_ROWS, seed=99).columns(np.arange(_ROWS, dtype=np.uint64))
    scores = columns.score / 10_000
    return compile_reference(
        parse(SPECIFICATION.replace("NAME", model)),
        {
            **{name: columns.features[:, number] / 1_000 for number, name in enumerate("xyz")},
            "carrier": np.array(CARRIERS, dtype=object)[columns.carrier],
        },
        labels=columns.truth.astype(int),
        predictions=(scores >= 0.5).astype(int),
        scores=scores,
        event_time_ms=START_MS - 14 * DAY_MS + np.arange(_ROWS) * (14 * DAY_MS // _ROWS),
        heldout=np.ones(_ROWS, dtype=bool),
    )
