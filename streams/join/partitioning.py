"""Kafka's default partitioner, to tell whether producers use it.

References
----------
Apache Kafka, ``org.apache.kafka.common.utils.Utils.murmur2``.
"""

from __future__ import annotations

_SEED = 0x9747B28C
_M = 0x5BD1E995
_MASK = 0xFFFFFFFF


def murmur2(data: bytes) -> int:
    """Murmur2 hash of a key as Java's producer computes it, as an unsigned 32-bit number.

    Examples
    --------
    >>> murmur2(b"21") == (-973932308) % 2**32
    True
    """
    h = _SEED ^ len(data)
    whole = len(data) & ~3
    for at in range(0, whole, 4):
        k = int.from_bytes(data[at : at + 4], "little") * _M & _MASK
        k = (k ^ k >> 24) * _M & _MASK
        h = (h * _M & _MASK) ^ k
    if rest := data[whole:]:
        h = (h ^ int.from_bytes(rest, "little")) * _M & _MASK
    h = (h ^ h >> 13) * _M & _MASK
    return h ^ h >> 15


def partition_of(key: bytes, partitions: int) -> int:
    """Partition that a murmur2 producer gives a key.

    Examples
    --------
    >>> partition_of(b"21", 12)
    0
    """
    return (murmur2(key) & 0x7FFFFFFF) % partitions
