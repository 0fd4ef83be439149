"""The example of a model that lives elsewhere: its files are what `register --monitor-only` and the topics take."""

from __future__ import annotations

import runpy
import shutil
from pathlib import Path

from agents.commands.lines import messages
from agents.retraining.elsewhere import reference_of_file
from schemas.codec import decode_prediction
from schemas.specification import load

EXAMPLE = Path(__file__).parents[3] / "examples" / "watch-only"


def test_its_files_are_a_reference_and_traffic(tmp_path: Path) -> None:
    for name in ("driftline.toml", "elsewhere.py"):
        shutil.copy(EXAMPLE / name, tmp_path / name)
    runpy.run_path(str(tmp_path / "elsewhere.py"), run_name="__main__")
    statistics, rows, labelled = reference_of_file(tmp_path / "past.csv", load(tmp_path))
    assert rows == labelled == 28 * 300
    assert statistics.metrics["roc_auc"].value > 0.75
    # Seen from outside: what the model looks at, and that nobody looks at the plan.
    shares = statistics.importances
    assert shares["tickets"] > shares["tenure_months"] > 0.1 > shares["plan"]
    lines = (tmp_path / "predictions.jsonl").read_bytes().splitlines()
    versions = {decode_prediction(line).version for line in lines}
    assert versions == {"2024-11-rc1", "2024-11-rc2"}
    labels = (tmp_path / "labels.jsonl").read_bytes().splitlines()
    assert len(list(messages("ground-truth", labels, source="labels.jsonl"))) == len(lines) == 16 * 300
