"""A model's file depends on the model alone, and its allow-list grows only where the specification says so."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import skops.io
from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, PolynomialFeatures

from agents.artifacts import ArtifactStore, check_in_child, load_model
from agents.skops_file import canonical, dump_model
from schemas.errors import ArtifactError, SpecificationError
from schemas.specification import parse
from tests.unit.agents.retraining.projects import SPEC

FRAME = pd.DataFrame({"x": np.arange(60.0), "c": [["a", "b", "c"][i % 3] for i in range(60)]})
LABELS = (FRAME["x"] > 30).astype(int)


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(str(tmp_path / "artifacts"))


def fitted(final: BaseEstimator) -> BaseEstimator:
    columns = ColumnTransformer([("c", OneHotEncoder(), ["c"]), ("x", "passthrough", ["x"])])
    return make_pipeline(columns, final).fit(FRAME, LABELS)


@pytest.mark.parametrize(
    "final",
    [
        LogisticRegression(),
        RandomForestClassifier(3, random_state=0),
        HistGradientBoostingClassifier(max_iter=3, random_state=0),
    ],
    ids=lambda final: type(final).__name__,
)
def test_equal_models_give_equal_bytes(final: BaseEstimator) -> None:
    from sklearn.base import clone

    first, second = fitted(clone(final)), fitted(clone(final))
    data = dump_model(first)
    assert dump_model(second) == data
    assert skops.io.dumps(first) != skops.io.dumps(second), "what is canonicalised away has to be there"
    # What was read back is the same model, so the same file.
    loaded = skops.io.loads(data, trusted=skops.io.get_untrusted_types(data=data))
    assert np.array_equal(loaded.predict_proba(FRAME), first.predict_proba(FRAME))
    assert canonical(data) == data


def test_the_order_of_a_set_is_no_difference() -> None:
    files = []
    for order in ([0, 8], [8, 0]):  # they meet in one slot of the table: the first stays first
        model = DummyRegressor().fit(FRAME[["x"]], LABELS)
        model.known_ = set(order)
        assert list(model.known_) == order
        files.append(dump_model(model))
    assert files[0] == files[1]


def test_a_changed_number_changes_the_bytes() -> None:
    model = LogisticRegression().fit(FRAME[["x"]], LABELS)
    before = dump_model(model)
    model.coef_ = model.coef_ + 1e-15 * np.abs(model.coef_)
    assert dump_model(model) != before


def test_objects_that_are_one_stay_one() -> None:
    shared = np.arange(5.0)
    model = DummyRegressor().fit(FRAME[["x"]], LABELS)
    model.one_, model.other_ = shared, shared
    loaded = skops.io.loads(dump_model(model))
    assert loaded.one_ is loaded.other_


def other_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> bytes:
    (tmp_path / f"{name}.py").write_text(
        "from sklearn.base import BaseEstimator\n"
        "class Own(BaseEstimator):\n"
        "    def predict(self, rows): return [1.0] * len(rows)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    module = __import__(name)
    return dump_model(module.Own())


def test_the_specification_allows_a_type_explicitly(
    store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha = store.put(other_type(tmp_path, monkeypatch, "own_models"), "model")
    with pytest.raises(ArtifactError, match=r"not allowed: own_models\.Own") as caught:
        load_model(store, sha)
    assert 'allowed_types = ["own_models.Own"]' in caught.value.remedy
    with pytest.raises(ArtifactError, match="not allowed"):
        load_model(store, sha, ["own_models.Other"])
    assert load_model(store, sha, ["own_models.Own"]).predict([1, 2]) == [1.0, 1.0]


@pytest.mark.parametrize(
    ("name", "fits"),
    [
        ("lightgbm.sklearn.LGBMClassifier", True),
        ("os.system", False),
        ("builtins.eval", False),
        ("subprocess.Popen", False),
        ("Own", False),
        ("own.*", False),
        ("agents.signing.KeyRing", False),
    ],
)
def test_what_can_be_allowed(name: str, fits: bool) -> None:
    text = SPEC.replace('task = "binary"', f'task = "binary"\nallowed_types = ["{name}"]')
    if fits:
        assert parse(text).model.allowed_types == [name]
    else:
        with pytest.raises(SpecificationError, match=name.replace("*", r"\*")):
            parse(text)


def test_a_large_file_is_not_read(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.artifacts.MAX_MODEL_BYTES", 100)
    with pytest.raises(ArtifactError, match="more than the 100 that are accepted"):
        load_model(store, store.put(b"x" * 101, "model"))


def poly(degree: int) -> Pipeline:
    """Small on disk; a row of it becomes as many columns as there are products of that degree."""
    frame = pd.DataFrame({f"x{i}": [0.0, 1.0] for i in range(8)})
    final = DummyRegressor().fit([[0.0], [1.0]], [0.0, 1.0])
    return Pipeline([("products", PolynomialFeatures(degree).fit(frame)), ("final", final)])


@pytest.mark.parametrize(
    ("limits", "match"),
    [({"cpu_s": 2, "memory_bytes": 16_000_000_000}, "processor time|emory"), ({"memory_bytes": 900_000_000}, "emory")],
    ids=["processor", "memory"],
)
def test_a_bomb_that_predicting_sets_off_ends_the_child_alone(
    store: ArtifactStore, limits: dict[str, int], match: str
) -> None:
    sha = store.put(dump_model(poly(40)), "model")
    load_model(store, sha)  # harmless until it is asked
    with pytest.raises(ArtifactError, match=match):
        check_in_child(store, sha, features={f"x{i}": "numeric" for i in range(8)}, **limits)  # type: ignore[arg-type]


def test_an_array_that_claims_to_be_huge_ends_the_child_alone(store: ArtifactStore) -> None:
    data = dump_model(LogisticRegression().fit(FRAME[["x"]], LABELS))
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(buffer, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith(".npy") and b"'<f8'" in content:
                header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999,), }"
                header += b" " * (118 - len(header) - 1) + b"\n"
                content = b"\x93NUMPY\x01\x00v\x00" + header + content[128:]
            target.writestr(name, content)
    sha = store.put(buffer.getvalue(), "model")
    with pytest.raises(ArtifactError, match="smoke test"):
        check_in_child(store, sha, features={"x": "numeric"})


def test_the_schema_is_plain_json() -> None:
    with zipfile.ZipFile(io.BytesIO(dump_model(LogisticRegression().fit(FRAME[["x"]], LABELS)))) as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert json.loads(archive.read("schema.json"))["__class__"] == "LogisticRegression"
