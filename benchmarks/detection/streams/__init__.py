"""Streams whose truth is known, one kind a file, seeded; and real ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from benchmarks.detection.streams import abrupt, autocorrelated, gradual, real, recurring, seasonal, stationary
from benchmarks.detection.streams.base import Stream

Make = Callable[[int, int], Stream]
"""(seed, rows a pane) → the stream."""

GENERATED: Mapping[str, Make] = {
    "stationary": stationary.stream,
    "abrupt": abrupt.stream,
    "gradual": gradual.stream,
    "recurring": recurring.stream,
    "seasonal": seasonal.stream,
    "autocorrelated": autocorrelated.stream,
}
TWINS: Mapping[str, Make] = {
    "stationary": stationary.stream,
    "abrupt": stationary.stream,
    "gradual": stationary.stream,
    "recurring": stationary.stream,
    "seasonal": stationary.stream,
    "autocorrelated": autocorrelated.twin,
}
"""What a kind is without its change: thresholds are calibrated on these, under seeds of their own."""
REAL: Mapping[str, Callable[[], Stream]] = real.REAL
