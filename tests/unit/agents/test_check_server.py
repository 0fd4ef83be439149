"""Models are opened in forks of a process that is clean, stays so, and is gone with whoever started it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from agents import check_client
from agents.artifacts import ArtifactStore, check_in_child
from agents.check_client import CheckServer
from agents.skops_file import dump_model
from schemas.errors import ArtifactError
from tests.support.troubled_models import Forking, Hanging, Marking, Murderous, Telling
from tests.support.wait import eventually

pytestmark = pytest.mark.skipif(not check_client.FORKING, reason="forks on Linux only")
FEATURES = {"x": "numeric"}
HANGING = "tests.support.troubled_models.Hanging"


@pytest.fixture(scope="module")
def started() -> Iterator[CheckServer]:
    made = CheckServer()
    yield made
    made.close()


@pytest.fixture
def server(started: CheckServer, monkeypatch: pytest.MonkeyPatch) -> CheckServer:
    """What opens the models of the test."""
    monkeypatch.setattr(check_client, "_server", started)
    return started


@pytest.fixture
def lean() -> Iterator[CheckServer]:
    """One of the test's own, for `refused`."""
    made = CheckServer()
    yield made
    made.close()


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(str(tmp_path / "artifacts"))


def check(store: ArtifactStore, model: object, **limits: Any) -> None:
    kind = type(model)
    name = f"{kind.__module__}.{kind.__qualname__}"
    check_in_child(store, store.put(dump_model(model), "model"), features=FEATURES, allowed=[name], **limits)


def told(store: ArtifactStore, what: str) -> Any:
    """What a model sees around it when it predicts: it fails with it."""
    with pytest.raises(ArtifactError, match="smoke test: ValueError: told") as caught:
        check(store, Telling(what))
    return json.loads(caught.value.what.rpartition("told ")[2])


def refused(server: CheckServer) -> bool:
    """Whether a child looked at a file; of a kind for which little has to be loaded."""
    code, said = server.run("onnx", [header(), b"\n", b"\x08 and no more"], 60)
    return code == 1 and b"ONNX" in said


def header() -> bytes:
    limits = {"memory_bytes": 4_000_000_000, "cpu_s": 30}
    here = {"folder": os.getcwd(), "path": [os.getcwd()]}
    return json.dumps({"where": "m", "features": FEATURES, "rows": [], "allowed": [HANGING], **limits, **here}).encode()


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def told_pid(file: Path) -> int:
    eventually(lambda: file.exists() and file.read_text().endswith("\n"), timeout=60)
    return int(file.read_text())


def test_one_process_serves_and_knows_nothing(
    server: CheckServer, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRIFTLINE_DATABASE_URL", "postgresql://u:secret@h/d")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    first = told(store, "parent")
    assert server.pid == first, "the child is a fork of it"
    assert told(store, "parent") == first, "one for all"
    children = {told(store, "pid") for _ in range(2)}
    assert len(children) == 2
    assert first not in children
    home = Path(f"/proc/{first}")
    assert len(list((home / "task").iterdir())) == 1, "a fork would lose other threads with what they hold"
    assert b"secret" not in (home / "environ").read_bytes()

    def links() -> list[str]:
        found = [os.readlink(link) for link in (home / "fd").iterdir()]
        return sorted(link.partition(":")[0] for link in found if link != "/dev/null")

    # The way to its client, and the ends of the pipe that wakes it; standard error is the client's.
    error = os.readlink(home / "fd" / "2").partition(":")[0]
    eventually(lambda: links() == sorted(["pipe", "pipe", "socket", error]), timeout=20)


def test_a_child_has_three_descriptors_and_no_settings(
    server: CheckServer, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRIFTLINE_HOME", "/nowhere")
    assert told(store, "descriptors") == [0, 1, 2]
    assert not [name for name in told(store, "environment") if name.startswith(("DRIFTLINE_", "KAFKA_", "AWS_"))]


def test_what_one_model_does_to_its_process_the_next_one_does_not_see(
    server: CheckServer, store: ArtifactStore
) -> None:
    for _ in range(2):
        check(store, Marking())  # refuses a process that is marked


def test_processor_time_counts_for_each_child_alone(server: CheckServer, store: ArtifactStore) -> None:
    """Loading the libraries took the server more than a second."""
    for _ in range(2):
        check(store, Marking(), cpu_s=1)
    with pytest.raises(ArtifactError, match="more than 1 s of processor time"):
        check(store, Hanging(busy=True), cpu_s=1)
    check(store, Marking(), cpu_s=1)


def test_a_model_that_hangs_is_killed_with_what_it_started_and_holds_up_nobody(
    server: CheckServer, store: ArtifactStore, tmp_path: Path
) -> None:
    check(store, Marking())
    hangs = Forking(str(tmp_path / "child"), str(tmp_path / "grandchild"))
    with ThreadPoolExecutor(5) as pool:
        hanging = pool.submit(check, store, hangs, timeout_s=60)
        pids = [told_pid(tmp_path / "child"), told_pid(tmp_path / "grandchild")]
        for done in [pool.submit(check, store, Marking()) for _ in range(4)]:
            done.result()
        assert not hanging.done()
        os.kill(pids[0], signal.SIGKILL)
        with pytest.raises(ArtifactError, match="killed"):
            hanging.result()
        eventually(lambda: not any(alive(pid) for pid in pids), timeout=20)
    for name in ("child", "grandchild"):
        (tmp_path / name).unlink()
    with pytest.raises(ArtifactError, match="did not end within 2 s"):
        check(store, hangs, timeout_s=2)
    pids = [told_pid(tmp_path / "child"), told_pid(tmp_path / "grandchild")]
    eventually(lambda: not any(alive(pid) for pid in pids), timeout=20)
    assert server.pid is not None


def test_a_server_that_is_gone_is_started_again(lean: CheckServer) -> None:
    assert refused(lean)
    first = lean.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    eventually(lambda: lean.pid is None, timeout=20)
    assert refused(lean)
    assert lean.pid not in (None, first)


def test_it_ends_when_idle_and_leaves_nothing_behind() -> None:
    server = CheckServer(idle_s=0.2)
    assert refused(server)
    assert server.process is not None
    first = server.process.pid
    eventually(lambda: not Path(f"/proc/{first}").exists(), timeout=20)  # nor as a zombie
    assert refused(server)
    assert server.process.pid != first
    server.close()


def test_a_fork_of_the_owner_starts_its_own(lean: CheckServer) -> None:
    assert refused(lean)
    pid, (read, write) = lean.pid, os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write, f"{refused(lean)} {lean.pid}".encode())
            lean.close()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    answered, its = os.read(read, 40).decode().split()
    os.close(read)
    os.close(write)
    assert answered == "True"
    assert int(its) != pid
    assert refused(lean)
    assert lean.pid == pid


def test_threads_that_come_at_once_start_one(lean: CheckServer) -> None:
    gate = threading.Barrier(3)

    def one(_: int) -> int | None:
        gate.wait()
        return lean.pid if refused(lean) else None

    with ThreadPoolExecutor(3) as pool:
        assert set(pool.map(one, range(3))) == {lean.pid}
    assert lean.pid is not None


OWNER = """
import sys
from pathlib import Path
from agents.check_client import CheckServer
CheckServer().run("skops", [Path(sys.argv[1]).read_bytes()], 600)
"""


def test_it_ends_with_its_owner_however_that_ends(tmp_path: Path) -> None:
    """The model that is open at that time, too."""
    said = tmp_path / "said"
    (tmp_path / "task").write_bytes(header() + b"\n" + dump_model(Hanging(str(said))))
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path / "task")])
    child = told_pid(said)
    server = int(Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[1])
    assert server != owner.pid
    owner.kill()
    owner.wait()
    eventually(lambda: not alive(child) and not alive(server), timeout=20)


def test_without_forks_each_model_has_a_process_of_its_own(lean: CheckServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_client, "FORKING", False)
    monkeypatch.setattr(check_client, "_server", lean)
    task = json.loads(header())
    code, said = check_client.checked("onnx", task, b"\x08 and no more", 60)
    assert code == 1
    assert b"ONNX" in said
    with pytest.raises(TimeoutError):
        check_client.checked("onnx", task, b"\x08 and no more", 0.01)
    assert lean.pid is None


def test_a_server_that_ends_in_the_middle_is_done_without(
    server: CheckServer, store: ArtifactStore, tmp_path: Path
) -> None:
    """A model that kills its parent gets a process of its own, in which there is none to kill."""
    check(store, Murderous(os.getpid(), str(tmp_path / "killed")))
    assert int((tmp_path / "killed").read_text()) != os.getpid()
    eventually(lambda: server.pid is None, timeout=20)
