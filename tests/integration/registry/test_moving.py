"""A version moves between two installations, and nothing that was tampered with gets in. On both databases."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sqlalchemy import func, select

from agents.artifacts import ArtifactStore
from agents.registry import bundle, moving
from agents.registry.tables import VersionRow
from agents.registry.watched import register as register_watched
from agents.signing import KeyRing
from agents.skops_file import dump_model
from schemas.errors import ArtifactError, ConflictError, TransitionError
from tests.support.databases import prepare
from tests.support.registries import EVENT_TIME, RegistryWorld, spec_text


def trained(
    world: RegistryWorld,
    model: bytes,
    parent: int | None = None,
    *,
    passed: bool = True,
    allowed: tuple[str, ...] = (),
) -> int:
    """A version with real artifacts."""
    world.model(allowed=allowed)
    with world.sessions.begin() as session:
        version = world.registry.register_version(
            session,
            "m",
            artifact=world.store.put(model, "model"),
            reference=world.store.put(b"{}", "reference"),
            specification_text=spec_text(allowed=allowed),
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
def there(database: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RegistryWorld]:
    """The exporting installation, on the other database."""
    folder = tmp_path / "there"
    folder.mkdir()
    if database == "postgresql":
        made = RegistryWorld(f"sqlite:///{folder / 'registry.db'}", folder)
        prepare(made.engine)
    else:
        made = RegistryWorld(request.getfixturevalue("postgres").prepared(), folder)
    yield made
    made.close()


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


@pytest.fixture
def unopened(monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening the model takes seconds, and is not what is asked here."""
    monkeypatch.setattr(moving, "_check_model", lambda *_: None)


def taken(world: RegistryWorld, path: Path, **more: object) -> moving.Imported:
    assert world.store.keys is not None
    return moving.import_bundle(world.registry, KeyRing(world.store.keys), path, by="bob", submit=True, **more)  # type: ignore[arg-type]


@pytest.mark.usefixtures("unopened")
def test_keys_are_rotated_on_both_sides(there: RegistryWorld, world: RegistryWorld, tmp_path: Path) -> None:
    """Several keys of one installation are trusted side by side; a retired one counts as long as it is trusted."""
    theirs, ours = rings(there, world)
    trained(there, estimator())
    by_the_old = exported(there, 1, tmp_path / "old.bundle")
    old, our_old = theirs.own(), ours.own()
    ours.trust(theirs.public_pem(), "there")
    theirs.rotate()
    trained(there, estimator(1.5), parent=1)
    # What the retired key signed there is exported still, and the bundle is signed by the new one.
    by_the_new = exported(there, 2, tmp_path / "new.bundle")
    again = exported(there, 1, tmp_path / "again.bundle")

    with pytest.raises(ArtifactError, match=f"signed by key {theirs.own()}, which is not trusted here"):
        taken(world, by_the_new)
    assert taken(world, by_the_old).origin["key"] == old, "made before the rotation, and its key is trusted still"
    ours.trust(theirs.public_pem(), "there", or_numbered=True)
    assert {old, theirs.own(), our_old} <= set(ours.trusted())
    done = taken(world, by_the_new)
    assert (done.version, done.decision, done.origin["key"]) == (2, "promoted", theirs.own())
    with pytest.raises(ConflictError, match="registered already"):
        taken(world, again)

    # The old one is retired here too: bundles of it are refused, what was imported is ours and goes on.
    ours.distrust(old)
    third = exported(there, trained(there, estimator(1.7)), tmp_path / "third.bundle")
    with pytest.raises(ArtifactError, match="not trusted here"):
        taken(world, by_the_old)
    assert taken(world, third).version == 3
    ours.rotate()
    with world.readers() as session:
        for found in world.registry.versions(session, "m"):
            assert world.store.verify(found.artifact, "model") == our_old
    renewed, refused = world.store.renew()
    assert renewed > 0
    assert refused == []
    ours.distrust(our_old)
    with world.readers() as session:
        for found in world.registry.versions(session, "m"):
            for sha, kind in ((found.artifact, "model"), (found.code["artifact"], "code")):
                assert world.store.verify(sha, kind) == ours.own()
    assert world.store.renew() == (0, [])

    # An exporter that distrusted its key without renewing has nothing to vouch for any more.
    theirs.distrust(old)
    with pytest.raises(ArtifactError, match=f"signed by key {old}, which is not trusted here"):
        exported(there, 1, tmp_path / "none.bundle")
    assert there.store.renew()[1], "and is told which"


@pytest.mark.usefixtures("unopened")
def test_types_that_another_installation_allows_are_agreed_to_here(
    there: RegistryWorld, world: RegistryWorld, tmp_path: Path
) -> None:
    theirs, ours = rings(there, world)
    ours.trust(theirs.public_pem(), "there")
    path = exported(there, trained(there, estimator(), allowed=("own_models.Own",)), tmp_path / "bundle")
    with pytest.raises(ConflictError, match="nobody agreed to yet") as caught:
        taken(world, path)
    assert "`driftline import` with --allow-type own_models.Own" in caught.value.remedy
    assert count(world) == 0
    done = taken(world, path, consented=["own_models.Own"])
    assert (done.decision, done.allowed_types) == ("awaiting-approval", ["own_models.Own"])
    with pytest.raises(ConflictError), world.sessions.begin() as session:
        world.registry.approve(session, "m", 1, "cyd")


def test_what_is_refused_leaves_nothing_in_the_store(
    there: RegistryWorld, world: RegistryWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, ours = rings(there, world)
    ours.trust(theirs.public_pem(), "there")
    scratch: list[str] = []

    def broken(store: ArtifactStore, sha: str, **_: object) -> None:
        assert store.verify(sha, "model") not in ours.trusted(), "nothing of ours has vouched for it yet"
        scratch.append(store.url)
        raise ArtifactError("refused by the smoke test: nonsense", where=store.path(sha))

    def held() -> dict[str, bytes]:
        folder = Path(world.store.url)
        return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}

    monkeypatch.setattr(moving, "check_in_child", lambda *_, **__: None)
    shared = exported(there, trained(there, estimator()), tmp_path / "shared", data=True)
    taken(world, shared)
    before = held()
    monkeypatch.setattr(moving, "check_in_child", broken)
    # Its code, reference, rows and specification are those of the version that is here.
    bad = exported(there, trained(there, b"nonsense"), tmp_path / "bad", data=True)
    allowed = exported(there, trained(there, estimator(1.5), allowed=("my.Type",)), tmp_path / "allowed", data=True)
    for path, kind, said in (
        (bad, ArtifactError, "refused by the smoke test: nonsense"),
        (allowed, ConflictError, "nobody agreed to yet"),
        (shared, ConflictError, "registered already"),
    ):
        with pytest.raises(kind, match=said) as caught:
            taken(world, path)
        assert held() == before, said
        assert str(tmp_path) in caught.value.where or "m version" in caught.value.where
    assert not Path(scratch[0]).exists()

    # Nor does a model that is of another task here, or only watched.
    monkeypatch.setattr(moving, "check_in_child", lambda *_, **__: None)
    for name, text, watched, said in (
        ("task", spec_text(task="regression"), False, "is registered as regression"),
        ("watched", spec_text(), True, "is only watched"),
    ):
        folder = tmp_path / name
        other = RegistryWorld(f"sqlite:///{folder / 'registry.db'}", folder)
        prepare(other.engine)
        with other.sessions.begin() as session:
            if watched:
                register_watched(other.registry, session, text, "ann", window="14d")
            else:
                other.registry.register_model(session, text, "ann")
        KeyRing(folder / "keys").trust(theirs.public_pem(), "there")
        files = sorted(Path(other.store.url).rglob("*"))
        with pytest.raises((ConflictError, TransitionError), match=said):
            taken(other, bad)
        assert sorted(Path(other.store.url).rglob("*")) == files
        other.close()
