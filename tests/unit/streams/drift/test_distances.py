from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial import distance

from streams.drift.distances import (
    chi_squared_p,
    jensen_shannon,
    kolmogorov_smirnov,
    kolmogorov_smirnov_p,
    psi,
    psi_noise,
    psi_rows,
    shares,
    wasserstein,
)

COUNTS = st.lists(st.integers(0, 10**7), min_size=2, max_size=12)


@given(st.data())
def test_distances_are_finite_and_not_negative(data: st.DataObject) -> None:
    a = np.array(data.draw(COUNTS))
    b = np.array(data.draw(st.lists(st.integers(0, 10**7), min_size=len(a), max_size=len(a))))
    centres = np.arange(len(a), dtype=float)
    for value in (psi(a, b), jensen_shannon(a, b), kolmogorov_smirnov(a, b), wasserstein(a, b, centres, 1.0)):
        assert np.isfinite(value)
        assert value >= 0
    assert psi(a, a) == pytest.approx(0)
    assert psi(a, b) == pytest.approx(psi(b, a))
    assert 0 <= chi_squared_p(a, b) <= 1


def test_agree_with_scipy() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.integers(50, 500, 8), rng.integers(50, 500, 8)
    assert jensen_shannon(a, b) == pytest.approx(distance.jensenshannon(shares(a), shares(b), base=2))
    assert chi_squared_p(a, b) == pytest.approx(stats.chi2_contingency(np.array([a, b]), correction=False).pvalue)
    x, y = np.repeat(np.arange(8.0), a), np.repeat(np.arange(8.0), b)
    assert kolmogorov_smirnov(a, b) == pytest.approx(stats.ks_2samp(x, y).statistic)
    assert wasserstein(a, b, np.arange(8.0), 2.0) == pytest.approx(stats.wasserstein_distance(x, y) / 2)
    asymptotic = stats.ks_2samp(x, y, method="asymp").pvalue
    assert kolmogorov_smirnov_p(kolmogorov_smirnov(a, b), len(x), len(y)) == pytest.approx(asymptotic, rel=0.2)


def test_noise_is_what_samples_of_one_distribution_show() -> None:
    rng = np.random.default_rng(2)
    p = rng.dirichlet(np.full(10, 5.0))
    n, m = 400, 3000
    values = [psi(rng.multinomial(n, p), rng.multinomial(m, p)) for _ in range(500)]
    assert np.mean(values) == pytest.approx(psi_noise(10, n, m), rel=0.1)


def test_rows_are_computed_alone() -> None:
    rng = np.random.default_rng(3)
    rows, reference = rng.integers(0, 50, (5, 6)), rng.integers(1, 50, 6)
    assert psi_rows(rows, reference).tolist() == pytest.approx([psi(row, reference) for row in rows])
