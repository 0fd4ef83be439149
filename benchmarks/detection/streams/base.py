"""What all streams are made of: panes of rows, a reference before them, and the truth about their changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

REFERENCE_PANES = 30
QUIET_PANES = 60
"""Panes before a change: at least."""
HORIZON_PANES = 60
"""Panes that a change is looked for in; one not found in them is missed."""
ERROR = 0.15
"""Error rate of the reference."""
KINDS = np.array(["bus", "train", "tram"], dtype=object)


@dataclass(frozen=True)
class Rows:
    """One pane (one day) of a binary model.

    Parameters
    ----------
    score : array of float, shape (n,)
        Probability of class 1.
    label : array of int, shape (n,)
    temperature, kind : array, shape (n,)
        Features.
    """

    score: Floats
    label: NDArray[np.int64]
    temperature: Floats
    kind: NDArray[np.object_]

    @property
    def guess(self) -> NDArray[np.int64]:
        """Class at the threshold 0.5."""
        return (self.score >= 0.5).astype(np.int64)

    @property
    def errors(self) -> NDArray[np.int64]:
        """1 where the model was wrong."""
        return (self.guess != self.label).astype(np.int64)


@dataclass(frozen=True)
class Change:
    """A stretch of panes in which something is wrong: `start` inclusive, `end` exclusive."""

    start: int
    end: int


@dataclass(frozen=True)
class Stream:
    """A model's life.

    Parameters
    ----------
    name : str
    seed : int
    reference, live : sequence of Rows
        By pane, in order; `live` follows `reference`.
    changes : sequence of Change
        In panes of `live`; empty: nothing ever changes.
    """

    name: str
    seed: int
    reference: Sequence[Rows]
    live: Sequence[Rows]
    changes: Sequence[Change] = ()


def pane(rng: np.random.Generator, rows: int, *, error: float = ERROR, temperature: float = 0.0) -> Rows:
    """Draw a pane.

    Parameters
    ----------
    rows : int
        Mean of the Poisson number of rows.
    error : float
        Error rate. At `ERROR` the scores are calibrated.
    temperature : float
        Mean of the feature `temperature`, in its standard deviations.

    Notes
    -----
    What is drawn does not depend on `error` and `temperature`.
    """
    n = max(int(rng.poisson(rows)), 1)
    doubt = np.minimum(rng.beta(1.0, 1.0 / ERROR - 1.0, n), 0.499)
    guess = rng.random(n) < 0.4
    wrong = rng.random(n) < np.minimum(doubt * (error / _MEAN_DOUBT), 1.0)
    drawn = rng.normal(size=n)
    kind = KINDS[rng.choice(3, n, p=[0.5, 0.3, 0.2])]
    return Rows(
        score=np.where(guess, 1.0 - doubt, doubt),
        label=np.where(wrong, ~guess, guess).astype(np.int64),
        temperature=drawn + temperature,
        kind=kind,
    )


def _mean_doubt() -> float:
    grid = (np.arange(100_000) + 0.5) / 100_000
    power = 1.0 / ERROR - 1.0
    # Quantiles of Beta(1, b) are closed.
    return float(np.minimum(1.0 - (1.0 - grid) ** (1.0 / power), 0.499).mean())


_MEAN_DOUBT = _mean_doubt()


def draw(
    name: str,
    seed: int,
    rows: int,
    live: Sequence[float],
    *,
    reference: Sequence[float] = (ERROR,) * REFERENCE_PANES,
    temperatures: Sequence[float] | None = None,
    changes: Sequence[Change] = (),
) -> Stream:
    """A stream from error rates by pane.

    Parameters
    ----------
    live, reference : sequence of float
        Error rate of every pane.
    temperatures : sequence of float, optional
        Mean of `temperature` in every pane, those of the reference first.
    """
    rng = np.random.default_rng(seed)
    errors = [*reference, *live]
    means = temperatures if temperatures is not None else [0.0] * len(errors)
    panes = [pane(rng, rows, error=error, temperature=mean) for error, mean in zip(errors, means, strict=True)]
    return Stream(name, seed, panes[: len(reference)], panes[len(reference) :], changes)


def onset(seed: int) -> int:
    """Pane of the change: not the same in all streams, so that no weekly step favours anybody."""
    return QUIET_PANES + int(np.random.default_rng([seed, 7]).integers(0, 14))
