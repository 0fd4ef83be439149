"""Durable state of one partition: a RocksDB folder that is written in single atomic batches."""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rocksdict import (
    AccessType,
    BlockBasedOptions,
    Cache,
    DBCompressionType,
    Options,
    Rdict,
    ReadOptions,
    WriteBatch,
    WriteOptions,
)

from schemas.errors import StateError

_log = logging.getLogger(__name__)
_unlogged = WriteOptions()
# A property, whatever the library's type hints say.
setattr(_unlogged, "disable_wal", True)  # noqa: B010
_DATA = b"d"
_META = b"m"
_ASIDE = b"p"
_MIB = 1024 * 1024
_READAHEAD = 2 * _MIB
_cache = Cache(16 * _MIB)
"""Of all stores of the process. Small: the pages of the operating system hold the files, too."""


class PartitionStore:
    """Bytes to bytes in one folder, with named metadata beside the data.

    Parameters
    ----------
    path : Path
        Folder of this partition alone; made where it is missing.

    Raises
    ------
    StateError
        The folder is held by another process or is damaged.

    Notes
    -----
    `write` is one RocksDB WriteBatch: after a crash either all of it is there or nothing. There is no write-ahead log,
    Kafka is that already: a crash takes the newest writes, at most what the write buffers hold (16 MB), and the folder
    is then as of an earlier moment, with the offsets of that moment. `flush` and `close` leave nothing to lose.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._scrubbing: threading.Thread | None = None
        path.mkdir(parents=True, exist_ok=True)
        try:
            self._db: Rdict | None = Rdict(str(path), _options(), access_type=AccessType.read_write())
        except Exception as error:
            raise StateError(
                f"the state cannot be opened: {error}",
                where=str(path),
                remedy="stop the other worker that uses it, or delete the folder: it is rebuilt from the log",
            ) from error

    def write(
        self,
        puts: Mapping[bytes, bytes],
        deletes: Iterable[bytes] = (),
        meta: Mapping[str, bytes] | None = None,
        aside: tuple[Mapping[bytes, bytes], Iterable[bytes]] = ({}, ()),
    ) -> None:
        """Apply deletes, puts and metadata atomically; a key in both is put.

        `aside`: puts and deletes of data that stand apart from the others (`aside_from`).

        Raises
        ------
        StateError
            The disk refused (full, read-only); nothing was applied.
        """
        batch = WriteBatch(raw_mode=True)
        for key in deletes:
            batch.delete(_DATA + key)
        for key, value in puts.items():
            batch.put(_DATA + key, value)
        for key in aside[1]:
            batch.delete(_ASIDE + key)
        for key, value in aside[0].items():
            batch.put(_ASIDE + key, value)
        for name, value in (meta or {}).items():
            batch.put(_META + name.encode(), value)
        try:
            self._open().write(batch, _unlogged)
        except Exception as error:
            raise StateError(
                f"the checkpoint was refused: {error}", where=str(self.path), remedy="free disk space and start again"
            ) from error

    def get(self, key: bytes) -> bytes | None:
        """Value of `key`."""
        value: bytes | None = self._open().get(_DATA + key)
        return value

    def many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Values of keys, in their order; fastest where that is the order of the keys."""
        found: Any = self._open()[[_DATA + key for key in keys]]
        return list(found)

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """All data in key order (metadata apart)."""
        once: Any = ReadOptions()
        once.fill_cache(False)
        once.set_readahead_size(_READAHEAD)
        for key, value in self._open().items(from_key=_DATA, read_opt=once):
            if not isinstance(key, bytes) or not key.startswith(_DATA):
                return
            yield key[1:], value

    def aside_from(self, key: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Data that stand apart, from a key on, in key order."""
        for found, value in self._open().items(from_key=_ASIDE + key):
            if not isinstance(found, bytes) or not found.startswith(_ASIDE):
                return
            yield found[1:], value

    def scrub(self) -> None:
        """Let what was overwritten or deleted leave the files, too: soon, in a thread; `close` waits for it."""
        database = self._open()
        database.flush()
        if self._scrubbing is not None:
            self._scrubbing.join()
        self._scrubbing = threading.Thread(target=database.compact_range, args=(None, None), name="scrub")
        self._scrubbing.start()

    def meta(self, name: str) -> bytes | None:
        """Metadata `name`."""
        value: bytes | None = self._open().get(_META + name.encode())
        return value

    def flush(self) -> None:
        """Bring everything written so far to the disk's files.

        Raises
        ------
        StateError
            The disk refused.
        """
        try:
            self._open().flush()
        except Exception as error:
            raise StateError(
                f"the state was not written: {error}", where=str(self.path), remedy="free disk space and start again"
            ) from error

    def close(self) -> None:
        """Close; harmless when closed. What cannot be written any more is rebuilt from the log."""
        self._wait()
        if self._db is not None:
            try:
                self._db.flush()
            except Exception as error:  # noqa: BLE001 - rocksdict raises its own
                _log.warning("%s: the newest state was not written: %s", self.path, error)
            self._db.close()
            self._db = None

    def destroy(self) -> None:
        """Close and delete the folder."""
        self._wait()
        if self._db is not None:
            self._db.close()
            self._db = None
        shutil.rmtree(self.path, ignore_errors=True)

    def _wait(self) -> None:
        scrubbing, self._scrubbing = self._scrubbing, None
        if scrubbing is not None:
            scrubbing.join()

    def _open(self) -> Rdict:
        if self._db is None:
            raise StateError("the state is closed", where=str(self.path))
        return self._db


def _options() -> Options:
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    # A dozen partitions a process: small write buffers and few files keep a worker's memory bounded.
    options.set_write_buffer_size(8 * _MIB)
    options.set_max_write_buffer_number(2)
    options.set_max_open_files(64)
    options.set_keep_log_file_num(2)
    options.set_max_background_jobs(2)
    # Hashes do not compress.
    options.set_compression_type(DBCompressionType.none())
    blocks = BlockBasedOptions()
    # A chunk of the join's log fills a block of its own: two in one would both be read for each.
    blocks.set_block_size(2 * 1024)
    blocks.set_block_cache(_cache)
    options.set_block_based_table_factory(blocks)
    return options
