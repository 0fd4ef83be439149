"""alibi-detect's online Fisher exact test over errors, one at a time; where it fires it starts afresh."""

import json
import sys
import warnings
from functools import lru_cache
from types import SimpleNamespace

import numpy as np
from alibi_detect.cd import FETDriftOnline, fet_online
from scipy.stats import hypergeom

warnings.filterwarnings("ignore")


@lru_cache(maxsize=64)
def table(ones: int, whole: int, drawn: int) -> np.ndarray:
    return hypergeom.cdf(ones, whole, ones + np.arange(whole - drawn + 1), drawn)


def cdf(ones: int, whole: int, all_ones: np.ndarray, drawn: int) -> np.ndarray:
    """Its own call, looked up: within a window so long there are only so many counts, and each takes long."""
    return table(int(np.squeeze(ones)), whole, drawn)[all_ones - ones]


fet_online.hypergeom = SimpleNamespace(cdf=cdf)


def main() -> None:
    given, out = sys.argv[1:]
    arrays = np.load(given)
    ert, window = int(arrays["ert"]), int(arrays["window"])
    np.random.seed(0)  # it draws its thresholds from numpy's global generator
    alarms = []
    for stream in range(int(arrays["streams"])):
        errors = arrays[f"errors_{stream}"].astype(bool)
        cuts = np.cumsum(arrays[f"sizes_{stream}"])
        first = int(arrays[f"reference_{stream}"])
        detector = FETDriftOnline(
            errors[: cuts[first - 1]],
            ert=ert,
            window_sizes=[window],
            alternative="greater",
            # Its thresholds are quantiles at 1 − 1/ert: it refuses fewer.
            n_bootstraps=max(10_000, int(ert * 1.1)),
            verbose=False,
        )
        own = []
        for pane, (begin, end) in enumerate(zip(cuts[first - 1 :], cuts[first:], strict=False)):
            fired = False
            for error in errors[begin:end]:
                if detector.predict(np.array([error]))["data"]["is_drift"]:
                    fired = True
                    detector.reset_state()
            if fired:
                own.append(pane)
        alarms.append(own)
    with open(out, "w", encoding="utf-8") as file:
        json.dump({"alarms": alarms, "about": {"method": f"FETDriftOnline, window {window}"}}, file)


main()
