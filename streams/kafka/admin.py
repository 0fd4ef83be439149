"""Topics: planning, creating and checking them; whether the broker answers at all."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.admin._resource import ResourceType
from confluent_kafka.cimpl import NewTopic

from schemas.errors import TopicError
from schemas.topics import CATALOGUE, Topic
from streams.kafka.config import KafkaConfig
from streams.kafka.errors import unreachable, words
from streams.kafka.offsets import OffsetClient

TIMEOUT_S = 15.0


class PlannedTopic(msgspec.Struct, frozen=True):
    """What `ensure_topics` would do to one topic."""

    name: str
    """Name on the broker, with prefix."""
    partitions: int
    settings: dict[str, str]
    action: Literal["create", "keep", "alter", "refuse"]
    reason: str = ""


def check_broker(config: KafkaConfig, timeout_s: float = 5.0) -> None:
    """Ask the broker for its metadata.

    Raises
    ------
    BrokerUnreachableError
        Nothing answers; names the address tried and both remedies.
    """
    try:
        _client(config).list_topics(timeout=timeout_s)
    except KafkaException as error:
        raise unreachable(config, error) from error


def describe_broker(config: KafkaConfig, timeout_s: float = 5.0) -> str:
    """Brokers and cluster id in a few words.

    Raises
    ------
    BrokerUnreachableError
    """
    try:
        cluster = _client(config).list_topics(timeout=timeout_s)
    except KafkaException as error:
        raise unreachable(config, error) from error
    count = len(cluster.brokers)
    return f"{count} broker{'s' if count != 1 else ''}, cluster {cluster.cluster_id}"


def cluster_id(config: KafkaConfig, timeout_s: float = 10.0) -> str:
    """Id of the cluster: no other one has it.

    Raises
    ------
    BrokerUnreachableError
    """
    try:
        found = _client(config).list_topics(timeout=timeout_s).cluster_id
    except KafkaException as error:
        raise unreachable(config, error) from error
    return str(found or "unknown")


def plan_topics(
    config: KafkaConfig, partitions: int, topics: Mapping[str, Topic] = CATALOGUE, *, timeout_s: float = TIMEOUT_S
) -> list[PlannedTopic]:
    """What `ensure_topics` would do, topic by topic, without doing it.

    Raises
    ------
    BrokerUnreachableError
    """
    admin = _client(config)
    existing = _partition_counts(admin, config, timeout_s)
    present = [topic for topic in topics.values() if config.topic(topic.name) in existing]
    current = _settings_of(admin, [config.topic(topic.name) for topic in present], timeout_s)
    plan = []
    for topic in topics.values():
        name, wanted = config.topic(topic.name), topic.partitions(partitions)
        settings = topic.settings()
        count = existing.get(name)
        if count is None:
            plan.append(PlannedTopic(name, wanted, settings, "create"))
            continue
        differing = {key: value for key, value in settings.items() if current[name].get(key) != value}
        if count != wanted:
            plan.append(PlannedTopic(name, count, settings, "refuse", f"has {count} partitions, should have {wanted}"))
        elif differing:
            changes = ", ".join(f"{key}: {current[name].get(key)} → {value}" for key, value in differing.items())
            plan.append(PlannedTopic(name, count, differing, "alter", changes))
        else:
            plan.append(PlannedTopic(name, count, settings, "keep"))
    return plan


def ensure_topics(
    config: KafkaConfig, partitions: int, topics: Mapping[str, Topic] = CATALOGUE, *, timeout_s: float = TIMEOUT_S
) -> list[str]:
    """Create the topics that are missing; returns their names on the broker.

    Settings of topics that exist are left as they are, so that an operator's retention stays; `plan_topics` shows them.

    Raises
    ------
    TopicError
        A topic has another partition count, or cannot be created.
    BrokerUnreachableError
    """
    admin = _client(config)
    existing = _partition_counts(admin, config, timeout_s)
    check_partition_counts(config, partitions, topics, existing)
    missing = [
        NewTopic(
            config.topic(topic.name),
            num_partitions=topic.partitions(partitions),
            replication_factor=-1,
            config=topic.settings(),
        )
        for topic in topics.values()
        if config.topic(topic.name) not in existing
    ]
    if not missing:
        return []
    created = []
    for name, future in admin.create_topics(missing, operation_timeout=timeout_s).items():
        try:
            future.result(timeout_s)
            created.append(name)
        except KafkaException as error:
            # Another process of ours creating the same topic at the same moment is no error.
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise TopicError(
                    f"could not be created: {words(error)}",
                    where=f"topic {name} on {config.bootstrap_servers}",
                    remedy="create it by hand as `driftline topics --plan` shows it, or permit CreateTopics",
                ) from error
    _await_leaders(config, admin, [topic.topic for topic in missing], timeout_s)
    return created


def _await_leaders(config: KafkaConfig, admin: AdminClient, names: list[str], timeout_s: float) -> None:
    """Wait until every partition has a leader: a create request returns before the broker itself knows of it."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            topics = admin.list_topics(timeout=timeout_s).topics
        except KafkaException as error:
            raise unreachable(config, error) from error
        unready = [
            name
            for name in names
            if (found := topics.get(name)) is None
            or found.error is not None
            or not found.partitions
            or any(partition.leader < 0 for partition in found.partitions.values())
        ]
        if not unready:
            return
        if time.monotonic() > deadline:
            raise TopicError(
                f"has no leader {timeout_s:.0f} s after it was created",
                where=f"topic {unready[0]} on {config.bootstrap_servers}",
                remedy="check the broker with `driftline doctor`",
            )
        time.sleep(0.02)


def check_partition_counts(
    config: KafkaConfig, partitions: int, topics: Mapping[str, Topic], existing: Mapping[str, int]
) -> None:
    """Refuse topics whose partition count is not the one state and keys were laid out for.

    Raises
    ------
    TopicError
    """
    for topic in topics.values():
        name, wanted = config.topic(topic.name), topic.partitions(partitions)
        count = existing.get(name, wanted)
        if count == wanted:
            continue
        if topic.scale == "traffic":
            remedy = (
                f"set DRIFTLINE_PARTITIONS={count} if that is what it was created with; to change the count, drain the "
                "agents and start over on new topics (another DRIFTLINE_PREFIX): keys would move to other partitions"
            )
        else:
            remedy = "delete the topic and start again: its order matters, so it has one partition"
        raise TopicError(
            f"has {count} partitions, should have {wanted}",
            where=f"topic {name} on {config.bootstrap_servers}",
            remedy=remedy,
        )


def partition_counts(config: KafkaConfig, *, timeout_s: float = TIMEOUT_S) -> dict[str, int]:
    """Partition count of every topic of this installation, by name without prefix.

    Raises
    ------
    BrokerUnreachableError
    """
    counts = _partition_counts(_client(config), config, timeout_s)
    return {config.without_prefix(name): n for name, n in counts.items() if name.startswith(config.prefix)}


def check_retention(
    config: KafkaConfig,
    needed_ms: int,
    topics: Iterable[str] = ("predictions", "ground-truth", "joined-deltas", "monitoring-journal"),
    *,
    timeout_s: float = TIMEOUT_S,
) -> None:
    """Refuse topics that forget records sooner than live state needs them.

    Parameters
    ----------
    needed_ms : int
        ``max_label_delay + revision_horizon + margin`` of the most demanding model.

    Raises
    ------
    TopicError
        Names topic, retention and the command that mends it.
    """
    names = [config.topic(name) for name in topics]
    for name, settings in _settings_of(_client(config), names, timeout_s).items():
        retention = int(settings.get("retention.ms", "-1"))
        size = int(settings.get("retention.bytes", "-1"))
        if 0 <= retention < needed_ms:
            raise TopicError(
                f"retention.ms is {retention}, needed is {needed_ms} (label delay + revision horizon + margin)",
                where=f"topic {name} on {config.bootstrap_servers}",
                remedy=f"kafka-configs.sh --bootstrap-server {config.bootstrap_servers} --alter --entity-type topics "
                f"--entity-name {name} --add-config retention.ms={needed_ms}",
            )
        if size >= 0:
            raise TopicError(
                f"retention.bytes is {size}: records could go before their labels come",
                where=f"topic {name} on {config.bootstrap_servers}",
                remedy=f"kafka-configs.sh --bootstrap-server {config.bootstrap_servers} --alter --entity-type topics "
                f"--entity-name {name} --delete-config retention.bytes",
            )


def end_offsets(
    config: KafkaConfig, topics: Iterable[str], *, timeout_s: float = TIMEOUT_S
) -> dict[tuple[str, int], int]:
    """Last stable offset of every partition of `topics` (names without prefix), keyed by (topic, partition).

    Raises
    ------
    TopicError
        A topic does not exist.
    BrokerUnreachableError
    """
    consumer = Consumer(config.consumer("driftline-offsets"))
    try:
        partitions = partitions_of(consumer, config, topics, timeout_s)
    finally:
        consumer.close()
    return OffsetClient(config).ends(partitions, timeout_s)


def partitions_of(
    consumer: Consumer, config: KafkaConfig, topics: Iterable[str], timeout_s: float = TIMEOUT_S
) -> list[tuple[str, int]]:
    """All (topic, partition) of `topics`, names without prefix.

    Raises
    ------
    TopicError
        A topic does not exist; names topic, broker and what to do.
    """
    try:
        known = consumer.list_topics(timeout=timeout_s).topics
    except KafkaException as error:
        raise unreachable(config, error) from error
    found = []
    for topic in topics:
        metadata = known.get(config.topic(topic))
        if metadata is None:
            raise missing_topic(config, topic)
        found += [(topic, partition) for partition in sorted(metadata.partitions)]
    return found


def missing_topic(config: KafkaConfig, topic: str) -> TopicError:
    """The one error for "topic is not there"."""
    return TopicError(
        "does not exist",
        where=f"topic {config.topic(topic)} on {config.bootstrap_servers}",
        remedy="create all topics with `driftline topics`, or check DRIFTLINE_PREFIX",
    )


def topic_ids(
    config: KafkaConfig, topics: Iterable[str] | None = None, *, timeout_s: float = TIMEOUT_S
) -> dict[str, str]:
    """Id of every existing topic of this installation, by name without prefix: a topic made anew has another.

    Raises
    ------
    BrokerUnreachableError
    """
    from confluent_kafka import TopicCollection

    admin = _client(config)
    existing = _partition_counts(admin, config, timeout_s)
    wanted = [config.topic(name) for name in (CATALOGUE if topics is None else topics)]
    names = [name for name in wanted if name in existing]
    if not names:
        return {}
    futures = admin.describe_topics(TopicCollection(names), request_timeout=timeout_s)
    return {config.without_prefix(name): str(future.result(timeout_s).topic_id) for name, future in futures.items()}


def delete_topics(
    config: KafkaConfig, topics: Iterable[str] | None = None, *, timeout_s: float = TIMEOUT_S
) -> list[str]:
    """Delete the installation's topics (tests and a demo that starts over); returns the names deleted.

    Raises
    ------
    BrokerUnreachableError
    """
    admin = _client(config)
    existing = _partition_counts(admin, config, timeout_s)
    wanted = {config.topic(name) for name in (CATALOGUE if topics is None else topics)}
    names = sorted(wanted & set(existing))
    if names:
        for future in admin.delete_topics(names, operation_timeout=timeout_s).values():
            future.result(timeout_s)
    return names


def _client(config: KafkaConfig) -> AdminClient:
    return AdminClient(config.common())


def _partition_counts(admin: AdminClient, config: KafkaConfig, timeout_s: float) -> dict[str, int]:
    try:
        topics = admin.list_topics(timeout=timeout_s).topics
    except KafkaException as error:
        raise unreachable(config, error) from error
    return {name: len(metadata.partitions) for name, metadata in topics.items() if metadata.error is None}


def _settings_of(admin: AdminClient, names: list[str], timeout_s: float) -> dict[str, dict[str, str]]:
    if not names:
        return {}
    resources = [ConfigResource(ResourceType.TOPIC, name) for name in names]
    futures = admin.describe_configs(resources, request_timeout=timeout_s)
    try:
        return {
            resource.name: {key: entry.value for key, entry in future.result(timeout_s).items()}
            for resource, future in futures.items()
        }
    except KafkaException as error:
        raise TopicError(f"settings cannot be read: {words(error)}", where=", ".join(names)) from error
