from __future__ import annotations

from streams.kafka.processor import Pace


def settle(pace: Pace, cost_s: float, fixed_s: float = 0.0) -> int:
    for _ in range(30):
        pace.took(pace.records, fixed_s + cost_s * pace.records)
    return pace.records


def test_cheap_records_come_in_batches_as_large_as_allowed():
    assert settle(Pace(100_000), 3e-6) == 100_000


def test_dear_records_come_in_batches_of_half_a_second():
    assert 8_000 < settle(Pace(100_000), 56e-6) < 10_000


def test_a_batch_is_never_tiny_and_never_larger_than_asked_for():
    assert settle(Pace(100_000), 1.0) == 1_000
    assert settle(Pace(100), 1e-9) == 100
    assert settle(Pace(100), 10.0) == 100


def test_small_batches_say_nothing():
    pace = Pace(100_000)
    before = pace.records
    pace.took(10, 5.0)
    assert pace.records == before
