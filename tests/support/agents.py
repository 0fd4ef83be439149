"""Agents in threads of the test's process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import faust

from agents.config import Settings
from streams.kafka.config import KafkaConfig

# Faust loads its names at first use, which two threads must not do at once.
assert faust.App

Run = Callable[[Settings, KafkaConfig, threading.Event], object]


@contextmanager
def running(settings: Settings, kafka: KafkaConfig, failures: list[BaseException], *runs: Run) -> Iterator[None]:
    """Run agents until the block ends; what ends one of them goes to `failures`, the first of which is raised."""
    stop = threading.Event()

    def work(run: Run) -> None:
        try:
            run(settings, kafka, stop)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(run,)) for run in runs]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
    if failures:
        raise failures[0]
