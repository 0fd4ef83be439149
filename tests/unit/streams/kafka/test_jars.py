"""Jars from a folder, from another repository, and what happens to altered ones."""

from __future__ import annotations

import functools
import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from schemas.errors import BrokerError
from streams.kafka.jars import KAFKA, Jar, install_jars, missing_jars, pinned

CONTENT = b"PK\x03\x04 stands for a jar"
JAR = Jar(hashlib.sha256(CONTENT).hexdigest(), "org/example/toy_2.13/1.0/toy_2.13-1.0.jar")


def test_the_pinned_list_is_complete_and_well_formed() -> None:
    jars = pinned()
    assert len(jars) == len({jar.name for jar in jars}) == 46
    assert all(len(jar.sha256) == 64 and jar.name.endswith(".jar") for jar in jars)
    group, artifact, version = KAFKA.split(":")
    assert (group, artifact, version) in [jar.coordinate for jar in jars]
    for jar in jars:
        _, artifact, version = jar.coordinate
        assert jar.name == f"{artifact}-{version}.jar"


@pytest.mark.parametrize("layout", [JAR.name, JAR.path])
def test_from_an_offline_folder_side_by_side_or_as_a_repository(tmp_path: Path, layout: str) -> None:
    source = tmp_path / "offline" / layout
    source.parent.mkdir(parents=True)
    source.write_bytes(CONTENT)
    cache = tmp_path / "cache"
    [path] = install_jars(cache, source=str(tmp_path / "offline"), jars=[JAR])
    assert path.read_bytes() == CONTENT
    source.unlink()
    assert install_jars(cache, source=str(tmp_path / "offline"), jars=[JAR]) == [path], "what is there is used"
    path.write_bytes(b"altered in the cache")
    source.write_bytes(CONTENT)
    assert install_jars(cache, source=f"file://{tmp_path / 'offline'}", jars=[JAR]) == [path]
    assert path.read_bytes() == CONTENT


def test_an_offline_folder_without_the_jar_is_named(tmp_path: Path) -> None:
    with pytest.raises(BrokerError, match=r"toy_2\.13-1\.0\.jar is not there") as caught:
        install_jars(tmp_path / "cache", source=str(tmp_path), jars=[JAR])
    assert caught.value.where == str(tmp_path)
    assert KAFKA in caught.value.remedy


def test_an_altered_jar_names_jar_and_hashes_and_is_not_kept(tmp_path: Path) -> None:
    (tmp_path / JAR.name).write_bytes(b"something else")
    with pytest.raises(BrokerError) as caught:
        install_jars(tmp_path / "cache", source=str(tmp_path), jars=[JAR])
    for part in (JAR.name, JAR.sha256, hashlib.sha256(b"something else").hexdigest()):
        assert part in caught.value.what
    assert list((tmp_path / "cache" / "jars").iterdir()) == []
    assert len(missing_jars(tmp_path / "cache")) == len(pinned())


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A Maven repository on loopback: its address and folder."""
    root = tmp_path / "repository"
    file = root / JAR.path
    file.parent.mkdir(parents=True)
    file.write_bytes(CONTENT)
    pom = file.with_suffix(".pom")
    pom.write_text(
        "<project><modelVersion>4.0.0</modelVersion><groupId>org.example</groupId>"
        "<artifactId>toy_2.13</artifactId><version>1.0</version></project>"
    )

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(root)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", root
    server.shutdown()
    thread.join()
    server.server_close()


def test_from_another_repository(repository: tuple[str, Path], tmp_path: Path) -> None:
    url, _ = repository
    [path] = install_jars(tmp_path / "cache", source=url, jars=[JAR])
    assert path.read_bytes() == CONTENT


def test_a_repository_that_serves_an_altered_jar_is_refused_and_asked_again_later(
    repository: tuple[str, Path], tmp_path: Path
) -> None:
    url, root = repository
    (root / JAR.path).write_bytes(b"altered")
    with pytest.raises(BrokerError, match="will not be run") as caught:
        install_jars(tmp_path / "cache", source=url, jars=[JAR])
    assert "DRIFTLINE_JARS_URL" in caught.value.remedy
    (root / JAR.path).write_bytes(CONTENT)
    [path] = install_jars(tmp_path / "cache", source=url, jars=[JAR])
    assert path.read_bytes() == CONTENT


def test_a_repository_that_does_not_answer_is_named_with_the_remedies(tmp_path: Path) -> None:
    with pytest.raises(BrokerError, match=r"toy_2\.13-1\.0\.jar could not be downloaded") as caught:
        install_jars(tmp_path / "cache", source="http://127.0.0.1:1", jars=[JAR])
    assert caught.value.where == "http://127.0.0.1:1"
    assert "DRIFTLINE_JARS_URL" in caught.value.remedy
    assert "KAFKA_BOOTSTRAP_SERVERS" in caught.value.remedy
