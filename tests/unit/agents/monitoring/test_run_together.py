"""The two processors of a monitoring worker: ready together, ended together."""

from __future__ import annotations

import threading
from typing import Any, cast

import pytest

from agents.monitoring.agent import run_together
from schemas.errors import BrokerError
from tests.support.wait import eventually


class Processor:
    """Runs until it is halted, or told to fail."""

    def __init__(self) -> None:
        self.has_share = False
        self.asked = 0
        self.fails = threading.Event()
        self.runs = threading.Event()

    @property
    def ready(self) -> bool:
        self.asked += 1
        return self.has_share

    def run(self, halt: threading.Event) -> None:
        self.runs.set()
        while not halt.wait(0.005):
            if self.fails.is_set():
                raise BrokerError("made up")


@pytest.mark.parametrize("failing", [None, 0, 1])
def test_ready_when_both_have_their_share_and_over_when_one_ends(failing: int | None) -> None:
    processors, stop, said = [Processor(), Processor()], threading.Event(), []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            run_together(cast(Any, processors), stop, on_ready=lambda: said.append(True))
        except BrokerError as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    for processor in processors:
        assert processor.runs.wait(10)
    first, second = processors
    first.has_share = True
    asked = first.asked
    eventually(lambda: first.asked > asked + 2)
    assert not said, "one of them has no share yet"
    second.has_share = True
    eventually(lambda: said)
    if failing is None:
        stop.set()
    else:
        processors[failing].fails.set()
    thread.join(10)
    assert not thread.is_alive()
    assert said == [True]
    assert len(errors) == (failing is not None)
