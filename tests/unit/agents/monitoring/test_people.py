"""State forgets what only a key can tell when that key is gone: as if it had never been opened, on disk, too."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agents.monitoring.join_state import Kept
from agents.monitoring.people import _LEAST_LOOKS, People
from agents.subjects.opening import Opened, opened_records
from agents.subjects.sealing import Rule, SubjectKey, sealed_prediction
from schemas.topics import PREDICTIONS
from streams.join.batch import JoinLimits
from streams.state.store import PartitionStore
from tests.support.joins import IMPLEMENTATIONS, View, Worker, implementation
from tests.support.plans import plan, prediction

OPEN = frozenset({"distance", "kind"})
VIEW = View(
    {
        ("m", version): plan(windows=("50ms",), delay="100ms", horizon="200ms", segments=("origin", "kind"))
        for version in (1, 2)
    }
)
LIMITS = JoinLimits(grace_ms=20, future_tolerance_ms=1_000, targets=4)
KEYS = {name: SubjectKey(name.encode() * 4, bytes(range(64))) for name in ("ann", "bob")}
SECRET = "Elm Street 7"


class Ring:
    """Keys in memory."""

    def __init__(self, *names: str) -> None:
        self.keys = {KEYS[name].id: KEYS[name] for name in names}

    def of_ids(self, ids: Iterable[bytes]) -> dict[bytes, SubjectKey | None]:
        return {id: self.keys.get(id) for id in ids}

    def gone(self, ids: Iterable[bytes]) -> set[bytes]:
        return {id for id in ids if id not in self.keys}


class Following(Worker):
    """A worker that opens what it reads, and keeps a folder."""

    ring = Ring("ann", "bob")
    told: list[Opened]

    def slice(self, *arguments: Any, **more: Any) -> Any:
        batch = super().slice(*arguments, **more)
        self.told = []
        opened = opened_records(self.ring, batch.records[PREDICTIONS], {}, self.told)  # type: ignore[arg-type]
        batch.records[PREDICTIONS] = opened
        return batch

    def rebuilt(self, *views: View) -> Any:
        sealed = self.log[PREDICTIONS]
        self.log[PREDICTIONS] = list(opened_records(self.ring, sealed, {}))  # type: ignore[arg-type]
        try:
            return super().rebuilt(*views)
        finally:
            self.log[PREDICTIONS] = sealed

    def write(self, who: str, key: str, at_ms: int, version: int = 1) -> None:
        made = prediction(key, at_ms, who=who, origin=SECRET if who == "ann" else "JFK", kind="c")
        made = msgspec.structs.replace(made, version=version)
        self.predict(sealed_prediction(made, Rule("who", OPEN), KEYS[who], PREDICTIONS))


def filled(worker: Following, kept: Kept | None = None) -> None:
    """Two people's predictions in every state that there is: pending, labelled, corrected, of two versions, expired."""

    def batch() -> None:
        changes: list[Any] = []
        if kept is not None:
            commit = worker.join.commit

            def keep() -> None:
                changes.append(worker.join.changes())
                commit()

            worker.join.commit = keep  # type: ignore[method-assign]
        worker.step()
        if kept is not None:
            worker.join.commit = commit  # type: ignore[method-assign]
            kept.checkpoint(changes[0], worker.at, (worker.told, 300))

    worker.label("ann-6", 60)
    for who in ("ann", "bob"):
        for n in range(7):
            worker.write(who, f"{who}-{n}", 40 + n)
    batch()
    for who in ("ann", "bob"):
        worker.label(f"{who}-1", 60)
        worker.label(f"{who}-2", 60)
        worker.write(who, f"{who}-3", 43, version=2)
        worker.write(who, f"{who}-0", 40)  # again
    batch()
    for who in ("ann", "bob"):
        worker.label(f"{who}-2", 61, 0, revision=1)
    worker.beat(80)
    batch()


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_what_a_key_told_is_forgotten_with_it(name: str, tmp_path: Path) -> None:
    joins = implementation(name)
    worker, blind = (Following(VIEW, LIMITS, joins=joins) for _ in range(2))
    blind.ring = Ring("bob")
    store = PartitionStore(tmp_path / "0")
    worker.join.attach(store)
    kept = Kept(worker.join, store)
    filled(worker, kept)
    filled(blind)
    hashes = [worker.join.payload_of(one.plain) for one in _told(worker, "ann")]
    assert len(set(hashes)) == 8
    assert worker.join.digest() != blind.join.digest()
    store.flush()
    files = _files(tmp_path)
    assert all(hash in files for hash in hashes), "else this looks in the wrong places"
    merged, totals = worker.merged, worker.total

    assert kept.redact(1, worker.ring.gone, VIEW) == 0, "nobody is gone"
    ring = worker.ring = Ring("bob")
    assert kept.redact(2, ring.gone, VIEW) == 7
    assert worker.join.digest() == blind.join.digest()
    assert (worker.merged, worker.total) == (merged, totals), "what was counted stays counted"

    # What comes then counts as it does for whoever never had the key: overall, and in the open segment.
    worker.deltas.clear()
    blind.deltas.clear()
    for one in (worker, blind):
        one.label("ann-4", 62)
        one.label("ann-2", 62, 1, revision=2)
        one.label("bob-4", 62)
        one.write("ann", "ann-5", 45)  # sent again
        one.write("ann", "ann-9", 70)
    changes: list[Any] = []
    commit = worker.join.commit
    worker.join.commit = lambda: (changes.append(worker.join.changes()), commit())[1]  # type: ignore[method-assign]
    assert worker.step() == blind.step() == []
    kept.checkpoint(changes[0], worker.at, (worker.told, 300))
    assert worker.merged == blind.merged
    assert worker.join.digest() == blind.join.digest() == blind.rebuilt().digest()
    segments = {where[2] for where in worker.merged}
    assert segments == {"", "kind=c", "origin=JFK"}

    meta = store.meta("join")
    store.close()
    assert meta is not None
    files = _files(tmp_path)
    assert not [hash for hash in hashes if hash in files]
    store = PartitionStore(tmp_path / "0")
    assert list(People(worker.join, store).keys()) == [KEYS["bob"].id]
    again = joins.from_checkpoint(0, LIMITS, meta, store.items(), store)
    assert again.digest() == blind.join.digest()
    assert Kept(again, store).erasures == 2
    store.close()


def _told(worker: Following, who: str) -> list[Opened]:
    told: list[Opened] = []
    opened_records(Ring(who), worker.log[PREDICTIONS], {}, told)  # type: ignore[arg-type]
    return told


def _files(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_notes_go_when_their_entries_are_gone(name: str, tmp_path: Path) -> None:
    worker = Following(VIEW, LIMITS, joins=implementation(name))
    store = PartitionStore(tmp_path / "0")
    worker.join.attach(store)
    kept = Kept(worker.join, store)
    filled(worker, kept)
    assert sum(1 for _ in store.aside_from()) == 16
    assert list(People(worker.join, store).keys()) == [KEYS["ann"].id, KEYS["bob"].id]
    worker.beat(100_000)
    worker.step()
    assert len(worker.join) == 0
    for _ in range(16 // _LEAST_LOOKS + 1):
        store.write({}, aside=({}, kept.people.outdated(0)))
    assert list(store.aside_from()) == []
    assert list(kept.people.keys()) == []
    store.close()


def test_a_folder_that_knows_nobody_finds_nobody(tmp_path: Path) -> None:
    store = PartitionStore(tmp_path / "0")
    store.write({b"x": b"1"}, aside=({b"\xff" * 12 + b"h" * 8 + b"p": b"\x93"}, ()))
    people = People(implementation("simple")(0, LIMITS), store)
    assert list(people.keys()) == [b"\xff" * 12]
    assert [key for key, _ in store.items()] == [b"x"]
    store.close()
