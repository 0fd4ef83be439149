"""NannyML's univariate drift over one window in ten chunks. Prints one JSON line."""

import json
import resource
import sys
import time
import warnings
from pathlib import Path

import nannyml
import numpy as np
import pandas as pd

warnings.filterwarnings("ignore")
CHUNKS = 10


def main() -> None:
    *methods, folder = sys.argv[1:]
    arrays = [np.load(Path(folder) / f"{name}.npy") for name in ("reference", "window")]
    names = [f"f{number}" for number in range(len(arrays[0]))]
    reference, window = (pd.DataFrame(dict(zip(names, array, strict=True))) for array in arrays)
    calculator = nannyml.UnivariateDriftCalculator(
        column_names=names,
        continuous_methods=methods or ["jensen_shannon", "kolmogorov_smirnov", "wasserstein"],
        chunk_number=CHUNKS,
    )
    began, cpu = time.perf_counter(), time.process_time()
    calculator.fit(reference)
    told = {"reference_seconds": time.perf_counter() - began, "reference_cpu_seconds": time.process_time() - cpu}
    began, cpu = time.perf_counter(), time.process_time()
    result = calculator.calculate(window)
    told |= {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu}
    found = result.filter(period="analysis").to_df()
    # Drifted by its default method: alerts in most chunks.
    alerts = {name: found[(name, "jensen_shannon", "alert")] for name in names}
    told |= {
        "rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "statistics": {},
        "drifted": [name for name in names if alerts[name].mean() > 0.5],
    }
    print(json.dumps(told))


main()
