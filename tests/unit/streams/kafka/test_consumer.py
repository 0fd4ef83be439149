"""Membership of a group, and positions, without a broker."""

from __future__ import annotations

import pytest
from confluent_kafka import Consumer

from schemas.errors import BrokerError
from streams.kafka.consumer import parse_group_metadata
from streams.kafka.positions import Positions


def raw(generation: int, group: bytes, member: bytes) -> bytes:
    return b"CGMDv2:" + generation.to_bytes(4, "little", signed=True) + group + b"\0" + member + b"\0\x01"


@pytest.mark.parametrize(
    ("generation", "member", "valid"),
    [(7, b"driftline-1", True), (0, b"m", True), (-1, b"driftline-1", False), (7, b"", False), (-1, b"", False)],
)
def test_offsets_are_committed_by_members_only(generation: int, member: bytes, valid: bool) -> None:
    metadata = parse_group_metadata(raw(generation, b"copying", member))
    assert (metadata.generation, metadata.member_id, metadata.valid) == (generation, member.decode(), valid)


def test_understands_what_the_library_writes() -> None:
    consumer = Consumer({"bootstrap.servers": "127.0.0.1:9", "group.id": "a-group", "log_level": 0})
    try:
        metadata = parse_group_metadata(consumer.consumer_group_metadata())
    finally:
        consumer.close()
    assert (metadata.generation, metadata.member_id, metadata.valid) == (-1, "", False)


@pytest.mark.parametrize("data", [b"", b"CGMDv3:\x01\0\0\0g\0m\0\x01", b"CGMDv2:"])
def test_refuses_an_unknown_format(data: bytes) -> None:
    with pytest.raises(BrokerError, match="unknown format"):
        parse_group_metadata(data)


def test_positions_tell_what_moved_and_whether_everything_is_drained() -> None:
    a, b = ("t", 0), ("t", 1)
    positions = Positions({a: 1, b: 5}, {a: 3, b: 5}, {a: True, b: False})
    assert positions.moved == {a: 3}
    assert not positions.all_drained
    assert Positions({a: 1}, {a: 1}, {a: True}).all_drained
    assert not Positions({}, {}, {}).all_drained
