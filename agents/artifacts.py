"""Content-addressed artifacts: models, reference statistics, specifications and code, by the SHA-256 of their bytes.

A model is a skops file. Before a byte of it is parsed, its hash and its Ed25519 signature are checked; then its types
are compared with an allow-list; only then is it built. `check_in_child` does all of that, and a smoke prediction, in a
child process with limited memory and time first.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import fsspec

from agents.config import Settings
from agents.signing import KeyRing
from schemas.errors import ArtifactError
from schemas.events import Scalar

MAX_UNPACKED_BYTES = 1_000_000_000
MAX_RATIO = 200
CHILD_MEMORY_BYTES = 4_000_000_000
CHILD_CPU_S = 30
CHILD_TIMEOUT_S = 60.0

ALLOWED_TYPES = frozenset(
    {
        # Parts of scikit-learn's own estimators that skops does not list by itself.
        "sklearn.calibration._CalibratedClassifier",
        "sklearn.calibration._SigmoidCalibration",
        "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
        "sklearn.tree._tree.Tree",
        "numpy.dtype",
        # HistGradientBoosting keeps `partial(check_array, …)` for its categorical columns; what a partial wraps is a
        # type of its own in the file and must be on this list too.
        "functools.partial",
        "sklearn.utils.validation.check_array",
    }
)


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
            self._write(f"{path}.{kind}.sig", self._ring.sign(_signed(sha, kind)))
        return sha

    def get(self, sha: str) -> bytes:
        """The bytes, checked against their hash.

        Raises
        ------
        ArtifactError
            Missing or altered.
        """
        path = self.path(sha)
        try:
            # Monitoring reads tens of thousands of these: the way through fsspec takes three times as long.
            data: bytes = Path(path).read_bytes() if self._local else self._fs.cat_file(path)
        except FileNotFoundError as error:
            raise ArtifactError("the artifact is missing", where=path, remedy="restore it, or roll back") from error
        found = hashlib.sha256(data).hexdigest()
        if found != sha:
            raise ArtifactError(f"the bytes hash to {found}: altered", where=path, remedy="restore it, or roll back")
        return data

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


def dump_model(estimator: object) -> bytes:
    """An estimator as the bytes of a skops file."""
    import skops.io

    data: bytes = skops.io.dumps(estimator)
    return data


def load_model(store: ArtifactStore, sha: str) -> Any:
    """Build the estimator of a model artifact: hash, signature, size and types are checked before.

    Raises
    ------
    ArtifactError
        Missing, altered, unsigned, oversize, or with types that are not on the allow-list. Nothing of it ran.
    """
    import skops.io

    data = store.get(sha)
    store.verify(sha, "model")
    _check_size(data, store.path(sha))
    try:
        unknown = set(skops.io.get_untrusted_types(data=data))
    except Exception as error:
        raise ArtifactError(f"not a skops file: {error}", where=store.path(sha)) from error
    if refused := sorted(unknown - ALLOWED_TYPES):
        raise ArtifactError(
            f"contains types that are not allowed: {', '.join(refused)}",
            where=store.path(sha),
            remedy="train with estimators and transformers of scikit-learn only",
        )
    try:
        return skops.io.loads(data, trusted=sorted(unknown))
    except Exception as error:
        raise ArtifactError(f"cannot be loaded: {error}", where=store.path(sha)) from error


def _check_size(data: bytes, where: str) -> None:
    """Refuse archives that unpack to far more than they are, from their directory alone."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except zipfile.BadZipFile as error:
        raise ArtifactError("not a skops file", where=where) from error
    if unpacked > MAX_UNPACKED_BYTES or unpacked > MAX_RATIO * max(len(data), 10_000):
        raise ArtifactError(f"{len(data)} bytes would unpack to {unpacked}", where=where)


def check_in_child(
    store: ArtifactStore,
    sha: str,
    *,
    features: Mapping[str, str] | None = None,
    rows: Sequence[Mapping[str, Scalar]] = (),
    memory_bytes: int = CHILD_MEMORY_BYTES,
    cpu_s: int = CHILD_CPU_S,
    timeout_s: float = CHILD_TIMEOUT_S,
) -> None:
    """Load a model in a limited child process and predict a few rows there.

    Parameters
    ----------
    features : mapping of str to str, optional
        Columns and kinds (``numeric``, ``categorical``, ``boolean``) of the specification; none: load only.
    rows : sequence of mapping, optional
        Rows of the smoke test; default one row of plain values.

    Raises
    ------
    ArtifactError
        With what the child said, or how it ended.
    """
    task = {
        "url": store.url,
        "keys": str(store.keys) if store.keys is not None else None,
        "sha": sha,
        "features": dict(features or {}),
        "rows": [dict(row) for row in rows],
        "memory_bytes": memory_bytes,
        "cpu_s": cpu_s,
    }
    try:
        done = subprocess.run(
            [sys.executable, "-m", "agents.artifact_check"],
            input=json.dumps(task).encode(),
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ArtifactError(f"the smoke test did not end within {timeout_s:g} s", where=store.path(sha)) from error
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        reason = said[-1] if said else f"the child ended with code {done.returncode}"
        raise ArtifactError(f"refused by the smoke test: {reason}", where=store.path(sha))
