"""Content-addressed artifacts: models, reference statistics, specifications and code, by the SHA-256 of their bytes.

A model is a skops or an ONNX file. Before a byte of it is parsed, its hash and its Ed25519 signature are checked; then
its types (of ONNX: its operators, and that every tensor lies in it) are compared with an allow-list; only then is it
built. `check_in_child` does all of that, and a smoke prediction, in a child process with limited memory and time first.
"""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import fsspec

from agents.check_client import checked
from agents.config import Settings
from agents.model_file import load
from agents.onnx_check import is_onnx
from agents.signing import KeyRing
from schemas.errors import ArtifactError
from schemas.events import Scalar

MAX_MODEL_BYTES = 1_000_000_000
"""A model's file that is larger is not even read."""
PIECE_BYTES = 1_048_576
CHILD_MEMORY_BYTES = 4_000_000_000
CHILD_CPU_S = 30
CHILD_TIMEOUT_S = 60.0


class ArtifactStore:
    """Bytes by their SHA-256, each with a detached signature beside it.

    Parameters
    ----------
    url : str
        Folder or fsspec URL.
    keys : Path, optional
        Folder of keys; default: ``keys`` beside a local artifact folder.
    """

    def __init__(self, url: str, keys: Path | None = None) -> None:
        self.url = url
        self._fs, self._root = fsspec.core.url_to_fs(url)
        local = "file" in ((self._fs.protocol,) if isinstance(self._fs.protocol, str) else self._fs.protocol)
        if keys is None and local:
            keys = Path(self._root).parent / "keys"
        self._local = local
        self.keys = keys
        self._ring = KeyRing(keys) if keys is not None else None

    @classmethod
    def of(cls, settings: Settings) -> ArtifactStore:
        """The store of an installation: `Settings.artifacts`, keys in ``home/keys``."""
        return cls(settings.artifacts, settings.home.resolve() / "keys")

    def path(self, sha: str) -> str:
        """Where the bytes lie, as the file system names them."""
        if len(sha) != 64 or not set(sha) <= set("0123456789abcdef"):
            raise ArtifactError(f"{sha!r} is no SHA-256", where=self.url)
        return f"{self._root}/{sha[:2]}/{sha}"

    def exists(self, sha: str) -> bool:
        return bool(self._fs.exists(self.path(sha)))

    def put(self, data: bytes, kind: str) -> str:
        """Store and sign `data`; returns its SHA-256. The same bytes are stored once.

        Parameters
        ----------
        data : bytes
        kind : str
            What it is (``model``, ``reference``, ``specification``, ``code`` …); part of what is signed, so that
            signed bytes of another kind cannot pass as a model.
        """
        sha = hashlib.sha256(data).hexdigest()
        path = self.path(sha)
        if not self._fs.exists(path):
            self._write(path, data)
        if self._ring is not None:
            self._sign(f"{path}.{kind}.sig", _signed(sha, kind), self._ring)
        return sha

    def get(self, sha: str, *, max_bytes: int | None = None) -> bytes:
        """The bytes, checked against their hash.

        Parameters
        ----------
        max_bytes : int, optional
            What is larger is not read.

        Raises
        ------
        ArtifactError
            Missing, altered or too large.
        """
        path = self.path(sha)
        try:
            if max_bytes is not None and (size := int(self._fs.size(path) or 0)) > max_bytes:
                raise ArtifactError(f"{size} bytes are more than the {max_bytes} that are accepted", where=path)
            # Monitoring reads tens of thousands of these: the way through fsspec takes three times as long.
            data: bytes = Path(path).read_bytes() if self._local else self._fs.cat_file(path)
        except FileNotFoundError as error:
            raise ArtifactError("the artifact is missing", where=path, remedy="restore it, or roll back") from error
        found = hashlib.sha256(data).hexdigest()
        if found != sha:
            raise ArtifactError(f"the bytes hash to {found}: altered", where=path, remedy="restore it, or roll back")
        return data

    def check(self, sha: str, *, max_bytes: int) -> int:
        """Read the bytes piece by piece and compare them with their hash; how many there are.

        Raises
        ------
        ArtifactError
            Missing, altered or too large.
        """
        path, found, size = self.path(sha), hashlib.sha256(), 0
        try:
            with open(path, "rb") if self._local else self._fs.open(path, "rb") as file:
                while piece := file.read(PIECE_BYTES):
                    size += len(piece)
                    if size > max_bytes:
                        raise ArtifactError(f"more than the {max_bytes} bytes that are accepted", where=path)
                    found.update(piece)
        except FileNotFoundError as error:
            raise ArtifactError("the artifact is missing", where=path, remedy="restore it, or roll back") from error
        if found.hexdigest() != sha:
            raise ArtifactError(
                f"the bytes hash to {found.hexdigest()}: altered", where=path, remedy="restore it, or roll back"
            )
        return size

    def verify(self, sha: str, kind: str) -> str:
        """Check the signature of an artifact; returns the id of the key.

        Raises
        ------
        ArtifactError
            Unsigned, by an untrusted key, or of other bytes.
        """
        path = f"{self.path(sha)}.{kind}.sig"
        if self._ring is None:
            raise ArtifactError("no keys to check signatures with", where=self.url, remedy="configure a key folder")
        try:
            signature: bytes = self._fs.cat_file(path)
        except FileNotFoundError as error:
            raise ArtifactError(f"not signed as {kind}", where=path, remedy="register the version again") from error
        return self._ring.verify(_signed(sha, kind), signature)

    def renew(self) -> tuple[int, list[str]]:
        """Sign with the present key what another trusted key signed; how many that were, and what no trusted key did.

        Afterwards older keys can be distrusted, and artifacts go on.
        """
        if self._ring is None:
            raise ArtifactError("no keys to sign with", where=self.url, remedy="configure a key folder")
        own, renewed, refused = self._ring.own(), 0, []
        for path in sorted(self._fs.find(self._root)):
            sha, _, kind = str(path).rpartition("/")[2].removesuffix(".sig").partition(".")
            if not str(path).endswith(".sig") or len(sha) != 64:
                continue
            try:
                signer = self._ring.verify(_signed(sha, kind), self._fs.cat_file(path))
            except ArtifactError:
                refused.append(f"{kind} {sha}")
                continue
            if signer != own:
                self._write(path, self._ring.sign(_signed(sha, kind)))
                renewed += 1
        return renewed, refused

    def _sign(self, path: str, data: bytes, ring: KeyRing) -> None:
        """Store a signature where it is not there yet: one key signs the same bytes the same, and a write waits for
        the disk."""
        signature = ring.sign(data)
        try:
            there: bytes | None = Path(path).read_bytes() if self._local else self._fs.cat_file(path)
        except FileNotFoundError:
            there = None
        if there != signature:
            self._write(path, signature)

    def _write(self, path: str, data: bytes) -> None:
        if not self._local:
            self._fs.pipe_file(path, data)
            return
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{os.getpid()}.{os.urandom(4).hex()}")
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)


def _signed(sha: str, kind: str) -> bytes:
    return f"driftline artifact v1\n{kind}\n{sha}\n".encode()


def load_model(store: ArtifactStore, sha: str, allowed: Iterable[str] = ()) -> Any:
    """Build the estimator of a model artifact: size, hash, signature and types are checked before.

    Parameters
    ----------
    allowed : iterable of str
        Types that the specification allows beside `agents.skops_file.ALLOWED_TYPES`; of ONNX, domains of operators
        beside `agents.onnx_check.STANDARD_DOMAINS`.

    Returns
    -------
    estimator
        scikit-learn's interface; an ONNX file answers through `agents.onnx_file.OnnxModel`.

    Raises
    ------
    ArtifactError
        Missing, altered, unsigned, oversize, or with what is not on the allow-list. Nothing of it ran.
    """
    data = store.get(sha, max_bytes=MAX_MODEL_BYTES)
    store.verify(sha, "model")
    return load(data, store.path(sha), allowed)


def check_in_child(
    store: ArtifactStore,
    sha: str,
    *,
    features: Mapping[str, str] | None = None,
    rows: Sequence[Mapping[str, Scalar]] = (),
    allowed: Iterable[str] = (),
    memory_bytes: int = CHILD_MEMORY_BYTES,
    cpu_s: int = CHILD_CPU_S,
    timeout_s: float = CHILD_TIMEOUT_S,
) -> None:
    """Load a model in a limited child process and predict a few rows there.

    Size, hash and signature are checked here: what is altered or unsigned does not cost a process, and the child is
    handed the bytes, so that it needs neither keys nor store (docs/adr/0054).

    Parameters
    ----------
    features : mapping of str to str, optional
        Columns and kinds (``numeric``, ``categorical``, ``boolean``) of the specification; none: load only.
    rows : sequence of mapping, optional
        Rows of the smoke test; default one row of plain values.
    allowed : iterable of str
        As `load_model`.

    Raises
    ------
    ArtifactError
        With what the child said, or how it ended.
    """
    data = store.get(sha, max_bytes=MAX_MODEL_BYTES)
    store.verify(sha, "model")
    task = {
        "where": store.path(sha),
        "features": dict(features or {}),
        "rows": [dict(row) for row in rows],
        "allowed": sorted(allowed),
        "memory_bytes": memory_bytes,
        "cpu_s": cpu_s,
    }
    try:
        code, said = checked("onnx" if is_onnx(data) else "skops", task, data, timeout_s)
    except TimeoutError as error:
        raise ArtifactError(f"the smoke test did not end within {timeout_s:g} s", where=store.path(sha)) from error
    if code != 0:
        lines = said.decode(errors="replace").strip().splitlines()
        reason = lines[-1] if lines and code > 0 else _ending(code, cpu_s)
        raise ArtifactError(f"refused by the smoke test: {reason}", where=store.path(sha))


def _ending(code: int, cpu_s: int) -> str:
    """How a child ended that could not say why."""
    if -code in {signal.SIGXCPU, signal.SIGKILL}:
        return f"the child was killed: more than {cpu_s} s of processor time, or out of memory"
    return f"the child ended with code {code}" if code >= 0 else f"the child ended with signal {-code}"
