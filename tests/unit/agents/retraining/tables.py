"""Made-up tables for the project of `projects.SPEC`: y depends on x, and the dependence can turn round."""

from __future__ import annotations

import numpy as np
import pandas as pd

START = pd.Timestamp("2024-01-01", tz="UTC")
DAY_MS = 86_400_000
START_MS = int(START.timestamp() * 1000)


def toy_table(days: int, per_day: int = 150, *, first_day: int = 0, slope: float = 2.0, seed: int = 0) -> pd.DataFrame:
    """`per_day` rows a day; P(y = 1) = 1 / (1 + exp(-slope · x)); labels are known two hours later."""
    rng = np.random.default_rng((seed, first_day))
    n = days * per_day
    x = rng.normal(size=n)
    offsets = (np.arange(n) // per_day + first_day) * DAY_MS + np.sort(
        rng.integers(0, DAY_MS - 7_200_000, size=(days, per_day)), axis=1
    ).reshape(-1)
    at = pd.to_datetime(START_MS + offsets, unit="ms", utc=True)
    y = rng.random(n) < 1 / (1 + np.exp(-slope * x))
    return pd.DataFrame(
        {
            "id": [f"d{first_day}-{i}" for i in range(n)],
            "at": at,
            "known_at": at + pd.Timedelta(hours=2),
            "y": y.astype("int64"),
            "x": x,
            "noise": rng.normal(size=n),
            "region": rng.choice(["north", "south"], size=n),
        }
    )
