"""Entries beyond the memory allowed: read back when they are needed, forgotten in time, and their log kept short."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from schemas.errors import StateError
from streams.join.batch import JoinLimits
from tests.support.joins import View, Worker, implementation
from tests.support.plans import plan, prediction

VIEW = View({("m", 1): plan(windows=("50ms",), delay="100ms", horizon="200ms")})
LIMITS = JoinLimits(grace_ms=0, future_tolerance_ms=1_000)


def worker(name: str) -> Worker:
    return Worker(VIEW, LIMITS, 0, implementation(name))


def test_memory_and_log_stay_small_while_everything_moves() -> None:
    cold, hot = worker("cold"), worker("native")
    longest = 0
    for moment in range(0, 2_000, 10):
        for run in (cold, hot):
            for n in range(6):
                run.predict(prediction(f"{moment}-{n}", moment))
            for n in range(4):
                # Of long ago: it is not in memory any more.
                run.label(f"{moment - 60}-{n}", moment)
                run.label(f"{moment - 60}-{n}", moment)
            run.step(aborts=moment % 30 == 0)
        tail, head, in_memory = cold.join._log()  # type: ignore[attr-defined]
        live = len(cold.join)
        assert in_memory <= 25 < live or moment < 200
        # 2.5 records an entry, what begins cleaning, and what one commit may leave for the next.
        assert head - tail <= 2.5 * live + 4 + 2 * 24 + 8
        longest = max(longest, head - tail)
    assert longest < 600 < 1_500 < head
    assert cold.total == hot.total
    assert cold.total["labels.matched"] == cold.total["labels.duplicate"] > 700
    assert cold.total["expired"] > 300
    assert cold.merged == hot.merged
    assert cold.join.digest() == hot.join.digest()
    assert cold.join.folder.reads > 700  # type: ignore[attr-defined]


def test_a_batch_reads_once_what_it_needs() -> None:
    cold = worker("cold")
    asked: list[int] = []
    for n in range(100):
        cold.predict(prediction(f"{n}", 10))
    cold.step()
    folder = cold.join.folder  # type: ignore[attr-defined]
    many = folder.many

    def counted(keys: Sequence[bytes]) -> Sequence[bytes | None]:
        asked.append(len(keys))
        assert list(keys) == sorted(set(keys))
        return many(keys)  # type: ignore[no-any-return]

    folder.many = counted
    for n in range(40):
        cold.label(f"{n}", 20)
    cold.step()
    assert cold.total["labels.matched"] == 40
    assert len(asked) == 1, asked
    assert 15 <= asked[0] <= 20, "two records a chunk"


@pytest.mark.parametrize("error", [None, OSError("the disk is gone")])
def test_a_log_that_cannot_be_read_is_an_error(error: OSError | None) -> None:
    cold = worker("cold")
    for n in range(100):
        cold.predict(prediction(f"{n}", 10))
    cold.step()
    folder = cold.join.folder  # type: ignore[attr-defined]

    def many(keys: Sequence[bytes]) -> Sequence[bytes | None]:
        if error is not None:
            raise error
        return [None] * len(keys)

    folder.many = many
    cold.label("5", 20)
    with pytest.raises(OSError if error else StateError, match="disk is gone" if error else "lost records"):
        cold.step()
