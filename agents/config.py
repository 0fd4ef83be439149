"""Settings: the only module that reads the environment (and `.env`).

Every setting has the prefix ``DRIFTLINE_``; the broker's keep Kafka's own (``KAFKA_BOOTSTRAP_SERVERS``; any librdkafka
property passes through as ``KAFKA_`` + its name in capitals with ``_`` for ``.``: ``KAFKA_SECURITY_PROTOCOL``).
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from dotenv import dotenv_values
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from schemas import topics
from schemas.durations import parse_duration, parse_rate
from schemas.errors import ConfigurationError, UnsafeSettingError

CONFIG_FILE = "config.toml"
FLEET_BUDGET = "1/1d"
_LOOPBACK = ("127.", "localhost", "[::1]")


@dataclass(frozen=True)
class Retention:
    """How long the archive keeps what, by topic; what is not named is kept for ever.

    `hold`: for whom more is kept: every version that is neither rejected nor archived (``versions``), champions,
    challengers and what is on the way to it (``live``), or nobody (``none``).
    """

    keep_ms: Mapping[str, int]
    hold: str = "versions"


class Settings(BaseSettings):
    """What an installation is made of. Built once per process and passed down."""

    model_config = SettingsConfigDict(env_prefix="DRIFTLINE_", env_file=".env", extra="ignore", frozen=False)

    home: Path = Field(default=Path(".driftline"), description="folder of everything local")
    bootstrap_servers: str | None = Field(
        default=None, validation_alias="KAFKA_BOOTSTRAP_SERVERS", description="your broker; unset: the embedded one"
    )
    prefix: str = Field(default="", description="prefix of topics, groups and transactional ids")
    partitions: int = Field(default=12, ge=1, le=1024, description="partitions of traffic topics")
    database_url: str = Field(default="", description="SQLAlchemy URL; default SQLite in home")
    artifacts_url: str = Field(default="", description="fsspec URL of models, references and code; default in home")
    archive_url: str = Field(default="", description="fsspec URL of the Parquet archive; default in home")
    s3_endpoint: str = Field(
        default="",
        description="endpoint of an S3-compatible store for s3:// URLs; default: Amazon's, or AWS_ENDPOINT_URL. "
        "Credentials come from where Amazon's tools look for them (AWS_ACCESS_KEY_ID …)",
    )
    jars_url: str = Field(default="", description="other repository or an offline folder for the broker's jars")
    jars_cache: Path = Field(default=Path("~/.cache/driftline"), description="where the broker's jars are kept")
    kafka_port: int = Field(default=0, ge=0, le=65535, description="port of the embedded broker; 0 takes a free one")
    host: str = Field(default="127.0.0.1", description="address the page binds to")
    port: int = Field(default=8787, ge=0, le=65535, description="port of the page; 0 takes a free one")
    slot: str = Field(default="0", description="worker slot: makes transactional ids stable; unique per worker")
    grace_ms: int = Field(default=60_000, ge=0, description="disorder of event time tolerated")
    future_tolerance_ms: int = Field(default=86_400_000, description="event time may be this far in the future")
    commit_interval_ms: int = Field(default=100, ge=1, description="longest a hot-path batch is collected")
    batch_records: int = Field(default=100_000, ge=1, description="most records in one hot-path batch")
    join_core: Literal["auto", "native", "reference"] = Field(
        default="auto", description="native or reference implementation of the join; auto: native where it was built"
    )
    join_threads: int = Field(
        default=2, ge=1, le=64, description="partitions that one worker joins at the same time (native join)"
    )
    state_memory_mib: int = Field(
        default=544,
        ge=1,
        description="memory of one worker for its pending predictions; more are on disk (native join)",
    )
    session_timeout_ms: int = Field(
        default=10_000, ge=1_000, description="a hot-path worker that is dead for so long loses its partitions"
    )
    provisional_interval_ms: int = Field(default=500, description="least time between provisional metrics")
    snapshot_interval_ms: int = Field(default=30_000, description="time between aggregation snapshots")
    archive_max_age_ms: int = Field(default=30_000, description="longest a record waits to be archived")
    archive_idle_ms: int = Field(default=2_000, description="archive early when nothing came for so long")
    archive_max_rows: int = Field(default=100_000, description="rows of one archive file at most")
    archive_retention: str = Field(
        default="",
        description="how long the archive keeps rows, counted in event time: 400d, or by kind, as "
        "predictions=400d,ground-truth=400d; default: `[archive] retention` of `config.toml` in home, else for ever",
    )
    training_timeout_ms: int = Field(default=3_600_000, ge=1_000, description="longest a training may take")
    projects: list[str] = Field(
        default_factory=list, description="folders whose code is the models': trigger `code` looks at them"
    )
    fleet_budget: str = Field(
        default="",
        description="false incidents tolerated over all models together, such as 1/1d; "
        "default: `[fleet] budget` of `config.toml` in home, else 1/1d",
    )
    webhook_urls: list[str] = Field(default_factory=list, description="where alerts are posted")
    webhook_secret: str = Field(default="", repr=False, description="signs webhooks (whsec_…)")
    webhook_allow: list[str] = Field(default_factory=list, description="private hosts that webhooks may go to")
    notify_urls: list[str] = Field(default_factory=list, repr=False, description="Apprise URLs")
    alertmanager_urls: list[str] = Field(
        default_factory=list,
        repr=False,
        description="Prometheus Alertmanagers that are told every minute what is open, such as http://localhost:9093",
    )
    api_key: str = Field(default="", repr=False, description="your API key, for the command line (dlk_…)")
    subject_key: str = Field(
        default="",
        repr=False,
        description="master key of the subjects' keys, 64 hexadecimal digits; default: `keys/subjects.key` in home",
    )
    allow_plaintext: bool = Field(default=False, description="permit PLAINTEXT to a broker off loopback")
    log_level: str = Field(default="INFO")

    @property
    def database(self) -> str:
        """SQLAlchemy URL of the registry."""
        return self.database_url or f"sqlite:///{self.home.resolve() / 'registry.db'}"

    @property
    def artifacts(self) -> str:
        """fsspec URL of the artifact store. Raises `ConfigurationError`: there is a password in it."""
        return _bare(self.artifacts_url, "DRIFTLINE_ARTIFACTS_URL") or str(self.home.resolve() / "artifacts")

    @property
    def archive(self) -> str:
        """fsspec URL of the archive. Raises `ConfigurationError`: there is a password in it."""
        return _bare(self.archive_url, "DRIFTLINE_ARCHIVE_URL") or str(self.home.resolve() / "archive")

    @property
    def fleet_budget_per_ms(self) -> float:
        """False incidents per millisecond tolerated over all models together.

        Raises
        ------
        ConfigurationError
            `config.toml` in home is no TOML, or knows other keys.
        SpecificationError
            The budget is no rate.
        """
        budget = self.fleet_budget or self._file("fleet", {"budget"}).get("budget", FLEET_BUDGET)
        return parse_rate(
            budget, where="DRIFTLINE_FLEET_BUDGET" if self.fleet_budget else f"[fleet.budget] of {CONFIG_FILE}"
        )

    @property
    def retention(self) -> Retention:
        """How long the archive keeps what.

        Raises
        ------
        ConfigurationError
            A kind of data is unknown, labels would go before their predictions, or `config.toml` in home is wrong.
        SpecificationError
            No duration.
        """
        section = self._file("archive", {"retention", "hold"})
        given = self.archive_retention or section.get("retention", {})
        where = "DRIFTLINE_ARCHIVE_RETENTION" if self.archive_retention else f"[archive] of {CONFIG_FILE}"
        kinds = (topics.PREDICTIONS, topics.GROUND_TRUTH, topics.QUALITY_METRICS, topics.DRIFT_METRICS, topics.ALERTS)
        if isinstance(given, str) and "=" in given:
            given = dict(part.strip().partition("=")[::2] for part in given.split(","))
        if isinstance(given, str):
            given = dict.fromkeys(kinds, given)
        hold = section.get("hold", "versions")
        if not isinstance(given, dict) or set(given) - set(kinds) or hold not in {"versions", "live", "none"}:
            raise ConfigurationError(
                "not accepted",
                where=where,
                remedy=f'accepted: retention = "400d", or by kind of data ({", ".join(kinds)}); hold = "versions", '
                '"live" or "none"',
            )
        keep_ms = {kind: parse_duration(text, where=f"{where}: {kind}") for kind, text in given.items()}
        labels, predictions = keep_ms.get(topics.GROUND_TRUTH), keep_ms.get(topics.PREDICTIONS)
        if labels is not None and (predictions is None or labels < predictions):
            raise ConfigurationError(
                "labels would go before their predictions, which would look as if none had come",
                where=where,
                remedy="keep ground-truth at least as long as predictions",
            )
        return Retention(keep_ms, hold)

    def _file(self, section: str, keys: set[str]) -> dict[str, Any]:
        """A section of `config.toml` in home, empty where there is none."""
        file = self.home / CONFIG_FILE
        if not file.exists():
            return {}
        try:
            document = tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigurationError(f"cannot be read: {error}", where=str(file)) from error
        found: dict[str, Any] = document.get(section, {})
        if set(document) - {"fleet", "archive"} or not isinstance(found, dict) or set(found) - keys:
            raise ConfigurationError(
                "not accepted",
                where=str(file),
                remedy='accepted: [fleet] with budget = "1/1d"; [archive] with retention = "400d", hold = "versions"',
            )
        return found

    @property
    def state_dir(self) -> Path:
        """Folder of local hot-path state (one below it for each agent and partition)."""
        return self.home.resolve() / "state"

    @cached_property
    def kafka_properties(self) -> dict[str, str]:
        """librdkafka properties from ``KAFKA_*`` (without the bootstrap servers)."""
        values = {**dotenv_values(".env"), **os.environ}
        return {
            name.removeprefix("KAFKA_").lower().replace("_", "."): value
            for name, value in values.items()
            if name.startswith("KAFKA_") and name != "KAFKA_BOOTSTRAP_SERVERS" and value is not None
        }

    def environment(self) -> dict[str, str]:
        """The environment in which a child process sees these settings: what the supervisor starts agents with."""
        values = {
            f"DRIFTLINE_{name.upper()}": str(value) if isinstance(value, str | Path) else json.dumps(value, default=str)
            for name, value in self.model_dump().items()
            if name not in {"bootstrap_servers", "api_key"}
        }
        values["DRIFTLINE_HOME"] = str(self.home.resolve())
        if self.bootstrap_servers:
            values["KAFKA_BOOTSTRAP_SERVERS"] = self.bootstrap_servers
        # Agents act as the system: they are not handed the key of whoever started them.
        inherited = {name: value for name, value in os.environ.items() if name != "DRIFTLINE_API_KEY"}
        return {**inherited, **values}

    def check_safety(self) -> None:
        """Refuse PLAINTEXT to a broker off loopback unless told.

        Raises
        ------
        UnsafeSettingError
        """
        servers = self.bootstrap_servers
        protocol = self.kafka_properties.get("security.protocol", "PLAINTEXT").upper()
        if servers is None or protocol != "PLAINTEXT" or self.allow_plaintext:
            return
        foreign = [s for s in servers.split(",") if not s.strip().startswith(_LOOPBACK)]
        if foreign:
            raise UnsafeSettingError(
                f"PLAINTEXT to {', '.join(foreign)}",
                where="KAFKA_SECURITY_PROTOCOL",
                remedy="set KAFKA_SECURITY_PROTOCOL=SSL or SASL_SSL (or DRIFTLINE_ALLOW_PLAINTEXT=true)",
            )


def load_settings(**overrides: object) -> Settings:
    """Settings from the environment and `.env`, with explicit overrides (by field name) on top."""
    settings = Settings()
    settings = settings.model_copy(update=overrides) if overrides else settings
    if settings.s3_endpoint:
        from fsspec.config import conf

        # The one place that every use of fsspec in this process looks at: artifacts, archive, models.
        conf.setdefault("s3", {})["endpoint_url"] = settings.s3_endpoint
    return settings


def bare_environment() -> dict[str, str]:
    """Of the environment what any program needs: where programs, libraries and modules lie. No setting, no secret."""
    named = {"PATH", "HOME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "VIRTUAL_ENV"}
    return {name: value for name, value in os.environ.items() if name in named or name.startswith(("LC_", "PYTHON"))}


def _bare(url: str, where: str) -> str:
    """The URL, which holds no password: it is shown, logged and kept in manifests. Raises `ConfigurationError`."""
    _, separator, rest = url.partition("://")
    if separator and "@" in (host := rest.partition("/")[0]) and ":" in host.rpartition("@")[0]:
        raise ConfigurationError(
            "a password in a URL would be shown and logged",
            where=where,
            remedy="leave it out; for S3 set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or use a profile or a role",
        )
    return url
