"""Two implementations of the join, fed the same log in the same batches: wherever they differ, say where.

Run it by itself for as long as you like: ``python -m tests.support.differential --seeds 1000 simple native``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal, NamedTuple

import msgspec

from schemas.events import JournalRecord
from streams.join.batch import JoinLimits, JoinOutcome, Slice
from streams.join.partitioning import partition_of
from streams.kafka.records import Record
from streams.packed import decode_delta, deltas_of
from tests.support import nasty
from tests.support.joins import IMPLEMENTATIONS, NOW_MS, View, contributions
from tests.support.zoo import FIRST, LATER

Action = Literal["commit", "redo", "snapshot", "rebuild", "checkpoint", "register"]
LIMITS = JoinLimits(grace_ms=20, future_tolerance_ms=1_000, targets=3)


class Step(NamedTuple):
    """One batch: so many records a topic, which topics are idle, and what happens around it."""

    take: tuple[int, int]
    idle: tuple[bool, bool]
    action: Action


def schedule(seed: int, records: int = 80) -> list[Step]:
    """Batches enough for so many records, of one size or of many."""
    rng = Random(f"schedule-{seed}")
    size = rng.choice((1, 3, 10, 40, records))
    actions: tuple[Action, ...] = ("commit",) * 8 + ("redo", "snapshot", "rebuild", "checkpoint", "register")
    steps: list[Step] = []
    while sum(sum(step.take) for step in steps) < records and len(steps) < 60:
        take = (rng.randrange(size + 1), rng.randrange(size + 1))
        idle = (rng.random() < 0.1, rng.random() < 0.1)
        steps.append(Step(take, idle, rng.choice(actions)))
    steps.append(Step((records, records), (False, False), "rebuild"))
    return steps


@dataclass
class Run:
    """One implementation at work on a log."""

    joins: type[Any]
    log: dict[str, list[Record]]
    view: View = field(default_factory=lambda: View(FIRST, epoch=1))
    at: dict[str, int] = field(default_factory=lambda: dict.fromkeys(nasty.TOPICS, 0))
    journal: list[tuple[int, JournalRecord, Slice]] = field(default_factory=list)
    folder: dict[bytes, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.join = self.joins(0, LIMITS)

    def step(self, step: Step) -> dict[str, Any]:
        """Do a batch; everything that can be seen of it, by name."""
        if step.action == "register":
            self.view = View(LATER, epoch=2)
        ends = {
            topic: min(self.at[topic] + take, len(self.log[topic]))
            for topic, take in zip(nasty.TOPICS, step.take, strict=True)
        }
        batch = Slice(
            {topic: self.log[topic][self.at[topic] : ends[topic]] for topic in nasty.TOPICS},
            dict(self.at),
            ends,
            dict(zip(nasty.TOPICS, step.idle, strict=True)),
            NOW_MS,
        )
        if step.action == "redo":
            before = self.join.digest()
            self.join.process(batch, self.view)
            self.join.abort()
            assert self.join.digest() == before, "an aborted batch left a trace"
        outcome = self.join.process(batch, self.view)
        record = self.join.journal(batch, self.view.epoch, 4)
        puts, deletes = self.join.changes()
        self.folder |= puts
        for key in deletes:
            self.folder.pop(key, None)
        self.join.commit()
        offset = self.journal[-1][0] + 2 + len(self.journal) % 3 if self.journal else 0
        self.journal.append((offset, record, batch))
        self.at = ends
        digest = self.join.digest()
        self._come_back(step.action)
        assert self.join.digest() == digest, f"another state after {step.action}"
        return {
            **seen(outcome),
            "journal": msgspec.structs.asdict(record),
            "totals": dict(self.join.totals),
            "entries": len(self.join),
            "watermark after": self.join.watermark_ms,
            "idle after": dict(self.join.idle),
            "digest": digest,
        }

    def _come_back(self, action: Action) -> None:
        """Replace the state by one that was kept or rebuilt."""
        if action == "snapshot":
            self.join = self.joins.from_snapshot(0, LIMITS, self.join.snapshot())
        elif action == "checkpoint":
            self.join = self.joins.from_checkpoint(0, LIMITS, self.join.meta(), list(self.folder.items()))
        elif action == "rebuild":
            self.join = self.rebuilt()
            # As the worker does it: a folder is written anew after a rebuild.
            self.folder = self.join.rewritten()

    def rebuilt(self) -> Any:
        """The state of a worker that has nothing but log and journal."""
        offset, newest, _ = self.journal[-1]
        join = self.joins(0, LIMITS)
        join.begin_rebuild(newest)
        for at, record, batch in self.journal:
            if at >= newest.journal_low_water and record.sequence >= newest.low_water_sequence:
                view = View(FIRST, 1) if record.registry_epoch == 1 else View(LATER, 2)
                join.replay(batch, view, record, at)
        join.end_rebuild(newest, offset)
        return join


def seen(outcome: JoinOutcome) -> dict[str, Any]:
    """What a batch put out, in a form that compares."""
    sums = contributions(outcome.deltas)
    assert all(sums.values()), "a contribution of nothing"
    for target, value in outcome.records:
        models = {delta.model for delta in deltas_of(decode_delta(value))}
        assert {partition_of(model.encode(), LIMITS.targets) for model in models} == {target}
    return {
        "deltas": dict(sums),
        "dead letters": sorted(
            (
                letter.record.topic,
                letter.record.offset,
                letter.record.partition,
                letter.record.key,
                letter.record.value,
                tuple(letter.record.headers or ()),
                letter.record.timestamp_ms,
                letter.reason,
                letter.message,
            )
            for letter in outcome.dead_letters
        ),
        "watermark": (outcome.watermark_ms, outcome.idle, outcome.watermark_moved),
    }


def difference(
    log: dict[str, list[Record]], steps: Sequence[Step], one: type[Any], other: type[Any], *, digests: bool = True
) -> str | None:
    """Where two implementations first differ on a log; None: nowhere.

    Parameters
    ----------
    digests : bool
        Whether equal states have to give equal digests.
    """
    # States of two kinds are hashed differently; each is still compared with itself all the time.
    digests = digests and one.STATE_VERSION == other.STATE_VERSION
    runs = [Run(one, log), Run(other, log)]
    for number, step in enumerate(steps):
        left, right = [_attempt(run, step) for run in runs]
        for name in left.keys() | right.keys():
            if name == "digest" and not digests:
                continue
            if left.get(name) != right.get(name):
                return f"batch {number} ({step}): {name}\n  {_only(left.get(name), right.get(name))}"
        if "failure" in left:
            return f"batch {number} ({step}): both fail: {left['failure']}"
    return None


def _attempt(run: Run, step: Step) -> dict[str, Any]:
    try:
        return run.step(step)
    except AssertionError:
        raise
    except Exception as error:
        return {"failure": f"{type(error).__name__}: {error}"[:300]}


def _only(left: Any, right: Any) -> str:
    if isinstance(left, dict) and isinstance(right, dict):
        names = sorted((name for name in left.keys() | right.keys() if left.get(name) != right.get(name)), key=repr)
        return "\n  ".join(f"{name!r}: {left.get(name)!r} | {right.get(name)!r}" for name in names[:10])
    if isinstance(left, list) and isinstance(right, list):
        return f"{[x for x in left if x not in right]!r}\n  | {[x for x in right if x not in left]!r}"
    return f"{left!r}\n  | {right!r}"


def smallest(
    log: dict[str, list[Record]], steps: Sequence[Step], one: type[Any], other: type[Any], *, digests: bool = True
) -> tuple[dict[str, list[Record]], list[Step]]:
    """A log and batches that still show a difference, with as few records as taking some away can reach."""

    def differs(log: dict[str, list[Record]], steps: Sequence[Step]) -> bool:
        try:
            return difference(log, steps, one, other, digests=digests) is not None
        except AssertionError:
            return True

    steps = list(steps)
    chunk = max(map(len, log.values()))
    while chunk:
        for topic in nasty.TOPICS:
            at = 0
            while at < len(log[topic]):
                kept = log[topic][:at] + log[topic][at + chunk :]
                shorter = log | {topic: [r._replace(offset=offset) for offset, r in enumerate(kept)]}
                if differs(shorter, steps):
                    log = shorter
                else:
                    at += chunk
        chunk //= 2
    for at in range(len(steps) - 1, -1, -1):
        fewer = steps[:at] + steps[at + 1 :]
        if fewer and differs(log, fewer):
            steps = fewer
    return log, steps


def check(seed: int, one: type[Any], other: type[Any], *, records: int = 80, digests: bool = True) -> None:
    """Compare on the log and the schedule of a seed; an AssertionError holds the smallest ones that differ."""
    log, steps = nasty.log(seed, records), schedule(seed, records)
    try:
        found = difference(log, steps, one, other, digests=digests)
    except AssertionError as error:
        found = str(error)
    if found is None:
        return
    log, steps = smallest(log, steps, one, other, digests=digests)
    try:
        found = difference(log, steps, one, other, digests=digests)
    except AssertionError as error:
        found = str(error)
    records_ = "\n".join(f"    {record._replace(value=_short(record.value))}" for r in log.values() for record in r)
    steps_ = "\n".join(f"    {step}" for step in steps)
    raise AssertionError(f"seed {seed}: {found}\n  records:\n{records_}\n  steps:\n{steps_}")


def _short(value: bytes | None) -> bytes | None:
    return value if value is None or len(value) < 2_000 else value[:1_000] + b" ... " + value[-900:]


def main() -> int:
    """Compare two implementations on many seeds."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("one", choices=IMPLEMENTATIONS, nargs="?", default="simple")
    parser.add_argument("other", choices=IMPLEMENTATIONS, nargs="?", default="native")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=1_000)
    parser.add_argument("--records", type=int, default=80)
    parser.add_argument("--no-digests", action="store_true", help="states may have digests of their own")
    given = parser.parse_args()
    one, other = IMPLEMENTATIONS[given.one](), IMPLEMENTATIONS[given.other]()
    for seed in range(given.first, given.first + given.seeds):
        try:
            check(seed, one, other, records=given.records, digests=not given.no_digests)
        except AssertionError as error:
            print(error)
            return 1
    print(f"{given.seeds} logs of {given.records} records, nothing differs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
