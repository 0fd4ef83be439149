"""Models that are trained and served elsewhere, watched with nothing but their two topics: the agents together."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager, ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from standardwebhooks import Webhook

from agents.alerting import agent as alerting
from agents.archiving import agent as archiving
from agents.config import Settings
from agents.database.engine import make_engine, session_factory
from agents.notifying import agent as notifying
from agents.registry import agent as registry_agent
from agents.registry.questions import Questions
from agents.registry.views import VersionInfo
from agents.retraining import agent as retraining
from agents.retraining import jobs
from agents.retraining.elsewhere import register_watched
from schemas.codec import decode, encode, to_ms
from schemas.events import Alert, GroundTruth, Prediction, QualityMetric, RetrainRequest
from schemas.topics import ALERTS, GROUND_TRUTH, PREDICTIONS, QUALITY_METRICS, RETRAIN_REQUESTS
from streams.kafka.config import KafkaConfig
from streams.kafka.producer import EventProducer
from streams.kafka.reader import read_all
from tests.support.agents import running
from tests.support.monitoring import Installation, Traffic
from tests.support.receiver import Receiver, receiving
from tests.support.wait import eventually

START = datetime(2024, 11, 1, tzinfo=UTC)
A_DAY = 250
SPECIFICATION = """
[model]
name = "{name}"
task = "binary"
[data]
id = "id"
event_time = "at"
label = "y"
max_label_delay = "2d"
[features]
x = "numeric"
kind = "categorical"
[metrics]
primary = "accuracy"
watch = ["accuracy", "roc_auc"]
windows = ["1d"]
[retraining]
triggers = ["quality"]
cool_down = "1d"
"""


def rows_of(name: str, day: int, *, wrong: float = 0.15, seed: int = 0) -> pd.DataFrame:
    """What a foreign model answered on one day, and what turned out to be true."""
    rng = np.random.default_rng([seed, day + 1_000])
    x = rng.normal(size=A_DAY)
    probability = 1.0 / (1.0 + np.exp(-2.0 * x))
    decided = (probability >= 0.5).astype(int)
    flipped = rng.random(A_DAY) < wrong
    return pd.DataFrame(
        {
            "id": [f"{name}-{day}-{row}" for row in range(A_DAY)],
            "at": [START + timedelta(days=day, seconds=row * 86_000 // A_DAY) for row in range(A_DAY)],
            "x": x,
            "kind": rng.choice(["a", "b"], A_DAY),
            "prediction": decided,
            "probability": probability,
            "y": np.where(flipped, 1 - decided, decided),
        }
    )


def _dealt(name: str, day: int, wrong: float) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = rows_of(name, day, wrong=wrong).to_dict("records")
    return found


class Elsewhere:
    """The programs that serve the models, and the agents that watch them."""

    def __init__(self, kafka: KafkaConfig, home: Path, hook: Receiver) -> None:
        self.kafka = kafka
        self.installation = Installation(
            kafka,
            home,
            partitions=2,
            archive_idle_ms=100,
            webhook_urls=[f"http://127.0.0.1:{hook.port}/"],
            webhook_allow=["127.0.0.1"],
        )
        self.settings: Settings = self.installation.settings
        self.hook = hook
        self.readers = session_factory(make_engine(self.settings.database), read_only=True)
        self.failures: list[BaseException] = []
        self.sent = 0
        self.journal = self.installation.follow()

    def watch(self, name: str, folder: Path, **how: Any) -> dict[str, Any]:
        folder.mkdir()
        (folder / "driftline.toml").write_text(SPECIFICATION.format(name=name))
        given: dict[str, Any] = {"window": None, "external": None} | how
        return register_watched(
            self.settings, self.kafka, folder, given.pop("reference", None), actor="tester", **given
        )

    def serve(self, day: int, *versions: tuple[str, str | int], wrong: float = 0.15) -> None:
        """A day of some models: first what they answered, then what turned out to be true.

        Each half is waited for, and labels may take two days: days pass within a second here, and whichever topic is
        read first is taken for all there is of them.
        """
        rows = [(name, version, row) for name, version in versions for row in _dealt(name, day, wrong)]
        rows.sort(key=lambda dealt: dealt[2]["at"])
        with EventProducer(self.kafka) as producer:
            for name, version, row in rows:
                prediction = Prediction(
                    prediction_id=row["id"],
                    model=name,
                    version=version,
                    event_time_ms=to_ms(row["at"]),
                    features={"x": row["x"], "kind": row["kind"]},
                    prediction=row["prediction"],
                    probability=row["probability"],
                )
                producer.send(PREDICTIONS, encode(prediction), row["id"].encode())
        self.sent += len(rows)
        self.until(lambda: self.journal.totals()["predictions"] == self.sent)
        with EventProducer(self.kafka) as producer:
            for _, _, row in rows:
                label = GroundTruth(prediction_id=row["id"], event_time_ms=to_ms(row["at"]) + 1_200_000, label=row["y"])
                producer.send(GROUND_TRUTH, encode(label), row["id"].encode())
        self.until(lambda: self.journal.totals()["labels.matched"] == self.sent)

    def beat(self, day: int) -> None:
        """Nothing older than noon of that day is still to come."""
        with EventProducer(self.kafka) as producer:
            Traffic().beat(producer, to_ms(START + timedelta(days=day, hours=12)), 2)

    def versions(self, name: str) -> list[VersionInfo]:
        with self.readers() as session:
            return Questions().versions(session, name)

    def runs(self, name: str) -> list[jobs.Run]:
        with self.readers() as session:
            return jobs.list_runs(session, name)

    def closed(self, name: str) -> dict[tuple[int, int], QualityMetric]:
        """Closed days overall, by version and day."""
        found = {}
        for record in read_all(self.kafka, QUALITY_METRICS, timeout_s=10):
            metric = decode(record.value or b"", QualityMetric)
            if (
                metric.model == name
                and metric.segment is None
                and not metric.estimated
                and metric.state != "provisional"
            ):
                found[metric.version, (metric.window_start - START).days] = metric
        return found

    def told(self, topic: str, kind: type[Any]) -> list[Any]:
        return [decode(record.value or b"", kind) for record in read_all(self.kafka, topic, timeout_s=10)]

    def hooks(self, kind: str) -> list[dict[str, Any]]:
        secret = (self.settings.home / "keys" / "webhook.secret").read_text()
        found = []
        for headers, body in list(self.hook.requests):
            Webhook(secret).verify(body, headers)
            found.append(json.loads(body))
        return [message["data"] for message in found if message["type"] == kind]

    def until(self, what: Any, timeout: float = 60) -> Any:
        def check() -> Any:
            if self.failures:
                raise RuntimeError("an agent ended") from self.failures[0]
            return what()

        # Most of what is asked reads a topic from its beginning.
        return eventually(check, timeout=timeout, interval=0.2, message=lambda: f"{dict(self.installation.totals())}")


def agents(system: Elsewhere) -> AbstractContextManager[None]:
    runs = (registry_agent.run, archiving.run, alerting.run, retraining.run, notifying.run)
    return running(system.settings, system.kafka, system.failures, *runs)


def test_models_are_watched_with_nothing_but_their_topics(kafka: KafkaConfig, tmp_path: Path) -> None:
    with ExitStack() as stack:
        system = Elsewhere(kafka, tmp_path / "home", stack.enter_context(receiving()))
        # One is compared with a file of past predictions, the other learns what is usual from its first days.
        past = pd.concat([rows_of("churn", day) for day in range(-20, 0)])
        past.to_csv(tmp_path / "past.csv", index=False)
        registered = system.watch("churn", tmp_path / "churn", reference=tmp_path / "past.csv")
        assert (registered["rows"], registered["labelled"], registered["versions"]) == (5_000, 5_000, [])
        assert system.watch("fraud", tmp_path / "fraud", window="3d")["reference"] is None
        stack.enter_context(agents(system))
        stack.enter_context(system.journal)

        worker = system.installation.worker()
        stack.callback(lambda: worker.stop())  # noqa: PLW0108 - the one that is there then
        worker.ready()
        for day in range(4):
            system.serve(day, ("churn", "2024-11-rc1"), ("fraud", 7))
            if day == 1:
                # In the middle of it all, with a version that has just appeared.
                worker.kill()
                worker = system.installation.worker()
        # Two days after the last one its labels are complete.
        system.beat(6)
        system.until(lambda: {day for version, day in system.closed("churn") if version == 1} >= {0, 1, 2, 3})
        assert [(v.version, v.external, v.stage, v.artifact) for v in system.versions("churn")] == [
            (1, "2024-11-rc1", "observed", "")
        ]
        days = system.closed("churn")
        assert all(days[1, day].n == A_DAY and days[1, day].coverage == 1.0 for day in range(4))
        assert abs(days[1, 0].metrics["accuracy"] - 0.85) < 0.08
        # Without a reference everything is joined and counted too.
        first = system.versions("fraud")[0]
        assert (first.version, first.external) == (7, "7")
        eventually(lambda: [system.closed("fraud")[7, day].n for day in range(3)] == [A_DAY] * 3, timeout=30)

        # Days 1 to 3 are the first that are complete: they become the reference, and the version a number with it.
        learnt = system.until(lambda: [v for v in system.versions("fraud") if v.version == 8], timeout=90)[0]
        assert (learnt.external, learnt.champion) == ("7", True)
        assert "750 predictions of the 3d from 2024-11-02" in learnt.reason
        assert [(run.trigger, run.status, run.rows) for run in system.runs("fraud")] == [("reference", "finished", 750)]

        # The next version of the one is bad, and so is the other from now on.
        for day in range(7, 11):
            system.serve(day, ("churn", "2024-11-rc2"), ("fraud", 7), wrong=0.45)
        system.beat(13)
        alerts = system.until(lambda: [a for a in system.told(ALERTS, Alert) if a.model == "churn" and a.version == 2])
        assert {alert.kind for alert in alerts} & {"quality", "calibration"}
        assert alerts[0].evidence["external_version"] == "2024-11-rc2"
        assert "called 2024-11-rc2" in alerts[0].explanation
        system.until(lambda: [a for a in system.told(ALERTS, Alert) if (a.model, a.version) == ("fraud", 8)])
        assert all(metric.n == A_DAY for key, metric in system.closed("churn").items())

        # Whoever trains it is told, and answers with a version.
        asked = system.until(lambda: [r for r in system.hooks("retrain.requested") if r["model"] == "churn"])[0]
        assert (asked["version"], asked["version_number"], asked["trigger"]) == ("2024-11-rc2", 2, "quality")
        sent = [r for r in system.told(RETRAIN_REQUESTS, RetrainRequest) if r.model == "churn"]
        assert asked["request_id"] == sent[0].request_id
        system.until(lambda: [run.status for run in system.runs("churn")] == ["asked"])
        system.serve(14, ("churn", "2024-12-rc1"))
        answered = system.until(lambda: next((r for r in system.runs("churn") if r.status == "finished"), None))
        assert (answered.version, answered.decision) == (3, "promoted")
        assert [v.external for v in system.versions("churn")] == ["2024-11-rc1", "2024-11-rc2", "2024-12-rc1"]
        # All the alerts went out too, and none of what was open of rc2 is left.
        closed = {a.incident_id for a in system.told(ALERTS, Alert) if a.model == "churn" and a.status == "closed"}
        assert {alert.incident_id for alert in alerts} <= closed
