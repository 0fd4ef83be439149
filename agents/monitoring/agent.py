"""The monitoring agent: the join and the aggregation, two transactional processors in two threads of one process."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from agents.access.signatures import CommandSigner
from agents.artifacts import ArtifactStore
from agents.config import Settings
from agents.monitoring.aggregate_handler import AggregateHandler, AggregateOptions
from agents.monitoring.aggregate_snapshots import JournalSnapshots
from agents.monitoring.join_handler import GROUP as JOIN_GROUP
from agents.monitoring.join_handler import JoinHandler
from agents.monitoring.join_state import Identity, JoinStates
from agents.monitoring.registry_view import RegistryView
from agents.monitoring.slot import held_slot
from agents.runtime import mark_ready
from agents.subjects.keys import SubjectKeys
from schemas.topics import CATALOGUE, GROUND_TRUTH, JOINED_DELTAS, MONITORING_JOURNAL, PREDICTIONS, REGISTRY_STATE
from streams.join.batch import JoinLimits
from streams.join.partition import JoinPartition
from streams.kafka import admin
from streams.kafka.config import KafkaConfig
from streams.kafka.processor import BatchProcessor, ProcessorOptions
from streams.native.choice import aggregate_class, join_class
from streams.native.library import WHY_NOT

AGGREGATE_GROUP: Final = "monitoring-aggregate"
RETENTION_MARGIN_MS: Final = 86_400_000
AGGREGATE_QUEUE_KBYTES: Final = 16_384
"""With the join's 64 MB and 16 MB for each reader without a group, a worker fetches less than 128 MB ahead."""
_TRAFFIC: Final = (PREDICTIONS, GROUND_TRUTH, JOINED_DELTAS, MONITORING_JOURNAL)

_log = logging.getLogger("driftline.monitoring")


def run(settings: Settings, kafka: KafkaConfig, stop: threading.Event) -> None:
    """Monitor until `stop` is set.

    Raises
    ------
    ConfigurationError
        Another process of this home has the slot.
    TopicError
        Topics are missing, have differing partition counts, or forget too soon.
    StateError, RetentionPassedError
        State cannot be brought back: a person has to decide.
    BrokerError, FencedError
        The process must end; its supervisor starts another.

    Notes
    -----
    The two processors live and die together: when one ends, the other is stopped and its error is raised.
    """
    with held_slot(settings, "monitoring"):
        _run(settings, kafka, stop)


def _run(settings: Settings, kafka: KafkaConfig, stop: threading.Event) -> None:
    partitions = check_topics(settings, kafka)
    registry = RegistryView(
        kafka,
        ArtifactStore.of(settings),
        stop=stop,
        signer=CommandSigner.of(settings.home, kafka),
        keys=SubjectKeys.of(settings),
    )
    try:
        admin.check_retention(kafka, registry.needed_retention_ms + RETENTION_MARGIN_MS, _TRAFFIC)
        join = JoinHandler(
            join_states(settings, kafka, registry, partitions), registry, partitions, settings.join_threads
        )
        aggregate = AggregateHandler(
            JournalSnapshots(kafka),
            registry.plan_or_refresh,
            AggregateOptions(
                partitions=partitions,
                provisional_interval_ms=settings.provisional_interval_ms,
                snapshot_interval_ms=settings.snapshot_interval_ms,
            ),
            aggregate_class(settings.join_core),
        )
        options = ProcessorOptions(
            batch_records=settings.batch_records,
            commit_interval_ms=settings.commit_interval_ms,
            session_timeout_ms=settings.session_timeout_ms,
            co_partitioned=True,
        )
        processors = [
            BatchProcessor(
                kafka,
                group=JOIN_GROUP,
                topics=[PREDICTIONS, GROUND_TRUTH],
                transactional_id=f"{JOIN_GROUP}-{settings.slot}",
                handler=join,
                options=replace(options, leader=PREDICTIONS, direct=True),
            ),
            BatchProcessor(
                kafka,
                group=AGGREGATE_GROUP,
                topics=[JOINED_DELTAS],
                transactional_id=f"{AGGREGATE_GROUP}-{settings.slot}",
                handler=aggregate,
                options=replace(options, queue_kbytes=AGGREGATE_QUEUE_KBYTES),
            ),
        ]
        try:
            run_together(processors, stop, on_ready=lambda: mark_ready(settings, "monitoring"))
        finally:
            join.close()
    finally:
        registry.close()


def check_topics(settings: Settings, kafka: KafkaConfig) -> int:
    """Partition count of the traffic topics, which all have the same.

    Raises
    ------
    TopicError
    """
    counts = admin.partition_counts(kafka)
    for name in (*_TRAFFIC, REGISTRY_STATE):
        if name not in counts:
            raise admin.missing_topic(kafka, name)
    traffic = {name: CATALOGUE[name] for name in _TRAFFIC}
    admin.check_partition_counts(
        kafka, settings.partitions, traffic, {kafka.topic(name): counts[name] for name in _TRAFFIC}
    )
    return counts[PREDICTIONS]


def join_states(settings: Settings, kafka: KafkaConfig, registry: RegistryView, partitions: int) -> JoinStates:
    """Where the join's state comes from, and which topics it belongs to."""
    identity = Identity(partitions, admin.topic_ids(kafka, (PREDICTIONS, GROUND_TRUTH, MONITORING_JOURNAL)))
    limits = JoinLimits(settings.grace_ms, settings.future_tolerance_ms, targets=partitions)
    joins = join_class(settings.join_core)
    if joins is JoinPartition:
        _log.warning("the join runs without its native core (%s): several times slower", WHY_NOT or "as configured")
    home = settings.state_dir / f"monitoring-join-{settings.slot}"
    return JoinStates(kafka, registry, home, identity, limits, joins, settings.state_memory_mib * 1024 * 1024)


def run_together(processors: list[BatchProcessor], stop: threading.Event, *, on_ready: Callable[[], None]) -> None:
    """Run processors in threads of their own until `stop` is set or one of them ends.

    Raises
    ------
    Exception
        What ended the first one that ended.
    """
    halt = threading.Event()
    errors: list[BaseException] = []

    def work(processor: BatchProcessor) -> None:
        try:
            processor.run(halt)
        except BaseException as error:  # noqa: BLE001 - handed to the main thread, which raises it
            errors.append(error)
        finally:
            halt.set()

    threads = [threading.Thread(target=work, args=(processor,), name="monitoring") for processor in processors]
    for thread in threads:
        thread.start()
    ready = False
    while not (stop.is_set() or halt.is_set()):
        if not ready and all(processor.ready for processor in processors):
            ready = True
            on_ready()
        halt.wait(0.05)
    halt.set()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
