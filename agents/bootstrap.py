"""The only place that wires parts: settings to a broker's address, a name to its agent."""

from __future__ import annotations

import importlib
import logging
import threading

from agents.config import Settings
from agents.prepare import migrate
from agents.runtime import AGENTS, clear_ready, configure_log, end_with_owner, stop_on_signals
from schemas.errors import BrokerUnreachableError, ConfigurationError, DriftlineError
from streams.kafka.config import KafkaConfig

REMEDY = "start the embedded broker with `driftline up`, or set KAFKA_BOOTSTRAP_SERVERS to the address of yours"

# The hot path rests on topics and artifacts alone.
_WITHOUT_DATABASE = frozenset({"serving", "monitoring"})

_log = logging.getLogger("driftline.agent")


def kafka_config(settings: Settings) -> KafkaConfig:
    """Where Kafka is: ``KAFKA_BOOTSTRAP_SERVERS``, else the embedded broker that runs in this home.

    Raises
    ------
    BrokerUnreachableError
        No address is set and no embedded broker runs; names both remedies.
    UnsafeSettingError
        PLAINTEXT off loopback without being asked for.
    """
    if settings.bootstrap_servers:
        settings.check_safety()
        return KafkaConfig(settings.bootstrap_servers, settings.kafka_properties, settings.prefix)
    from streams.kafka.embedded import find_broker

    state = find_broker(settings.home)
    if state is None:
        raise BrokerUnreachableError(
            f"KAFKA_BOOTSTRAP_SERVERS is not set and no embedded broker runs in {settings.home.resolve()}",
            where="Kafka",
            remedy=REMEDY,
        )
    return KafkaConfig(state.bootstrap_servers, prefix=settings.prefix)


def run_agent(name: str, settings: Settings, *, owner: int | None = None) -> None:
    """Run one agent in this process until SIGTERM, SIGINT or the owner's end.

    Parameters
    ----------
    name : str
        One of `agents.runtime.AGENTS`.
    owner : int, optional
        Process id of the supervisor: the agent ends when it does.

    Raises
    ------
    ConfigurationError
        No such agent.
    DriftlineError
        Whatever ended the agent.
    """
    if name not in AGENTS:
        raise ConfigurationError(f"no agent is called {name!r}", remedy=f"one of {', '.join(AGENTS)}")
    stop = stop_on_signals()
    if owner is not None:
        end_with_owner(owner, stop)
    configure_log(settings)
    clear_ready(settings, name)
    try:
        _run(name, settings, stop)
    except DriftlineError as error:
        _log.error("%s ended: %s", name, error)
        raise
    except Exception:
        _log.exception("%s ended", name)
        raise
    finally:
        clear_ready(settings, name)
    _log.info("%s stopped", name)


def _run(name: str, settings: Settings, stop: threading.Event) -> None:
    # Imported here, so that one agent does not load the libraries of all.
    module = importlib.import_module(f"agents.{name}.agent")
    _log.info("%s starts", name)
    kafka = kafka_config(settings)
    if name not in _WITHOUT_DATABASE:
        migrate(settings)
    module.run(settings, kafka, stop)
