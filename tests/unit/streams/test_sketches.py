from __future__ import annotations

import numpy as np
import pytest

from schemas.reference import NumericReference
from streams.reference import _numeric
from streams.sketches import bin_centres, quantiles


@pytest.mark.parametrize("n", [1, 7, 1000, 100_000])
def test_quantiles_of_the_sketch_are_those_of_the_values(n: int) -> None:
    values = np.random.default_rng(1).gamma(2.0, 3.0, n)
    reference = _numeric(values)
    for rank in (0.1, 0.5, 0.9):
        found = quantiles(reference, np.array([rank]))[0]
        assert np.mean(values <= found) == pytest.approx(rank, abs=max(0.02, 1 / n))


def test_centres_lie_in_their_bins() -> None:
    reference = _numeric(np.random.default_rng(2).normal(0, 1, 5000))
    centres = bin_centres(reference)
    assert len(centres) == len(reference.counts)
    low = [reference.minimum, *reference.edges]
    high = [*reference.edges, reference.maximum]
    assert all(a <= c <= b for a, c, b in zip(low, centres, high, strict=True))


def test_nothing_has_no_quantiles() -> None:
    empty = NumericReference(edges=[], counts=[0], missing=5, minimum=0.0, maximum=0.0, mean=0.0, std=0.0)
    assert len(quantiles(empty, np.array([0.5]))) == 0
    assert bin_centres(empty).tolist() == [0.0]
