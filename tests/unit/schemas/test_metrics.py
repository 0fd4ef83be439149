"""Names of metrics: what is accepted, what is refused and why, and which way is better."""

from __future__ import annotations

import pytest

from schemas.errors import SpecificationError
from schemas.metrics import FAMILIES, METRICS, accepted, better, loss, lower_is_better, problem, split
from schemas.specification import Specification, parse

TOML = """
[model]
name = "m"
task = "{task}"
[data]
id = "id"
event_time = "at"
label = "y"
max_label_delay = "3d"
[features]
x = "numeric"
[metrics]
primary = "{primary}"
watch = [{watch}]
cost = {{ {cost} }}
"""


def _spec(task: str, primary: str, *watch: str, cost: str = "false_negative = 5.0") -> Specification:
    listed = ", ".join(f"'{name}'" for name in watch)
    return parse(TOML.format(task=task, primary=primary, watch=listed, cost=cost))


@pytest.mark.parametrize(
    ("task", "name"),
    [
        ("multiclass", "recall[UA]"),
        ("multiclass", "precision[with ] bracket]"),
        ("multiclass", "f1[0]"),
        ("multiclass", "top_1_accuracy"),
        ("multiclass", "top_50_accuracy"),
        ("multiclass", "recall_weighted"),
        ("regression", "quantile_loss[0.9]"),
        ("regression", "quantile_loss[.05]"),
        ("binary", "true_positives"),
        ("regression", "clipped_ratio"),
        ("regression", "label_delay_p90_s"),
    ],
)
def test_names_that_can_be_watched(task: str, name: str) -> None:
    assert problem(task, name) is None
    assert _spec(task, METRICS[task][0], name).watched == [METRICS[task][0], name]


@pytest.mark.parametrize(
    ("task", "name", "said"),
    [
        ("binary", "auc", "no metric"),
        ("binary", "mae", "not defined for the task binary, only for regression"),
        ("binary", "recall[1]", "only for multiclass"),
        ("multiclass", "recall", "only for binary"),
        ("multiclass", "recall[]", "no class"),
        ("multiclass", "top_0_accuracy", "number of guesses"),
        ("multiclass", "top_k_accuracy", "number of guesses"),
        ("multiclass", "top_3", "no metric"),
        ("multiclass", "accuracy[a]", "no metric"),
        ("regression", "quantile_loss", "no metric"),
        ("regression", "quantile_loss[1.0]", "quantile"),
        ("regression", "quantile_loss[0.0]", "quantile"),
        ("regression", "quantile_loss[nan]", "quantile"),
        ("regression", "clipped", "no metric"),
        ("multiclass", "cost", "only for binary"),
    ],
)
def test_other_names_are_refused_with_the_reason(task: str, name: str, said: str) -> None:
    with pytest.raises(SpecificationError, match=r"metrics\.watch") as caught:
        _spec(task, METRICS[task][0], name)
    assert said in str(caught.value)
    assert METRICS[task][0] in caught.value.remedy


def test_what_only_describes_can_be_watched_but_is_no_primary() -> None:
    assert _spec("binary", "roc_auc", "label_delay_p50_s", "true_positives").judged == ["roc_auc"]
    with pytest.raises(SpecificationError, match="describes") as caught:
        _spec("binary", "true_positives")
    assert "metrics.primary" in caught.value.where
    assert "roc_auc" in caught.value.remedy
    assert "label_delay" not in caught.value.remedy


@pytest.mark.parametrize("price", ["nan", "inf"])
def test_prices_are_numbers(price: str) -> None:
    with pytest.raises(SpecificationError, match="price") as caught:
        _spec("binary", "cost", cost=f"false_positive = {price}")
    assert "metrics.cost.false_positive" in caught.value.where


def test_every_accepted_family_is_described() -> None:
    assert set(FAMILIES) == {name for task in METRICS for name in accepted(task)}


@pytest.mark.parametrize(
    ("name", "way", "worse", "other"),
    [
        ("roc_auc", "higher", 0.6, 0.7),
        ("recall[UA]", "higher", 0.6, 0.7),
        ("top_3_accuracy", "higher", 0.6, 0.7),
        ("r2", "higher", -1.0, 0.5),
        ("quantile_loss[0.9]", "lower", 2.0, 1.0),
        ("brier", "lower", 0.2, 0.1),
        ("bias", "zero", -3.0, 2.0),
    ],
)
def test_every_name_knows_which_way_is_better(name: str, way: str, worse: float, other: float) -> None:
    assert better(name) == way
    assert lower_is_better(name) is (way == "lower")
    assert loss(name, worse) > loss(name, other)


def test_split_leaves_other_names_alone() -> None:
    assert split("nonsense[x]") == ("nonsense[x]", "x")
    assert better("nonsense[x]") is None
