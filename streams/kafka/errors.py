"""librdkafka's errors in Driftline's words."""

from __future__ import annotations

from confluent_kafka import KafkaError, KafkaException

from schemas.errors import BrokerError, BrokerUnreachableError
from streams.kafka.config import KafkaConfig


def unreachable(config: KafkaConfig, error: BaseException | str) -> BrokerUnreachableError:
    """The one error for "no broker there", with both remedies."""
    return BrokerUnreachableError(
        f"no Kafka broker answers at {config.bootstrap_servers} ({words(error)})",
        where="KAFKA_BOOTSTRAP_SERVERS",
        remedy="start the embedded broker with `driftline up`, or set KAFKA_BOOTSTRAP_SERVERS to the address of yours",
    )


def broker_error(config: KafkaConfig, error: KafkaException) -> BrokerError:
    """What librdkafka raised, as one of ours."""
    code = error.args[0].code()
    if code in (KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._TIMED_OUT):
        return unreachable(config, error)
    return BrokerError(words(error), where=config.bootstrap_servers)


def words(error: BaseException | str) -> str:
    if isinstance(error, KafkaException) and error.args and hasattr(error.args[0], "str"):
        return str(error.args[0].str())
    return str(error)
