"""The topic catalogue: one home for every topic's name, key, partitions, retention and clean-up policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

DAY_MS = 86_400_000

INFERENCE_REQUESTS = "inference-requests"
PREDICTIONS = "predictions"
GROUND_TRUTH = "ground-truth"
JOINED_DELTAS = "joined-deltas"
MONITORING_JOURNAL = "monitoring-journal"
QUALITY_METRICS = "quality-metrics"
DRIFT_METRICS = "drift-metrics"
OBSERVATIONS = "observations"
ALERTS = "alerts"
RETRAIN_REQUESTS = "retrain-requests"
TRAINING_EVENTS = "training-events"
REGISTRY_COMMANDS = "registry-commands"
REGISTRY_EVENTS = "registry-events"
REGISTRY_STATE = "registry-state"
SERVING_EVENTS = "serving-events"

DEAD_LETTER_PREFIX = "dlq."
MAX_MESSAGE_BYTES = 1_000_000
MOST_EXTERNAL_VERSIONS = 1_000
"""Versions that a model which is only watched may have: state is kept for each, and a request id is no version."""


@dataclass(frozen=True)
class Topic:
    """One topic as it is created.

    Parameters
    ----------
    name : str
        Name without the installation's prefix.
    key : str
        What the record key holds (``prediction_id``, ``model``, ``partition``).
    scale : {"traffic", "control"}
        ``traffic`` topics get the configured partition count (12 by default) so that they are
        co-partitioned; ``control`` topics get one partition, because their order matters and their rate is
        that of decisions.
    retention_ms : int
        ``-1`` keeps for ever. Traffic, journal and delta topics are checked against
        ``max_label_delay + revision_horizon + margin`` at registration and start.
    compacted : bool
    purpose : str
        One sentence for ``driftline topics --plan`` and the reference.
    content_type : str
        How values are written: JSON, except where both ends are ours and the rate is that of traffic.
    """

    name: str
    key: str
    scale: Literal["traffic", "control"]
    retention_ms: int
    compacted: bool
    purpose: str
    content_type: str = "application/json"

    def partitions(self, traffic: int) -> int:
        """Partition count, given the configured count of traffic topics."""
        return traffic if self.scale == "traffic" else 1

    def settings(self) -> dict[str, str]:
        """Topic-level settings; LogAppendTime, so that replayed history is not deleted on arrival."""
        return {
            "retention.ms": str(self.retention_ms),
            "cleanup.policy": "compact" if self.compacted else "delete",
            "message.timestamp.type": "LogAppendTime",
            "max.message.bytes": str(MAX_MESSAGE_BYTES + 100_000),
        }


def _traffic(name: str, key: str, purpose: str, days: int = 90, content_type: str = "application/json") -> Topic:
    return Topic(name, key, "traffic", days * DAY_MS, False, purpose, content_type)


def _control(name: str, key: str, purpose: str, *, compacted: bool = False) -> Topic:
    return Topic(name, key, "control", -1, compacted, purpose)


_TOPICS = (
    _traffic(INFERENCE_REQUESTS, "prediction_id", "requests for inference, keyed by request_id", 30),
    _traffic(PREDICTIONS, "prediction_id", "what models predicted; co-partitioned with ground-truth"),
    _traffic(GROUND_TRUTH, "prediction_id", "what turned out to be true; corrections carry a higher revision"),
    _traffic(
        JOINED_DELTAS,
        "none",
        "mergeable pane contributions from the join to the aggregation, many models a record, partitioned by model",
        content_type="application/msgpack",
    ),
    _traffic(MONITORING_JOURNAL, "partition", "one record per commit and partition; what a rebuild replays"),
    _control(QUALITY_METRICS, "model", "the series of quality metrics per window and segment"),
    _control(DRIFT_METRICS, "model", "the series of drift statistics per window and subject"),
    _control(OBSERVATIONS, "model", "crossings only: what opens, changes or closes"),
    _control(ALERTS, "model", "incidents: opened, updated, closed"),
    _control(RETRAIN_REQUESTS, "model", "requests to train a successor"),
    _control(TRAINING_EVENTS, "model", "what runs do: started, finished, failed, decided"),
    _control(REGISTRY_COMMANDS, "model", "imperative commands to the registry"),
    _control(REGISTRY_EVENTS, "model", "what the registry did, in order"),
    _control(REGISTRY_STATE, "model", "the latest state of every model", compacted=True),
    _control(SERVING_EVENTS, "model", "swaps with the offsets they took effect at, failures of models"),
)

DEAD_LETTERED = (
    INFERENCE_REQUESTS,
    PREDICTIONS,
    GROUND_TRUTH,
    RETRAIN_REQUESTS,
    REGISTRY_COMMANDS,
    OBSERVATIONS,
)


def dead_letter_topic(topic: str) -> str:
    """Name of the dead-letter topic of `topic`."""
    return DEAD_LETTER_PREFIX + topic


CATALOGUE: Mapping[str, Topic] = {
    topic.name: topic
    for topic in (
        *_TOPICS,
        *(
            _control(dead_letter_topic(name), "as received", f"records of {name} that could not be used")
            for name in DEAD_LETTERED
        ),
    )
}
"""All topics by name, without prefix."""
