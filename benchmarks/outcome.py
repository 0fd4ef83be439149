"""What a benchmark's traffic must come to, and what the worker made of it: pairs and confusion counts."""

from __future__ import annotations

from collections.abc import Mapping

from agents.artifacts import ArtifactStore
from agents.config import Settings
from agents.monitoring.registry_view import RegistryView
from benchmarks.harness import UnequalError
from benchmarks.traffic import scores_and_truths
from schemas.topics import JOINED_DELTAS
from streams.kafka.config import KafkaConfig
from streams.kafka.reader import Tail
from streams.packed import decode_delta, deltas_of, unpack_counters

_NAMES = ("tn", "fp", "fn", "tp")


def expected(events: int) -> dict[str, int]:
    """Counts of `traffic.predictions(events)` with `traffic.labels(events)`, by arithmetic."""
    scores, truths = scores_and_truths(events)
    decided = scores >= 0.5
    found = [int(((truths == t) & (decided == d)).sum()) for t in (False, True) for d in (False, True)]
    return {"pairs": events, **dict(zip(_NAMES, found, strict=True))}


def of_worker(kafka: KafkaConfig, settings: Settings, model: str = "bench", version: int = 1) -> dict[str, int]:
    """The same counts, added up from the worker's `joined-deltas`."""
    registry = RegistryView(kafka, ArtifactStore.of(settings))
    try:
        plan = registry.plan(model, version)
    finally:
        registry.close()
    assert plan is not None
    labelled, confusion = plan.slots["labelled"].start, plan.slots["confusion"].start
    width = len(plan.classes) + 1
    wanted = {labelled: "pairs"} | {
        confusion + truth * width + decided: _NAMES[2 * truth + decided] for truth in (0, 1) for decided in (0, 1)
    }
    counts = dict.fromkeys(("pairs", *_NAMES), 0)
    with Tail(kafka, [JOINED_DELTAS], from_beginning=True) as tail:
        for record in tail.read_to_end(60.0):
            assert record.value is not None
            for pane in (pane for delta in deltas_of(decode_delta(record.value)) for pane in delta.panes):
                if pane.segment:
                    continue
                for position, count in zip(*unpack_counters(pane.counters), strict=True):
                    if name := wanted.get(int(position)):
                        counts[name] += int(count)
    return counts


def check(name: str, found: Mapping[str, int], events: int) -> None:
    """Equal to what the traffic comes to, and so to everybody else's.

    Raises
    ------
    UnequalError
    """
    wanted = expected(events)
    if dict(found) != wanted:
        raise UnequalError(f"{name} found {dict(found)}, the traffic comes to {wanted}")
