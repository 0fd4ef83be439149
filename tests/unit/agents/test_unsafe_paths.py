"""Whichever way an unsafe artifact comes, it is refused and nothing of it runs: not here, not in a child process.

Registering, serving (which is also how a promotion takes effect), importing and rebuilding open models; each is given
each kind of file. The canary's type lives in a module that leaves a mark when it is so much as imported, in whichever
process.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import skops.io
from sklearn.linear_model import LogisticRegression

from agents.artifacts import ArtifactStore, check_in_child
from agents.config import Settings, load_settings
from agents.database.engine import make_engine, session_factory
from agents.database.migrate import upgrade
from agents.registry import moving
from agents.registry.service import Registry
from agents.registry.tables import ModelRow, VersionRow
from agents.retraining.given import register_given
from agents.retraining.rebuild import rebuild
from agents.retraining.register import register_project
from agents.serving.model import load
from agents.signing import KeyRing
from agents.skops_file import dump_model
from schemas.errors import ArtifactError, DriftlineError
from schemas.events import VersionState
from tests.support.registries import RegistryWorld
from tests.unit.agents.retraining.projects import SPEC, write_project
from tests.unit.agents.retraining.tables import toy_table

SOUND = dump_model(LogisticRegression().fit([[0.0], [1.0], [2.0], [3.0]], [0, 0, 1, 1]))


class Trap(NamedTuple):
    """Where unsafe files are made, and the mark that one of them ran."""

    folder: Path
    mark: Path


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trap:
    """A module on the path of this process and of its children that leaves a mark when it is imported."""
    folder = tmp_path / "trap"
    folder.mkdir()
    mark = tmp_path / "it-ran"
    (folder / "canary_module.py").write_text(
        f"import os\nos.makedirs({str(mark)!r}, exist_ok=True)\n"
        "class Canary:\n    def __reduce__(self):\n        return os.makedirs, (" + repr(str(mark / "reduced")) + ",)\n"
    )
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]))
    return Trap(folder, mark)


class Reduced:
    """Unpickling it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def reducing(trap: Trap) -> bytes:
    return pickle.dumps(Reduced(trap.mark))


def canary(trap: Trap) -> bytes:
    """A skops file of a type that is not allowed."""
    data = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(SOUND)) as source, zipfile.ZipFile(data, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name == "schema.json":
                schema = json.loads(content)
                schema.update({"__module__": "canary_module", "__class__": "Canary"})
                content = json.dumps(schema).encode()
            target.writestr(name, content)
    return data.getvalue()


def bomb(trap: Trap) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("schema.json", b"0" * 50_000_000)
    return data.getvalue()


SIGNED: dict[str, tuple[Callable[[Trap], bytes], str]] = {
    "a pickle that acts": (reducing, "not a skops file"),
    "a type that acts": (canary, r"not allowed: canary_module\.Canary"),
    "a bomb": (bomb, "would unpack to 50000000"),
}
"""Files with a signature that holds: somebody who is trusted made them."""


def flipped(store: ArtifactStore, sha: str) -> None:
    path = Path(store.path(sha))
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def unsigned(store: ArtifactStore, sha: str) -> None:
    Path(f"{store.path(sha)}.model.sig").unlink()


BROKEN: dict[str, tuple[Callable[[ArtifactStore, str], None], str]] = {
    "a flipped byte": (flipped, "altered"),
    "an unsigned file": (unsigned, "not signed as model"),
}


def no_process(*_: object, **__: object) -> None:
    pytest.fail("a process was started")


def installed(folder: Path) -> Settings:
    return load_settings(home=folder, artifacts_url="", database_url="", archive_url="")


def served(store: ArtifactStore, sha: str) -> None:
    specification = store.put(SPEC.encode(), "specification")
    load(
        store,
        "toy",
        VersionState(
            version=2, stage="promoted", artifact=sha, reference="", specification=specification, registered_epoch=1
        ),
    )


def bundled(settings: Settings, folder: Path, make: Callable[[ArtifactStore], str]) -> Path:
    """A bundle of an installation that is trusted here, with the model that `make` puts there."""
    folder.mkdir()
    there = RegistryWorld(f"sqlite:///{folder / 'registry.db'}", folder)
    upgrade(there.engine)
    there.model()
    with there.sessions.begin() as session:
        version = there.version(session)
        session.query(VersionRow).one().artifact = make(there.store)
    assert there.store.keys is not None
    ring = KeyRing(there.store.keys)
    KeyRing(settings.home / "keys").trust(ring.public_pem(), "there")
    path = folder / "bundle"
    with there.readers() as session:
        moving.export_version(there.registry, session, ring, path, model="m", version=version, by="ann", data=False)
    there.close()
    return path


def registry_of(settings: Settings) -> Registry:
    engine = make_engine(settings.database)
    upgrade(engine)
    return Registry(session_factory(engine), ArtifactStore.of(settings))


def registered(settings: Settings) -> int:
    with registry_of(settings).sessions() as session:
        return session.query(VersionRow).count() + session.query(ModelRow).count()


@pytest.mark.parametrize("kind", SIGNED)
def test_registering(kind: str, trap: Trap, tmp_path: Path) -> None:
    settings, (make, said) = installed(tmp_path / "home"), SIGNED[kind]
    (tmp_path / "driftline.toml").write_text(SPEC)
    data, file = tmp_path / "unseen.csv", tmp_path / "model.skops"
    toy_table(2).to_csv(data, index=False)
    file.write_bytes(make(trap))
    with pytest.raises(ArtifactError, match=said):
        register_given(settings, None, tmp_path, file, data, actor="ann")
    assert not trap.mark.exists()
    assert registered(settings) == 0


@pytest.mark.parametrize("kind", SIGNED)
def test_serving(kind: str, trap: Trap, tmp_path: Path) -> None:
    store, (make, said) = ArtifactStore.of(installed(tmp_path / "home")), SIGNED[kind]
    with pytest.raises(ArtifactError, match=said):
        served(store, store.put(make(trap), "model"))
    assert not trap.mark.exists()


@pytest.mark.parametrize("kind", SIGNED)
def test_importing(kind: str, trap: Trap, tmp_path: Path) -> None:
    settings, (make, said) = installed(tmp_path / "home"), SIGNED[kind]
    path = bundled(settings, tmp_path / "there", lambda store: store.put(make(trap), "model"))
    registry = registry_of(settings)
    with pytest.raises(ArtifactError, match=said):
        moving.import_bundle(registry, KeyRing(settings.home / "keys"), path, by="bob", submit=True)
    assert not trap.mark.exists()
    assert registered(settings) == 0


@pytest.mark.parametrize("kind", BROKEN)
def test_serving_and_exporting_what_is_broken(
    kind: str, trap: Trap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even a child process looks at it."""
    monkeypatch.setattr("agents.artifacts.checked", no_process)
    monkeypatch.setattr("subprocess.run", no_process)
    monkeypatch.setattr(skops.io, "get_untrusted_types", no_process)
    settings, (spoil, said) = installed(tmp_path / "home"), BROKEN[kind]
    store = ArtifactStore.of(settings)
    sha = store.put(SOUND, "model")
    spoil(store, sha)
    with pytest.raises(ArtifactError, match=said):
        served(store, sha)

    def spoilt(there: ArtifactStore) -> str:
        sha = there.put(SOUND, "model")
        spoil(there, sha)
        return sha

    with pytest.raises(ArtifactError, match=said):
        bundled(settings, tmp_path / "there", spoilt)


def test_rebuilding(trap: Trap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recorded model is opened beside the one that is made again: it is refused as everywhere."""
    settings = installed(tmp_path / "home")
    table = tmp_path / "table.csv"
    toy_table(20).to_csv(table, index=False)
    register_project(settings, None, write_project(tmp_path / "p", spec=SPEC), table, actor="ada", seed=3)
    store, sessions = ArtifactStore.of(settings), session_factory(make_engine(settings.database))
    make, said = SIGNED["a type that acts"]  # the others end at the same gate, and each costs a training
    with sessions.begin() as session:
        session.query(VersionRow).one().artifact = store.put(make(trap), "model")
    with pytest.raises(DriftlineError, match=said):
        rebuild(settings, "toy", 1, here=True)
    assert not trap.mark.exists()
    monkeypatch.setattr("agents.artifacts.checked", no_process)
    monkeypatch.setattr("subprocess.run", no_process)
    for spoil, said in BROKEN.values():
        with sessions.begin() as session:
            session.query(VersionRow).one().artifact = sha = store.put(SOUND, "model")
        spoil(store, sha)
        with pytest.raises(ArtifactError, match=said):
            rebuild(settings, "toy", 1, here=True)
        Path(store.path(sha)).unlink()
    assert not trap.mark.exists()


def test_the_traps_work(trap: Trap, tmp_path: Path) -> None:
    """What is refused above would act if anything opened it, in a child process, too."""
    store = ArtifactStore.of(installed(tmp_path / "home"))
    check_in_child(store, store.put(canary(trap), "model"), allowed=["canary_module.Canary"])
    assert trap.mark.exists()
    trap.mark.rmdir()
    pickle.loads(reducing(trap))
    assert trap.mark.exists()
    trap.mark.rmdir()
    skops.io.loads(canary(trap), trusted=["canary_module.Canary"])
    assert trap.mark.exists()
