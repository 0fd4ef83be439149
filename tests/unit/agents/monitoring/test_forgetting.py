"""When state forgets: as soon as somebody was erased, once, and in folders that others work on now."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import pytest

from agents.monitoring.join_handler import JoinHandler
from agents.monitoring.join_state import Identity, JoinStates
from agents.monitoring.people import ERASURES
from agents.monitoring.registry_view import RegistryView
from schemas.errors import DatabaseUnavailableError
from streams.join.batch import JoinLimits
from streams.kafka.config import KafkaConfig
from streams.state.store import PartitionStore
from tests.unit.agents.monitoring.test_join_handler import PARTITIONS, Bench, Memory, _Kept, _records

KAFKA = KafkaConfig("localhost:1", {}, prefix="")


class Registry:
    private = True

    def __init__(self, erasures: int = 0) -> None:
        self.number = erasures

    def erasures(self) -> int:
        return self.number


def folders(home: Path, registry: Registry) -> JoinStates:
    limits, identity = JoinLimits(), Identity(PARTITIONS, {})
    return JoinStates(KAFKA, cast("RegistryView", registry), home, identity, limits)


def made(home: Path, name: str, erasures: int | None) -> None:
    store = PartitionStore(home / name)
    store.write({b"x": b"1"}, (), {} if erasures is None else {ERASURES: str(erasures).encode()})
    store.close()


def test_folders_that_others_work_on_go_where_they_know_somebody(tmp_path: Path) -> None:
    for name, erasures in (("0", 1), ("1", 2), ("2", 1), ("3", None)):
        made(tmp_path, name, erasures)
    folders(tmp_path, Registry()).forget([0], 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1"]
    folders(tmp_path / "none", Registry()).forget([], 2)


def test_a_folder_that_does_not_say_whom_it_knows_is_made_anew(tmp_path: Path) -> None:
    registry = Registry()
    states = folders(tmp_path, registry)
    for private, kept in ((False, True), (True, False)):
        registry.private = False
        opened = states.open(0, None)
        opened.store.write({}, aside=({b"note": b""}, ()))
        opened.store.flush()
        assert opened.erasures == -1
        opened.store.close()
        registry.private = private
        opened = states.open(0, None)
        assert bool(list(opened.store.aside_from())) is kept
        opened.store.close()


class _Forgetful(_Kept):
    erasures = 0

    def redact(self, erasures: int, gone: object, view: object) -> int:
        self.of.redacted.append((self.partition, erasures))  # type: ignore[attr-defined]
        self.erasures = erasures
        return 1


class Private(Memory):
    """As `Memory`, of people."""

    private = True
    needed_retention_ms = 1_000
    number = 0
    down = False

    def __init__(self) -> None:
        super().__init__()
        self.redacted: list[tuple[int, int]] = []
        self.forgotten: list[tuple[list[int], int]] = []

    def open(self, partition: int, last: object, share: int) -> Any:
        super().open(partition, last, share)
        return _Forgetful(partition, self)

    def opened(self, records: Any, originals: Any, told: Any) -> Any:
        return records

    def hidden(self, record: Any) -> Any:
        return record, True

    def erasures(self) -> int:
        if self.down:
            raise DatabaseUnavailableError("down", where="memory", remedy="wait")
        return self.number

    def gone(self, keys: Iterable[bytes]) -> set[bytes]:
        return set()

    def forget(self, held: Iterable[int], erasures: int) -> None:
        self.forgotten.append((sorted(held), erasures))


@pytest.fixture
def bench() -> Bench:
    found = Bench()
    found.memory = Private()
    found.handler = JoinHandler(cast("JoinStates", found.memory), cast("RegistryView", found.memory), PARTITIONS, 1)
    found.handler.restore([0, 2], {})
    return found


def test_an_erasure_is_noticed_once_and_without_traffic(bench: Bench) -> None:
    memory = cast("Private", bench.memory)
    bench.process()
    assert (memory.redacted, memory.forgotten) == ([], [([0, 2], 0)])
    memory.number, memory.down = 1, True
    bench.process()
    assert memory.redacted == [], "nothing is known while the database is down"
    memory.down = False
    for _ in range(2):
        bench.process()
    assert memory.redacted == [(0, 1), (2, 1)]
    assert memory.forgotten == [([0, 2], 0), ([0, 2], 1)]


def test_a_refused_prediction_is_passed_on_as_it_may_be(bench: Bench) -> None:
    letters = [output for output in bench.process(_records(0)) if output.value and b"sha256" in output.value]
    assert len(letters) == 1
