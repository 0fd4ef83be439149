"""`driftline bench detection`: false alarms, delay and misses of ours and others on identical streams.

Two comparisons: everybody at their defaults, and everybody at the setting that raises the same rate of false alarms on
stationary twins of the streams (other seeds). What counts is the second: a delay says nothing without its false alarms.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.detection import fleet
from benchmarks.detection.contenders.base import Contender
from benchmarks.detection.contenders.driftline import Driftline
from benchmarks.detection.contenders.elsewhere import AlibiDetect, Evidently, NannyML
from benchmarks.detection.contenders.river import detectors
from benchmarks.detection.equal import STEPS, Calibrated, calibrate
from benchmarks.detection.memory import Memory, Remembered
from benchmarks.detection.scoring import COOL_DOWN, Score, interval, score
from benchmarks.detection.streams import GENERATED, REAL, TWINS
from benchmarks.detection.streams.base import HORIZON_PANES, REFERENCE_PANES, Stream
from benchmarks.harness import Note, UnavailableError
from benchmarks.machine import machine

CACHE = Path(__file__).parents[2] / ".bench"
RATE = 1 / 90
"""False alarms a pane at which all are compared: one in a quarter of a year of days."""
ROWS = 200
TWIN_SEED = 100_000
"""Calibration sees other seeds than the comparison."""
JUDGED = ("abrupt", "gradual")
"""Kinds whose delays are in the ratios."""
KINDS = (*GENERATED, *REAL, "fleet")
COSTLY_PART = 4
"""Slow contenders get a quarter of the streams, except of the kinds that are judged and calibrated on."""


def contenders() -> list[Contender]:
    """All, ours first."""
    return [Driftline(), *detectors(), NannyML(), Evidently(), AlibiDetect()]


def run(
    *,
    seeds: int = 40,
    rows: int = ROWS,
    kinds: Sequence[str] | None = None,
    peers: Sequence[str] | None = None,
    cache: Path = CACHE,
    rate: float = RATE,
    steps: int = STEPS,
    memory: Path | None = None,
    models: int | None = None,
    note: Note = lambda _: None,
) -> dict[str, Any]:
    """The document of ``driftline bench detection --json``.

    Parameters
    ----------
    seeds : int
        Streams of every generated kind, and as many twins for calibration.
    rows : int
        Mean rows a pane.
    kinds : sequence of str, optional
        Generated kinds, names of real streams, ``fleet``; default: all.
    peers : sequence of str, optional
        Default: all.
    cache : Path
        Where environments of peers are made.
    rate : float
        False alarms a pane at which contenders are compared.
    steps : int
        Of the bisection that finds their settings.
    memory : Path, optional
        Folder in which answers are kept: what is in it is not computed again. A run that was stopped goes on, and after
        runs of some kinds and peers one of all puts their answers together.
    models : int, optional
        Of the fleet of 18,000 simulate so many; default: 600 for each seed.
    """
    wanted = list(KINDS if kinds is None else kinds)
    known = Memory(memory)
    chosen = [Remembered(c, known) for c in contenders() if peers is None or c.name in peers or c.name == "driftline"]
    made: dict[tuple[str, int], Sequence[Stream]] = {}

    def streams_of(kind: str, contender: Remembered, first: int = 0) -> Sequence[Stream]:
        """The same objects for everybody: what was computed of a stream once is known."""
        if kind in REAL:
            if (kind, 0) not in made:
                made[kind, 0] = [REAL[kind]()]
            return made[kind, 0]
        make = GENERATED[kind] if first == 0 else TWINS[kind]
        key = (kind if first == 0 else make.__module__, first)
        if key not in made:
            made[key] = [make(first + seed, rows) for seed in range(seeds)]
        few = contender.costly and kind not in (*JUDGED, "stationary")
        return made[key][: max(seeds // COSTLY_PART, 1)] if few else made[key]

    result: list[dict[str, Any]] = []
    scores: dict[tuple[str, str, str], Score] = {}
    for contender in chosen if any(kind in GENERATED or kind in REAL for kind in wanted) else []:
        try:
            version = contender.prepare(cache)
        except UnavailableError as error:
            note(f"detection: {contender.name} is skipped: {error}")
            result.append(_skipped(contender, str(error)))
            continue
        settings: dict[str, Calibrated] = {}
        for kind in wanted:
            if kind not in GENERATED and kind not in REAL:
                continue
            began = time.process_time()
            twin = TWINS[kind].__module__ if kind in TWINS else TWINS["stationary"].__module__
            try:
                if twin not in settings:
                    like = kind if kind in TWINS else "stationary"
                    settings[twin] = calibrate(contender, streams_of(like, contender, TWIN_SEED), rate, steps)
                    at = settings[twin]
                    note(
                        f"detection: {contender.name} like {like}: {contender.knob} {at.setting:.4g}, "
                        f"{at.found.rate:.4f} a pane"
                    )
                streams = streams_of(kind, contender)
                for how, setting in (("default", contender.default), ("equal", settings[twin].setting)):
                    own = scores[kind, contender.name, how] = score(streams, contender.alarms(streams, setting))
                    result.append(
                        _row(
                            kind,
                            contender,
                            version,
                            own,
                            how=how,
                            setting=setting,
                            streams=streams,
                            twin=settings[twin],
                        )
                    )
            except UnavailableError as error:
                note(f"detection: {contender.name} failed on {kind}: {error}")
                result.append(_skipped(contender, str(error), kind))
                continue
            note(f"detection: {kind} {contender.name}: {_line(own)}, {time.process_time() - began:.0f} CPU s")
    ratios, ranges, by_kind = _ratios(scores, [c.name for c in chosen])
    document: dict[str, Any] = {
        "bench": "detection",
        "machine": machine(),
        "rounds": seeds,
        "settings": {
            "rows_a_pane": rows,
            "reference_panes": REFERENCE_PANES,
            "horizon_panes": HORIZON_PANES,
            "one_alarm_within_panes": COOL_DOWN,
            "false_alarms_a_pane": rate,
            "calibrated_on": f"twins without a change, seeds from {TWIN_SEED}",
            "delay": "panes of the change that had to close; a mean counts a missed one as the horizon",
        },
        "rows": result,
        "ratios": ratios,
        "ratio_range": ranges,
        "ratios_by_kind": by_kind,
    }
    if "fleet" in wanted:
        _fleet(document, seeds, models, known, note)
    return document


def _line(own: Score) -> str:
    delays = own.cut()
    found = f"delay {np.mean(delays):.2f} (median {np.median(delays):.0f}), missed {own.missed}, " if delays else ""
    return f"{found}{own.false} false in {own.good_panes} panes"


def _row(
    kind: str,
    contender: Remembered,
    version: str,
    own: Score,
    *,
    how: str,
    setting: float,
    streams: Sequence[Stream],
    twin: Calibrated,
) -> dict[str, Any]:
    """A row: the median delay where something changes, else the false alarms in thirty panes."""
    delays = own.cut()
    low, high = own.rate_interval
    row: dict[str, Any] = {"name": f"{kind}/{contender.name}/{how}", "version": version}
    if delays:
        quartiles = np.quantile(delays, [0.25, 0.5, 0.75])
        row |= {
            "value": float(quartiles[1]),
            "unit": "panes",
            "spread": [float(quartiles[0]), float(quartiles[2])],
            "median_interval": _rounded(interval(delays)),
            "mean": round(float(np.mean(delays)), 3),
            "mean_interval": _rounded(interval(delays, np.mean)),
            "changes": len(own.delays),
            "missed": own.missed,
            "excluded": own.excluded,
        }
    else:
        row |= {
            "value": round(own.rate * 30, 4),
            "unit": "false alarms in 30 panes",
            "spread": _rounded((low * 30, high * 30)),
        }
    row |= {
        "kind": kind,
        "contender": contender.name,
        "at": how,
        "setting": setting,
        "streams": len(streams),
        "false_alarms": own.false,
        "good_panes": own.good_panes,
        "false_in_30_panes": round(own.rate * 30, 4),
        "false_in_30_panes_interval": _rounded((low * 30, high * 30)),
        **contender.about(),
    }
    if how == "equal":
        row["calibrated_false_in_30_panes"] = round(twin.found.rate * 30, 4)
    return row


def _rounded(values: tuple[float, float]) -> list[float]:
    return [round(value, 4) for value in values]


def _skipped(contender: Remembered, reason: str, kind: str = "all") -> dict[str, Any]:
    return {
        "name": f"{kind}/{contender.name}", "version": "", "value": None, "unit": "panes", "spread": None,
        "kind": kind, "contender": contender.name, "skipped": reason,
    }  # fmt: skip


def _ratios(
    scores: Mapping[tuple[str, str, str], Score], names: Sequence[str]
) -> tuple[dict[str, float], dict[str, list[float]], dict[str, dict[str, float]]]:
    """Mean delay of ours / of the peer at equal false alarms, on the changes that both were judged on."""
    ratios: dict[str, float] = {}
    ranges: dict[str, list[float]] = {}
    by_kind: dict[str, dict[str, float]] = {}
    for name in names:
        pairs: list[np.ndarray[Any, Any]] = []
        for kind in dict.fromkeys(kind for kind, _, _ in scores):
            mine, other = scores.get((kind, "driftline", "equal")), scores.get((kind, name, "equal"))
            if name == "driftline" or mine is None or other is None or not other.delays:
                continue
            cut = np.minimum(np.array(list(zip(mine.delays, other.delays, strict=False)), dtype=float), HORIZON_PANES)
            cut = cut[~np.isnan(cut).any(axis=1)]
            if not len(cut):
                continue
            by_kind.setdefault(f"driftline/{name}", {})[kind] = round(float(cut[:, 0].mean() / cut[:, 1].mean()), 3)
            if kind in JUDGED:
                pairs.append(cut)
        if not pairs:
            continue
        whole = np.concatenate(pairs)
        rng = np.random.default_rng(0)
        drawn = whole[rng.integers(0, len(whole), (2_000, len(whole)))].mean(axis=1)
        ratios[f"driftline/{name}"] = round(float(whole[:, 0].mean() / whole[:, 1].mean()), 3)
        ranges[f"driftline/{name}"] = [
            round(float(x), 3) for x in np.quantile(drawn[:, 0] / drawn[:, 1], [0.025, 0.975])
        ]
    return ratios, ranges, by_kind


def _fleet(document: dict[str, Any], seeds: int, models: int | None, memory: Memory, note: Note) -> None:
    """Add the part about many models."""
    part = fleet.part(seeds=seeds, models=models, memory=memory, note=lambda text: note(f"detection: fleet: {text}"))
    document["rows"] += part["rows"]
    document["settings"]["fleet"] = part["settings"]
