"""A version that appears in predictions gets its number from the registry, and the batch counts it from its start."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, cast

import pytest

from agents.artifacts import ArtifactStore
from agents.monitoring import registry_view
from agents.monitoring.registry_view import RegistryView
from schemas.codec import decode, encode
from schemas.errors import BrokerError, StateError
from schemas.events import ModelState, ObserveVersion, VersionState
from schemas.topics import MOST_EXTERNAL_VERSIONS, REGISTRY_STATE
from streams.join.batch import VersionsMovedError
from streams.kafka.config import KafkaConfig
from streams.kafka.records import Record
from streams.reference import unlearnt_reference
from tests.support.plans import specification

SPEC = """
[model]
name = "w"
task = "binary"
[data]
id = "id"
event_time = "at"
label = "y"
max_label_delay = "3d"
[features]
distance = "numeric"
[metrics]
primary = "roc_auc"
"""


class Elsewhere:
    """The registry's topics: what is written to them, and a registry agent that answers, or does not."""

    def __init__(self, folder: Path) -> None:
        self.store = ArtifactStore(str(folder))
        self.spec = self.store.put(SPEC.encode(), "specification")
        self.reference = self.store.put(encode(unlearnt_reference(specification())), "reference")
        self.epoch = 0
        self.models: dict[str, tuple[bool, list[VersionState]]] = {}
        self.unread: list[Record] = []
        self.asked: list[ObserveVersion] = []
        self.answers = True
        self.late = 0

    def register(self, model: str, *, watched: bool = True) -> None:
        self.models[model] = (watched, [])
        self._publish(model)

    def number(self, model: str, external: str | None) -> int:
        self.epoch += 1
        versions = self.models[model][1]
        versions.append(
            VersionState(
                version=len(versions) + 1,
                stage="observed",
                artifact="",
                reference=self.reference,
                specification=self.spec,
                registered_epoch=self.epoch,
                external=external,
            )
        )
        self._publish(model)
        return len(versions)

    def _publish(self, model: str) -> None:
        watched, versions = self.models[model]
        state = ModelState(
            model=model,
            epoch=self.epoch,
            task="binary",
            champion=None,
            challenger=None,
            versions=list(versions),
            monitored=watched,
        )
        self.unread.append(Record(REGISTRY_STATE, 0, len(self.unread), model.encode(), encode(state), None, 0))

    # As `Tail` and `EventProducer`.

    def read_to_end(self, timeout_s: float) -> list[Record]:
        if self.asked and self.answers and self.late == 0:
            asked, self.asked = self.asked, []
            for command in asked:
                self.number(command.model, command.external)
        self.late = max(self.late - 1, 0)
        unread, self.unread = self.unread, []
        return unread

    def close(self) -> None: ...

    def __enter__(self) -> Elsewhere:
        return self

    def __exit__(self, *_: object) -> None: ...

    def send(self, topic: str, value: bytes, key: bytes, headers: object) -> None:
        self.asked.append(decode(value, ObserveVersion))


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Elsewhere:
    made = Elsewhere(tmp_path)
    monkeypatch.setattr(registry_view, "Tail", lambda *_, **__: made)
    monkeypatch.setattr(registry_view, "EventProducer", lambda *_, **__: made)
    monkeypatch.setattr(registry_view, "_LOOK_S", 0.001)
    return made


def _view(elsewhere: Elsewhere, stop: threading.Event | None = None) -> RegistryView:
    return RegistryView(cast("KafkaConfig", None), elsewhere.store, stop=stop)


def test_a_new_name_is_asked_for_once_and_the_batch_begins_anew(elsewhere: Elsewhere) -> None:
    elsewhere.register("w")
    elsewhere.late = 5
    registry = _view(elsewhere)
    batch = registry.for_batch()()
    assert batch.watched("w")
    with pytest.raises(VersionsMovedError):
        batch.numbers("w", "rc1", 5)
    assert elsewhere.asked == []  # answered
    again = registry.for_batch()()
    assert again.numbers("w", "rc1", 5) == [1]
    assert again.plan("w", 1) is not None
    # The registry as of before knows neither: that is how a rebuild comes to the same.
    assert registry.as_of(0).numbers("w", "rc1", 5) == []
    assert registry.as_of(0).plan("w", 1) is None


def test_numbers_hold_for_a_whole_batch(elsewhere: Elsewhere) -> None:
    elsewhere.register("w")
    elsewhere.number("w", "rc1")
    registry = _view(elsewhere)
    batch = registry.for_batch()()
    assert batch.numbers("w", "rc1", 5) == [1]
    elsewhere.number("w", "rc1")  # another reference
    assert batch.numbers("w", "rc1", 5) == [1]
    registry.refresh()  # the aggregation did
    assert batch.numbers("w", "rc1", 5) == [1]
    # An unknown model makes the batch look again: it cannot go on, for what it counted holds no longer.
    with pytest.raises(VersionsMovedError):
        batch.plan("unknown", 1)
    assert registry.for_batch()().numbers("w", "rc1", 5) == [1, 2]
    assert registry.as_of(1).numbers("w", "rc1", 5) == [1]


def test_what_is_not_watched_is_not_numbered(elsewhere: Elsewhere) -> None:
    elsewhere.register("m", watched=False)
    elsewhere.number("m", None)
    registry = _view(elsewhere)
    batch = registry.for_batch()()
    assert not batch.watched("m")
    assert not batch.watched("nobody")
    elsewhere.register("w")
    # Registered after this batch looked: its predictions are skipped to its end.
    assert not batch.watched("w")
    assert registry.for_batch()().watched("w")


def test_a_model_with_too_many_versions_gets_no_more(elsewhere: Elsewhere) -> None:
    elsewhere.register("w")
    registry = _view(elsewhere)
    for version in range(MOST_EXTERNAL_VERSIONS):
        elsewhere.number("w", f"v{version}")
        elsewhere.unread = elsewhere.unread[-1:]
    registry.refresh()
    batch = registry.for_batch()()
    assert batch.numbers("w", "one more", 5) == []
    assert batch.numbers("w", "v17", 5) == [18]
    assert elsewhere.asked == []


@pytest.mark.parametrize("stopped", [True, False])
def test_without_an_answer_the_batch_comes_again(
    elsewhere: Elsewhere, stopped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry_view, "NUMBER_WAIT_S", 0.02)
    elsewhere.register("w")
    elsewhere.answers = False
    stop = threading.Event()
    registry = _view(elsewhere, stop)
    if stopped:
        stop.set()
    expected: Any = BrokerError if stopped else StateError
    with pytest.raises(expected, match="rc1"):
        registry.for_batch()().numbers("w", "rc1", 5)
    assert len(elsewhere.asked) == 1
