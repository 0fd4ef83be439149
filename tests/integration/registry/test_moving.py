"""A version moves between two installations, and nothing that was tampered with gets in. On both databases."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
from pathlib import Path

import msgspec
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sqlalchemy import func, select

from agents.registry import bundle, moving
from agents.registry.tables import ModelRow, VersionRow
from agents.signing import KeyRing
from agents.skops_file import dump_model
from schemas.errors import ArtifactError, ConflictError
from tests.support.registries import EVENT_TIME, RegistryWorld, spec_text


def trained(world: RegistryWorld, model: bytes, parent: int | None = None, *, passed: bool = True) -> int:
    """A version with real artifacts."""
    world.model()
    with world.sessions.begin() as session:
        version = world.registry.register_version(
            session,
            "m",
            artifact=world.store.put(model, "model"),
            reference=world.store.put(b"{}", "reference"),
            specification_text=spec_text(),
            code={"tree": "abc", "artifact": world.store.put(b"code", "code"), "commit": "123"},
            dataset={"rows": 4, "registered": world.store.put(b"rows", "dataset")},
            environment={"python": "3.11"},
            parameters={"estimator": "LogisticRegression"},
            seed=7,
            parent=parent,
            run_id="run-1",
            report={"passed": passed, "auc": 0.7},
            actor="retraining",
            at=EVENT_TIME,
        )
        world.submit(session, version, passed=passed)
        return version


def estimator(scale: float = 1.0) -> bytes:
    return dump_model(LogisticRegression().fit(pd.DataFrame({"x": [0.0, scale, 2.0, 3.0]}), [0, 0, 1, 1]))


@pytest.fixture
def there(tmp_path: Path) -> RegistryWorld:
    """The exporting installation, on SQLite."""
    from tests.support.databases import prepare

    folder = tmp_path / "there"
    folder.mkdir()
    made = RegistryWorld(f"sqlite:///{folder / 'registry.db'}", folder)
    prepare(made.engine)
    return made


def rings(there: RegistryWorld, world: RegistryWorld) -> tuple[KeyRing, KeyRing]:
    assert there.store.keys is not None
    assert world.store.keys is not None
    return KeyRing(there.store.keys), KeyRing(world.store.keys)


def exported(there: RegistryWorld, version: int, path: Path, *, data: bool = False) -> Path:
    assert there.store.keys is not None
    with there.readers() as session:
        ring = KeyRing(there.store.keys)
        moving.export_version(there.registry, session, ring, path, model="m", version=version, by="ann", data=data)
    return path


def opened(path: Path, ring: KeyRing) -> tuple[bundle.Manifest, list[bytes]]:
    with path.open("rb") as file:
        manifest, _ = bundle.read(file, ring, "bundle")
        return manifest, [data for _, data in bundle.contents(file, manifest, "bundle")]


def count(world: RegistryWorld) -> int:
    with world.readers() as session:
        return session.scalar(select(func.count()).select_from(VersionRow)) or 0


def test_there_and_here(
    there: RegistryWorld, world: RegistryWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, ours = rings(there, world)
    first = exported(there, trained(there, estimator()), tmp_path / "1.bundle", data=True)
    second = exported(there, trained(there, estimator(1.5), parent=1), tmp_path / "2.bundle")
    with pytest.raises(ArtifactError, match="not trusted here") as caught:
        moving.import_bundle(world.registry, ours, first, by="bob", submit=True)
    assert "signing trust" in caught.value.remedy
    ours.trust(theirs.public_pem(), "test-system")

    done = moving.import_bundle(world.registry, ours, first, by="bob", submit=True)
    assert (done.version, done.decision) == (1, "initial")
    with world.readers() as session:
        found = world.registry.version(session, "m", 1)
    assert found.champion
    assert found.actor == "bob"
    assert (found.code["commit"], found.seed, found.run_id, found.at) == ("123", 7, "run-1", EVENT_TIME)
    origin = found.parameters["imported"]
    assert (origin["key"], origin["registered_by"], origin["exported_by"]) == (theirs.own(), "retraining", "ann")
    assert "VersionRegistered" in origin["history"][0]["event"]
    for sha, kind in (
        (found.artifact, "model"),
        (found.code["artifact"], "code"),
        (found.dataset["registered"], "dataset"),
    ):
        assert world.store.verify(sha, kind) == ours.own(), "what is trusted here is signed here"

    with pytest.raises(ConflictError, match="registered already"):
        moving.import_bundle(world.registry, ours, first, by="bob", submit=True)
    monkeypatch.setattr(moving, "_check_model", lambda *_: None)  # it takes seconds, and did its work above
    done = moving.import_bundle(world.registry, ours, second, by="bob", submit=False)
    assert (done.version, done.decision) == (2, None)
    with world.readers() as session:
        found = world.registry.version(session, "m", 2)
    assert (found.stage, found.parent, found.champion) == ("registered", 1, False)


def test_what_did_not_pass_there_is_not_promoted_here(
    there: RegistryWorld, world: RegistryWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moving, "_check_model", lambda *_: None)
    theirs, ours = rings(there, world)
    ours.trust(theirs.public_pem(), "test-system")
    path = exported(there, trained(there, estimator(), passed=False), tmp_path / "bundle")
    done = moving.import_bundle(world.registry, ours, path, by="bob", submit=True)
    assert done.decision == "rejected"
    assert "did not pass" in done.reason


def test_every_flipped_byte_is_found(there: RegistryWorld, world: RegistryWorld, tmp_path: Path) -> None:
    theirs, ours = rings(there, world)
    ours.trust(theirs.public_pem(), "test-system")
    path = exported(there, trained(there, estimator()), tmp_path / "bundle")
    whole = path.read_bytes()
    places = [*range(0, 60), *range(60, len(whole), max(len(whole) // 150, 1)), len(whole) - 1]
    for place in places:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ArtifactError):
            opened(path, ours)
    for altered in (whole[:-1], whole + b"x", whole[:40], b""):
        path.write_bytes(altered)
        with pytest.raises(ArtifactError):
            moving.import_bundle(world.registry, ours, path, by="bob", submit=True)
    assert count(world) == 0


def test_a_trusted_signer_cannot_bring_a_model_that_acts(
    there: RegistryWorld, world: RegistryWorld, tmp_path: Path
) -> None:
    class Canary:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "ran"),)

    theirs, ours = rings(there, world)
    ours.trust(theirs.public_pem(), "test-system")
    path = exported(there, trained(there, pickle.dumps(Canary())), tmp_path / "bundle")
    with pytest.raises(ArtifactError, match="not a skops file"):
        moving.import_bundle(world.registry, ours, path, by="bob", submit=True)
    assert not (tmp_path / "ran").exists()
    with world.readers() as session:
        assert session.get(ModelRow, "m") is None
    assert count(world) == 0


def test_a_manifest_lists_only_what_a_bundle_may_hold(
    there: RegistryWorld, world: RegistryWorld, tmp_path: Path
) -> None:
    theirs, ours = rings(there, world)
    ours.trust(theirs.public_pem(), "test-system")
    path = exported(there, trained(there, estimator()), tmp_path / "bundle")
    manifest, held = opened(path, ours)
    replace = msgspec.structs.replace
    for files, said in (
        ([replace(manifest.files[0], kind="keys")], "may not hold keys"),
        ([replace(manifest.files[0], size=3_000_000_000)], "may not hold"),
        ([replace(manifest.files[0], size=-1)], "may not hold"),
        ([*manifest.files] * 6, "may not hold"),
    ):
        bundle.write(path, theirs, replace(manifest, files=files), [])
        with path.open("rb") as file, pytest.raises(ArtifactError, match=said):
            bundle.read(file, ours, "bundle")
    # Signed, whole, and without its model.
    bundle.write(path, theirs, replace(manifest, files=manifest.files[1:]), held[1:])
    with pytest.raises(ArtifactError, match="lacks the model"):
        moving.import_bundle(world.registry, ours, path, by="bob", submit=True)
    assert count(world) == 0


def test_nothing_is_parsed_before_the_signature_holds(there: RegistryWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    ring = rings(there, there)[0]
    ring.own()
    monkeypatch.setattr(msgspec.json, "decode", lambda *_, **__: pytest.fail("parsed"))
    data, signature = b"{}", KeyRing(Path(str(ring.folder) + "-stranger")).sign(b"other")
    file = io.BytesIO(bundle.MAGIC + f"{len(signature)} {len(data)}\n".encode() + signature + data)
    with pytest.raises(ArtifactError, match="not trusted"):
        bundle.read(file, ring, "bundle")
    signature = ring.sign(b"driftline bundle v1\n" + hashlib.sha256(b"another").hexdigest().encode() + b"\n")
    file = io.BytesIO(bundle.MAGIC + f"{len(signature)} {len(data)}\n".encode() + signature + data)
    with pytest.raises(ArtifactError, match="not of these bytes"):
        bundle.read(file, ring, "bundle")
