"""The doctor against the real broker: what it finds and what it advises."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.config import Settings, load_settings
from agents.doctor import Finding, examine, healthy
from schemas.topics import CATALOGUE, PREDICTIONS
from streams.kafka.admin import ensure_topics
from streams.kafka.config import KafkaConfig


@pytest.fixture
def settings(kafka: KafkaConfig, tmp_path: Path) -> Settings:
    for folder in ("artifacts", "archive"):
        (tmp_path / folder).mkdir()
    return load_settings(
        home=tmp_path, bootstrap_servers=kafka.bootstrap_servers, prefix=kafka.prefix, partitions=2, port=0
    )


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.check: finding for finding in findings}


def test_a_sound_system(kafka: KafkaConfig, settings: Settings) -> None:
    ensure_topics(kafka, 2)
    findings = examine(settings)
    assert healthy(findings), [f for f in findings if f.status == "failed"]
    found = by_name(findings)
    for check in ("versions", "settings", "broker", "topics", "artifacts", "archive", "page"):
        assert found[check].status == "ok", found[check]
    assert kafka.bootstrap_servers in found["broker"].detail
    assert not list((settings.home / "artifacts").iterdir()), "the probe is removed again"


def test_missing_topics_and_another_partition_count_fail_with_the_remedy(
    kafka: KafkaConfig, settings: Settings
) -> None:
    ensure_topics(kafka, 4, {PREDICTIONS: CATALOGUE[PREDICTIONS]})
    topics = [finding for finding in examine(settings) if finding.check == "topics"]
    assert [finding.status for finding in topics] == ["failed", "failed"]
    assert "driftline topics" in topics[0].remedy
    assert f"{kafka.topic(PREDICTIONS)} has 4 partitions, should have 2" in topics[1].detail
    assert "DRIFTLINE_PARTITIONS" in topics[1].remedy


def test_no_broker_fails_once_and_what_rests_on_it_is_skipped(settings: Settings) -> None:
    findings = examine(settings.model_copy(update={"bootstrap_servers": "127.0.0.1:1"}))
    assert not healthy(findings)
    found = by_name(findings)
    assert found["broker"].status == "failed"
    assert "127.0.0.1:1" in found["broker"].detail
    assert "driftline up" in found["broker"].remedy
    assert "KAFKA_BOOTSTRAP_SERVERS" in found["broker"].remedy
    assert found["topics"].status == found["retention"].status == "skipped"


def test_what_cannot_be_written_fails(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    findings = by_name(examine(settings.model_copy(update={"artifacts_url": str(tmp_path / "file")})))
    assert findings["artifacts"].status == "failed"
    assert str(tmp_path / "file") in findings["artifacts"].detail


@pytest.mark.parametrize(
    ("change", "check", "status", "word"),
    [
        ({"host": "0.0.0.0"}, "settings", "warning", "approve"),
        ({"bootstrap_servers": "kafka.example:9092"}, "settings", "failed", "PLAINTEXT"),
        ({"database_url": "postgresql://u:hunter2@127.0.0.1:1/x"}, "database", "failed", "127.0.0.1"),
    ],
)
def test_unsafe_or_unreachable(
    settings: Settings, change: dict[str, object], check: str, status: str, word: str
) -> None:
    findings = by_name(examine(settings.model_copy(update=change)))
    assert findings[check].status == status
    assert word in findings[check].detail
    assert not any("hunter2" in finding.detail + finding.remedy for finding in findings.values())
