"""Which rows a successor learns from: everything, a window, or what came since the change, chosen by validation. Pure.

The latest labelled rows are cut in two. The newest part is the gate's holdout, and nothing here looks at it: what is
chosen on some rows looks better on them than it is. On the part before it, the *comparison*, models are compared that
were fitted on the rows before that. What is chosen is fitted again, up to the gate's holdout.

More rows are better unless the world has changed: a smaller choice takes the place of a larger one only where it is
better beyond chance. Where evidence names a change point and there are enough labels since, both parts lie after it:
what is asked is which rows are best for the world as it is now.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from agents.retraining.holdout import cutoff_ms
from agents.retraining.quality import Comparison, compare
from agents.retraining.scoring import Scored, score
from agents.retraining.step_cache import Store
from agents.retraining.trainer import event_times_ms, fit
from schemas.codec import iso, utc
from schemas.durations import parse_duration
from schemas.errors import TrainingError

if TYPE_CHECKING:
    import pandas as pd

    from agents.retraining.project import Project
    from schemas.specification import Specification

EVERYTHING: Final = "everything"
SINCE: Final = "since the change"
WINDOWS: Final = ("365d", "90d", "30d")
"""Windows that are tried beside everything and what came since the change: at most five fits."""
LEAST_DIFFERENT: Final = 0.8
"""A choice with more than this share of the next larger one's rows would be the same model: it is not tried."""
LEAST_COMPARED: Final = 200


@dataclass(frozen=True)
class Span:
    """Rows from an event time on. `from_ms` None: all there are."""

    name: str
    from_ms: int | None = None


@dataclass(frozen=True)
class Parts:
    """Where the comparison and the gate's holdout begin; event times in milliseconds."""

    compare_from_ms: int
    holdout_from_ms: int


@dataclass(frozen=True)
class Tried:
    """A span that was fitted: labelled rows it learnt from, and what it says of the rows of the comparison."""

    span: Span
    rows: int
    scored: Scored


@dataclass(frozen=True)
class Choice:
    """What to learn from; `report` goes into the validation report of the version.

    `holdout_from_ms` is where the gate's holdout has to begin: the choice has not seen what lies after it. None:
    nothing was compared, the holdout is free.
    """

    span: Span
    holdout_from_ms: int | None = None
    report: dict[str, Any] = field(default_factory=dict)

    def rows(self, table: pd.DataFrame, spec: Specification) -> pd.DataFrame:
        """The chosen rows of a normalised table."""
        if self.span.from_ms is None:
            return table
        return table[event_times_ms(table, spec) >= self.span.from_ms].reset_index(drop=True)


def parts(
    times_ms: NDArray[np.int64],
    labelled: NDArray[np.bool_],
    spec: Specification,
    change_ms: int | None = None,
) -> Parts | None:
    """Cut the latest labelled rows in two; None where there are too few.

    Parameters
    ----------
    times_ms : array of int, shape (n,)
    labelled : array of bool, shape (n,)
        Rows whose label was known when the run was asked for.
    spec : Specification
    change_ms : int, optional
        Both parts lie after it where at least four times `min_labels` are known since: each takes its share.
    """
    since = labelled if change_ms is None else labelled & (times_ms >= change_ms)
    base = since if int(since.sum()) >= 4 * spec.retraining.min_labels else labelled
    if int(base.sum()) < 4:
        return None
    holdout = cutoff_ms(times_ms, base, spec.pane_ms)
    before = base & (times_ms < holdout)
    if int(before.sum()) < 2:
        return None
    compared = cutoff_ms(times_ms, before, spec.pane_ms)
    if int((before & (times_ms >= compared)).sum()) < LEAST_COMPARED:
        return None
    return Parts(compared, holdout)


def spans(
    times_ms: NDArray[np.int64],
    labelled: NDArray[np.bool_],
    spec: Specification,
    until_ms: int,
    change_ms: int | None = None,
) -> list[Span]:
    """What may be tried, most rows first: enough labels before `until_ms`, and clearly fewer than the one before.

    Notes
    -----
    Windows count back from `until_ms`. What came since the change is tried whenever it has enough labels: it is the one
    choice that evidence speaks for.
    """
    known = np.sort(times_ms[labelled & (times_ms < until_ms)])
    wanted = [Span(EVERYTHING), *(Span(name, until_ms - parse_duration(name)) for name in WINDOWS)]
    if change_ms is not None:
        wanted.append(Span(SINCE, change_ms))
    counted = [(_since(known, span), span) for span in wanted]
    enough = [(n, span) for n, span in counted if n >= min(spec.retraining.min_labels, len(known)) and n > 1]
    enough.sort(key=lambda item: (-item[0], item[1].name != EVERYTHING, item[1].name))
    chosen: list[tuple[int, Span]] = []
    for n, span in enough:
        if not chosen or n <= LEAST_DIFFERENT * chosen[-1][0]:
            chosen.append((n, span))
        elif span.name == SINCE and chosen[-1][1].name != EVERYTHING:
            chosen[-1] = (n, span)
    return [span for _, span in chosen]


def decide(
    spec: Specification, tried: Sequence[Tried], labels: NDArray[Any], blocks: NDArray[np.int64], *, seed: int = 0
) -> tuple[Tried, list[tuple[Tried, Comparison | None]]]:
    """The best of what was tried, and each compared with the best before it.

    Parameters
    ----------
    tried : sequence of Tried
        Most rows first.
    labels, blocks : array, shape (n,)
        Labels and panes of the rows of the comparison.

    Notes
    -----
    The primary metric decides, by the paired bootstrap that the gate uses: fewer rows win where the whole 90 % interval
    of the gain lies above zero.
    """
    best = tried[0]
    found: list[tuple[Tried, Comparison | None]] = [(best, None)]
    for one in tried[1:]:
        against = compare(spec, spec.metrics.primary, labels, one.scored, best.scored, blocks=blocks, seed=seed)
        found.append((one, against))
        if against is not None and against.low > 0:
            best = one
    return best, found


def choose(
    project: Project,
    table: pd.DataFrame,
    *,
    change_ms: int | None = None,
    seed: int = 0,
    cache: Store | None = None,
    may_go_on: Callable[[], bool] = lambda: True,
) -> Choice:
    """Choose the rows to learn from by validation on the latest labelled period.

    Parameters
    ----------
    project : Project
    table : DataFrame
        Normalised, in order of event time, with the labels that were known when the run was asked for.
    change_ms : int, optional
        Event time at which evidence (ADWIN, a cumulative sum) says that the world changed.
    seed : int
    cache : Store, optional
        Steps are kept there, as those of training are.
    may_go_on : callable
        Asked before every fit after the first; what is left is not tried once it says no.

    Returns
    -------
    Choice
        Everything, with the reason in its report, where there is nothing to compare.

    Notes
    -----
    Costs at most five fits beside the final one. A span that cannot be fitted (one class only, say) is left out.
    """
    spec = project.spec
    times = event_times_ms(table, spec)
    labelled = table[spec.data.label].notna().to_numpy(dtype=bool)
    cut = parts(times, labelled, spec, change_ms)
    if cut is None:
        return Choice(Span(EVERYTHING), None, {"chosen": EVERYTHING, "why": "too few labelled rows to compare"})
    wanted = spans(times, labelled, spec, cut.compare_from_ms, change_ms)
    if len(wanted) < 2:
        return Choice(Span(EVERYTHING), None, {"chosen": EVERYTHING, "why": "every choice would be nearly all rows"})
    rows = table[labelled & (times >= cut.compare_from_ms) & (times < cut.holdout_from_ms)].reset_index(drop=True)
    tried: list[Tried] = []
    left_out: dict[str, str] = {}
    for span in wanted:
        if tried and not may_go_on():
            left_out[span.name] = "no time was left"
            continue
        chosen = (times < cut.compare_from_ms) & (times >= (span.from_ms or 0))
        try:
            part = table[chosen].reset_index(drop=True)
            estimator, _ = fit(project, part, where=f"training table, {span.name}", seed=seed, cache=cache)
            scored = score(spec, estimator, rows[spec.columns()])
        except TrainingError as error:
            left_out[span.name] = error.what
            continue
        tried.append(Tried(span, int((labelled & chosen).sum()), scored))
    if not tried:
        return Choice(
            Span(EVERYTHING), None, {"chosen": EVERYTHING, "why": "nothing could be fitted", "left": left_out}
        )
    labels = rows[spec.data.label].to_numpy(dtype=object)
    blocks = event_times_ms(rows, spec) // spec.pane_ms
    best, found = decide(spec, tried, labels, blocks, seed=seed)
    report = {
        "chosen": best.span.name,
        "from": iso(utc(best.span.from_ms)) if best.span.from_ms is not None else None,
        "change": iso(utc(change_ms)) if change_ms is not None else None,
        "metric": spec.metrics.primary,
        "compared": {
            "from": iso(utc(cut.compare_from_ms)),
            "until": iso(utc(cut.holdout_from_ms)),
            "rows": len(rows),
        },
        "tried": [{"span": one.span.name, "rows": one.rows, **_numbers(against)} for one, against in found],
        **({"left_out": left_out} if left_out else {}),
    }
    return Choice(best.span, cut.holdout_from_ms, report)


def _since(known: NDArray[np.int64], span: Span) -> int:
    return len(known) if span.from_ms is None else int(len(known) - np.searchsorted(known, span.from_ms))


def _numbers(against: Comparison | None) -> dict[str, float]:
    if against is None:
        return {}
    return {
        "value": round(against.candidate, 6),
        "best_before": round(against.champion, 6),
        "gain": round(against.gain, 6),
        "low": round(against.low, 6),
        "high": round(against.high, 6),
    }
