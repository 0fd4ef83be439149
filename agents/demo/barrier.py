"""The day's barrier: nobody is behind, no run is open, what was promoted is served.

The order follows the data. Serving has to be done before heartbeats may say that the day is over on `predictions`; the
rest is asked again until two rounds in a row find nothing new, because an agent's output is another's input.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from agents.demo.world import WATCHED, Watcher
from schemas.codec import encode
from schemas.errors import DriftlineError
from schemas.events import Heartbeat
from schemas.topics import (
    ALERTS,
    DRIFT_METRICS,
    GROUND_TRUTH,
    INFERENCE_REQUESTS,
    JOINED_DELTAS,
    OBSERVATIONS,
    PREDICTIONS,
    QUALITY_METRICS,
    REGISTRY_COMMANDS,
    REGISTRY_EVENTS,
    RETRAIN_REQUESTS,
    SERVING_EVENTS,
    TRAINING_EVENTS,
)
from streams.kafka.config import KafkaConfig
from streams.kafka.lag import LagProbe
from streams.kafka.producer import EventProducer

STAGES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("monitoring-join", (PREDICTIONS, GROUND_TRUTH)),
    ("monitoring-aggregate", (JOINED_DELTAS,)),
    ("alerting", (OBSERVATIONS, TRAINING_EVENTS, REGISTRY_EVENTS, SERVING_EVENTS)),
    ("retraining", (RETRAIN_REQUESTS,)),
    ("registry", (REGISTRY_COMMANDS,)),
    ("notifying", (ALERTS,)),
    ("archiving", (PREDICTIONS, GROUND_TRUTH, QUALITY_METRICS, DRIFT_METRICS, ALERTS)),
)
POLL_S, LONGEST_POLL_S = 0.015, 0.2


class BarrierError(DriftlineError):
    """The loop did not come to rest in time."""


class Barrier:
    """Waits until the whole loop is at rest.

    Parameters
    ----------
    kafka : KafkaConfig
    watcher : Watcher
    pending_work : callable
        Number of open jobs and unpublished outbox rows in the database.
    on_wait : callable
        Called in every round, for the view.
    timeout_s : float
        Deadline of one barrier, training included.
    """

    def __init__(
        self,
        kafka: KafkaConfig,
        watcher: Watcher,
        pending_work: Callable[[], int],
        on_wait: Callable[[], None],
        timeout_s: float = 300.0,
    ) -> None:
        self._probe = LagProbe(kafka)
        self._watcher = watcher
        self._pending_work = pending_work
        self._on_wait = on_wait
        self._timeout_s = timeout_s
        self.lags: dict[str, int] = {}

    def _behind(self, group: str, topics: tuple[str, ...]) -> int:
        total = self._probe.gap(group, topics, self._watcher.last_records)
        self.lags[group] = total
        return total

    def wait_served(self, clock_ms: int) -> None:
        """Until every request of the day has been answered and committed."""
        self.until(lambda: self._behind("serving", (INFERENCE_REQUESTS,)) == 0, "serving", clock_ms)

    def heartbeat(self, producer: EventProducer, partitions: int, at_ms: int) -> None:
        """Say on every partition that the day is over."""
        for topic in (PREDICTIONS, GROUND_TRUTH):
            for partition in range(partitions):
                producer.send(
                    topic,
                    encode(Heartbeat(event_time_ms=at_ms)),
                    None,
                    headers=[("ce_type", b"Heartbeat"), ("content-type", b"application/json")],
                    partition=partition,
                )
        producer.flush(30.0)

    def wait_rest(self, clock_ms: int, *, awaiting_person: Callable[[], bool] = lambda: False) -> None:
        """Until two rounds in a row find no agent behind, no open run and no unserved promotion."""
        # First down the stream, each stage once: a stage that was waited for needs no more questions until the end.
        for group, topics in STAGES:
            self.until(
                lambda g=group, t=topics: self._caught_up(g, t, clock_ms),  # type: ignore[misc]
                group,
                clock_ms,
                patient=awaiting_person,
            )
        quiet = 0

        def rested() -> bool:
            nonlocal quiet
            quiet = quiet + 1 if self._at_rest(clock_ms) else 0
            return quiet >= 2

        self.until(rested, "the agents", clock_ms, patient=awaiting_person)

    def _caught_up(self, group: str, topics: tuple[str, ...], clock_ms: int) -> bool:
        # Watched topics are read to their end first, so that "behind the last record" can be told from markers.
        if any(topic in WATCHED for topic in topics):
            self._watcher.catch_up(clock_ms)
        return self._behind(group, topics) == 0

    def _at_rest(self, clock_ms: int) -> bool:
        self._watcher.catch_up(clock_ms)
        world = self._watcher.world
        if self._pending_work() or world.open_runs or world.champion != world.served:
            return False
        return all(self._caught_up(group, topics, clock_ms) for group, topics in STAGES)

    def until(
        self, done: Callable[[], bool], who: str, clock_ms: int, patient: Callable[[], bool] = lambda: False
    ) -> None:
        began = time.monotonic()
        deadline = began + self._timeout_s
        while not done():
            self._watcher.poll(clock_ms)
            self._on_wait()
            if patient():
                deadline = time.monotonic() + self._timeout_s
            if time.monotonic() > deadline:
                raise BarrierError(
                    f"{who} did not come to rest within {self._timeout_s:.0f} s; lag {self.lags}",
                    remedy="look into the logs folder of the demo's home for the agent that is behind",
                )
            # Asking takes the processor from those who are waited for: what takes long is asked seldom.
            time.sleep(min(max(POLL_S, (time.monotonic() - began) / 5), LONGEST_POLL_S))
