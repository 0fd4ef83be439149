"""Whose predictions a partition's state holds, so that it can forget what only their keys can tell."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from agents.subjects.opening import Opened
from agents.subjects.sealing import ID_BYTES
from streams.join.partition import JoinPartition
from streams.join.redaction import Bare
from streams.state.store import PartitionStore

ERASURES = "erasures"
"""Metadata: the erasures that the folder knows of."""
PAYLOAD_BYTES = 8
_LOOKS = 2
"""Notes that are looked at for each one that is made: so old ones go, and no commit takes long."""
_LEAST_LOOKS = 16
_Bared = dict[str, dict[bytes, Bare]]


class _Note(msgspec.Struct, frozen=True, array_like=True):
    plain: bytes
    visible: tuple[str, ...]
    keep_until_ms: int


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Note).decode


class People:
    """Notes of the predictions that were opened, in the partition's store: by key, hash of what came, prediction_id.

    Parameters
    ----------
    join : JoinPartition
    store : PartitionStore

    Notes
    -----
    A note says what the entry would be, had the key been gone. What is to go is in values only: files of RocksDB name
    keys for longer than they hold them. Cost of one is some 8 µs, and some 60 bytes on disk.
    """

    def __init__(self, join: JoinPartition, store: PartitionStore) -> None:
        self._join = join
        self._store = store
        self._cursor = b""

    def notes(self, opened: Sequence[Opened], keep_ms: int) -> dict[bytes, bytes]:
        """Notes of predictions that were opened, to be written with the batch; `keep_ms`: how long they matter."""
        return {
            one.key + self._join.payload_of(one.sealed) + one.prediction_id.encode(): _encode(
                _Note(self._join.payload_of(one.plain), one.visible, one.event_time_ms + keep_ms)
            )
            for one in opened
        }

    def outdated(self, made: int) -> list[bytes]:
        """Some notes that are of no use any more; all of them are found in time."""
        looks = _LEAST_LOOKS + _LOOKS * made
        found: list[bytes] = []
        for key, value in self._store.aside_from(self._cursor):
            if not looks:
                self._cursor = key
                return found
            looks -= 1
            old = _decode(value).keep_until_ms <= self._join.watermark_ms
            if old and not self._join.knows(key[ID_BYTES + PAYLOAD_BYTES :].decode()):
                found.append(key)
        self._cursor = b""
        return found

    def keys(self) -> Iterator[bytes]:
        """Ids of the keys that there are notes of. Cost: a look-up each."""
        at = b""
        while (found := next(self._store.aside_from(at), None)) is not None:
            id = found[0][:ID_BYTES]
            yield id
            at = _after(id)
            if not at:
                return

    def bared(self, gone: Iterable[bytes]) -> tuple[_Bared, list[bytes]]:
        """What stays of the predictions under keys that are gone, and the notes of them."""
        bare: _Bared = defaultdict(dict)
        notes = []
        for id in gone:
            for key, value in self._store.aside_from(id):
                if not key.startswith(id):
                    break
                note = _decode(value)
                payload, prediction_id = key[ID_BYTES:][:PAYLOAD_BYTES], key[ID_BYTES + PAYLOAD_BYTES :]
                bare[prediction_id.decode()][note.plain] = Bare(payload, note.visible)
                notes.append(key)
        return bare, notes


def _after(id: bytes) -> bytes:
    """The least key behind all that begin with `id`; empty: there is none."""
    number = int.from_bytes(id, "big") + 1
    return number.to_bytes(ID_BYTES, "big") if number >> (8 * ID_BYTES) == 0 else b""
