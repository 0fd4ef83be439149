"""`driftline bench drift`: from raw columns to drift statistics and verdicts, next to Evidently and NannyML.

A reference and a window of equal size, twenty numeric features, half of which clearly moved. Ours: the columns of the
window are counted into the reference's bins, the counts go through the aggregation, which answers with statistics and
observations. Theirs: the same frames, the reference in the form they want. Each runs in a process of its own, loads its
frame first, and times nothing but preparing the reference and then the computation.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.drift_families import FAMILIES, exact, windows
from benchmarks.drift_ours import judge, plan_of
from benchmarks.environments import PROGRAMS, python_of, version_in
from benchmarks.environments import run as run_program
from benchmarks.harness import Contender, Measurement, Note, UnavailableError, compare, skipped
from streams.reference import _numeric

CACHE = Path(__file__).parents[1] / ".bench"
PEERS = ("evidently", "nannyml", "nannyml_js")
DISTRIBUTIONS = ("normal", "exponential", "lognormal", "uniform", "two hills")
CHANGES = ("shift", "scale")
SHIFT = 0.4
SCALE = 1.5
FAMILY_ROWS = 50_000
_DEADLINE_S = 1_800
Floats = NDArray[np.float64]


def frames(rows: int, features: int, seed: int = 0) -> tuple[Floats, Floats, list[bool]]:
    """Reference, window (shape (features, rows)) and which moved: every other, by turns in place and scale.

    Notes
    -----
    A shift is `SHIFT` standard deviations; a change of scale multiplies the distance from the mean by `SCALE`.
    """
    reference, window = np.empty((features, rows)), np.empty((features, rows))
    moved = [number % 2 == 1 for number in range(features)]
    for number in range(features):
        rng = np.random.default_rng([seed, number])
        reference[number] = _draw(rng, DISTRIBUTIONS[number % len(DISTRIBUTIONS)], rows)
        drawn = _draw(rng, DISTRIBUTIONS[number % len(DISTRIBUTIONS)], rows)
        if moved[number] and CHANGES[number // 2 % 2] == "shift":
            drawn = drawn + SHIFT * reference[number].std()
        elif moved[number]:
            drawn = (drawn - drawn.mean()) * SCALE + drawn.mean()
        window[number] = drawn
    return reference, window, moved


def _draw(rng: np.random.Generator, name: str, n: int) -> Floats:
    if name == "normal":
        return rng.normal(size=n)
    if name == "exponential":
        return rng.exponential(size=n)
    if name == "lognormal":
        return rng.lognormal(0.0, 0.6, n)
    if name == "uniform":
        return rng.random(n)
    return rng.normal(size=n) + 4.0 * (rng.random(n) < 0.5)


def run(
    *,
    rows: int = 1_000_000,
    features: int = 20,
    rounds: int = 3,
    peers: Sequence[str] | None = None,
    cache: Path = CACHE,
    note: Note = lambda _: None,
) -> dict[str, Any]:
    """The document of ``driftline bench drift --json``.

    Notes
    -----
    `verdicts` names the features that everybody called drifted, `truth` those that moved; `statistics` compares ours
    with the exact ones of the raw values: the largest difference by statistic, and every feature's; `families` does so
    for many distributions and changes (`benchmarks.drift_families`).
    """
    found: dict[str, dict[str, Any]] = {}
    reference, window, moved = frames(rows, features)
    names = [f"f{number}" for number in range(features)]
    truth = [name for name, own in zip(names, moved, strict=True) if own]

    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        np.save(folder / "reference.npy", reference)
        np.save(folder / "window.npy", window)

        @contextmanager
        def prepared(_: int) -> Iterator[Path]:
            yield folder

        def contender(
            name: str, python: str, program: Sequence[str], tested: str, about: Mapping[str, object]
        ) -> Contender[Path]:
            def measure(place: Path) -> Measurement:
                out = run_program([python, *program, str(place)], timeout_s=_DEADLINE_S)
                told = json.loads(out.splitlines()[-1])
                found[name] = told
                return Measurement(
                    told["seconds"],
                    cpu_seconds=told["cpu_seconds"],
                    rss_mib=told["rss_mib"],
                    details={
                        "reference_seconds": told["reference_seconds"],
                        "seconds_with_reference": told["seconds"] + told["reference_seconds"],
                        "reference_cpu_seconds": told["reference_cpu_seconds"],
                        "agrees_with_truth": float(
                            told["drifted"] == [n for n, m in zip(names, moved, strict=True) if m]
                        ),
                    },
                )

            return Contender(name, tested, measure, unit="s", about=about)

        ours = str(Path(__file__).with_name("drift_ours.py"))
        all_of: list[Contender[Path]] = [
            contender(
                "driftline",
                sys.executable,
                [ours],
                version("driftline"),
                {"computes": "psi, jensen_shannon, ks, ks_p, wasserstein, rates", "threads": "counting: one a core"},
            )
        ]
        for name in PEERS if peers is None else peers:
            distribution = name.partition("_")[0]
            try:
                python = python_of(cache, distribution)
                program = [
                    str(PROGRAMS / f"drift_{distribution}.py"),
                    *(["jensen_shannon"] if name == "nannyml_js" else []),
                ]
                all_of.append(contender(name, python, program, version_in(python, distribution), _ABOUT[name]))
            except UnavailableError as error:
                all_of.append(skipped(name, str(error)))
        document = compare("drift", all_of, rounds, prepared, settings={"rows": rows, "features": features}, note=note)
    # Seconds: a peer that takes longer is worse, so the ratios are turned to say how many times faster ours is.
    document["settings"]["ratios"] = "how many times faster"
    document["ratios"] = {name: round(1 / value, 2) for name, value in document["ratios"].items()}
    document["ratio_range"] = {
        name: sorted(round(1 / value, 2) for value in values) for name, values in document["ratio_range"].items()
    }
    document["truth"] = truth
    document["verdicts"] = {name: told["drifted"] for name, told in found.items()}
    document["statistics"] = exactness(reference, window, found["driftline"]["statistics"], names)
    document["families"] = of_families(min(rows, FAMILY_ROWS))
    return document


_ABOUT: dict[str, dict[str, object]] = {
    "evidently": {"computes": "DataDriftPreset, defaults"},
    "nannyml": {
        "computes": "UnivariateDriftCalculator: jensen_shannon, kolmogorov_smirnov, wasserstein; 10 chunks",
        "threads": 1,
    },
    "nannyml_js": {"computes": "UnivariateDriftCalculator: its default, jensen_shannon; 10 chunks", "threads": 1},
}


def exactness(
    reference: Floats, window: Floats, ours: Mapping[str, Mapping[str, float]], names: Sequence[str]
) -> dict[str, Any]:
    """Ours beside the exact ones.

    Notes
    -----
    KS and Wasserstein (in standard deviations) of the raw values, PSI and Jensen-Shannon of shares in the same bins.
    """
    table: dict[str, dict[str, list[float]]] = {}
    for name, before, after in zip(names, reference, window, strict=True):
        found = exact(before, after, np.asarray(_numeric(before).edges))
        table[name] = {key: [round(ours[name][key], 5), round(value, 5)] for key, value in found.items()}
    largest = {
        key: round(float(np.nanmax([abs(row[key][0] - row[key][1]) for row in table.values()])), 5)
        for key in ("ks", "wasserstein", "jensen_shannon", "psi")
    }
    return {"largest_difference": largest, "ours_and_exact": table}


def of_families(rows: int = FAMILY_ROWS, seed: int = 0) -> dict[str, dict[str, list[Any]]]:
    """Largest difference from the exact distances, and the change it came with, by distribution and distance."""
    references = {family: draw(np.random.default_rng([seed, 1]), rows) for family, draw in FAMILIES.items()}
    names = [f"f{number}" for number in range(len(FAMILIES))]
    plan = plan_of(np.array(list(references.values())), names)
    out: dict[str, dict[str, list[Any]]] = {}
    for name, (family, before) in zip(names, references.items(), strict=True):
        off: dict[str, list[Any]] = {"ks": [0.0, ""], "wasserstein": [0.0, ""]}
        for change, after in windows(before, family, rows, np.random.default_rng([seed, 2])):
            ours = judge(plan, {name: after})[0][name]
            found = exact(before, after, np.zeros(0))
            for key, worst in off.items():
                off[key] = max(worst, [round(abs((ours[key] or 0.0) - found[key]), 5), change])
        out[family] = off
    return out
