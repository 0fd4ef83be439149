"""`driftline bench workers`: the same traffic on one worker process and on two, on the same cores.

Workers share a consumer group; each holds half of the partitions. Both kinds meet a full log of predictions and labels
when they are ready and their partitions are spread; the order alternates from round to round.

Expected time: a minute a round where the join does 200 k events/s.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from benchmarks.bulk import Bulk
from benchmarks.gate import id_range, label_chunks, prediction_chunks
from benchmarks.harness import MIB, Contender, Measurement, compare
from benchmarks.installation import PARTITIONS, described, install
from benchmarks.processes import cores
from benchmarks.running import Course, Membership, wait_until
from benchmarks.visible import balance
from benchmarks.worker import Worker, check_totals
from schemas.topics import GROUND_TRUTH, PREDICTIONS
from streams.kafka.embedded import EmbeddedKafka

COUNTS: Final = (1, 2)
_TOPICS: Final = 2


def run(
    *,
    events: int = 1_000_000,
    counts: Sequence[int] = COUNTS,
    rounds: int = 5,
    use_cores: int | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Measure; returns the document of ``driftline bench workers --json``.

    Parameters
    ----------
    events : int
        Predictions, and as many labels.
    counts : sequence of int
        Worker processes: a row each. The last one is compared with the others.
    rounds : int
    use_cores : int, optional
        Run workers and broker on that many cores.
    note : callable
        Gets lines of progress.
    """
    contenders = [Contender(_name(count), version("driftline"), _measured(count, events)) for count in counts]
    with ExitStack() as stack:
        chosen = stack.enter_context(cores(use_cores))
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="driftline-bench-")))
        servers = stack.enter_context(EmbeddedKafka(home)).start()

        @contextmanager
        def prepare(number: int) -> Iterator[tuple[str, Path, int]]:
            yield servers, home, number

        settings = described({"predictions": events, "labels": events, "cores": chosen, "counts": list(counts)})
        return compare("workers", contenders, rounds, prepare, baseline=_name(counts[-1]), settings=settings, note=note)


def _name(count: int) -> str:
    return "one worker" if count == 1 else f"{count} workers"


def _measured(count: int, events: int) -> Callable[[tuple[str, Path, int]], Measurement]:
    def measure(data: tuple[str, Path, int]) -> Measurement:
        servers, home, number = data
        place = install(servers, home, f"r{number}w{count}")
        bulk = Bulk(events)
        with ExitStack() as stack:
            workers = [stack.enter_context(Worker(place.slot(slot))) for slot in range(count)]
            group = Membership(place.kafka)
            # Partition p of both topics goes to one worker; range hands out the same number to each, or one more.
            fair = [_TOPICS * ((PARTITIONS + slot) // count) for slot in range(count)]
            late = f"{PARTITIONS} partitions are not spread over {count} workers"
            wait_until(lambda: sorted(group.holders().values()) == fair, workers, late, 120.0, 0.1)
            span = Course(place.kafka, workers).take(
                [
                    (PREDICTIONS, prediction_chunks(bulk)),
                    (GROUND_TRUTH, label_chunks(bulk, id_range(0, events))),
                ]
            )
            totals = check_totals(place.kafka, predictions=events, labelled=events, labels_matched=events)
            found = balance(place.kafka, bulk)
        # The log of a run is not needed any more, but deleting topics would take the broker's time from the next one.
        return Measurement(
            value=span.rate,
            cpu_seconds=span.cpu_seconds,
            rss_mib=span.peak_rss_bytes / MIB,
            output={name: totals[name] for name in ("predictions", "labelled", "labels.matched")}
            | {"lost": found.lost, "duplicated": found.duplicated},
            details={"seconds": span.seconds, "cpu_us_per_event": span.cpu_seconds / span.events * 1e6},
        )

    return measure
