"""What a model that is served elsewhere leaves behind: past predictions, and records for the two topics."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

HERE = Path(__file__).parent
START = datetime(2024, 11, 1, tzinfo=UTC)
A_DAY = 300
PAST_DAYS, FUTURE_DAYS, WORSE_FROM = 28, 16, 8
LABEL_DELAY = timedelta(days=2)


def customers(rng: Random, day: int, *, broken: bool) -> Iterator[dict[str, Any]]:
    """Answers of one day; a broken version lost the number of tickets on its way."""
    for number in range(A_DAY):
        tenure, tickets = rng.uniform(1, 60), rng.randrange(0, 8)
        plan = rng.choice(["basic", "plus", "pro"])
        truth = 1 / (1 + math.exp(-(0.7 * tickets - 0.06 * tenure - 0.5)))
        seen = 0 if broken else tickets
        probability = 1 / (1 + math.exp(-(0.7 * seen - 0.06 * tenure - 0.5)))
        yield {
            "customer_id": f"c{day:+04d}-{number}",
            "asked_at": START + timedelta(days=day, seconds=number * 86_000 // A_DAY),
            "tenure_months": round(tenure, 1),
            "tickets": tickets,
            "plan": plan,
            "prediction": int(probability >= 0.5),
            "probability": round(probability, 6),
            "left": int(rng.random() < truth),
        }


def main() -> None:
    """Write the three files."""
    rng = Random(7)
    past = [row for day in range(-PAST_DAYS, 0) for row in customers(rng, day, broken=False)]
    with (HERE / "past.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(past[0]))
        writer.writeheader()
        writer.writerows({**row, "asked_at": row["asked_at"].isoformat()} for row in past)
    with (
        (HERE / "predictions.jsonl").open("w", encoding="utf-8") as predictions,
        (HERE / "labels.jsonl").open("w", encoding="utf-8") as labels,
    ):
        for day in range(FUTURE_DAYS):
            broken = day >= WORSE_FROM
            for row in customers(rng, day, broken=broken):
                at: datetime = row["asked_at"]
                prediction = {
                    "prediction_id": row["customer_id"],
                    "model": "churn",
                    "version": "2024-11-rc2" if broken else "2024-11-rc1",
                    "event_time_ms": int(at.timestamp() * 1000),
                    "features": {name: row[name] for name in ("tenure_months", "tickets", "plan")},
                    "prediction": row["prediction"],
                    "probability": row["probability"],
                }
                label = {
                    "prediction_id": row["customer_id"],
                    "event_time_ms": int((at + LABEL_DELAY).timestamp() * 1000),
                    "label": row["left"],
                }
                predictions.write(json.dumps(prediction) + "\n")
                labels.write(json.dumps(label) + "\n")


if __name__ == "__main__":
    main()
