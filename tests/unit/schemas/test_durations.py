"""Durations, rates and counts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.durations import UNITS_MS, format_duration, parse_count, parse_duration, parse_rate
from schemas.errors import SpecificationError


@given(st.integers(1, 10_000), st.sampled_from(sorted(UNITS_MS)))
def test_durations_read_back(number: int, unit: str) -> None:
    ms = parse_duration(f"{number}{unit}")
    assert ms == number * UNITS_MS[unit]
    assert parse_duration(format_duration(ms)) == ms


@pytest.mark.parametrize("text", ["", "3", "d", "0d", "-1d", "1.5d", "1y", "1 d", "１d x"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(SpecificationError) as caught:
        parse_duration(text, where="here")
    assert caught.value.where == "here"


def test_rates_are_events_per_millisecond() -> None:
    assert parse_rate("1/30d") == pytest.approx(1 / (30 * 86_400_000))
    for text in ("1", "0/1d", "1/0d", "x/1d"):
        with pytest.raises(SpecificationError):
            parse_rate(text)


def test_count_windows() -> None:
    assert parse_count("1000n") == 1000
    assert parse_count("1d") is None
    assert parse_count("0n") is None
