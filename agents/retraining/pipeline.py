"""The steps of `pipeline.py`: plain functions that name what they need, run in order, each once.

A step's parameter is the name of another step, or one of ``data`` (the training table), ``seed`` and ``spec``. A
parameter with a default may be left unfilled.
"""

from __future__ import annotations

import hashlib
import inspect
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agents.retraining.project import GIVEN, Project, where_defined, where_of
from agents.retraining.step_cache import NoCache, Store
from schemas.errors import ProjectError, TrainingError

Functions = Mapping[str, Callable[..., Any]]
_PLAIN = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


@dataclass(frozen=True)
class Step:
    """One function and the names it is called with."""

    name: str
    function: Callable[..., Any]
    inputs: tuple[str, ...]


@dataclass
class Run:
    """What one run of the steps gave: values and cache keys by name, and which steps came from the cache."""

    values: dict[str, Any]
    keys: dict[str, str]
    reused: list[str] = field(default_factory=list)


def plan(functions: Functions, roots: Iterable[str], path: Path) -> list[Step]:
    """The steps that `roots` need, each after its inputs; roots that do not exist are left out, except ``train``.

    Raises
    ------
    ProjectError
        No ``train``, a parameter that nothing provides, a cycle, or a parameter form that cannot be filled by name.
    """
    if "train" not in functions:
        raise ProjectError(
            "there is no function train", where=f"{path}:1", remedy="write train(data) that returns an estimator"
        )
    ordered: dict[str, Step] = {}

    def visit(name: str, above: tuple[str, ...]) -> None:
        if name in ordered:
            return
        if name in above:
            circle = " → ".join((*above[above.index(name) :], name))
            raise ProjectError(
                f"the steps need each other: {circle}", where=where_defined(functions[name]), remedy="break the circle"
            )
        step = _step(name, functions)
        for needed in step.inputs:
            if needed in functions:
                visit(needed, (*above, name))
        ordered[name] = step

    for root in roots:
        if root in functions:
            visit(root, ())
    return list(ordered.values())


def _step(name: str, functions: Functions) -> Step:
    function = functions[name]
    where = where_defined(function)
    inputs = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind not in _PLAIN:
            raise ProjectError(
                f"step {name} has the parameter {parameter}, which cannot be filled by name",
                where=where,
                remedy="name each input",
            )
        if parameter.name in functions or parameter.name in GIVEN:
            inputs.append(parameter.name)
        elif parameter.default is inspect.Parameter.empty:
            steps = ", ".join(sorted(other for other in functions if other != name and not other.startswith("_")))
            raise ProjectError(
                f"step {name} asks for {parameter.name!r}, and no function bears that name",
                where=where,
                remedy=f"accepted: {', '.join(GIVEN)}" + (f", and the functions {steps}" if steps else ""),
            )
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        raise ProjectError(f"step {name} is no plain function", where=where, remedy="return the value")
    return Step(name, function, tuple(inputs))


def execute(
    project: Project,
    given: Mapping[str, Any],
    given_keys: Mapping[str, str],
    *,
    roots: Sequence[str] = ("train",),
    cache: Store | None = None,
    environment: str = "",
) -> Run:
    """Run the steps that `roots` need.

    Parameters
    ----------
    project : Project
    given : mapping
        Values by name: `data`, `seed`, `spec`; a step's name with a value is not run.
    given_keys : mapping of str to str
        What identifies each given value (a content hash).
    cache : Store, optional
        Where values are kept by the hash of code tree, environment, step and inputs.
    environment : str
        Hash of the packages that steps may use.

    Raises
    ------
    TrainingError
        A step raised; `where` is the line of the project.
    """
    store = cache if cache is not None else NoCache()
    run = Run(dict(given), dict(given_keys))
    steps = plan(project.functions, roots, project.root / "pipeline.py")
    needed = _needed(steps, roots, given)
    with project.importable():
        for step in steps:
            if step.name not in needed:
                continue
            key = _key(project.code_hash, environment, step, run.keys)
            run.keys[step.name] = key
            hit, value = store.get(key)
            if hit:
                run.reused.append(step.name)
            else:
                began = time.monotonic()
                value = _call(project, step, run.values)
                store.put(key, value, time.monotonic() - began)
            run.values[step.name] = value
    return run


def _needed(steps: Sequence[Step], roots: Sequence[str], given: Mapping[str, Any]) -> set[str]:
    needed = {root for root in roots if root not in given}
    for step in reversed(steps):
        if step.name in needed:
            needed.update(name for name in step.inputs if name not in given)
    return needed


def _key(code: str, environment: str, step: Step, keys: Mapping[str, str]) -> str:
    parts = [code, environment, step.name, *(f"{name}={keys[name]}" for name in step.inputs)]
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()


def _call(project: Project, step: Step, values: Mapping[str, Any]) -> Any:
    arguments = {name: values[name] for name in step.inputs}
    try:
        return step.function(**arguments)
    except Exception as error:
        raise TrainingError(
            f"step {step.name} raised {first_line(error)}",
            where=where_of(error, project.root) or where_defined(step.function),
            remedy="mend the step, or the rows that it cannot take",
        ) from error


def first_line(error: BaseException, limit: int = 300) -> str:
    """Type and first line of an error: libraries write paragraphs, reasons are one line."""
    lines = str(error).strip().splitlines()
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"
