from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.codec import encode
from schemas.errors import DecodeError
from schemas.events import JoinedDelta, PaneDelta, PartitionWatermark, WatermarkUpdate
from streams.join.deltas import MAX_BYTES, Deltas, add
from streams.join.partitioning import partition_of
from streams.packed import (
    add_packed,
    decode_delta,
    deltas_of,
    encode_delta,
    merge_packed,
    pack_counters,
    pack_dense,
    pack_many,
    unpack_counters,
)

_COUNTS = st.integers(-(2**63) + 1, 2**63 - 1)
_SMALL = st.dictionaries(st.integers(0, 400), st.integers(-300, 300), max_size=40)
_ANY = st.dictionaries(st.integers(0, 2**32), _COUNTS, max_size=20)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _plainly(counters: dict[int, int]) -> bytes:
    """The format as it is specified, without numpy."""
    out, before = b"", 0
    for position in sorted(p for p, n in counters.items() if n):
        count = counters[position]
        out += _varint(position - before) + _varint(count << 1 if count >= 0 else (-count << 1) - 1)
        before = position
    return out


def _unpacked(data: bytes) -> dict[int, int]:
    positions, counts = unpack_counters(data)
    assert positions.tolist() == sorted(positions.tolist())
    return dict(zip(positions.tolist(), counts.tolist(), strict=True))


@given(counters=_ANY | _SMALL)
def test_format_is_the_specified_one_and_reads_back(counters: dict[int, int]) -> None:
    assert pack_counters(counters) == _plainly(counters)
    assert _unpacked(pack_counters(counters)) == {p: n for p, n in counters.items() if n}


@given(parts=st.lists(_ANY | _SMALL, max_size=6))
def test_many_are_packed_as_each(parts: list[dict[int, int]]) -> None:
    assert pack_many(parts) == [_plainly(counters) for counters in parts]


@given(parts=st.lists(_SMALL, max_size=6), size=st.integers(0, 500))
def test_sums_are_exact(parts: list[dict[int, int]], size: int) -> None:
    packed = [pack_counters(counters) for counters in parts]
    sums = np.zeros(401, np.int64)
    for counters in parts:
        for position, count in counters.items():
            sums[position] += count
    assert merge_packed(packed) == pack_dense(sums)
    target = np.arange(size)
    add_packed(target, packed)
    common = min(size, 401)
    assert (target[:common] == np.arange(common) + sums[:common]).all()
    assert (target[common:] == np.arange(common, size)).all()


@pytest.mark.parametrize(
    "parts",
    [[b"\x80"], [b"\x01"], [b"\x01\x02\x03"], [b"\x01\x82", b"\x01\x02"], [b"\x01", b"\x01"], [b"\xff" * 11 + b"\x01"]],
)
def test_torn_counters_are_refused(parts: list[bytes]) -> None:
    target = np.zeros(9, np.int64)
    with pytest.raises(DecodeError):
        add_packed(target, parts)
    assert not target.any()


def test_records_survive_the_wire() -> None:
    delta = JoinedDelta("m", 3, "abc", 1, [PaneDelta("origin=JFK", 10, 20, pack_counters({4: -9}))])
    told = WatermarkUpdate([PartitionWatermark(1, 99, True)])
    assert [decode_delta(encode_delta(record)) for record in (delta, told)] == [delta, told]
    # The contract with other writers of these bytes.
    assert msgspec.msgpack.decode(encode_delta(delta)) == [
        "delta", "m", 3, "abc", 1, [["origin=JFK", 10, 20, b"\x04\x11"]],
    ]  # fmt: skip
    assert msgspec.msgpack.decode(encode_delta(told)) == ["watermark", [[1, 99, True]]]


@pytest.mark.parametrize(
    ("value", "reason"),
    [(b"", "empty"), (encode(["delta", "m", 1, "l", 0, []]), "json"), (b"\x93nonsense", "schema"), (b"\x90", "schema")],
)
def test_other_bytes_say_what_they_are(value: bytes, reason: str) -> None:
    with pytest.raises(DecodeError) as error:
        decode_delta(value)
    assert error.value.reason == reason


def test_a_commit_packs_into_records_under_the_limit() -> None:
    deltas = Deltas()
    for version in (2, 1):
        panes = deltas.panes("m", version, "layout")
        for pane in range(40):
            add(panes, ("", pane, pane), dict.fromkeys(range(3000), 2**40 + pane))
        add(panes, ("", 99, 99), {1: 5})
        add(panes, ("", 99, 99), {1: 5}, -1)
    add(deltas.panes("n", 1, "layout"), ("", 0, 0), dict.fromkeys(range(70_000), 1))
    records = list(deltas.pack(7))
    assert all(len(encode_delta(record)) < MAX_BYTES * 1.1 for record in records)
    assert {record.partition for record in records} == {7}
    assert [(r.model, r.version) for r in records] == sorted((r.model, r.version) for r in records)
    seen = [(r.model, r.version, p.pane_start_ms) for r in records for p in r.panes]
    assert seen == [*(("m", v, pane) for v in (1, 2) for pane in range(40)), *[("n", 1, 0)] * 3]
    assert sum(len(unpack_counters(p.counters)[0]) for r in records if r.model == "n" for p in r.panes) == 70_000

    together = deltas.records(7, 5)
    assert all(len(value) < 2.1 * MAX_BYTES for _, value in together)
    again = [(target, delta) for target, value in together for delta in deltas_of(decode_delta(value))]
    assert sorted((d.model, d.version, *p) for _, d in again for p in map(msgspec.structs.astuple, d.panes)) == sorted(
        (d.model, d.version, *p) for d in records for p in map(msgspec.structs.astuple, d.panes)
    )
    assert all(target == partition_of(delta.model.encode(), 5) for target, delta in again)


def test_a_record_holds_many_models() -> None:
    deltas = Deltas()
    for model in range(1_000):
        add(deltas.panes(f"m{model}", 1, "layout"), ("", 0, 0), {1: 1})
    assert len(deltas.records(0, 4)) == 4
