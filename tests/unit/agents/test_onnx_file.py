"""ONNX files answer as the model they were made of, and unsafe ones are refused before a runtime sees them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from onnx import ModelProto, TensorProto, helper
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType, StringTensorType
from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from agents.artifacts import ArtifactStore, check_in_child, load_model
from agents.features import feature_frame
from agents.onnx_check import is_onnx, parsed
from agents.onnx_file import OnnxClassifier, load_onnx
from agents.serving.model import ServedModel
from schemas.errors import ArtifactError
from schemas.specification import Specification, parse
from tests.support.onnx_models import FLOAT, INT64, coin, graph, initializer, linear, value

COLUMNS = ["x", "noise", "region"]


def specification(task: str, features: dict[str, str], **more: Any) -> Specification:
    lines = "\n".join(f'{name} = "{kind}"' for name, kind in features.items())
    positive = f"positive = {json.dumps(more['positive'])}" if "positive" in more else ""
    primary = "rmse" if task == "regression" else "log_loss" if task == "multiclass" else "roc_auc"
    return parse(
        f'[model]\nname = "m"\ntask = "{task}"\n{positive}\n[data]\nid = "id"\nevent_time = "at"\nlabel = "y"\n'
        f'max_label_delay = "1d"\n[features]\n{lines}\n[metrics]\nprimary = "{primary}"\n'
    )


MIXED = specification("binary", {"x": "numeric", "noise": "numeric", "region": "categorical"})


def rows(n: int = 300) -> pd.DataFrame:
    """Numbers that float32 holds, some missing; text that the model has not seen among it."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=n).astype("float32").astype("float64")
    x[::17] = np.nan
    region = rng.choice(["north", "south"], n).astype(object)
    region[::29] = "elsewhere"
    noise = rng.normal(size=n).astype("float32").astype("float64")
    return feature_frame(MIXED, {"x": x, "noise": noise, "region": region})


def fitted(labels: np.ndarray[Any, Any]) -> Any:
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    columns = make_column_transformer((numbers, ["x", "noise"]), (OneHotEncoder(handle_unknown="ignore"), ["region"]))
    return make_pipeline(columns, LogisticRegression()).fit(rows()[COLUMNS], labels)


NAMED = [
    ("x", FloatTensorType([None, 1])),
    ("noise", FloatTensorType([None, 1])),
    ("region", StringTensorType([None, 1])),
]


@pytest.mark.parametrize("zipmap", [True, False], ids=["maps", "tensor"])
@pytest.mark.parametrize("names", [[0, 1], ["no", "yes"], ["a", "b", "c"]], ids=["numbers", "text", "three-classes"])
def test_a_converted_classifier_answers_as_the_model_it_was_made_of(names: list[Any], zipmap: bool) -> None:
    frame = rows()
    codes = np.digitize(frame["x"].fillna(0) + (frame["region"] == "north"), [0.5, 1.2][: len(names) - 1])
    model = fitted(np.array(names)[codes])
    data = to_onnx(model, initial_types=NAMED, options={"zipmap": zipmap}).SerializeToString()
    assert is_onnx(data)
    loaded = load_onnx(data, "here")
    assert isinstance(loaded, OnnxClassifier)
    assert loaded.classes_.tolist() == model.classes_.tolist()
    assert abs(loaded.predict_proba(frame) - model.predict_proba(frame)).max() < 1e-6
    assert (loaded.predict(frame) == model.predict(frame)).all()
    task = "multiclass" if len(names) > 2 else "binary"
    spec = specification(task, dict(MIXED.features), positive=names[1])
    plain = frame.astype(object).where(frame.notna(), None).to_dict("records")
    mine, theirs = (ServedModel(spec, one).predict(plain) for one in (loaded, model))
    assert [answer and answer[0] for answer in mine] == [answer and answer[0] for answer in theirs]


def test_a_matrix_has_the_features_in_the_order_of_the_specification() -> None:
    frame = rows()[["noise", "x"]].fillna(0)
    forest = RandomForestRegressor(5, max_depth=4, random_state=0).fit(frame.to_numpy(), frame["x"] * 2)
    loaded = load_onnx(to_onnx(forest, initial_types=[("X", FloatTensorType([None, 2]))]).SerializeToString(), "here")
    assert not hasattr(loaded, "predict_proba")
    assert np.allclose(loaded.predict(frame), forest.predict(frame.to_numpy()), atol=1e-6)
    with pytest.raises(ArtifactError, match=r"the inputs X \[None, 2\] are not the features x, other, noise"):
        loaded.predict(frame.assign(other=0.0)[["x", "other", "noise"]])
    with pytest.raises(ArtifactError, match="the feature 'region' is text"):
        loaded.predict(rows()[["x", "region"]])


def sigmoid(**more: Any) -> Any:
    return graph([helper.make_node("Sigmoid", ["x"], ["p"])], [value("x")], [value("p")], **more)


def test_one_number_is_a_probability_where_the_file_names_two_classes() -> None:
    loaded = load_onnx(sigmoid(metadata={"classes": '["no", "yes"]'}).SerializeToString(), "here")
    frame = pd.DataFrame({"x": [0.0, 100.0]})
    assert loaded.predict_proba(frame).tolist() == [[0.5, 0.5], [0.0, 1.0]]  # type: ignore[attr-defined]
    assert loaded.predict(frame).tolist() == ["no", "yes"]
    unnamed = load_onnx(sigmoid().SerializeToString(), "here")
    with pytest.raises(ArtifactError, match="has the classes none"):
        ServedModel(specification("binary", {"x": "numeric"}), unnamed)


def test_whole_numbers_cannot_be_missing() -> None:
    nodes = [helper.make_node("Cast", ["n"], ["y"], to=FLOAT)]
    loaded = load_onnx(graph(nodes, [value("n", INT64)], [value("y")]).SerializeToString(), "here")
    assert loaded.predict(pd.DataFrame({"n": [3.0]})).tolist() == [3.0]
    for wrong, said in ((np.nan, "missing"), (0.5, "not whole"), (1e300, "holds")):
        with pytest.raises(ValueError, match=said):
            loaded.predict(pd.DataFrame({"n": [1.0, wrong]}))


def test_classes_are_guessed_only_where_labels_do_not_contradict() -> None:
    def made(shift: int) -> bytes:
        nodes = [
            helper.make_node("Softmax", ["X"], ["probabilities"], axis=1),
            helper.make_node("ArgMax", ["probabilities"], ["best"], axis=1, keepdims=0),
            helper.make_node("Add", ["best", "shift"], ["label"]),
        ]
        outputs = [value("label", INT64, (None,)), value("probabilities", FLOAT, (None, 3))]
        shifted = initializer("shift", np.array([shift], np.int64))
        return bytes(graph(nodes, [value("X", FLOAT, (None, 3))], outputs, [shifted]).SerializeToString())

    frame = pd.DataFrame(np.eye(3), columns=["a", "b", "c"])
    first = load_onnx(made(0), "here")
    assert first.predict_proba(frame).argmax(axis=1).tolist() == [0, 1, 2]  # type: ignore[attr-defined]
    with pytest.raises(ArtifactError, match="does not name its classes"):
        load_onnx(made(1), "here").predict_proba(frame)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("made", "match"),
    [
        (graph([helper.make_node("Identity", ["x"], ["y"])], [value("x", shape=(1, 1))], [value("y")]), "in batches"),
        (
            graph(
                [helper.make_node("Identity", ["x"], [name]) for name in ("y", "z")],
                [value("x")],
                [value("y"), value("z")],
            ),
            "no label, probabilities or number",
        ),
        (sigmoid(metadata={"classes": "no, yes"}), "no JSON array"),
    ],
    ids=["one-row", "two-numbers", "classes"],
)
def test_inputs_and_outputs_that_fit_no_model(made: Any, match: str) -> None:
    with pytest.raises(ArtifactError, match=match):
        load_onnx(made.SerializeToString(), "here")


def test_logits_are_no_probabilities() -> None:
    nodes = [helper.make_node("Mul", ["X", "two"], ["probabilities"])]
    two = initializer("two", np.array([[2.0, 2.0]], np.float32))
    made = graph(nodes, [value("X", FLOAT, (None, 2))], [value("probabilities", FLOAT, (None, 2))], [two])
    with pytest.raises(ArtifactError, match="no probability of each class"):
        load_onnx(made.SerializeToString(), "here").predict_proba(pd.DataFrame({"a": [1.0], "b": [3.0]}))  # type: ignore[attr-defined]


# ------------------------------------------------------------------------------------------ hostile


def outside(location: str) -> Callable[[ModelProto], None]:
    def change(model: ModelProto) -> None:
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)

    return change


def in_a_branch(model: ModelProto) -> None:
    """An external tensor inside the graph of an ``If``."""
    inner = helper.make_tensor("hidden", FLOAT, [1], [0.0])
    inner.external_data.add(key="location", value="secret")
    constant = helper.make_graph([helper.make_node("Constant", [], ["c"], value=inner)], "b", [], [value("c")])
    model.graph.node.append(helper.make_node("If", ["condition"], ["z"], then_branch=constant, else_branch=constant))


def huge(model: ModelProto) -> None:
    model.graph.initializer[0].dims[:] = [1 << 40]


def sparse(model: ModelProto) -> None:
    one = model.graph.sparse_initializer.add(dims=[1 << 40])
    one.values.CopyFrom(helper.make_tensor("s", FLOAT, [1], [1.0]))
    one.indices.CopyFrom(helper.make_tensor("i", INT64, [1], [0]))


def own_operator(model: ModelProto) -> None:
    model.graph.node.append(helper.make_node("Run", ["y"], ["z"], domain="com.example"))


def own_domain(model: ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def own_function(model: ModelProto) -> None:
    node = helper.make_node("Identity", ["a"], ["b"])
    model.functions.append(helper.make_function("ai.onnx", "F", ["a"], ["b"], [node], []))


def training(model: ModelProto) -> None:
    model.training_info.add()


def reads_a_file(model: ModelProto) -> None:
    model.graph.node.append(helper.make_node("EPContext", ["y"], ["z"]))


def cycle(model: ModelProto) -> None:
    model.graph.node.append(helper.make_node("Add", ["b", "y"], ["a"]))
    model.graph.node.append(helper.make_node("Add", ["a", "y"], ["b"]))


def no_graph(model: ModelProto) -> None:
    model.ClearField("graph")


def unknown_operator(model: ModelProto) -> None:
    model.graph.node.append(helper.make_node("Whatever", ["y"], ["z"]))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (outside("../../etc/passwd"), "lies outside of the file"),
        (outside("*/_ORT_MEM_ADDR_/*"), "lies outside of the file"),
        (in_a_branch, "'hidden' lies outside"),
        (huge, "says it has 1099511627776 elements"),
        (sparse, "sparse tensor would have"),
        (own_operator, r"domain com\.example \(operator 'Run'\)"),
        (own_domain, r"domain com\.microsoft"),
        (own_function, "functions of its own"),
        (training, "graphs to train with"),
        (reads_a_file, "names a file to read"),
        (no_graph, "there is no graph"),
        (cycle, "cannot be loaded: .*(acyclic|cycl)"),
        (unknown_operator, "cannot be loaded: .*Whatever"),
    ],
)
def test_a_hostile_file_is_refused(change: Callable[[ModelProto], None], match: str) -> None:
    model = linear(["x"])
    change(model)
    with pytest.raises(ArtifactError, match=match):
        load_onnx(model.SerializeToString(), "here")


def test_nothing_runs_before_the_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    def session(*_: object, **__: object) -> None:
        raise AssertionError("a session was made")

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    for change in (outside("weights"), own_operator, huge):
        model = linear(["x"])
        change(model)
        with pytest.raises(ArtifactError):
            load_onnx(model.SerializeToString(), "here")


def test_fields_nobody_knows_are_refused() -> None:
    with pytest.raises(ArtifactError, match="fields of ModelProto that this release"):
        parsed(linear(["x"]).SerializeToString() + b"\xba\x3e\x01a", "here")


def test_a_part_given_twice_is_looked_at_twice() -> None:
    """Protobuf merges what is given twice: the second graph's tensors count as well."""
    second = ModelProto()
    second.graph.initializer.append(helper.make_tensor("t", FLOAT, [1], [0.0]))
    second.graph.initializer[0].external_data.add(key="location", value="secret")
    with pytest.raises(ArtifactError, match="'t' lies outside"):
        parsed(linear(["x"]).SerializeToString() + second.SerializeToString(), "here")


def test_every_truncation_is_refused_or_harmless() -> None:
    data = coin(0.5)
    for length in range(1, len(data), 7):
        with pytest.raises(ArtifactError):
            load_onnx(data[:length], "here")


def test_a_domain_can_be_allowed_and_a_reader_of_files_never() -> None:
    model = linear(["x"])
    own_domain(model)
    assert parsed(model.SerializeToString(), "here", ["com.microsoft"]).ir_version == 9
    model.graph.node.append(helper.make_node("EPContext", ["y"], ["z"], domain="com.microsoft"))
    with pytest.raises(ArtifactError, match="names a file to read"):
        parsed(model.SerializeToString(), "here", ["com.microsoft"])


def test_size_and_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    data = linear(["x"]).SerializeToString()
    monkeypatch.setattr("agents.onnx_check.MAX_ONNX_BYTES", len(data) - 1)
    with pytest.raises(ArtifactError, match="that are accepted"):
        parsed(data, "here")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ArtifactError, match="needs onnx and onnxruntime") as caught:
        parsed(data, "here")
    assert "pip install 'driftline[onnx]'" in caught.value.remedy


# ---------------------------------------------------------------------------------- store and child


def test_signed_and_whole_or_not_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ArtifactStore(str(tmp_path / "artifacts"))
    sha = store.put(coin(0.25), "model")
    assert load_model(store, sha).predict_proba(feature_frame(MIXED, {"x": [1.0]}).assign(origin="a")).tolist()
    monkeypatch.setattr("agents.onnx_file.load_onnx", lambda *_: pytest.fail("parsed"))
    signature = Path(f"{store.path(sha)}.model.sig")
    kept = signature.read_bytes()
    signature.unlink()
    with pytest.raises(ArtifactError, match="not signed as model"):
        load_model(store, sha)
    signature.write_bytes(kept)
    path = Path(store.path(sha))
    flipped = bytearray(path.read_bytes())
    flipped[len(flipped) // 2] ^= 1
    path.write_bytes(flipped)
    with pytest.raises(ArtifactError, match="altered"):
        load_model(store, sha)


def bomb() -> bytes:
    """Little in the file; a hundred gigabytes when it predicts."""
    nodes = [
        helper.make_node("Expand", ["x", "shape"], ["wide"]),
        helper.make_node("ReduceMean", ["wide"], ["y"], axes=[1], keepdims=1),
    ]
    shape = initializer("shape", np.array([1, 25_000_000_000], np.int64))
    return bytes(graph(nodes, [value("x")], [value("y")], [shape]).SerializeToString())


def forever() -> bytes:
    """A loop that never ends."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["on"], ["go"]), helper.make_node("Identity", ["v"], ["w"])],
        "body",
        [value("i", INT64, ()), value("on", TensorProto.BOOL, ()), value("v")],
        [value("go", TensorProto.BOOL, ()), value("w")],
    )
    nodes = [helper.make_node("Loop", ["", "true", "x"], ["y"], body=body)]
    return bytes(graph(nodes, [value("x")], [value("y")], [initializer("true", np.array(True))]).SerializeToString())


@pytest.mark.parametrize(
    ("data", "limits", "match"),
    [
        (bomb(), {"memory_bytes": 2_000_000_000}, "(?i)alloc|memory"),
        (forever(), {"cpu_s": 1}, "processor time"),
        (linear(["x"]).SerializeToString().replace(b"Sum", b"Gum"), {}, "cannot be loaded"),
    ],
    ids=["memory", "time", "operator"],
)
def test_what_predicting_sets_off_ends_the_child_alone(
    tmp_path: Path, data: bytes, limits: dict[str, int], match: str
) -> None:
    store = ArtifactStore(str(tmp_path / "artifacts"))
    with pytest.raises(ArtifactError, match=match):
        check_in_child(store, store.put(data, "model"), features={"x": "numeric"}, **limits)  # type: ignore[arg-type]
