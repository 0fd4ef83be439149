"""Evidently over panes of errors: the drift of each pane from the reference, by the default preset. No part of ours."""

import json
import sys
import warnings

import numpy as np
import pandas as pd
from evidently import Report
from evidently.presets import DataDriftPreset

warnings.filterwarnings("ignore")


def main() -> None:
    given, out = sys.argv[1:]
    arrays = np.load(given)
    report = Report([DataDriftPreset()])
    scores, methods = [], set()
    for stream in range(int(arrays["streams"])):
        errors = arrays[f"errors_{stream}"]
        cuts = np.cumsum(arrays[f"sizes_{stream}"])
        first = int(arrays[f"reference_{stream}"])
        reference = pd.DataFrame({"error": errors[: cuts[first - 1]]})
        own = []
        for begin, end in zip(cuts[first - 1 :], cuts[first:], strict=False):
            found = report.run(pd.DataFrame({"error": errors[begin:end]}), reference).dict()["metrics"][1]
            method, value = found["config"]["method"], float(found["value"])
            methods.add((method, found["config"]["threshold"]))
            # A distance grows with drift, a p-value falls: one minus it grows too.
            own.append(value if "distance" in method else 1.0 - value)
        scores.append(own)
    with open(out, "w", encoding="utf-8") as file:
        json.dump({"scores": scores, "about": {"method": sorted(map(str, methods))}}, file)


main()
