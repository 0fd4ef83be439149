from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streams.kafka.alignment import NEAR, Alignment
from tests.support.messages import message

LEADER = "predictions"
LABELS = ("ground-truth", 0)


def labels(*stamps: int, start: int = 0):
    return [message("p-ground-truth", 0, start + index, at) for index, at in enumerate(stamps)]


def offsets(alignment: Alignment) -> tuple[list[int], int | None]:
    out: list[int] = []
    end = None
    for tp, messages, told in alignment.free():
        assert tp == LABELS
        out += [found.offset() for found in messages]
        end = told.offset() if told is not None else end
    return out, end


def behind(_):
    return NEAR + 1


def test_labels_wait_until_the_predictions_have_come_as_far():
    alignment = Alignment(LEADER, behind)
    alignment.hold(LABELS, labels(100, 200, 300))
    assert offsets(alignment) == ([], None)
    alignment.lead(0, message("p-predictions", 0, 7, 250))
    assert offsets(alignment) == ([0, 1], None)
    assert alignment.held(LABELS) == 1
    alignment.lead(0, message("p-predictions", 0, 8, 300))
    assert offsets(alignment) == ([2], None)
    assert not alignment.holds(LABELS)


def test_another_partition_frees_nothing():
    alignment = Alignment(LEADER, behind)
    alignment.hold(LABELS, labels(100))
    alignment.lead(1, message("p-predictions", 1, 7, 250))
    assert offsets(alignment) == ([], None)


def test_the_logs_order_is_kept_where_timestamps_go_back():
    alignment = Alignment(LEADER, behind)
    alignment.hold(LABELS, labels(100, 300, 50))
    alignment.lead(0, message("p-predictions", 0, 0, 200))
    assert offsets(alignment) == ([0], None)


def test_an_end_is_told_after_what_came_before_it():
    alignment = Alignment(LEADER, behind)
    alignment.hold(LABELS, labels(100, 200))
    alignment.hold_end(LABELS, message("p-ground-truth", 0, 2, 0))
    alignment.lead(0, message("p-predictions", 0, 0, 150))
    assert offsets(alignment) == ([0], None)
    alignment.drained(0)
    assert offsets(alignment) == ([1], 2)


def test_an_end_behind_which_more_came_is_none():
    alignment = Alignment(LEADER, behind)
    alignment.hold(LABELS, labels(100))
    alignment.hold_end(LABELS, message("p-ground-truth", 0, 1, 0))
    alignment.hold(LABELS, labels(200, start=1))
    alignment.drained(0)
    assert offsets(alignment) == ([0, 1], None)


def test_nothing_is_held_where_the_predictions_are_nearly_at_their_end():
    alignment = Alignment(LEADER, lambda _: NEAR)
    alignment.hold(LABELS, labels(10_000))
    assert offsets(alignment) == ([0], None)


@given(
    st.lists(
        st.one_of(st.integers(0, 50).map(lambda at: ("label", at)), st.integers(0, 50).map(lambda at: ("lead", at)))
    )
)
def test_every_label_comes_once_and_in_order(steps):
    alignment = Alignment(LEADER, behind)
    sent, got = 0, []
    for kind, at in steps:
        if kind == "label":
            alignment.hold(LABELS, labels(at, start=sent))
            sent += 1
        else:
            alignment.lead(0, message("p-predictions", 0, 0, at))
        got += offsets(alignment)[0]
    alignment.drained(0)
    got += offsets(alignment)[0]
    assert got == list(range(sent))
