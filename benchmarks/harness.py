"""Contenders side by side: paired rounds, alternating order, equal outputs, medians of the paired ratios.

A round prepares its data once; every contender measures itself on it, forwards in even rounds, backwards in odd ones.
The figure that counts is the median over the rounds of (ours / peer) of the same round, with its range: the machine's
mood changes from round to round, and a peer's own spread is large.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from benchmarks.machine import machine
from benchmarks.progress import Span

R = TypeVar("R")
Note = Callable[[str], None]
MIB = 2**20


class UnavailableError(Exception):
    """A contender cannot run on this machine; the message says why."""


class UnequalError(AssertionError):
    """Contenders that did the same work came to different results."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one contender did in one round.

    Parameters
    ----------
    value : float
        In the contender's unit, larger is better unless the unit is a time.
    cpu_seconds, rss_mib : float, optional
        Processor time within the measured stretch, and the most memory of the process tree.
    output : mapping, optional
        Result to compare; it must equal that of every other contender with the same `output_key`.
    details : mapping
        More figures for the row: medians over the rounds are reported.
    """

    value: float
    cpu_seconds: float | None = None
    rss_mib: float | None = None
    output: Mapping[str, int] | None = None
    details: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, span: Span, output: Mapping[str, int] | None = None, **details: float) -> Measurement:
        """The rate of a stretch between two commits."""
        return cls(
            value=span.rate,
            cpu_seconds=span.cpu_seconds,
            rss_mib=span.peak_rss_bytes / MIB,
            output=output,
            details={
                "seconds": span.seconds,
                "cpu_us_per_event": span.cpu_seconds / span.events * 1e6 if span.events else 0.0,
                **details,
            },
        )


@dataclass(frozen=True)
class Contender(Generic[R]):
    """One row of the result.

    Parameters
    ----------
    name, version : str
    measure : callable
        Gets what the round prepared. `UnavailableError` ends the contender's part, any other error of a peer too, with
        its message; an error of the baseline ends the benchmark.
    unit : str
    output_key : str
        Contenders with equal keys worked on equal data: their outputs must be equal.
    about : mapping
        Settings of this contender, for the row.
    skipped : str
        Why it does not run at all.
    """

    name: str
    version: str
    measure: Callable[[R], Measurement]
    unit: str = "events/s"
    output_key: str = ""
    about: Mapping[str, object] = field(default_factory=dict)
    skipped: str = ""


def skipped(name: str, reason: str, **about: object) -> Contender[Any]:
    """A contender that cannot run here."""
    return Contender(name, "", _never, about=about, skipped=reason)


def compare(
    bench: str,
    contenders: Sequence[Contender[R]],
    rounds: int,
    prepare: Callable[[int], AbstractContextManager[R]],
    *,
    baseline: str = "driftline",
    settings: Mapping[str, object] | None = None,
    note: Note = lambda _: None,
) -> dict[str, Any]:
    """Run all rounds; returns the document of ``driftline bench NAME --json``.

    Parameters
    ----------
    bench : str
    contenders : sequence of Contender
    rounds : int
    prepare : callable
        Makes the data of a round (its number comes in); a context manager, left when all have measured.
    baseline : str
        The contender that the others are compared with: ratios are ``baseline / other`` of the same round.
    settings : mapping, optional
    note : callable
        Gets lines of progress.

    Raises
    ------
    UnequalError
        Two contenders with the same `output_key` disagree.
    """
    runs: dict[str, dict[int, Measurement]] = {c.name: {} for c in contenders}
    reasons = {c.name: c.skipped for c in contenders if c.skipped}
    for name, reason in reasons.items():
        note(f"{bench}: {name} is skipped: {reason}")
    for number in range(rounds):
        began = time.monotonic()
        with prepare(number) as data:
            note(f"{bench} round {number + 1}/{rounds}: data ready after {time.monotonic() - began:.0f} s")
            outputs: dict[str, tuple[str, Mapping[str, int]]] = {}
            for contender in contenders if number % 2 == 0 else reversed(contenders):
                if contender.name in reasons:
                    continue
                try:
                    run = contender.measure(data)
                except UnequalError:
                    raise
                except Exception as error:
                    if contender.name == baseline:
                        raise
                    reasons[contender.name] = f"failed in round {number + 1}: {str(error)[-600:]}"
                    note(f"{bench} round {number + 1}/{rounds}: {contender.name} failed: {error}")
                    continue
                runs[contender.name][number] = run
                _same(outputs, contender, run)
                note(f"{bench} round {number + 1}/{rounds}: {_line(contender, run)}")
    ratios = {c.name: paired_ratios(runs[baseline], runs[c.name]) for c in contenders if c.name != baseline}
    told = {f"{baseline}/{name}": values for name, values in ratios.items() if values}
    return {
        "bench": bench,
        "machine": machine(),
        "rounds": rounds,
        "settings": dict(settings or {}),
        "rows": [_row(c, list(runs[c.name].values()), reasons.get(c.name, "")) for c in contenders],
        "ratios": {name: _digits(statistics.median(values)) for name, values in told.items()},
        "ratio_range": {name: [_digits(min(values)), _digits(max(values))] for name, values in told.items()},
    }


def paired_ratios(ours: Mapping[int, Measurement], other: Mapping[int, Measurement]) -> list[float]:
    """Ours / other in every round that both finished."""
    return [ours[number].value / other[number].value for number in sorted(ours.keys() & other.keys())]


def _same(outputs: dict[str, tuple[str, Mapping[str, int]]], contender: Contender[R], run: Measurement) -> None:
    if run.output is None:
        return
    name, first = outputs.setdefault(contender.output_key, (contender.name, run.output))
    if dict(first) != dict(run.output):
        raise UnequalError(f"{name} found {dict(first)}, {contender.name} {dict(run.output)}")


def _row(contender: Contender[R], runs: Sequence[Measurement], reason: str) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": contender.name,
        "version": contender.version,
        "value": None,
        "unit": contender.unit,
        "spread": None,
    }
    if runs:
        values = [run.value for run in runs]
        row |= {"value": _rounded(statistics.median(values)), "spread": [_rounded(min(values)), _rounded(max(values))]}
        for name in ("cpu_seconds", "rss_mib"):
            known = [value for run in runs if (value := getattr(run, name)) is not None]
            if known:
                row[name] = _rounded(statistics.median(known))
        for name in runs[0].details:
            row[name] = _rounded(statistics.median(run.details[name] for run in runs if name in run.details))
        row["values"] = [_rounded(value) for value in values]
    row |= contender.about
    if reason:
        row["skipped"] = reason
    return row


def _line(contender: Contender[R], run: Measurement) -> str:
    parts = [f"{contender.name} {_rounded(run.value):,} {contender.unit}"]
    if run.cpu_seconds is not None:
        parts.append(f"{run.cpu_seconds:.1f} CPU s")
    if run.rss_mib is not None:
        parts.append(f"{run.rss_mib:,.0f} MiB")
    return ", ".join(parts)


def _rounded(value: float) -> float:
    """Four digits are more than these figures are good for; large ones as integers."""
    return round(value) if abs(value) >= 1_000 else round(value, 3)


def _digits(ratio: float) -> float:
    """To six digits, however small: some are turned round."""
    return float(f"{ratio:.6g}")


def _never(_: object) -> Measurement:
    raise UnavailableError("skipped")
