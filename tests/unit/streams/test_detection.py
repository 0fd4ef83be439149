from __future__ import annotations

import pytest

from schemas.events import Severity
from streams.detection import Finding, Key, Watches
from tests.support.replay import DAY

KEY = Key("quality", "accuracy", "origin=JFK", "1d")


def _finding(day: int, look: str, severity: Severity = "warning") -> Finding:
    return Finding(
        day * DAY, (day + 1) * DAY, 0.7, 0.8, 0.75, 500, severity, look == "bad", look == "good", {"panes": 1}
    )


@pytest.mark.parametrize(
    ("looks", "statuses"),
    [
        (["good"] * 5, []),
        (["bad"], ["opened"]),
        (["bad", "bad", "bad"], ["opened"]),
        (["bad", "good"], ["opened"]),  # one good pane does not close
        (["bad", "good", "good"], ["opened", "closed"]),
        (["bad", "good", "bad", "good", "good"], ["opened", "closed"]),
        (["bad", "good", "between", "good", "good"], ["opened", "closed"]),
        (["bad", "between", "between"], ["opened"]),
        (["bad", "good"] * 10, ["opened"]),  # flapping is one observation
        (["bad", "good", "good", "bad"], ["opened", "closed", "opened"]),
    ],
)
def test_hysteresis(looks: list[str], statuses: list[str]) -> None:
    watches = Watches("m", 1)
    seen = [watches.look(KEY, _finding(day, look), day * DAY) for day, look in enumerate(looks)]
    assert [o.status for o in seen if o is not None] == statuses


def test_updates_only_when_it_gets_worse() -> None:
    watches = Watches("m", 1)
    severities: list[Severity] = ["warning", "info", "warning", "critical", "warning", "critical"]
    seen = [watches.look(KEY, _finding(day, "bad", s), day * DAY) for day, s in enumerate(severities)]
    assert [(o.status, o.severity) for o in seen if o] == [("opened", "warning"), ("updated", "critical")]


def test_observations_say_what_was_seen_and_have_derived_ids() -> None:
    first, second = (Watches("m", 1).look(KEY, _finding(0, "bad"), 4 * DAY) for _ in range(2))
    assert first == second
    assert first is not None
    assert first.segment == {"origin": "JFK"}
    assert (first.value, first.reference, first.threshold, first.n) == (0.7, 0.8, 0.75, 500)
    assert first.observed_at.timestamp() * 1000 == 4 * DAY
    other = Watches("m", 2).look(KEY, _finding(0, "bad"), 4 * DAY)
    assert other is not None
    assert other.observation_id != first.observation_id


def test_close_all_closes_with_the_reason() -> None:
    watches = Watches("m", 1)
    watches.look(KEY, _finding(0, "bad"), DAY)
    closed = watches.close_all(9 * DAY, "another version answers")
    assert [(o.status, o.evidence["reason"], o.value) for o in closed] == [("closed", "another version answers", 0.7)]
    assert watches.close_all(9 * DAY, "again") == []
