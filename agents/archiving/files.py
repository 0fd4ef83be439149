"""Where archive files lie: a folder, or any object store that fsspec knows."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.errors import ConfigurationError, StateError

_EPOCH = re.compile(r"\.e(?P<epoch>[0-9]+)(?:-[0-9a-f]+)?\.parquet(?:\.tmp)?$")


class Draft(NamedTuple):
    """A file written under a temporary name. `path` is relative to the archive, as the manifest will name it."""

    path: str
    temporary: str
    size_bytes: int
    sha256: str


def file_path(topic: str, partition: int, first: int, last: int, epoch: int, *, token: str = "") -> str:
    """Relative path of a file: topic, partition, first and last offset.

    The epoch is part of the name so that a worker that was replaced can never write over its successor's file; a
    `token` (hexadecimal) keeps apart what two processes of one epoch make of the same rows.
    """
    return f"{topic}/{partition}/{first:020d}-{last:020d}.e{epoch}{token and '-' + token}.parquet"


def left_behind(name: str, below_epoch: int) -> bool:
    """Whether a file that no manifest row names was left by a worker that can no longer record it.

    Nothing of the epoch that asks, or of a later one, counts: its row may be on the way.
    """
    found = _EPOCH.search(name)
    return found is not None and int(found["epoch"]) < below_epoch


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

    def sweep(self, topic: str, partition: int, known: set[str], below_epoch: int) -> int:
        """Remove what workers of earlier epochs left behind in one partition's folder; returns how many files."""
        left = [path for path in self.listed(topic, partition) if path not in known and left_behind(path, below_epoch)]
        for path in left:
            self.remove(path)
        return len(left)

    def listed(self, topic: str, partition: int) -> dict[str, int]:
        """Files of a partition's folder as they lie there, with their sizes."""
        folder = self.root / topic / str(partition)
        found = sorted(folder.iterdir()) if folder.is_dir() else []
        return {path.relative_to(self.root).as_posix(): path.stat().st_size for path in found}

    def content(self, path: str) -> bytes:
        """Bytes of a file."""
        return (self.root / path).read_bytes()

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
    """Files in an object store that fsspec knows.

    Notes
    -----
    Stores have no atomic rename, and need none here: an object gets its final name at once, a name that no other worker
    can choose (it holds the epoch), and is asked for again before the manifest names it. An upload that was cut off, or
    whose row never came, is nobody's: `sweep` removes it. Listings are never trusted to say what the archive holds.

    Raises
    ------
    ConfigurationError
        fsspec does not know the protocol, or its library is missing.
    """

    def __init__(self, url: str) -> None:
        import fsspec

        try:
            self._fs: Any
            self._fs, root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise ConfigurationError(
                f"cannot be used: {error}",
                where=f"archive {url}",
                remedy="for s3:// install the extra: pip install 'driftline[s3]'",
            ) from error
        self._url = url
        self._root: str = root.rstrip("/")
        self._pool = ThreadPoolExecutor(8, thread_name_prefix="archive-files")

    def write(self, path: str, data: bytes) -> Draft:
        """Store an object under its name, which nobody knows yet. Raises OSError."""
        with self._told(path):
            self._fs.pipe_file(self._name(path), data)
        return Draft(path, self._name(path), len(data), hashlib.sha256(data).hexdigest())

    def publish(self, drafts: list[Draft]) -> None:
        """Make sure that the store holds each object whole. Raises OSError."""
        self._fs.invalidate_cache()
        for draft, size in zip(drafts, self._pool.map(self._size, [draft.path for draft in drafts]), strict=True):
            if size != draft.size_bytes:
                raise OSError(f"{self._url}/{draft.path} has {size} bytes there, {draft.size_bytes} were written")

    def sweep(self, topic: str, partition: int, known: set[str], below_epoch: int) -> int:
        """Remove what workers of earlier epochs left behind; returns how many objects."""
        left = [path for path in self.listed(topic, partition) if path not in known and left_behind(path, below_epoch)]
        for path in left:
            self.remove(path)
        return len(left)

    def listed(self, topic: str, partition: int | None = None) -> dict[str, int]:
        """Objects of a partition (of a topic) as the store lists them, with their sizes."""
        folder = self._name(topic if partition is None else f"{topic}/{partition}")
        self._fs.invalidate_cache()
        with self._told(folder):
            try:
                found = self._fs.find(folder, detail=True)
            except FileNotFoundError:
                return {}
        # Some stores begin every name with a slash, asked for or not.
        start = len(self._root.lstrip("/")) + 1
        return {name.lstrip("/")[start:]: int(info["size"] or 0) for name, info in sorted(found.items())}

    def dataset(self, paths: Sequence[str], schema: pa.Schema) -> Any:
        """Files of the manifest as one table that is read where it is asked: columns and rows that matter only."""
        import pyarrow.dataset

        return pyarrow.dataset.dataset(
            [self._name(path) for path in paths], schema=schema, format="parquet", filesystem=self._fs
        )

    def read(self, path: str) -> pa.Table:
        """A file of the manifest."""
        return pq.read_table(pa.BufferReader(self.content(path)))

    def content(self, path: str) -> bytes:
        """Bytes of a file."""
        with self._told(path):
            data: bytes = self._fs.cat_file(self._name(path))
        return data

    def remove(self, path: str) -> None:
        """Remove a file that was retired."""
        with self._told(path):
            try:
                self._fs.rm_file(self._name(path))
            except FileNotFoundError:
                return

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()

    def _size(self, path: str) -> int:
        with self._told(path):
            return int(self._fs.info(self._name(path))["size"])

    def _name(self, path: str) -> str:
        return f"{self._root}/{path}"

    @contextmanager
    def _told(self, path: str) -> Iterator[None]:
        """Every store's client has errors of its own: they are told as one kind that names the object."""
        try:
            yield
        except OSError:
            raise
        except Exception as error:
            raise OSError(f"{self._url}: {path}: {type(error).__name__}: {error}") from error


Files = LocalFiles | RemoteFiles


def open_files(url: str) -> Files:
    """The archive at `url`: a path, ``file://…`` or another fsspec URL."""
    if url.startswith("file://"):
        url = url.removeprefix("file://")
    return RemoteFiles(url) if "://" in url else LocalFiles(Path(url).absolute())


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
