"""Artifacts are checked before a byte is parsed, and nothing of an unsafe one ever runs."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import stat
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression

from agents.artifacts import ArtifactStore, check_in_child, load_model
from agents.config import load_settings
from agents.signing import KeyRing
from agents.skops_file import dump_model
from schemas.errors import ArtifactError
from tests.support.troubled_models import Hanging


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(str(tmp_path / "artifacts"))


@pytest.fixture(scope="module")
def model() -> bytes:
    return dump_model(LogisticRegression().fit(pd.DataFrame({"x": [0.0, 1.0, 2.0, 3.0]}), [0, 0, 1, 1]))


def put_signed(store: ArtifactStore, data: bytes) -> str:
    return store.put(data, "model")


def test_bytes_come_back_by_their_hash(store: ArtifactStore) -> None:
    sha = store.put(b"hello", "reference")
    assert sha == hashlib.sha256(b"hello").hexdigest()
    assert store.get(sha) == b"hello"
    assert store.exists(sha)
    assert not store.exists("0" * 64)
    assert store.put(b"hello", "reference") == sha
    assert store.verify(sha, "reference")


def test_keys_are_made_on_first_use_and_private(tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path)
    ArtifactStore.of(settings).put(b"x", "model")
    private = tmp_path / "keys" / "private.pem"
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert stat.S_IMODE(private.parent.stat().st_mode) == 0o700


def test_processes_that_start_together_agree_on_one_key(tmp_path: Path) -> None:
    first, second = KeyRing(tmp_path / "keys"), KeyRing(tmp_path / "keys")
    assert first.verify(b"data", second.sign(b"data")) == second.verify(b"data", first.sign(b"data"))


def test_a_model_survives_the_round_trip(store: ArtifactStore, model: bytes) -> None:
    loaded = load_model(store, put_signed(store, model))
    assert loaded.predict(pd.DataFrame({"x": [0.0, 3.0]})).tolist() == [0, 1]


def test_gradient_boosting_is_on_the_allow_list(store: ArtifactStore) -> None:
    frame = pd.DataFrame({"x": np.arange(100.0), "c": np.arange(100) % 3})
    estimator = HistGradientBoostingClassifier(max_iter=3, categorical_features=["c"]).fit(frame, frame["x"] > 50)
    loaded = load_model(store, put_signed(store, dump_model(estimator)))
    assert (loaded.predict_proba(frame) == estimator.predict_proba(frame)).all()


def test_a_flipped_byte_is_refused(store: ArtifactStore, model: bytes) -> None:
    sha = put_signed(store, model)
    path = Path(store.path(sha))
    altered = bytearray(model)
    altered[len(altered) // 2] ^= 1
    path.write_bytes(altered)
    with pytest.raises(ArtifactError, match="altered") as caught:
        load_model(store, sha)
    assert sha in caught.value.where


def test_a_missing_artifact_is_named(store: ArtifactStore) -> None:
    with pytest.raises(ArtifactError, match="missing") as caught:
        store.get("a" * 64)
    assert caught.value.remedy
    with pytest.raises(ArtifactError, match="no SHA-256"):
        store.get("../../etc/passwd")


def test_an_unsigned_model_is_refused(store: ArtifactStore, model: bytes) -> None:
    sha = store.put(model, "reference")  # signed, but as something else
    with pytest.raises(ArtifactError, match="not signed as model"):
        load_model(store, sha)
    signature = Path(store.path(sha) + ".reference.sig")
    signature.rename(signature.with_name(f"{sha}.model.sig"))
    with pytest.raises(ArtifactError, match="not of these bytes"):
        load_model(store, sha)


def test_a_signature_of_a_stranger_is_refused_until_trusted(tmp_path: Path, model: bytes) -> None:
    ours = ArtifactStore(str(tmp_path / "shared"), tmp_path / "our-keys")
    theirs = ArtifactStore(str(tmp_path / "shared"), tmp_path / "their-keys")
    ours.put(b"makes our key", "model")
    sha = theirs.put(model, "model")
    with pytest.raises(ArtifactError, match="not trusted here"):
        load_model(ours, sha)
    (tmp_path / "our-keys" / "theirs.pub").write_bytes((tmp_path / "their-keys" / "own.pub").read_bytes())
    assert load_model(ours, sha).classes_.tolist() == [0, 1]


class Canary:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_a_pickle_never_runs(store: ArtifactStore, tmp_path: Path) -> None:
    path = tmp_path / "canary"
    data = pickle.dumps(Canary(path))
    sha = put_signed(store, data)
    with pytest.raises(ArtifactError, match="not a skops file"):
        load_model(store, sha)
    assert not path.exists()
    pickle.loads(data)
    assert path.exists(), "the canary itself works"


def test_a_type_that_is_not_allowed_is_not_even_imported(
    store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "evil_module.py").write_text(
        "from pathlib import Path\nfrom sklearn.base import BaseEstimator\n"
        f"Path({str(tmp_path / 'ran')!r}).touch()\nclass Evil(BaseEstimator): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import evil_module  # type: ignore[import-not-found]

    evil: BaseEstimator = evil_module.Evil()
    data = dump_model(evil)
    sys.modules.pop("evil_module")
    (tmp_path / "ran").unlink()
    sha = put_signed(store, data)
    with pytest.raises(ArtifactError, match=r"not allowed: evil_module\.Evil"):
        load_model(store, sha)
    assert not (tmp_path / "ran").exists()
    assert "evil_module" not in sys.modules


def test_a_bomb_is_refused_from_its_directory(store: ArtifactStore) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("schema.json", b"0" * 50_000_000)
    with pytest.raises(ArtifactError, match="would unpack to 50000000"):
        load_model(store, put_signed(store, buffer.getvalue()))


def test_garbage_in_a_zip_is_refused(store: ArtifactStore) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("schema.json", b"{}")
    with pytest.raises(ArtifactError):
        load_model(store, put_signed(store, buffer.getvalue()))


def test_the_child_loads_and_predicts(store: ArtifactStore, model: bytes) -> None:
    check_in_child(store, put_signed(store, model), features={"x": "numeric"}, rows=[{"x": 1.5}, {"x": None}][:1])


def test_the_child_says_why_a_model_is_of_no_use(store: ArtifactStore, model: bytes) -> None:
    with pytest.raises(ArtifactError, match=r"smoke test: ValueError.*feature names"):
        check_in_child(store, put_signed(store, model), features={"other": "numeric"})


def test_the_child_is_limited_in_time(store: ArtifactStore) -> None:
    sha, allowed = put_signed(store, dump_model(Hanging())), ["tests.support.troubled_models.Hanging"]
    with pytest.raises(ArtifactError, match="did not end within"):
        check_in_child(store, sha, features={"x": "numeric"}, allowed=allowed, timeout_s=1)


def test_the_child_is_limited_in_memory(store: ArtifactStore, model: bytes) -> None:
    with pytest.raises(ArtifactError, match="smoke test"):
        check_in_child(store, put_signed(store, model), features={"x": "numeric"}, memory_bytes=150_000_000)
