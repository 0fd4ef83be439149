from __future__ import annotations

from itertools import groupby

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streams.kafka.batches import Batch, PartitionRecords, by_partition, runs
from streams.kafka.records import Record, columns_of, keys_of, offsets_of
from tests.support.messages import message

MESSAGES = [
    message("t", 3, 10, 1_000, b"k", b"value"),
    message("t", 3, 11, None, None, None, [("h", b"1"), ("n", None)]),
    message("t", 3, 14, 900, b"k2", b""),
]
RECORDS = [
    Record("t", 3, 10, b"k", b"value", None, 1_000),
    Record("t", 3, 11, None, None, [("h", b"1"), ("n", None)], 0),
    Record("t", 3, 14, b"k2", b"", None, 900),
]


def test_records_are_made_as_they_were_read():
    made = PartitionRecords("t", 3, list(MESSAGES))
    assert list(made) == RECORDS
    assert [made[index] for index in range(3)] == RECORDS
    assert list(made[1:]) == RECORDS[1:]


def test_columns_are_those_of_the_records():
    for some in (slice(0, 3), slice(0, 1), slice(2, 3)):
        made, plain = PartitionRecords("t", 3, MESSAGES[some]), RECORDS[some]
        ours, theirs = columns_of(made), columns_of(plain)
        assert ours.values == theirs.values
        assert ours.timestamps_ms.tolist() == theirs.timestamps_ms.tolist()
        assert (ours.headers is None) == (theirs.headers is None)
        assert list(ours.headers or ()) == list(theirs.headers or ())
        assert offsets_of(made).tolist() == offsets_of(plain).tolist()
        assert keys_of(made) == keys_of(plain)
    assert offsets_of(PartitionRecords("t", 3, MESSAGES[:2])).dtype == np.int64


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 2)), min_size=1))
def test_a_poll_is_cut_where_topic_or_partition_changes(places):
    messages = [message(topic, partition, offset) for offset, (topic, partition) in enumerate(places)]
    found = [(topic, partition, [m.offset() for m in run]) for topic, partition, run in runs(messages)]
    assert found == [
        (*place, [offset for offset, _ in group])
        for place, group in groupby(enumerate(places), key=lambda item: item[1])
    ]


def test_a_batch_keeps_the_order_within_partitions():
    batch = Batch()
    batch.add(("t", 0), [message("t", 0, 1)])
    batch.add(("t", 1), [message("t", 1, 5)])
    batch.add(("t", 0), [message("t", 0, 2)])
    assert len(batch) == 3
    assert [(record.partition, record.offset) for record in batch] == [(0, 1), (0, 2), (1, 5)]
    assert by_partition(batch) is batch.partitions
    assert {tp: list(found) for tp, found in by_partition(list(batch)).items()} == {
        tp: list(found) for tp, found in batch.partitions.items()
    }
    batch.clear()
    assert not batch
