"""Calls side by side: results in order, and nothing left running after an error."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from agents.monitoring.lanes import Lanes


@pytest.mark.parametrize(("threads", "alone"), [(1, False), (3, False), (3, True)])
def test_results_come_in_the_order_of_the_calls(threads: int, alone: bool) -> None:
    lanes = Lanes(threads)
    try:
        assert lanes.run([lambda n=n: n * n for n in range(9)], alone=alone) == [n * n for n in range(9)]  # type: ignore[misc]
        assert lanes.run([]) == []
    finally:
        lanes.close()


def test_calls_run_at_the_same_time() -> None:
    lanes = Lanes(2)
    both = threading.Barrier(2, timeout=30)
    try:
        assert sorted(lanes.run([both.wait, both.wait])) == [0, 1]
    finally:
        lanes.close()


def test_one_thread_runs_in_the_callers() -> None:
    assert Lanes(1).run([threading.get_ident, threading.get_ident]) == [threading.get_ident()] * 2


def test_after_an_error_nothing_runs_and_what_succeeded_is_undone() -> None:
    lanes = Lanes(2)
    go = threading.Event()
    ended: list[str] = []
    undone: list[str] = []

    def fails() -> str:
        go.set()
        raise KeyError("first")

    def slow() -> str:
        assert go.wait(30)
        ended.append("slow")
        return "slow"

    calls: list[Callable[[], str]] = [fails, slow]
    try:
        with pytest.raises(KeyError, match="first"):
            lanes.run(calls, undo=undone.append)
        assert ended == undone == ["slow"]
    finally:
        lanes.close()


def test_in_turn_an_error_ends_it_and_undoes_what_was_done() -> None:
    undone: list[int] = []
    called: list[int] = []

    def call(number: int) -> int:
        called.append(number)
        if number == 1:
            raise KeyError(number)
        return number

    with pytest.raises(KeyError):
        Lanes(1).run([lambda n=n: call(n) for n in range(3)], undo=undone.append)  # type: ignore[misc]
    assert (called, undone) == ([0, 1], [0])
