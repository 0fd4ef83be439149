"""Whatever form values come in, estimators are given the same frame."""

from __future__ import annotations

import pandas as pd
import pytest

from agents.features import feature_frame
from schemas.specification import parse

SPEC = parse("""
[model]
name = "m"
task = "binary"
[data]
id = "id"
event_time = "t"
label = "y"
max_label_delay = "1d"
[features]
n = "numeric"
b = "boolean"
c = "categorical"
[metrics]
primary = "roc_auc"
""")
EXPECTED = pd.DataFrame(
    {"n": [1.0, None, 2.5], "b": [1.0, 0.0, None], "c": pd.Series(["5", None, "UA"], dtype="str")},
    columns=["n", "b", "c"],
)


@pytest.mark.parametrize(
    "columns",
    [
        {"n": [1, None, 2.5], "b": [True, False, None], "c": [5, None, "UA"]},
        {"n": [1.0, float("nan"), 2.5], "b": [1, 0, None], "c": [5.0, float("nan"), "UA"]},
        {"n": [True, "x", 2.5], "b": [True, False, "?"], "c": ["5", None, "UA"]},
        {"n": [1, float("inf"), 2.5], "b": [True, False, None], "c": ["5", None, "UA"], "more": [1, 2, 3]},
        {
            "n": pd.Series([1, None, 2.5], index=[7, 8, 9]),
            "b": pd.Series([True, False, None], dtype="boolean"),
            "c": pd.Series(["5", None, "UA"], dtype="str", index=[7, 8, 9]),
        },
        {
            "n": pd.Series([1, None, 2.5], dtype="Float64"),
            "b": pd.Series([True, False, None], dtype=object),
            "c": pd.Series(["5", None, "UA"], dtype="category"),
        },
    ],
)
def test_the_same_frame(columns: dict[str, object]) -> None:
    pd.testing.assert_frame_equal(feature_frame(SPEC, columns), EXPECTED)


def test_absent_features_are_missing() -> None:
    frame = feature_frame(SPEC, {"n": [1.0, 2.0]})
    assert frame["c"].isna().all()
    assert str(frame["c"].dtype) == "str"
    assert frame["b"].isna().all()
    assert len(feature_frame(SPEC, {}, rows=3)) == 3
    assert list(feature_frame(SPEC, {}, rows=0)) == ["n", "b", "c"]


def test_one_row_and_many_have_the_same_types() -> None:
    one = feature_frame(SPEC, {"n": [None], "b": [None], "c": [None]})
    assert list(one.dtypes) == list(EXPECTED.dtypes)
