"""NannyML's realised performance over panes: how far accuracy is from its middle, in its standard deviations."""

import json
import sys
import warnings

import nannyml
import numpy as np
import pandas as pd

warnings.filterwarnings("ignore")
MULTIPLIER = 3.0


def main() -> None:
    given, out = sys.argv[1:]
    arrays = np.load(given)
    scores = []
    for stream in range(int(arrays["streams"])):
        sizes = arrays[f"sizes_{stream}"]
        first = int(arrays[f"reference_{stream}"])
        day = pd.Timestamp("2026-01-01") + pd.to_timedelta(np.repeat(np.arange(len(sizes)), sizes), unit="D")
        frame = pd.DataFrame({"at": day, **{name: arrays[f"{name}_{stream}"] for name in ("label", "guess", "score")}})
        rows = int(sizes[:first].sum())
        calculator = nannyml.PerformanceCalculator(
            y_true="label",
            y_pred="guess",
            y_pred_proba="score",
            timestamp_column_name="at",
            problem_type="classification_binary",
            metrics=["accuracy"],
            chunk_period="D",
            # Its default, without the clipping that hides where the limit would be.
            thresholds={"accuracy": nannyml.thresholds.StandardDeviationThreshold(MULTIPLIER, MULTIPLIER)},
        )
        calculator.fit(frame.iloc[:rows])
        found = calculator.calculate(frame.iloc[rows:]).filter(period="analysis").to_df()["accuracy"]
        reference = calculator.result.filter(period="reference").to_df()["accuracy"]["value"]
        # It raises an alert outside mean ± multiplier × deviation of the reference's chunks.
        centre, deviation = reference.mean(), reference.std(ddof=0)
        own = (found["value"] - centre).abs() / deviation
        limits = (found["value"] > found["upper_threshold"]) | (found["value"] < found["lower_threshold"])
        assert ((own > MULTIPLIER) == limits).mean() > 0.99, "the scores do not say what its alerts say"
        scores.append(own.tolist())
    with open(out, "w", encoding="utf-8") as file:
        json.dump({"scores": scores, "about": {"method": "PerformanceCalculator, accuracy by day"}}, file)


main()
