"""A model that was trained elsewhere is judged and registered like any other; an unsafe one never is."""

from __future__ import annotations

from pathlib import Path

import pytest
import skops.io
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType, StringTensorType
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, OrdinalEncoder

from agents.artifacts import ArtifactStore
from agents.config import load_settings
from agents.database.engine import make_engine, session_factory
from agents.registry.card import card
from agents.registry.service import Registry
from agents.retraining.given import register_given
from agents.retraining.rebuild import rebuild
from schemas import specification
from schemas.errors import ArtifactError, NotFoundError, TrainingError, TransitionError
from tests.unit.agents.retraining.projects import SPEC
from tests.unit.agents.retraining.tables import toy_table


def test_a_model_from_elsewhere(tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path / "home", artifacts_url="", database_url="", archive_url="")
    (tmp_path / "driftline.toml").write_text(SPEC)
    data, file = tmp_path / "unseen.csv", tmp_path / "model.skops"
    learnt = toy_table(5)
    toy_table(10, first_day=5).to_csv(data, index=False)
    model = make_pipeline(OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1), LogisticRegression())
    columns = ["x", "noise", "region"]
    sessions = session_factory(make_engine(settings.database))
    registry = Registry(sessions, ArtifactStore.of(settings))

    skops.io.dump(make_pipeline(FunctionTransformer(print), LogisticRegression()), file)
    with pytest.raises(ArtifactError, match="not allowed"):
        register_given(settings, None, tmp_path, file, data, actor="ann")
    with pytest.raises(TrainingError, match="none were given"):
        register_given(settings, None, tmp_path, file, None, actor="ann")
    with sessions() as session, pytest.raises(NotFoundError):
        registry.versions(session, "toy")

    skops.io.dump(model.fit(learnt[columns], learnt["y"]), file)
    done = register_given(settings, None, tmp_path, file, data, actor="ann")
    assert (done["version"], done["decision"], done["heldout"]) == (1, "initial", 1500)
    with sessions() as session:
        found = registry.version(session, "toy", 1)
    assert found.champion
    assert registry.artifacts.get(found.artifact) == file.read_bytes()
    with pytest.raises(TransitionError, match="trained elsewhere"):
        rebuild(settings, "toy", 1, here=True)


def test_an_onnx_file_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings(home=tmp_path / "home", artifacts_url="", database_url="", archive_url="")
    (tmp_path / "driftline.toml").write_text(SPEC)
    data, file = tmp_path / "unseen.csv", tmp_path / "model.onnx"
    toy_table(10, first_day=5).to_csv(data, index=False)
    learnt = toy_table(5)
    columns = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), ["region"]), remainder="passthrough")
    model = make_pipeline(columns, LogisticRegression()).fit(learnt[["x", "noise", "region"]], learnt["y"])
    number, text = FloatTensorType([None, 1]), StringTensorType([None, 1])
    converted = to_onnx(model, initial_types=[("x", number), ("noise", number), ("region", text)])

    converted.graph.input[0].name = "another"
    converted.graph.node[0].input[0] = "another"
    file.write_bytes(converted.SerializeToString())
    with pytest.raises(ArtifactError, match=r"the inputs another .* are not the features x, noise, region"):
        register_given(settings, None, tmp_path, file, data, actor="ann")

    converted.graph.input[0].name = "x"
    converted.graph.node[0].input[0] = "x"
    file.write_bytes(converted.SerializeToString())
    done = register_given(settings, None, tmp_path, file, data, actor="ann")
    assert (done["version"], done["decision"], done["heldout"]) == (1, "initial", 1500)
    registry = Registry(session_factory(make_engine(settings.database)), ArtifactStore.of(settings))
    with registry.sessions() as session:
        found = registry.version(session, "toy", 1)
    assert found.parameters["format"] == "onnx"
    assert found.environment["onnxruntime"]
    assert 'library_name: "onnx"' in card(found, specification.parse(SPEC), None)["README.md"]
    with pytest.raises(TransitionError, match="trained elsewhere"):
        rebuild(settings, "toy", 1, here=True)

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ArtifactError, match="not installed here") as caught:
        register_given(settings, None, tmp_path, file, data, actor="ann")
    assert "driftline[onnx]" in caught.value.remedy
