"""Small real models with their artifacts, and the registry's words about them."""

from __future__ import annotations

from agents.artifacts import ArtifactStore
from agents.skops_file import dump_model
from schemas.codec import encode
from schemas.events import ModelState, VersionState
from schemas.topics import REGISTRY_STATE
from streams.kafka.config import KafkaConfig
from streams.kafka.producer import EventProducer

SPECIFICATION = """
[model]
name = "coin"
task = "binary"
positive = 1
[data]
id = "id"
event_time = "at"
label = "y"
max_label_delay = "1d"
segments = ["origin"]
[features]
x = "numeric"
origin = "categorical"
[metrics]
primary = "roc_auc"
"""


def coin(share: float) -> bytes:
    """A model that gives every row the probability `share`: its answers tell which version made them."""
    import pandas as pd
    from sklearn.dummy import DummyClassifier

    ones = round(share * 100)
    frame = pd.DataFrame({"x": [0.0] * 100, "origin": ["a"] * 100})
    return dump_model(DummyClassifier(strategy="prior").fit(frame, [1] * ones + [0] * (100 - ones)))


def put_version(store: ArtifactStore, number: int, model: bytes, stage: str = "registered") -> VersionState:
    """Store a version's artifacts."""
    return VersionState(
        version=number,
        stage=stage,
        artifact=store.put(model, "model"),
        reference="",
        specification=store.put(SPECIFICATION.encode(), "specification"),
        registered_epoch=number,
    )


def say_state(kafka: KafkaConfig, epoch: int, champion: int | None, versions: list[VersionState]) -> None:
    """Publish the state of the model `coin`."""
    state = ModelState(model="coin", epoch=epoch, task="binary", champion=champion, challenger=None, versions=versions)
    with EventProducer(kafka) as producer:
        producer.send(REGISTRY_STATE, encode(state), b"coin")
