"""One backtest from its options to its document."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from agents.artifacts import ArtifactStore
from agents.backtest import shuffled
from agents.backtest.answers import Answers
from agents.backtest.document import Outcome, document_of
from agents.backtest.history import History, make_history, read_history
from agents.backtest.learning import Learning
from agents.backtest.overrides import Setting, with_settings
from agents.backtest.reference import recorded_reference
from agents.backtest.replay import Replay, World
from agents.retraining.members import divided
from agents.retraining.project import Project, load_project
from agents.retraining.step_cache import StepCache
from agents.retraining.threads import limited_threads
from schemas import fleets
from schemas.codec import iso, utc
from schemas.errors import SpecificationError, TrainingError
from schemas.inheritance import resolved_text
from schemas.specification import FILE_NAME, Specification, load
from streams.native.choice import JoinCore
from streams.panes import PanePlan

SEED = 0


@dataclass(frozen=True, kw_only=True)
class BacktestOptions:
    """What a backtest is told.

    Parameters
    ----------
    project : Path
        Folder with `driftline.toml` and, unless the file carries predictions, `pipeline.py`.
    data : Path
        Parquet or CSV file.
    train_until_ms : int
        Event time: rows before it are learnt from, the others are replayed.
    frozen : bool
        Never retrain.
    settings : sequence of (key, value)
        Keys of the specification to set otherwise.
    compare : sequence of sequences of (key, value)
        Variants to run beside, each with further keys set otherwise.
    shuffles : int
        Histories with the panes in another order, to count alarms that nothing caused.
    seed : int
        Given to steps that ask for it; shuffles begin with it, too.
    core : {"auto", "native", "reference"}
    member : str, optional
        Of a project for many models: the value of its column. Its rows of the file are replayed.
    now_ms : int
        The present: event times beyond it are mistakes.
    """

    project: Path
    data: Path
    train_until_ms: int
    frozen: bool = False
    settings: Sequence[Setting] = ()
    compare: Sequence[Sequence[Setting]] = ()
    shuffles: int = 0
    seed: int = SEED
    core: JoinCore = "auto"
    member: str | None = None
    now_ms: int


Say = Callable[[str], None]


def run_backtest(options: BacktestOptions, say: Say = lambda text: None) -> dict[str, Any]:
    """Run a backtest; the document of ``driftline backtest --json``.

    Parameters
    ----------
    say : callable
        Told in words how far it has come.

    Raises
    ------
    ConfigurationError
        The specification, a setting or the pipeline is wrong.
    TrainingError
        The table cannot be used, or no first version comes of it.
    """
    outcome = replay(options, say)
    found = document_of(outcome)
    if options.shuffles:
        say(f"Shuffling the panes {options.shuffles} times …")
        found["alarms"]["shuffled"] = shuffled.estimate(
            outcome.history,
            outcome.frozen.answers,
            outcome.first,
            shuffles=options.shuffles,
            seed=options.seed,
            core=options.core,
        )
    if options.compare:
        found["variants"] = [_variant(options, settings, outcome, say) for settings in options.compare]
    return found


def _variant(options: BacktestOptions, settings: Sequence[Setting], base: Outcome, say: Say) -> dict[str, Any]:
    """The same history under other rules, in short."""
    name = ", ".join(f"{key}={value}" for key, value in settings)
    say(f"With {name}:")
    outcome = replay(
        replace(options, settings=[*options.settings, *settings], compare=(), shuffles=0), say, base.history
    )
    found = document_of(outcome)
    kept = ("incidents", "retrainings", "skipped", "summary", "alarms")
    return {"set": dict(settings), **{key: found[key] for key in kept}}


def replay(options: BacktestOptions, say: Say = lambda text: None, history: History | None = None) -> Outcome:
    """Run a backtest, and give everything that it saw.

    Parameters
    ----------
    history : History, optional
        Of the same file, read already; used again where the specification reads the file in the same way.
    """
    started = time.monotonic()
    file = options.project / FILE_NAME
    text = _text(options)
    spec = with_settings(text, options.settings, file=str(file))
    if history is not None and _reads_alike(history.spec, spec):
        history = replace(history, spec=spec)
    else:
        say(f"Reading {options.data} …")
        history = _history(options, spec)
    first = int(np.searchsorted(history.times_ms, options.train_until_ms, side="left"))
    if first == len(history):
        raise TrainingError(
            f"no row lies at or after {iso(utc(options.train_until_ms))}; the latest is of "
            f"{iso(utc(int(history.times_ms[-1])))}",
            where="--train-until",
            remedy="name an earlier time, so that there is something to replay",
        )
    replaying = Replay(history, first, core=options.core)
    if history.recorded is not None:
        say(f"{len(history) - first:,} rows carry predictions: they are watched, and nothing is trained.")
        reference = recorded_reference(history, first, options.train_until_ms)
        world = replaying.recorded(PanePlan(spec, reference))
        outcome = Outcome(options, history, first, reference, world, world)
    else:
        project = _project(options, text, spec)
        with tempfile.TemporaryDirectory(prefix="driftline-backtest-") as folder, limited_threads():
            learning = Learning(
                project,
                history,
                ArtifactStore(f"{folder}/artifacts"),
                from_ms=options.train_until_ms,
                seed=options.seed,
                cache=StepCache(Path(folder) / "steps"),
            )
            say(f"Training version 1 on {first:,} rows …")
            outcome = _trained(options, learning, replaying, say)
    return replace(outcome, seconds=time.monotonic() - started)


def _trained(options: BacktestOptions, learning: Learning, replaying: Replay, say: Say) -> Outcome:
    history, first = replaying.history, replaying.first
    initial = learning.first()
    version = initial.version
    assert version is not None
    say(f"Replaying {len(history) - first:,} rows with version 1 frozen …")
    frozen = replaying.frozen(version)
    always: Answers | None = None
    world: World = frozen
    if not options.frozen:
        say(f"Replaying {len(history) - first:,} rows with retraining …")
        world, always = replaying.live(version, learning)
    return Outcome(options, history, first, version.plan.reference, world, frozen, initial, always)


def _text(options: BacktestOptions) -> str:
    """The specification with what it inherits, of the member where it stands for many."""
    file = options.project / FILE_NAME
    spec = load(options.project)  # says what is wrong, with the file's name
    text = resolved_text(file)
    if options.member is not None:
        return fleets.member(text, options.member, file=str(file))[0]
    if spec.is_fleet:
        raise SpecificationError(
            f"the project stands for many models, one for each {spec.model.per}",
            where=f"{file} [model.per]",
            remedy=f"name one: --member {_example(options.data, spec)}",
        )
    return text


def _example(data: Path, fleet: Specification) -> str:
    return divided(data, fleet).members[0].value


def _history(options: BacktestOptions, spec: Specification) -> History:
    if options.member is None:
        return read_history(options.data, spec, now_ms=options.now_ms)
    wanted = fleets.member_value(options.member)
    found = {member.value: member.rows for member in divided(options.data, load(options.project)).members}
    if wanted not in found:
        raise TrainingError(
            f"no row of {wanted!r}, the table has {', '.join(list(found)[:10])}{' …' if len(found) > 10 else ''}",
            where=f"--member {options.member}",
            remedy="name a value of the column, as it stands in the table",
        )
    rows, typed = found[wanted], options.data.suffix in {".parquet", ".pq"}
    assert rows is not None
    return make_history(rows, spec, now_ms=options.now_ms, where=f"{options.data} ({wanted})", typed=typed)


def _project(options: BacktestOptions, text: str, spec: Specification) -> Project:
    project = load_project(options.project, member=options.member)
    if not options.settings:
        return project
    note = "".join(f"\n# --set {key}={value}" for key, value in options.settings)
    return replace(project, spec=spec, spec_text=text + note)


def _reads_alike(one: Specification, other: Specification) -> bool:
    """Whether both make the same history of a file."""
    return (one.model, one.data, one.features) == (other.model, other.data, other.features)
