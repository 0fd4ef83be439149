"""A project as one artifact: a tar whose bytes depend on the files' names and contents only."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from agents.artifacts import ArtifactStore
from agents.retraining.project import MAX_BYTES, Project, load_project
from schemas.errors import ArtifactError

KIND = "code"


def pack(files: Mapping[str, bytes]) -> bytes:
    """The files as a tar, in order of their names, without times, owners or modes of this machine."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in sorted(files):
            entry = tarfile.TarInfo(name)
            entry.size = len(files[name])
            entry.mode = 0o644
            archive.addfile(entry, io.BytesIO(files[name]))
    return buffer.getvalue()


def unpack(data: bytes, folder: Path) -> None:
    """Write the files of a packed project below `folder`.

    Raises
    ------
    ArtifactError
        An entry is no plain file, leaves the folder, or the whole is larger than a project may be.
    """
    total = 0
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            for entry in archive:
                name = PurePosixPath(entry.name)
                total += entry.size
                if not entry.isreg() or name.is_absolute() or ".." in name.parts or total > MAX_BYTES:
                    raise ArtifactError(f"the packed project holds {entry.name!r}, which is not accepted")
                source = archive.extractfile(entry)
                assert source is not None
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(source.read())
    except tarfile.TarError as error:
        raise ArtifactError(f"not a packed project: {error}") from error


def store_project(artifacts: ArtifactStore, project: Project) -> str:
    """Store the project's files, signed; returns the SHA-256 of the packed project."""
    return artifacts.put(pack(project.files), KIND)


def pack_project(artifacts: ArtifactStore, directory: Path) -> str:
    """Load, check and store the project in `directory`; the hash is what `RetrainRequest.project` carries.

    Raises
    ------
    ConfigurationError
        As `load_project`.
    """
    return store_project(artifacts, load_project(directory))


def restore_project(artifacts: ArtifactStore, sha: str, folder: Path) -> Project:
    """Unpack a stored project into `folder` and load it. Code without a trusted signature is not run.

    Raises
    ------
    ArtifactError
        Missing, altered or not signed by this installation.
    """
    data = artifacts.get(sha)
    artifacts.verify(sha, KIND)
    folder.mkdir(parents=True, exist_ok=True)
    unpack(data, folder)
    return load_project(folder)
