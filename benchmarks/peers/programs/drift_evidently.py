"""Evidently's DataDriftPreset at its defaults over one window. Prints one JSON line."""

import json
import resource
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from evidently import DataDefinition, Dataset, Report
from evidently.presets import DataDriftPreset

warnings.filterwarnings("ignore")


def main() -> None:
    folder = Path(sys.argv[1])
    arrays = [np.load(folder / f"{name}.npy") for name in ("reference", "window")]
    names = [f"f{number}" for number in range(len(arrays[0]))]
    reference, window = (pd.DataFrame(dict(zip(names, array, strict=True))) for array in arrays)
    definition = DataDefinition(numerical_columns=names)
    began, cpu = time.perf_counter(), time.process_time()
    prepared = Dataset.from_pandas(reference, data_definition=definition)
    told = {"reference_seconds": time.perf_counter() - began, "reference_cpu_seconds": time.process_time() - cpu}
    began, cpu = time.perf_counter(), time.process_time()
    found = Report([DataDriftPreset()]).run(Dataset.from_pandas(window, data_definition=definition), prepared).dict()
    told |= {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu}
    drifts = [metric for metric in found["metrics"] if "method" in metric["config"]]
    told |= {
        "rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "statistics": {d["config"]["column"]: {d["config"]["method"]: float(d["value"])} for d in drifts},
        "drifted": [
            d["config"]["column"]
            for d in drifts
            if ("distance" in d["config"]["method"]) == (float(d["value"]) >= d["config"]["threshold"])
        ],
    }
    print(json.dumps(told))


main()
