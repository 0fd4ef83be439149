"""Packed projects: the same bytes for the same files, and nothing but plain files come out."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from agents.artifacts import ArtifactStore
from agents.retraining.packing import pack, pack_project, restore_project, unpack
from agents.retraining.project import load_project
from schemas.errors import ArtifactError, ProjectError
from tests.unit.agents.retraining.projects import write_project


def test_round_trip(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path / "artifacts"), tmp_path / "keys")
    write_project(tmp_path / "p", helper="VALUE = 1\n")
    sha = pack_project(store, tmp_path / "p")
    restored = restore_project(store, sha, tmp_path / "out")
    assert restored.tree_hash == load_project(tmp_path / "p").tree_hash
    assert pack_project(store, tmp_path / "out") == sha


def test_a_broken_project_is_not_stored(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path / "artifacts"), tmp_path / "keys")
    write_project(tmp_path / "p", "def train(nothing): ...\n")
    with pytest.raises(ProjectError):
        pack_project(store, tmp_path / "p")
    assert not (tmp_path / "artifacts").exists()


def test_unsigned_code_is_not_run(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path / "artifacts"), tmp_path / "keys")
    canary = tmp_path / "ran"
    sha = store.put(pack({"driftline.toml": b"", "pipeline.py": f"open({str(canary)!r}, 'w')".encode()}), "data")
    with pytest.raises(ArtifactError, match="not signed as code"):
        restore_project(store, sha, tmp_path / "out")
    assert not canary.exists()


def _tar(name: str, kind: bytes = tarfile.REGTYPE) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        entry = tarfile.TarInfo(name)
        entry.type = kind
        entry.linkname = "/etc/passwd" if kind == tarfile.SYMTYPE else ""
        archive.addfile(entry, io.BytesIO(b""))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data", [_tar("../up.py"), _tar("/abs.py"), _tar("link.py", tarfile.SYMTYPE), b"no tar at all" * 100]
)
def test_strange_archives_are_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ArtifactError):
        unpack(data, tmp_path / "out")
    assert not (tmp_path / "up.py").exists()
