"""The log of a native table as it lies in a store: chunks of records under their positions, written and read back."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

import numpy as np

from schemas.errors import StateError
from streams.join.batch import ChunkStore
from streams.native.entries import ID, PAYLOAD, SEGMENTS, SIZE
from streams.native.library import READ, library

LOG: Final = b"l"
_HEAD: Final = 16
_CHUNK_HEAD: Final = 12
_RECORDS: Final = 6


class Shape(NamedTuple):
    """Records of a chunk and of a segment, as powers of two; so many out of date are no reason to clean."""

    chunk_bits: int = 5
    segment_bits: int = 14
    slack: int = 1 << 16


def key_of(position: int) -> bytes:
    """Key of the chunk whose first record stands there."""
    return LOG + position.to_bytes(8, "big")


def position_of(key: bytes) -> int:
    """The other way."""
    return int.from_bytes(key[1:], "big")


def records_of(chunk: bytes) -> Iterator[bytes]:
    """Records of a chunk, each with its note behind (`native/src/chunk.rs`)."""
    count = int.from_bytes(chunk[:2], "little")
    notes: dict[int, bytes] = {}
    at = _RECORDS + count * SIZE
    while at < len(chunk):
        end = at + _RECORDS + int.from_bytes(chunk[at + 2 : at + _RECORDS], "little")
        notes[int.from_bytes(chunk[at : at + 2], "little")] = chunk[at + _RECORDS : end]
        at = end
    for record in range(count):
        start = _RECORDS + record * SIZE
        yield chunk[start : start + SIZE] + notes.get(record, b"")


Bared = Mapping[bytes, Mapping[bytes, tuple[bytes, int]]]
"""By id, then by hash of the payload: the hash to be there instead, and the number of the segments that stay."""


def laid_bare(chunk: bytes, bare: Bared) -> bytes:
    """The chunk with what its records, out of date or not, say of some predictions overwritten."""
    found = None
    for start in range(_RECORDS, _RECORDS + int.from_bytes(chunk[:2], "little") * SIZE, SIZE):
        hashes = bare.get(chunk[start : start + ID])
        if hashes is None:
            continue
        payload = slice(start + PAYLOAD.start, start + PAYLOAD.stop)
        swap = hashes.get(chunk[payload])
        if swap is not None:
            found = bytearray(chunk) if found is None else found
            found[payload] = swap[0]
            found[start + SEGMENTS.start : start + SEGMENTS.stop] = swap[1].to_bytes(4, "little")
    return chunk if found is None else bytes(found)


class Chunks:
    """Chunks that were written and are still to be handed out, and where the others are.

    Parameters
    ----------
    size : int
        Records of a chunk.

    Notes
    -----
    Without a store, everything stays here.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._store: ChunkStore | None = None
        self._kept: dict[bytes, bytes] = {}
        self._puts: dict[bytes, bytes] = {}
        self._deletes: list[bytes] = []
        self._open: dict[bytes, Bared] = {}
        self.error: Exception | None = None
        self.callback = READ(self._read)

    @property
    def stored(self) -> bool:
        """Whether there is a store to read from."""
        return self._store is not None

    def attach(self, store: ChunkStore) -> None:
        """Read what was handed out from there."""
        self._store = store
        self._kept = {}

    def keep(self, chunks: Iterable[tuple[bytes, bytes]]) -> None:
        """Chunks of a checkpoint without a store."""
        if self._store is None:
            self._kept.update(chunks)

    def wrote(self, out: bytes) -> None:
        """Take in what the native core gave at a commit (`native/src/keeping.rs`)."""
        before, after = (int.from_bytes(out[at : at + 8], "little") for at in (0, 8))
        deletes = [key_of(position) for position in range(before, after, self._size)]
        for key in deletes:
            self._puts.pop(key, None)
        self._deletes += deletes
        at = _HEAD
        while at < len(out):
            position = int.from_bytes(out[at : at + 8], "little")
            end = at + _CHUNK_HEAD + int.from_bytes(out[at + 8 : at + _CHUNK_HEAD], "little")
            self._write(key_of(position), out[at + _CHUNK_HEAD : end])
            at = end

    def _write(self, key: bytes, chunk: bytes) -> None:
        bare = self._open.get(key)
        if bare is not None:
            # The native core has the newest chunk as it was, until it is full.
            chunk = laid_bare(chunk, bare)
            if int.from_bytes(chunk[:2], "little") == self._size:
                del self._open[key]
        self._puts[key] = chunk

    def lay_bare(self, tail: int, head: int, bare: Bared) -> None:
        """Overwrite what all records between two positions say of some predictions. Cost: the log is read."""
        for key, chunk in self.all(tail, head):
            found = laid_bare(chunk, bare)
            if found is not chunk:
                self._puts[key] = found
                if int.from_bytes(chunk[:2], "little") < self._size:
                    known = self._open.get(key, {})
                    self._open[key] = {id: {**known.get(id, {}), **bare.get(id, {})} for id in {*known, *bare}}

    def take(self) -> tuple[dict[bytes, bytes], list[bytes]]:
        """What was written and deleted since the last call."""
        puts, self._puts = self._puts, {}
        deletes, self._deletes = self._deletes, []
        if self._store is None:
            self._kept |= puts
            for key in deletes:
                self._kept.pop(key, None)
        return puts, deletes

    def read(self, keys: Iterable[bytes]) -> list[bytes]:
        """Chunks that were written before.

        Raises
        ------
        StateError
            One of them is not there.
        """
        wanted = list(keys)
        found: list[bytes | None] = [self._puts.get(key) or self._kept.get(key) for key in wanted]
        missing = [at for at, value in enumerate(found) if value is None]
        if missing and self._store is not None:
            for at, value in zip(missing, self._store.many([wanted[at] for at in missing]), strict=True):
                found[at] = value
        whole = [value for value in found if value is not None]
        if len(whole) < len(wanted):
            raise StateError(
                "the log of the state has lost records", remedy="delete the state folder: it is rebuilt from the log"
            )
        return whole

    def all(self, tail: int, head: int) -> Iterator[tuple[bytes, bytes]]:
        """Every chunk between two positions."""
        step = 1_000 * self._size
        for start in range(tail, head, step):
            keys = [key_of(position) for position in range(start, min(start + step, head), self._size)]
            yield from zip(keys, self.read(keys), strict=True)

    def _read(self, positions: int, count: int, into: int) -> int:
        try:
            array = np.ctypeslib.as_array(ctypes.cast(positions, ctypes.POINTER(ctypes.c_uint64)), (count,))
            data = b"".join(self.read(map(key_of, array.tolist())))
            library().dl_give(into, data, len(data))
        except Exception as error:  # noqa: BLE001
            # Nothing may be raised through the native core: it is told, and its caller raises this.
            self.error = error
            return -1
        return 0
