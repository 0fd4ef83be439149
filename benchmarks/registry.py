"""`driftline bench registry`: 100,000 versions of 18,000 models, and how fast a decision is served.

Search, questions as of a moment, lineage and impact are asked of a registry that was made in bulk
(`benchmarks.registry_fill`), each in a session of its own as a command asks, at random models, tags and times; lists
are pages of a hundred. Registration and decisions go through the service on the same registry, each in a transaction
that is written through to the disk; a version is a child of the champion, its specification the model's, or one that
is new. Fifty people approve one version at once over the HTTP interface: one gets 200, the
others 409. `benchmarks.registry_swap` measures from a decision to the first answer by its version.

A row's value is the 99th percentile in milliseconds, `spread` the median and the worst; `asked_ms` is what was asked
for, and the ratio the value to it. `first_ms`: the first time in this process, with statements still to be compiled.

`--database` takes another database than SQLite in a temporary folder, an empty one; swaps are left out then.

Expected time: four minutes.
"""

from __future__ import annotations

import random
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import timedelta
from http.client import HTTPConnection
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, NamedTuple

from sqlalchemy import make_url, select, text
from sqlalchemy.orm import Session

from agents.artifacts import ArtifactStore
from agents.config import Settings, load_settings
from agents.database.engine import make_engine, session_factory
from agents.database.migrate import upgrade
from agents.gateway.decisions import RegistryDecisions
from agents.registry.agreement import compare_tables
from agents.registry.audit import AuditVerdict, verify_audit
from agents.registry.search import Search
from agents.registry.service import Registry
from agents.registry.tables import LedgerRow
from agents.runtime import settle
from benchmarks import registry_fill as fill
from benchmarks.harness import UnequalError
from benchmarks.latency import percentile
from benchmarks.machine import machine
from benchmarks.processes import cores
from benchmarks.registry_swap import swaps
from schemas.errors import ConfigurationError
from schemas.events import SubmitCandidate

MODELS: Final = 18_000
VERSIONS: Final = 100_000
ASKED_MS: Final = 50.0
REGISTERED_MS: Final = 20.0
SERVED_MS: Final = 1_000.0
PEOPLE: Final = 50
REGISTER, REGISTER_NEW = "register a version", "register one with a new specification"
PAGE: Final = 100
WARM_UP: Final = 3
STAGES: Final = ("registered", "approval-requested", "rejected", "superseded", "promoted")
"""Asked for as of a moment: from those that no version or one stays in to those of most."""

Note = Callable[[str], None]
Question = Callable[[RegistryDecisions, random.Random, fill.Filling], object]


class Taken(NamedTuple):
    """Seconds by the clock, and of this thread's processor time."""

    seconds: float
    cpu_seconds: float


class _Began:
    """A moment to measure from."""

    def __init__(self) -> None:
        self._seconds, self._cpu = time.perf_counter(), time.thread_time()

    def taken(self) -> Taken:
        return Taken(time.perf_counter() - self._seconds, time.thread_time() - self._cpu)


def _name(rng: random.Random, filling: fill.Filling) -> str:
    return fill.name_of(rng.randrange(filling.models))


def _some(rng: random.Random, filling: fill.Filling, there_are: int) -> int:
    """One of things that versions take turns with; few versions have not used all."""
    return rng.randrange(min(there_are, filling.versions))


def _digits(rng: random.Random, filling: fill.Filling) -> str:
    """A pattern that up to a thousand models match."""
    return f"bus-{rng.randrange(max(1, filling.models // 1_000)):02}*"


QUESTIONS: Final[dict[str, Question]] = {
    "list a page": lambda r, rng, f: r.find_models(Search(limit=PAGE, after=_name(rng, f))),
    "search by pattern": lambda r, rng, f: r.find_models(Search(match=_digits(rng, f), limit=PAGE)),
    "search by pattern, no prefix": lambda r, rng, f: r.find_models(
        Search(match=f"*{rng.randrange(100):02}", limit=PAGE)
    ),
    "search by tag": lambda r, rng, f: r.find_models(
        Search(tags={"line": str(rng.randrange(max(1, f.models // 100)))}, limit=PAGE)
    ),
    "search by a common tag": lambda r, rng, f: r.find_models(
        Search(tags={"city": f"city-{rng.randrange(fill.CITIES)}"}, limit=PAGE)
    ),
    "search by owner": lambda r, rng, f: r.find_models(Search(owner=f"owner-{rng.randrange(fill.OWNERS)}", limit=PAGE)),
    "search by team": lambda r, rng, f: r.find_models(Search(team=f"team-{rng.randrange(fill.TEAMS)}", limit=PAGE)),
    "search by alias": lambda r, rng, f: r.find_models(Search(alias="challenger", limit=PAGE)),
    "search versions by stage": lambda r, rng, f: r.find_versions(Search(stage="approval-requested", limit=PAGE)),
    "versions of a model": lambda r, rng, f: r.infos(_name(rng, f)),
    "versions as of": lambda r, rng, f: r.infos(_name(rng, f), f.moment()),
    "search by pattern as of": lambda r, rng, f: r.find_models(
        Search(match=_digits(rng, f), limit=PAGE, as_of=f.moment())
    ),
    "search by tag as of": lambda r, rng, f: r.find_models(
        Search(tags={"line": str(rng.randrange(max(1, f.models // 100)))}, limit=PAGE, as_of=f.moment())
    ),
    "search by alias as of": lambda r, rng, f: r.find_models(Search(alias="champion", limit=PAGE, as_of=f.moment())),
    "search by a rare alias as of": lambda r, rng, f: r.find_models(
        Search(alias="challenger", limit=PAGE, as_of=f.moment())
    ),
    "search versions as of": lambda r, rng, f: r.find_versions(
        Search(limit=PAGE, after=_name(rng, f), as_of=f.moment())
    ),
    "search versions by alias as of": lambda r, rng, f: r.find_versions(
        Search(alias="champion", limit=PAGE, as_of=f.moment())
    ),
    "search versions by stage as of": lambda r, rng, f: r.find_versions(
        Search(stage=rng.choice(STAGES), limit=PAGE, as_of=f.moment())
    ),
    "lineage": lambda r, rng, f: r.lineage(_name(rng, f)),
    "live by dataset": lambda r, rng, f: r.uses("dataset", fill.dataset(_some(rng, f, fill.DATASETS)), only_live=True),
    "live by commit": lambda r, rng, f: r.uses("commit", fill.commit(_some(rng, f, fill.COMMITS))[:10], only_live=True),
    "live by package": lambda r, rng, f: r.uses("package", f"package-7=={rng.randrange(fill.LOCKS)}.7", only_live=True),
}
"""What is asked; every question has to be answered within `ASKED_MS`."""


def run(
    *,
    models: int = MODELS,
    versions: int = VERSIONS,
    questions: int = 200,
    registrations: int = 200,
    swaps_each: int = 50,
    database: str = "",
    use_cores: int | None = None,
    note: Note = lambda _: None,
) -> dict[str, Any]:
    """Measure; returns the document of ``driftline bench registry --json``.

    Parameters
    ----------
    models, versions : int
        Size of the registry.
    questions : int
        How often each question is asked.
    registrations : int
        Versions registered one after the other.
    swaps_each : int
        Promotions, and as many roll-backs, that are followed into serving; 0: none, no broker is started.
    database : str
        URL of an empty database, which is filled and stays so; default: SQLite in a temporary folder.
    use_cores : int, optional
        Run everything on that many cores.
    note : callable
        Gets lines of progress.

    Raises
    ------
    ConfigurationError
        `database` is not empty.
    """
    rng = random.Random(7)
    with ExitStack() as stack:
        chosen = stack.enter_context(cores(use_cores))
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="driftline-bench-")))
        settings = _settings(home / "registry", database)
        began = time.monotonic()
        filling = _fill(settings, models, versions)
        note(f"registry: {versions:,} versions of {models:,} models in {time.monotonic() - began:.0f} s")
        decisions = RegistryDecisions.of(settings)
        settle()  # as the gateway does before it answers
        found = {name: _ask(question, decisions, rng, filling, questions) for name, question in QUESTIONS.items()}
        rows = [_row(name, taken[WARM_UP:], ASKED_MS, taken[0]) for name, taken in found.items()]
        taken_by = _register(settings, decisions, filling, rng, registrations)
        asked_for = {**dict.fromkeys(taken_by, REGISTERED_MS), "decide on it": ASKED_MS}
        rows += [_row(name, taken, asked_for[name]) for name, taken in taken_by.items()]
        rows.append(_crowd(settings, filling))
        verdict, verified = _verify(decisions)
        rows.append(_row("audit verify", [verified], None))
        size = _size(settings)
        for row in rows:
            note(
                f"registry: {row['name']}: p50 {row['p50_ms']:.1f} ms, p99 {row['value']:.1f} ms"
                + (f" (processor {row['cpu_p99_ms']:.1f} ms)" if "cpu_p99_ms" in row else "")
            )
        if swaps_each and not database:
            taken = swaps(home, swaps_each, note)
            rows += [_row(f"{what} served", seconds, SERVED_MS) for what, seconds in taken.items()]
    asked = [row for row in rows if row["asked_ms"] is not None]
    ratios = {f"{row['name']}/asked": round(row["value"] / row["asked_ms"], 4) for row in asked}
    return {
        "bench": "registry",
        "machine": machine(),
        "rounds": 1,
        "settings": {
            "database": make_url(settings.database).get_backend_name(),
            "models": models,
            "versions": versions,
            "events": verdict.rows,
            "page": PAGE,
            "database_mib": round(size / 2**20, 1),
            "cores": chosen,
            "made_in_bulk": "models, versions, tags, inputs, audit (a chain that verifies); no outbox",
        },
        "rows": rows,
        "ratios": ratios,
        "ratio_range": {name: [value, value] for name, value in ratios.items()},
    }


def _settings(home: Path, database: str = "") -> Settings:
    home.mkdir(parents=True)
    plain = {"database_url": database, "artifacts_url": "", "archive_url": "", "bootstrap_servers": "", "api_key": ""}
    return load_settings(**{"home": home, **plain})


def _fill(settings: Settings, models: int, versions: int) -> fill.Filling:
    engine = make_engine(settings.database)
    upgrade(engine)
    with session_factory(engine, read_only=True)() as session:
        if session.scalars(select(LedgerRow.epoch)).first() is not None:
            raise ConfigurationError("is no empty database", where="--database", remedy="make a new one for this")
    filling = fill.Filling(models, versions)
    with session_factory(engine).begin() as session:
        filling.write(session, ArtifactStore.of(settings))
        session.execute(text("ANALYZE"))
    engine.dispose()
    return filling


def _ask(
    question: Question, decisions: RegistryDecisions, rng: random.Random, filling: fill.Filling, times: int
) -> list[Taken]:
    """What a question took, each time; the first ones are still to be compiled."""
    taken = []
    for _ in range(times + WARM_UP):
        began = _Began()
        question(decisions, rng, filling)
        taken.append(began.taken())
    return taken


def _size(settings: Settings) -> int:
    """Bytes of the database."""
    engine = make_engine(settings.database)
    try:
        if engine.dialect.name != "postgresql":
            return Path(engine.url.database or "").stat().st_size
        with engine.connect() as connection:
            return int(connection.execute(text("SELECT pg_database_size(current_database())")).scalar_one())
    finally:
        engine.dispose()


def _verify(decisions: RegistryDecisions) -> tuple[AuditVerdict, Taken]:
    """What ``audit verify`` finds without a broker, and what it takes.

    Raises
    ------
    UnequalError
        The audit does not hold, or the tables say something else.
    """
    began = _Began()
    with decisions.readers() as session:
        verdict = compare_tables(session, verify_audit(session))
    taken = began.taken()
    if verdict.problem is not None:
        raise UnequalError(f"the audit does not hold: {verdict.problem}")
    return verdict, taken


def _registered(  # noqa: PLR0917 - what differs between versions
    registry: Registry,
    session: Session,
    number: int,
    artifact: str,
    reference: str,
    specification: str,
    parent: int | None,
) -> int:
    return registry.register_version(
        session,
        fill.name_of(number),
        artifact=artifact,
        reference=reference,
        specification_text=specification,
        code={"tree": fill.digest("tree", number), "commit": fill.commit(number)},
        dataset={"rows": 10_000, "sha256": fill.digest("rows", number), "registered": fill.dataset(number)},
        environment=fill.environment(number),
        parameters={},
        seed=0,
        parent=parent,
        run_id=f"run-{number}",
        report={"passed": True},
        actor="retraining",
        at=fill.START,
    )


def _submit(registry: Registry, session: Session, number: int, made: int) -> None:
    name = fill.name_of(number)
    command = SubmitCandidate(
        command_id=f"{name}-{made}",
        model=name,
        actor="retraining",
        version=made,
        run_id="run",
        passed=True,
        reason="better",
        at=fill.START,
    )
    registry.submit(session, command)


def _register(
    settings: Settings, decisions: RegistryDecisions, filling: fill.Filling, rng: random.Random, times: int
) -> dict[str, list[Taken]]:
    """What registrations and decisions took, commits included."""
    sessions = session_factory(make_engine(settings.database))
    clock = iter(range(1, 10_000_000))
    registry = Registry(
        sessions, ArtifactStore.of(settings), clock=lambda: filling.now + timedelta(seconds=next(clock))
    )
    # Storing a model's bytes takes as long as they are many; they are there before.
    artifact, reference = registry.artifacts.put(b"model", "model"), registry.artifacts.put(b"{}", "reference")
    found: dict[str, list[Taken]] = {REGISTER: [], REGISTER_NEW: [], "decide on it": []}
    for turn in range(times + WARM_UP):
        number = rng.randrange(filling.models)
        champion, known = decisions.model(fill.name_of(number)).champion, fill.specification(number)
        registry.put_specification(known)  # as the model's registration did
        for name, specification in ((REGISTER, known), (REGISTER_NEW, f"{known}# {turn}\n")):
            began = _Began()
            with sessions.begin() as session:
                made = _registered(registry, session, number, artifact, reference, specification, champion)
            found[name].append(began.taken())
        began = _Began()
        with sessions.begin() as session:
            _submit(registry, session, number, made)
        found["decide on it"].append(began.taken())
    return {name: taken[WARM_UP:] for name, taken in found.items()}


def _crowd(settings: Settings, filling: fill.Filling) -> dict[str, Any]:
    """Fifty people approve one version at once, over HTTP.

    Raises
    ------
    UnequalError
        Not exactly one of them was first.
    """
    import uvicorn

    from agents.gateway.app import create_app
    from agents.gateway.context import Context
    from agents.gateway.shared import SharedBoard

    decisions = RegistryDecisions.of(settings)
    with decisions.readers() as session:
        waiting = next(iter(decisions.find_versions(Search(stage="approval-requested", limit=1))[0]))
        session.rollback()
    app = create_app(Context(SharedBoard(), decisions, threading.Event()))
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, access_log=False))
    serving = threading.Thread(target=server.run, daemon=True)
    serving.start()
    try:
        while not server.started:
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        answers: list[tuple[int, float]] = []
        together = threading.Barrier(PEOPLE)

        def approve(number: int) -> None:
            connection = HTTPConnection("127.0.0.1", port, timeout=60)
            body = f'{{"actor": "person-{number}"}}'
            together.wait()
            began = time.perf_counter()
            path = f"/api/models/{waiting.model}/versions/{waiting.version}/approve"
            connection.request("POST", path, body, {"content-type": "application/json"})
            answers.append((connection.getresponse().status, time.perf_counter() - began))
            connection.close()

        threads = [threading.Thread(target=approve, args=(number,)) for number in range(PEOPLE)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        server.should_exit = True
        serving.join(30)
    counted = Counter(status for status, _ in answers)
    if counted != {200: 1, 409: PEOPLE - 1}:
        raise UnequalError(f"{PEOPLE} approvals at once: {dict(counted)}")
    row = _row(f"{PEOPLE} approvals at once", [seconds for _, seconds in answers], None)
    return {**row, "won": counted[200], "refused": counted[409]}


def _row(
    name: str, taken: Sequence[Taken | float], asked_ms: float | None, first: Taken | None = None
) -> dict[str, Any]:
    found = [(one.seconds if isinstance(one, Taken) else one) * 1_000 for one in taken]
    cpu = [one.cpu_seconds * 1_000 for one in taken if isinstance(one, Taken)]
    p50, p99 = percentile(found, 50), percentile(found, 99)
    return {
        "name": name,
        "version": version("driftline"),
        "value": round(p99, 2),
        "unit": "ms (p99)",
        "spread": [round(p50, 2), round(max(found), 2)],
        "p50_ms": round(p50, 2),
        "max_ms": round(max(found), 2),
        "asked_ms": asked_ms,
        "times": len(found),
        **({"first_ms": round(first.seconds * 1_000, 2)} if first is not None else {}),
        **({"cpu_p50_ms": round(percentile(cpu, 50), 2), "cpu_p99_ms": round(percentile(cpu, 99), 2)} if cpu else {}),
    }
