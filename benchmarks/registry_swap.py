"""From a decision to the first answer by the version it chose: the real registry and serving agents, under load.

Candidates are staged before they are decided on, as always: approval is a switch. The time begins before the decision's
transaction does and ends when a consumer of committed records has the first prediction by the new version. It holds the
database's commit, the outbox, the registry's topics, the swap between two batches, and the batch's transaction.
Requests come steadily. Each cycle promotes a new candidate and rolls it back.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from agents.access.logic import local_principal
from agents.artifacts import ArtifactStore
from agents.config import Settings
from agents.database.engine import make_engine, session_factory
from agents.database.migrate import upgrade
from agents.gateway.decisions import RegistryDecisions
from agents.registry.service import Registry
from agents.runtime import is_ready
from agents.skops_file import dump_model
from benchmarks.installation import prepare
from benchmarks.processes import Child
from schemas.codec import decode, encode
from schemas.events import AnyServingEvent, CandidateStaged, InferenceRequest, Prediction, SubmitCandidate
from schemas.topics import INFERENCE_REQUESTS, PREDICTIONS, SERVING_EVENTS
from streams.kafka.config import KafkaConfig
from streams.kafka.embedded import EmbeddedKafka
from streams.kafka.producer import EventProducer
from streams.kafka.reader import Tail

MODEL: Final = "swapped"
PAUSE_S: Final = 0.01
LONGEST_S: Final = 120.0
_BY = local_principal("bench")

SPECIFICATION: Final = f"""
[model]
name = "{MODEL}"
task = "binary"
[data]
id = "id"
event_time = "t"
label = "y"
max_label_delay = "1d"
[features]
x = "numeric"
[metrics]
primary = "roc_auc"
[approval]
mode = "manual"
"""


def swaps(home: Path, times: int, note: Callable[[str], None]) -> dict[str, list[float]]:
    """Seconds until the first answer, of `times` promotions and as many roll-backs."""
    taken: dict[str, list[float]] = {"promotion": [], "roll-back": []}
    with ExitStack() as stack:
        place = prepare(stack.enter_context(EmbeddedKafka(home)).start(), home, "swaps")
        engine = make_engine(place.settings.database)
        upgrade(engine)
        registry = Registry(session_factory(engine), ArtifactStore.of(place.settings))
        decisions = RegistryDecisions.of(place.settings)
        first = _candidate(registry, 0)
        decisions.approve(MODEL, first, by=_BY, actor="bench", comment="")
        agents = [stack.enter_context(_agent(name, place.settings)) for name in ("registry", "serving")]
        _until(lambda: all(_ready(name, child, place.settings) for name, child in zip(_NAMES, agents, strict=True)))
        watch = _Watch(place.kafka)
        stack.callback(watch.close)
        stack.enter_context(_load(place.kafka))
        watch.answered_by(first)
        for number in range(1, times + 1):
            made = _candidate(registry, number)
            watch.staged(made)
            began = time.monotonic()
            decisions.approve(MODEL, made, by=_BY, actor="bench", comment="")
            taken["promotion"].append(watch.answered_by(made) - began)
            began = time.monotonic()
            decisions.rollback(MODEL, None, by=_BY, actor="bench", reason="measured")
            taken["roll-back"].append(watch.answered_by(first) - began)
            for child in agents:
                child.check()
            if number % 10 == 0:
                note(f"registry: {number} of {times} promotions and roll-backs")
        engine.dispose()
    return taken


_NAMES = ("registry", "serving")


class _Watch:
    """Follows predictions and serving's events, committed ones only."""

    def __init__(self, kafka: KafkaConfig) -> None:
        self._tail = Tail(kafka, [PREDICTIONS], from_beginning=False, fetch_wait_ms=10)
        self._serving = Tail(kafka, [SERVING_EVENTS], from_beginning=True, fetch_wait_ms=10)
        self._staged: set[int] = set()

    def answered_by(self, version: int) -> float:
        """Wait for the first answer by `version`; when it was here."""
        deadline = time.monotonic() + LONGEST_S
        while time.monotonic() < deadline:
            for record in self._tail.poll(0.05):
                if decode(record.value or b"", Prediction).version == version:
                    return time.monotonic()
        raise TimeoutError(f"version {version} answered nothing within {LONGEST_S:g} s")

    def staged(self, version: int) -> None:
        """Wait until `version` is loaded and warm."""

        def there() -> bool:
            for record in self._serving.poll(0.05):
                event: AnyServingEvent = decode(record.value or b"", AnyServingEvent)  # type: ignore[arg-type]
                if isinstance(event, CandidateStaged):
                    self._staged.add(event.version)
            return version in self._staged

        _until(there)
        self._tail.poll(0.0)  # what came meanwhile is of before

    def close(self) -> None:
        self._tail.close()
        self._serving.close()


def _candidate(registry: Registry, number: int) -> int:
    """Register a version that waits for approval."""
    import pandas as pd
    from sklearn.dummy import DummyClassifier

    ones = 1 + number % 99
    model = DummyClassifier(strategy="prior").fit(pd.DataFrame({"x": [0.0] * 100}), [1] * ones + [0] * (100 - ones))
    artifact, reference = registry.artifacts.put(dump_model(model), "model"), registry.artifacts.put(b"{}", "reference")
    with registry.sessions.begin() as session:
        at = registry.now()
        registry.register_model(session, SPECIFICATION, "bench")
        made = registry.register_version(
            session,
            MODEL,
            artifact=artifact,
            reference=reference,
            specification_text=SPECIFICATION,
            code={},
            dataset={},
            environment={"python": "3.11"},
            parameters={},
            seed=number,
            parent=None,
            run_id=None,
            report={},
            actor="retraining",
            at=at,
        )
        command = SubmitCandidate(
            command_id=f"{made}",
            model=MODEL,
            actor="retraining",
            version=made,
            run_id="run",
            passed=True,
            reason="better",
            at=at,
        )
        registry.submit(session, command)
    return made


@contextmanager
def _load(kafka: KafkaConfig) -> Iterator[None]:
    """Requests, one each `PAUSE_S`."""
    done = threading.Event()

    def send() -> None:
        number = 0
        with EventProducer(kafka, linger_ms=0) as producer:
            while not done.wait(PAUSE_S):
                number += 1
                request = InferenceRequest(
                    request_id=f"r{number}",
                    model=MODEL,
                    event_time_ms=int(time.time() * 1000),
                    features={"x": 1.0},
                )
                producer.send(INFERENCE_REQUESTS, encode(request), f"r{number}".encode())

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _agent(name: str, settings: Settings) -> Child:
    return Child(
        [sys.executable, "-m", "agents.cli", "agent", name],
        settings.home / f"{name}.log",
        environment=settings.environment(),
    )


def _ready(name: str, child: Child, settings: Settings) -> bool:
    child.check()
    return is_ready(settings, name, child.pid)


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LONGEST_S
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError("nothing happened")
        time.sleep(0.005)
