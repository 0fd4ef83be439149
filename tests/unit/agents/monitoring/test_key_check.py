"""Keys in a partition where murmur2 would not put them."""

from __future__ import annotations

from agents.monitoring.key_check import KeyCheck
from schemas.codec import decode
from schemas.events import Observation
from schemas.topics import GROUND_TRUTH, OBSERVATIONS, PREDICTIONS
from streams.join.partitioning import partition_of
from streams.kafka.records import Record


def record(topic: str, key: bytes, partition: int) -> Record:
    return Record(topic, partition, 7, key, b"{}", None, 0)


def placed(count: int, wrong: bool = False) -> list[Record]:
    keys = [b"%d" % number for number in range(count)]
    return [record(PREDICTIONS, key, (partition_of(key, 4) + wrong) % 4) for key in keys]


def test_right_keys_and_no_keys_are_no_matter() -> None:
    check = KeyCheck(4)
    assert check.misplaced(placed(500)) is None
    assert check.misplaced([record(PREDICTIONS, b"", 3)._replace(key=None)]) is None
    assert check.misplaced([]) is None


def test_a_wrong_partitioner_is_observed_once_a_model_and_names_the_setting() -> None:
    check = KeyCheck(4)
    found = check.misplaced(placed(500, wrong=True))
    assert found is not None
    (output,) = check.observe(found, [("m", 3)], 86_400_000)
    assert output.topic == OBSERVATIONS
    assert output.key == b"m"
    seen = decode(output.value or b"", Observation)
    assert (seen.kind, seen.status, seen.subject, seen.version) == ("data-quality", "opened", "partitioner", 3)
    assert "partitioner=murmur2_random" in seen.evidence["explanation"]
    assert seen.evidence["expected_partition"] == partition_of(found.key or b"", 4) != found.partition
    check.committed()
    assert check.observe(found, [("m", 3)], 86_400_000) == []
    assert len(check.observe(found, [("m", 3), ("n", 1)], 86_400_000)) == 1
    assert len(check.observe(found._replace(topic=GROUND_TRUTH), [("m", 3)], 86_400_000)) == 1
    # After a restart the same is said under the same id.
    again = KeyCheck(4).observe(found, [("m", 3)], 86_400_000)
    assert dict(again[0].headers or ())["ce_id"] == seen.observation_id.encode()


def test_what_goes_on_is_said_twice_a_day_of_event_time() -> None:
    check = KeyCheck(4)
    found = check.misplaced(placed(500, wrong=True))
    assert found is not None
    said = []
    for hour in range(30):
        said += check.observe(found, [("m", 3)], hour * 3_600_000)
        check.committed()
    told = [decode(output.value or b"", Observation) for output in said]
    assert [(o.status, o.observed_at.hour) for o in told] == [("opened", 0), ("updated", 12), ("updated", 0)]
    assert len({o.observation_id for o in told}) == 3


def test_what_an_aborted_batch_said_is_said_again() -> None:
    check = KeyCheck(4)
    found = check.misplaced(placed(500, wrong=True))
    assert found is not None
    first = check.observe(found, [("m", 3)], 0)
    check.aborted()
    assert check.observe(found, [("m", 3)], 0) == first
    assert len(first) == 1
