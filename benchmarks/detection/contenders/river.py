"""River's detectors, in our environment, one error after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks.detection.contenders.base import Alarms
from benchmarks.detection.streams.base import Stream


@dataclass(frozen=True)
class River:
    """One of them.

    Parameters
    ----------
    name, knob : str
    default, shy, eager : float
        Of the knob.
    make : callable
        Setting → a fresh detector; everything but the knob is River's default.
    costly : bool
    """

    name: str
    knob: str
    default: float
    shy: float
    eager: float
    make: Callable[[float], Any]
    costly: bool = False

    def prepare(self, cache: Path) -> str:
        """Nothing to make."""
        del cache
        return version("river")

    def about(self) -> Mapping[str, object]:
        """How it is fed."""
        return {"knob": self.knob, "what": "panes in which it fired, fed with every single error, the reference first"}

    def code(self) -> Sequence[Path]:
        """How it is fed."""
        return [Path(__file__)]

    def alarms(self, streams: Sequence[Stream], setting: float) -> list[Alarms]:
        """Run over every stream."""
        return [self._over(stream, setting) for stream in streams]

    def _over(self, stream: Stream, setting: float) -> Alarms:
        detector = self.make(setting)
        for rows in stream.reference:
            for error in rows.errors.tolist():
                detector.update(error)
        out = []
        for pane, rows in enumerate(stream.live):
            fired = False
            for error in rows.errors.tolist():
                detector.update(error)
                fired = fired or detector.drift_detected
            if fired:
                out.append(pane)
        return out


def _hddm(of: Any, confidence: float) -> Any:
    return of(drift_confidence=confidence, warning_confidence=max(confidence, 0.005))


def _kswin(alpha: float) -> Any:
    """KSWIN with its test looked up: of ones and zeros it depends on two counts alone, and takes 300 µs."""
    from river.drift import kswin

    module: Any = kswin
    module.stats = SimpleNamespace(ks_2samp=_looked_up)
    return kswin.KSWIN(alpha=alpha, seed=0)


def _looked_up(one: Sequence[int], other: Sequence[int], method: str) -> tuple[float, float]:
    return _tested(sum(one), len(one), sum(other), len(other), method)


@lru_cache(maxsize=4096)
def _tested(ones: int, n: int, other_ones: int, other_n: int, method: str) -> tuple[float, float]:
    from scipy import stats

    found = stats.ks_2samp(
        [0] * (n - ones) + [1] * ones, [0] * (other_n - other_ones) + [1] * other_ones, method=method
    )
    return float(found.statistic), float(found.pvalue)


def detectors() -> tuple[River, ...]:
    """All that watch one number or one error at a time."""
    from river import drift
    from river.drift import binary

    return (
        River("river_adwin", "delta", 0.002, 1e-12, 0.9, lambda x: drift.ADWIN(delta=x)),
        River("river_page_hinkley", "threshold", 50.0, 500.0, 1.0, lambda x: drift.PageHinkley(threshold=x)),
        # Whoever watches errors cares for one side: the same detector, told so.
        River(
            "river_page_hinkley_up", "threshold", 50.0, 500.0, 1.0,
            lambda x: drift.PageHinkley(threshold=x, mode="up"),
        ),
        River("river_ddm", "drift_threshold", 3.0, 8.0, 0.3, lambda x: binary.DDM(drift_threshold=x)),
        River("river_eddm", "beta", 0.9, 0.5, 0.9999, lambda x: binary.EDDM(alpha=min(1.0, x + 0.05), beta=x)),
        River("river_fhddm", "confidence_level", 1e-6, 1e-30, 0.9, lambda x: binary.FHDDM(confidence_level=x)),
        River("river_hddm_a", "drift_confidence", 0.001, 1e-15, 0.9, partial(_hddm, binary.HDDMA)),
        River("river_hddm_w", "drift_confidence", 0.001, 1e-30, 0.9, partial(_hddm, binary.HDDMW)),
        River("river_kswin", "alpha", 0.005, 1e-12, 0.5, _kswin, costly=True),
    )  # fmt: skip
