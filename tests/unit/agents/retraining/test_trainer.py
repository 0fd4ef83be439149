"""Training: one fit before the holdout, a reference of everything, and clear words where it cannot be done."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from agents.artifacts import ArtifactStore, load_model
from agents.retraining.project import load_project
from agents.retraining.scoring import score
from agents.retraining.step_cache import StepCache
from agents.retraining.table import normalise
from agents.retraining.trainer import event_times_ms, table_hash, train
from agents.retraining.validation import Champion, validate
from schemas.codec import encode
from schemas.errors import ArtifactError, TrainingError
from tests.unit.agents.retraining.projects import PIPELINE, SPEC, write_project
from tests.unit.agents.retraining.tables import toy_table

SEEING = PIPELINE.replace(
    "    return model.fit", '    print("rows", len(prepare), prepare["at"].max())\n    return model.fit'
)


def _table(days: int = 20) -> pd.DataFrame:
    from schemas.specification import parse

    table = toy_table(days)
    table.loc[::10, ["y", "known_at"]] = None
    return normalise(table, parse(SPEC), where="t")


def test_the_model_sees_only_rows_before_the_holdout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = _table()
    candidate = train(load_project(write_project(tmp_path, SEEING)), table, where="t")
    times = event_times_ms(table, candidate.spec)
    labelled = table["y"].notna().to_numpy()
    assert (candidate.heldout == (labelled & (times >= candidate.cutoff_ms))).all()
    words = capsys.readouterr().out.split(maxsplit=2)
    assert int(words[1]) == candidate.trained_rows == int((labelled & (times < candidate.cutoff_ms)).sum())
    assert pd.Timestamp(words[2].strip()).value // 1_000_000 < candidate.cutoff_ms
    assert len(candidate.scored.predictions) == int(candidate.heldout.sum()) == 1000


def test_the_same_table_gives_the_same_bytes(tmp_path: Path) -> None:
    project = load_project(write_project(tmp_path))
    one, two = train(project, _table(), where="t"), train(project, _table(), where="t")
    assert (one.scored.scores == two.scored.scores).all()  # type: ignore[union-attr]
    assert encode(one.reference()) == encode(two.reference())
    assert one.importances == two.importances


def test_importance_finds_what_matters(tmp_path: Path) -> None:
    importances = train(load_project(write_project(tmp_path)), _table(), where="t").importances
    assert importances["x"] > 0.2
    assert importances["noise"] < 0.05
    assert set(importances) == {"x", "noise", "region"}


def test_the_reference_tells_of_all_rows_and_of_held_out_levels(tmp_path: Path) -> None:
    candidate = train(load_project(write_project(tmp_path)), _table(), where="t")
    reference = candidate.reference()
    assert reference.rows == 3000
    assert set(reference.features) == {"x", "noise", "region"}
    assert reference.classes == ["0", "1"]
    assert reference.metrics["roc_auc"].value == pytest.approx(0.86, abs=0.04)
    assert reference.segments.keys() == {"region=north", "region=south"}


def test_a_second_training_reuses_steps(tmp_path: Path) -> None:
    project = load_project(write_project(tmp_path / "p"))
    cache = StepCache(tmp_path / "cache", worth_s=0.0)
    first = train(project, _table(), where="t", cache=cache)
    again = train(project, _table(), where="t", cache=cache)
    assert first.reused == ()
    assert again.reused == ("prepare", "train")
    assert (first.scored.scores == again.scored.scores).all()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        ("None", "NoneType, which cannot predict"),
        ("model.fit(prepare[spec.columns()].head(0), [])", "step train raised"),
        ("type('M', (), {'predict': lambda self, rows: 1 / 0})()", "cannot predict raw feature columns"),
        ("model.fit(prepare[spec.columns()], prepare['y'].astype(int) + 1)", "knows the classes"),
    ],
)
def test_what_cannot_be_used_is_told(tmp_path: Path, returned: str, words: str) -> None:
    text = PIPELINE.replace('model.fit(prepare[spec.columns()], prepare["y"].astype(int))', returned)
    if words == "knows the classes":
        text = text.replace("+ 1)", "+ 1)")
        text = text.replace("'y'].astype(int) + 1", "'y'].astype(int) + 5")
    with pytest.raises(TrainingError, match=words):
        train(load_project(write_project(tmp_path, text)), _table(), where="t")


def test_a_model_of_the_projects_own_class_is_refused(tmp_path: Path) -> None:
    text = """
    class Mine:
        classes_ = [0, 1]
        def predict(self, rows):
            return [1] * len(rows)

    def train(data):
        model = Mine()
        model.rule = lambda rows: rows
        return model
    """
    candidate = train(load_project(write_project(tmp_path / "p", text)), _table(), where="t")
    with pytest.raises(ArtifactError, match="types that are not allowed"):
        validate(ArtifactStore(str(tmp_path / "a"), tmp_path / "keys"), candidate, None)


def test_labels_of_one_class_before_the_holdout_are_refused(tmp_path: Path) -> None:
    table = _table()
    table.loc[table["y"].notna() & (table.index < 2400), "y"] = 0
    with pytest.raises(TrainingError, match=r"all \d+ labels are '0'") as caught:
        train(load_project(write_project(tmp_path)), table, where="t")
    assert "before the holdout" in caught.value.where


VALIDATING = (
    PIPELINE
    + """

def validate(train, prepare, spec):
    scores = train.predict_proba(prepare[spec.columns()])[:, 1]
    return {"passed": bool(scores.std() > FLOOR), "spread": scores.std(), "rows": len(prepare)}
"""
)


@pytest.mark.parametrize(("floor", "passed"), [(0.01, True), (5.0, False)])
def test_the_projects_own_validation_is_run_on_held_out_rows(tmp_path: Path, floor: float, passed: bool) -> None:
    project = load_project(write_project(tmp_path / "p", f"FLOOR = {floor}\n" + VALIDATING))
    candidate = train(project, _table(), where="t")
    assert candidate.project_checks is not None
    assert candidate.project_checks["rows"] == 1000
    _, verdict = validate(ArtifactStore(str(tmp_path / "a"), tmp_path / "keys"), candidate, None)
    assert verdict.passed is passed


def test_what_is_deployed_is_what_was_validated(tmp_path: Path) -> None:
    artifacts = ArtifactStore(str(tmp_path / "a"), tmp_path / "keys")
    candidate = train(load_project(write_project(tmp_path / "p")), _table(), where="t")
    sha, verdict = validate(artifacts, candidate, None)
    assert verdict.passed
    restored = load_model(artifacts, sha)
    again = score(candidate.spec, restored, candidate.held[candidate.spec.columns()])
    assert np.array_equal(again.scores, candidate.scored.scores)  # type: ignore[arg-type]


def test_a_champion_with_other_features_is_judged_on_its_own_columns(tmp_path: Path) -> None:
    artifacts = ArtifactStore(str(tmp_path / "a"), tmp_path / "keys")
    only_x = PIPELINE.replace('("r", OneHotEncoder(handle_unknown="ignore"), ["region"]), ', "").replace(
        '["x", "noise"]', '["x"]'
    )
    slim = SPEC.replace('noise = "numeric"\n', "")
    old = train(load_project(write_project(tmp_path / "old")), _table(), where="t")
    sha, _ = validate(artifacts, old, None)
    champion = Champion(1, sha, old.spec, 0)
    project = load_project(write_project(tmp_path / "new", only_x, slim))
    new = train(project, _table(), where="t")
    _, verdict = validate(artifacts, new, champion)
    assert verdict.report["champion_version"] == 1
    narrow = train(project, _table().drop(columns=["noise"]), where="t")
    with pytest.raises(TrainingError, match="lack noise"):
        validate(artifacts, narrow, champion)


def test_tables_are_told_apart_by_content() -> None:
    table = _table()
    changed = table.copy()
    changed.loc[5, "x"] += 1e-9
    assert table_hash(table) == table_hash(_table())
    assert table_hash(changed) != table_hash(table)
    assert table_hash(table.rename(columns={"x": "z"})) != table_hash(table)
