"""The wire form of `joined-deltas`: msgpack records whose counters are packed varints.

A pane's counters are, for every position that is not zero and in ascending order: the LEB128 varint of its distance to
the position before (the first one's to 0), then the LEB128 varint of the zigzag-coded count. That is two to four bytes
a counter where JSON takes ten; the aggregation also keeps them in this form until it needs their sums.

References
----------
Protocol Buffers, encoding of varints and of signed integers (zigzag).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, Final, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from schemas.errors import DecodeError
from schemas.events import DeltaBatch, DeltaRecord, JoinedDelta

Counts = NDArray[np.int64]
_Unsigned = NDArray[np.uint64]

CONTENT_TYPE: Final = b"application/msgpack"
_LONGEST: Final = 10
"""Bytes of the longest varint: 64 bits, seven a byte."""
_MORE: Final = 0x80

_encoder = msgspec.msgpack.Encoder()
_decoder: Final[msgspec.msgpack.Decoder[Any]] = msgspec.msgpack.Decoder(cast("type[Any]", DeltaRecord))


# ------------------------------------------------------------------------------------------------- records


def encode_delta(record: DeltaRecord) -> bytes:
    """Bytes of a record of `joined-deltas`."""
    return _encoder.encode(record)


def decode_delta(data: bytes) -> DeltaRecord:
    """A record of `joined-deltas`; its counters stay packed.

    Raises
    ------
    DecodeError
        With `reason` ``empty``, ``json`` (an earlier release wrote it) or ``schema``.
    """
    if not data:
        raise DecodeError("the record has no value", reason="empty")
    try:
        return cast("DeltaRecord", _decoder.decode(data))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if data[:1] in {b"[", b"{"}:
            raise DecodeError(
                "the record is JSON, this release reads msgpack: drain joined-deltas with the release that wrote it",
                reason="json",
            ) from error
        raise DecodeError(f"not a delta: {error}", reason="schema") from error


def deltas_of(record: DeltaRecord) -> Sequence[JoinedDelta]:
    """The deltas that a record holds."""
    if isinstance(record, DeltaBatch):
        return record.deltas
    return [record] if isinstance(record, JoinedDelta) else []


# ------------------------------------------------------------------------------------------------- packing


def pack_counters(counters: Mapping[int, int]) -> bytes:
    """Packed counters; zeros are left out.

    Examples
    --------
    >>> pack_counters({7: -1, 3: 300, 5: 0}).hex(" ")
    '03 d8 04 04 01'
    """
    return pack_many([counters])[0]


def pack_many(all_counters: Sequence[Mapping[int, int]]) -> list[bytes]:
    """`pack_counters` of each, in one go: a commit holds many small ones."""
    sizes = np.fromiter(map(len, all_counters), np.int64, len(all_counters))
    total = int(sizes.sum())
    positions = np.fromiter(chain.from_iterable(all_counters), np.int64, total)
    counts = np.fromiter(chain.from_iterable(c.values() for c in all_counters), np.int64, total)
    owners = np.repeat(np.arange(len(all_counters)), sizes)
    order = np.lexsort((positions, owners))
    order = order[counts[order] != 0]
    return _pack(positions[order], counts[order], np.bincount(owners[order], minlength=len(all_counters)))


def pack_dense(counts: Counts) -> bytes:
    """Packed counters of an array of all positions."""
    positions = np.flatnonzero(counts)
    return _pack(positions, counts[positions], np.array([len(positions)]))[0]


def _pack(positions: Counts, counts: Counts, sizes: Counts) -> list[bytes]:
    """Packed counters of neighbouring groups; `positions` ascend within each, `counts` hold no zero."""
    if len(positions) == 0:
        return [b""] * len(sizes)
    gaps = np.diff(positions, prepend=0)
    ends = np.cumsum(sizes)
    firsts = (ends - sizes)[sizes > 0]
    gaps[firsts] = positions[firsts]
    values = np.empty(2 * len(positions), np.uint64)
    values[0::2] = gaps
    values[1::2] = ((counts << 1) ^ (counts >> 63)).view(np.uint64)
    lengths = np.ones(len(values), np.int64)
    longest = int(values.max()).bit_length()
    for bits in range(7, longest, 7):
        lengths += values >= np.uint64(1 << bits)
    starts = np.cumsum(lengths) - lengths
    out = np.empty(int(lengths.sum()), np.uint8)
    for byte in range(int(lengths.max())):
        there = np.flatnonzero(lengths > byte) if byte else slice(None)
        part = (values[there] >> np.uint64(7 * byte)).astype(np.uint8) & np.uint8(_MORE - 1)
        out[starts[there] + byte] = part | ((lengths[there] > byte + 1).astype(np.uint8) << np.uint8(7))
    data = out.tobytes()
    cuts = [0, *np.append(starts, len(data))[2 * ends].tolist()]
    return [data[cuts[i] : cuts[i + 1]] for i in range(len(sizes))]


# ----------------------------------------------------------------------------------------------- unpacking


def unpack_counters(data: bytes) -> tuple[Counts, Counts]:
    """Positions (ascending) and counts of packed counters.

    Raises
    ------
    DecodeError
        With `reason` ``schema`` where the bytes end within a counter.

    Examples
    --------
    >>> positions, counts = unpack_counters(pack_counters({7: -1, 3: 300}))
    >>> positions.tolist(), counts.tolist()
    ([3, 7], [300, -1])
    """
    positions, counts, _ = _unpack([data])
    return positions, counts


def _unpack(parts: Sequence[bytes]) -> tuple[Counts, Counts, Counts]:
    """Positions and counts of all parts, one after the other, and how many each holds."""
    data = parts[0] if len(parts) == 1 else b"".join(parts)
    values, ends = _varints(data)
    if len(parts) == 1:
        sizes = np.array([len(values)])
        whole = len(values) % 2 == 0
    else:
        cuts = np.cumsum(np.fromiter(map(len, parts), np.int64, len(parts)))
        upto = np.searchsorted(ends, cuts)  # varints that end before each cut
        sizes = np.diff(upto, prepend=0)
        whole = not (sizes % 2).any() and bool((ends[upto[upto > 0] - 1] + 1 == cuts[upto > 0]).all())
    if not whole:
        raise DecodeError("packed counters end within a counter", reason="schema")
    sizes = sizes // 2
    positions = np.cumsum(values[0::2]).view(np.int64)
    if len(parts) > 1 and len(positions):
        firsts = np.cumsum(sizes) - sizes
        before = np.where(firsts > 0, positions[np.maximum(firsts, 1) - 1], 0)
        positions -= np.repeat(before, sizes)
    coded = values[1::2]
    counts = (coded >> np.uint64(1)).view(np.int64) ^ -(coded & np.uint64(1)).view(np.int64)
    return positions, counts, sizes


def _varints(data: bytes) -> tuple[_Unsigned, Counts]:
    """All varints of `data` and where each ends."""
    raw = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(raw < _MORE)
    if len(ends) == len(raw):
        return raw.astype(np.uint64), ends
    if len(ends) == 0 or ends[-1] + 1 != len(raw):
        raise DecodeError("packed counters end within a number", reason="schema")
    starts = np.empty_like(ends)
    starts[0] = 0
    starts[1:] = ends[:-1] + 1
    lengths = ends - starts + 1
    longest = int(lengths.max())
    if longest > _LONGEST:
        raise DecodeError("a packed counter exceeds 64 bits", reason="schema")
    values = (raw[starts] & np.uint8(_MORE - 1)).astype(np.uint64)
    for byte in range(1, longest):
        there = np.flatnonzero(lengths > byte)
        part = (raw[starts[there] + byte] & np.uint8(_MORE - 1)).astype(np.uint64)
        values[there] |= part << np.uint64(7 * byte)
    return values, ends


# ------------------------------------------------------------------------------------------------- adding


def add_packed(target: Counts, parts: Sequence[bytes]) -> None:
    """Add packed counters to an array in place; positions beyond its end are left out.

    Raises
    ------
    DecodeError
        The bytes are not packed counters; `target` is unchanged.
    """
    if not parts:
        return
    positions, counts, _ = _unpack(parts)
    inside = positions < len(target)
    if not inside.all():
        positions, counts = positions[inside], counts[inside]
    if len(parts) == 1:
        target[positions] += counts
    else:
        np.add.at(target, positions, counts)


def merge_packed(parts: Iterable[bytes]) -> bytes:
    """The packed sum of packed counters; what cancels out is left out."""
    given = [part for part in parts if part]
    if len(given) < 2:
        return given[0] if given else b""
    positions, counts, _ = _unpack(given)
    distinct, inverse = np.unique(positions, return_inverse=True)
    sums = np.zeros(len(distinct), np.int64)
    np.add.at(sums, inverse, counts)
    kept = sums != 0
    return _pack(distinct[kept], sums[kept], np.array([int(kept.sum())]))[0]
