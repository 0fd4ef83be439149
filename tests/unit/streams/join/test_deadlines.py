"""Deadlines against a sorted list."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streams.join.deadlines import BUCKET_MS, Deadlines

times = st.integers(0, 5 * BUCKET_MS)
batch = st.tuples(st.lists(times, max_size=8), times, st.booleans())


@given(st.lists(batch, max_size=12))
def test_against_a_list(batches: list[tuple[list[int], int, bool]]) -> None:
    deadlines = Deadlines()
    kept: list[tuple[int, str]] = []
    serial = 0
    for added, until, counts in batches:
        new = []
        for due in added:
            serial += 1
            new.append((due, f"{serial:04}"))
            deadlines.add(*new[-1])
        due_now = sorted(item for item in kept + new if item[0] <= until)
        assert deadlines.take(until) == [key for _, key in due_now]
        if counts:
            deadlines.commit()
            kept = [item for item in kept + new if item[0] > until]
        else:
            deadlines.abort()
        assert len(deadlines) == len(kept)
