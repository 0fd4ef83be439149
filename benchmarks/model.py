"""The benchmark's model as the registry would announce it: specification, reference and state, without artifact."""

from __future__ import annotations

import numpy as np

from benchmarks.installation import Installation, announce
from benchmarks.traffic import CARRIERS, START_MS
from schemas.specification import parse
from streams.reference import compile_reference

SPECIFICATION = """
[model]
name = "bench"
task = "binary"
[data]
id = "id"
event_time = "at"
label = "y"
max_label_delay = "1d"
segments = ["carrier"]
[features]
x = "numeric"
y = "numeric"
z = "numeric"
carrier = "categorical"
[metrics]
primary = "roc_auc"
watch = ["roc_auc", "brier", "accuracy"]
windows = ["10m", "1h"]
"""
ROWS = 20_000


def register(place: Installation) -> None:
    """Put specification and reference into the artifact store and the model's state onto `registry-state`."""
    spec = parse(SPECIFICATION)
    rng = np.random.default_rng(7)
    scores = rng.beta(2, 5, ROWS)
    reference = compile_reference(
        spec,
        {
            **{name: rng.normal(0, 1, ROWS) for name in ("x", "y", "z")},
            "carrier": np.array([CARRIERS[i] for i in rng.integers(0, len(CARRIERS), ROWS)], dtype=object),
        },
        labels=(rng.random(ROWS) < scores).astype(int),
        predictions=(scores >= 0.5).astype(int),
        scores=scores,
        event_time_ms=START_MS - 14 * 86_400_000 + np.arange(ROWS) * (14 * 86_400_000 // ROWS),
        heldout=np.ones(ROWS, dtype=bool),
    )
    announce(place, [("bench", SPECIFICATION, reference)])
