"""What the pending benchmark labels, and how it tells what it measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.latency import percentile
from benchmarks.pending import Phase, _no_room, _ratios, _rows, chosen, disk_bytes, short
from benchmarks.progress import Span


def _phase(name: str, pending: int, seconds: float) -> Phase:
    span = Span(pending, seconds, cpu_seconds=1.0, peak_rss_bytes=0, waited_s=0.0, cpu_seconds_process=1.0)
    return Phase(name, pending, span, idle_rss=100, rss=100 + 80 * pending, state_bytes=50 * pending, log_bytes=0)


def test_labels_in_order_and_at_random_never_meet() -> None:
    for size, sample in ((1_000, 2_000), (100_000, 2_000)):
        in_order, at_random = (ids.tolist() for ids in chosen(size, sample))
        assert in_order == sorted(in_order)
        assert len(in_order) == len(at_random) == min(sample, size // 2)
        assert len({*in_order, *at_random}) == 2 * len(in_order)
        assert max(at_random) < size
        assert max(at_random) - min(at_random) > size * 0.9, "a random sample reaches over all of them"


def test_rows_tell_bytes_per_pending_prediction() -> None:
    [row] = _rows(1_000, [[_phase("load", 1_000, 2.0)]], "")
    assert (row["name"], row["value"], row["unit"]) == ("load 1k", 500, "events/s")
    assert (row["rss_bytes_per_pending"], row["state_bytes_per_pending"]) == (80, 50)
    assert row["cpu_us_per_event"] == 1_000


def test_a_size_measured_twice_is_one_row_with_a_range() -> None:
    [row] = _rows(1_000, [[_phase("load", 1_000, 2.0)], [_phase("load", 1_000, 4.0)]], "")
    assert (row["value"], row["spread"]) == (375, [250, 500])


def test_ratios_are_against_every_run_of_the_smallest_size() -> None:
    phases = {
        1_000: [[_phase("load", 1_000, 1.0)], [_phase("load", 1_000, 2.0)]],
        5_000: [[_phase("load", 5_000, 10.0)]],
    }
    assert _ratios([1_000, 5_000], phases) == {"load 5k/1k": [0.5, 1.0]}


def test_a_size_that_failed_says_why() -> None:
    [row] = _rows(1_000, [], "no room")
    assert (row["value"], row["skipped"]) == (None, "no room")


def test_a_full_disk_is_known_before(tmp_path: Path) -> None:
    assert _no_room(tmp_path, 1_000, 10) == ""
    assert "GiB free" in _no_room(tmp_path, 10**13, 10)


def test_disk_counts_blocks(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_bytes(b"x" * 100_000)
    assert 100_000 <= disk_bytes(tmp_path) < 150_000


@pytest.mark.parametrize(("count", "said"), [(50_000_000, "50M"), (1_500_000, "1500k"), (999, "999")])
def test_sizes_are_said_shortly(count: int, said: str) -> None:
    assert short(count) == said


def test_percentiles_are_values_that_occurred() -> None:
    assert percentile(list(range(1, 101)), 99) == 99
    assert percentile([5.0], 50) == 5.0
