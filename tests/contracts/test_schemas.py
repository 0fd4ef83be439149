"""Every struct that travels: JSON Schema, stable tags, additive reading; every topic: complete and consistent."""

from __future__ import annotations

import typing
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from schemas import events
from schemas.codec import decode, encode, json_schema
from schemas.events import Wire
from schemas.topics import CATALOGUE, DEAD_LETTERED, GROUND_TRUTH, PREDICTIONS, dead_letter_topic

FIXED_TOPICS = {
    "inference-requests", "predictions", "ground-truth", "joined-deltas", "monitoring-journal", "quality-metrics",
    "drift-metrics", "observations", "alerts", "retrain-requests", "training-events", "registry-commands",
    "registry-events", "registry-state", "serving-events",
}  # fmt: skip


def _concrete() -> list[type[Wire]]:
    """Structs that are sent as they are (the tagged bases are not)."""
    found = []
    for value in vars(events).values():
        if isinstance(value, type) and issubclass(value, Wire) and value is not Wire:
            base_only = value.__struct_config__.tag_field is not None and any(
                other is not value and isinstance(other, type) and issubclass(other, value)
                for other in vars(events).values()
            )
            if not base_only:
                found.append(value)
    return found


def _example(kind: Any) -> Any:
    """A value of an annotated type."""
    origin = typing.get_origin(kind)
    if origin is typing.Literal:
        return typing.get_args(kind)[0]
    if origin in (list,):
        return [_example(typing.get_args(kind)[0])]
    if origin is dict:
        key, value = typing.get_args(kind)
        return {_example(key): _example(value)}
    if origin is tuple:
        return tuple(_example(part) for part in typing.get_args(kind))
    if origin is not None or isinstance(kind, type(int | str)):
        return _example(typing.get_args(kind)[0])
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return kind(
            **{
                name: _example(hint)
                for name, hint in typing.get_type_hints(kind).items()
                if name in kind.__struct_fields__
            }
        )
    simple = {str: "s", int: 3, float: 0.5, bool: True, datetime: datetime(2013, 1, 1, tzinfo=UTC), type(None): None}
    return simple.get(kind, 1)


@pytest.mark.parametrize("kind", _concrete(), ids=lambda kind: kind.__name__)
def test_round_trip_and_additive_reading(kind: type[Wire]) -> None:
    value = _example(kind)
    assert decode(encode(value), kind) == value
    newer = {**msgspec.json.decode(encode(value)), "added_later": {"a": [1]}}
    assert decode(msgspec.json.encode(newer), kind) == value


@pytest.mark.parametrize("kind", _concrete(), ids=lambda kind: kind.__name__)
def test_json_schema_names_every_field(kind: type[Wire]) -> None:
    schema = json_schema([kind])["$defs"][kind.__name__]
    assert set(schema["properties"]) >= set(kind.__struct_fields__)


@pytest.mark.parametrize(
    "union", [events.AnyRegistryEvent, events.AnyRegistryCommand, events.AnyTrainingEvent, events.AnyServingEvent]
)
def test_tags_are_the_class_names(union: Any) -> None:
    for kind in typing.get_args(union):
        assert kind.__struct_config__.tag == kind.__name__
        value = _example(kind)
        assert decode(encode(value), union) == value


def test_fixed_topics_are_all_there() -> None:
    assert {name for name in CATALOGUE if not name.startswith("dlq.")} == FIXED_TOPICS
    assert {name for name in CATALOGUE if name.startswith("dlq.")} == {
        dead_letter_topic(name) for name in DEAD_LETTERED
    }


def test_joined_topics_are_co_partitioned_and_append_time_stamped() -> None:
    assert CATALOGUE[PREDICTIONS].partitions(12) == CATALOGUE[GROUND_TRUTH].partitions(12) == 12
    assert all(t.settings()["message.timestamp.type"] == "LogAppendTime" for t in CATALOGUE.values())
    assert CATALOGUE["registry-state"].settings()["cleanup.policy"] == "compact"
