"""One broker for all processes of the suite: every one of its own would cost a JVM's start and warming up again.

The process that hands out the tests owns it, since it lives longest; it starts the broker when the first test of any
worker asks for one.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path

from streams.kafka.embedded import START_SECONDS, EmbeddedKafka

_WANTED, _READY, _FAILED = "wanted", "ready", "failed"
_POLL_S = 0.05


class BrokerOwner:
    """Waits for a worker to ask; `stop` ends the broker, if there is one."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._broker = EmbeddedKafka(home)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()
        self._broker.stop()

    def _serve(self) -> None:
        while not (self.home / _WANTED).exists():
            if self._stopping.wait(_POLL_S):
                return
        try:
            self._broker.start()
        except Exception as error:
            (self.home / _FAILED).write_text(str(error))
        else:
            (self.home / _READY).touch()


def shared_broker(home: Path) -> EmbeddedKafka:
    """The broker of the `BrokerOwner` whose home this is; waits until it runs."""
    (home / _WANTED).touch()
    deadline = time.monotonic() + 2 * START_SECONDS
    while not (home / _READY).exists():
        failed = home / _FAILED
        assert not failed.exists(), failed.read_text()
        assert time.monotonic() < deadline, f"no broker in {home}"
        time.sleep(_POLL_S)
    return EmbeddedKafka(home)
