"""The gateway agent: follows the topics in one thread, answers HTTP in another."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import uvicorn

from agents.access.acting import account
from agents.access.gate import Gate
from agents.config import Settings
from agents.database.engine import make_engine, session_factory
from agents.gateway.address import bind
from agents.gateway.app import create_app
from agents.gateway.context import Context
from agents.gateway.decisions import RegistryDecisions
from agents.gateway.feed import Feed
from agents.gateway.security import LOOPBACK
from agents.gateway.shared import SharedBoard
from agents.provenance.answers import Provenance
from agents.runtime import mark_ready, settle
from agents.subjects.erasure import Eraser
from streams.kafka.admin import check_broker
from streams.kafka.config import KafkaConfig

NAME = "gateway"
END_SECONDS = 2

log = logging.getLogger("driftline.gateway")


def run(settings: Settings, kafka: KafkaConfig, stop: threading.Event) -> None:
    """Serve the page until `stop`.

    Raises
    ------
    ConfigurationError
        The address cannot be bound.
    BrokerError
        The broker is gone for good.
    """
    board, closing = SharedBoard(), threading.Event()
    registry = RegistryDecisions.of(settings)

    def broker() -> str:
        check_broker(kafka, 2.0)
        return kafka.bootstrap_servers

    def database() -> str:
        return f"{registry.model_count()} models"

    checks = {"broker": broker, "database": database}
    who_may, eraser, provenance = gate_of(settings), Eraser.of(settings), Provenance.of(settings)
    context = Context(board, registry, closing, checks, settings.host, who_may, eraser, provenance)
    bound, address = bind(settings)
    config = uvicorn.Config(
        create_app(context),
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=END_SECONDS,
    )
    server = uvicorn.Server(config)
    failures: list[BaseException] = []
    works = {"feed": lambda: Feed(kafka, board).run(stop, settle), "http": lambda: server.run(sockets=[bound])}
    threads = [threading.Thread(target=_watched, args=(work, stop, failures), name=n) for n, work in works.items()]
    for thread in threads:
        thread.start()
    while not server.started and not stop.wait(0.02):
        pass
    if not stop.is_set():
        registry.warm_up()
        settle()
        log.info("the page is at %s", address)
        # That history is still being read is told by /readyz; it keeps nobody from starting.
        mark_ready(settings, NAME)
    stop.wait()
    closing.set()
    server.should_exit = True
    for thread in threads:
        thread.join(END_SECONDS + 3)
    if failures:
        raise failures[0]


def gate_of(settings: Settings) -> Gate:
    """The gate over the database of `settings`."""
    engine = make_engine(settings.database)
    return Gate(
        session_factory(engine),
        session_factory(engine, read_only=True),
        loopback=settings.host in LOOPBACK,
        account=account(),
    )


def _watched(work: Callable[[], None], stop: threading.Event, failures: list[BaseException]) -> None:
    """One thread's work: whatever ends it ends the agent, and the supervisor starts it again."""
    try:
        work()
    except BaseException as error:  # noqa: BLE001 - raised again in the main thread
        failures.append(error)
    finally:
        stop.set()
