"""Where archive files lie: a folder, or any object store that fsspec knows."""

from __future__ import annotations

import hashlib
import os
import posixpath
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.errors import StateError


class Draft(NamedTuple):
    """A file written under a temporary name. `path` is relative to the archive, as the manifest will name it."""

    path: str
    temporary: str
    size_bytes: int
    sha256: str


def file_path(topic: str, partition: int, first: int, last: int, epoch: int) -> str:
    """Relative path of a file: topic, partition, first and last offset.

    The epoch is part of the name so that a worker that was replaced can never write over its successor's file.
    """
    return f"{topic}/{partition}/{first:020d}-{last:020d}.e{epoch}.parquet"


def parquet_bytes(table: pa.Table) -> bytes:
    """The table as one small Parquet file (zstd)."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    data: bytes = sink.getvalue().to_pybytes()
    return data


class LocalFiles:
    """Files in a folder.

    Notes
    -----
    A file is written and flushed to the disk under a temporary name before it gets its own; folders are flushed after
    that. A crash leaves temporary files and files that no manifest row names: `sweep` removes them.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._pool = ThreadPoolExecutor(8, thread_name_prefix="archive-files")

    def write(self, path: str, data: bytes) -> Draft:
        """Write under a temporary name. Raises OSError (disk full …)."""
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = str(target) + ".tmp"
        with open(temporary, "wb") as file:
            file.write(data)
        return Draft(path, temporary, len(data), hashlib.sha256(data).hexdigest())

    def publish(self, drafts: list[Draft]) -> None:
        """Flush all drafts to the disk, give them their names, then flush the folders."""
        list(self._pool.map(_flush_file, [draft.temporary for draft in drafts]))
        for draft in drafts:
            os.replace(draft.temporary, self.root / draft.path)
        folders = sorted({str((self.root / draft.path).parent) for draft in drafts})
        list(self._pool.map(_flush_folder, folders))

    def sweep(self, topic: str, partition: int, known: set[str]) -> int:
        """Remove what a crash left behind in one partition's folder; returns how many files."""
        folder = self.root / topic / str(partition)
        left = [
            path
            for path in (sorted(folder.iterdir()) if folder.is_dir() else [])
            if path.relative_to(self.root).as_posix() not in known
        ]
        for path in left:
            path.unlink(missing_ok=True)
        return len(left)

    def read(self, path: str) -> pa.Table:
        """A file of the manifest."""
        return pq.read_table(self.root / path, partitioning=None)

    def remove(self, path: str) -> None:
        """Remove a file that was retired."""
        (self.root / path).unlink(missing_ok=True)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()


class RemoteFiles:
    """Files in an object store, where writing one object is atomic: there are no temporary names."""

    def __init__(self, url: str) -> None:
        import fsspec

        self._fs: Any
        self._fs, root = fsspec.core.url_to_fs(url)
        self._root: str = root.rstrip("/")

    def write(self, path: str, data: bytes) -> Draft:
        """Hold the bytes back until `publish`."""
        temporary = self._name(path + ".tmp")
        self._fs.makedirs(posixpath.dirname(temporary), exist_ok=True)
        self._fs.pipe_file(temporary, data)
        return Draft(path, temporary, len(data), hashlib.sha256(data).hexdigest())

    def publish(self, drafts: list[Draft]) -> None:
        """Move each draft to its name."""
        for draft in drafts:
            self._fs.mv(draft.temporary, self._name(draft.path))

    def sweep(self, topic: str, partition: int, known: set[str]) -> int:
        """Remove what a crash left behind; returns how many objects."""
        folder = self._name(f"{topic}/{partition}")
        if not self._fs.exists(folder):
            return 0
        left = [name for name in self._fs.find(folder) if name.removeprefix(self._root + "/") not in known]
        for name in left:
            self._fs.rm_file(name)
        return len(left)

    def read(self, path: str) -> pa.Table:
        """A file of the manifest."""
        with self._fs.open(self._name(path), "rb") as file:
            return pq.read_table(file)

    def remove(self, path: str) -> None:
        """Remove a file that was retired."""
        if self._fs.exists(self._name(path)):
            self._fs.rm_file(self._name(path))

    def close(self) -> None:
        """Nothing to end."""

    def _name(self, path: str) -> str:
        return f"{self._root}/{path}"


Files = LocalFiles | RemoteFiles


def open_files(url: str) -> Files:
    """The archive at `url`: a path, ``file://…`` or another fsspec URL."""
    if url.startswith("file://"):
        url = url.removeprefix("file://")
    return RemoteFiles(url) if "://" in url else LocalFiles(Path(url))


def _flush_file(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flush_folder(path: str) -> None:
    _flush_file(path)


def missing_file(path: str, error: Exception) -> StateError:
    """The manifest names a file that cannot be read."""
    return StateError(
        f"the archive's manifest names a file that cannot be read: {error}",
        where=path,
        remedy="bring the file back from a backup; nothing that Driftline does removes it",
    )
