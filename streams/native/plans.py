"""Describes a `PanePlan` to the native core: positions, edges and tables, little-endian."""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterable, Sequence
from typing import Final
from weakref import WeakKeyDictionary, ref

from schemas.reference import NumericReference
from streams.native.library import library
from streams.panes import CALIBRATION_BINS, PanePlan

_TASKS: Final = {"binary": 0, "regression": 1, "multiclass": 2}
_NOWHERE: Final = (1 << 32) - 1
_SLOTS: Final = (
    *("predicted", "labelled", "expired", "delay_total", "score_missing", "delay", "scores", "predictions"),
    *("confusion", "scored", "brier", "log_loss", "positives", "negatives"),
    *("calibration_n", "calibration_hits", "calibration_total"),
    *("labels", "clipped", "error", "error_abs", "error_square_high", "error_square_low", "ape", "ape_n"),
    *("label_total", "label_square_high", "label_square_low", "truth", "decided", "hits", "ranks"),
    *("bin_scored", "bin_error_abs"),
)
_I64: Final = 1 << 63


def _u32(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}I", *values)


def _text(value: str) -> bytes:
    data = value.encode()
    return _u32(len(data)) + data


def _floats(values: Sequence[float]) -> bytes:
    return _u32(len(values)) + struct.pack(f"<{len(values)}d", *values)


def _table(items: Iterable[tuple[str, int]]) -> bytes:
    found = list(items)
    return _u32(len(found)) + b"".join(_text(key) + _u32(index) for key, index in found)


def describe(plan: PanePlan) -> bytes:
    """The plan as `native/src/plan.rs` reads it."""
    classes: list[tuple[int, int]] = []
    for value, index in plan.class_by_value.items():
        if isinstance(value, int) and -_I64 <= value < _I64:
            classes.append((value, index))
    any_label = plan.task == "multiclass" or (plan.task == "binary" and not plan.classes[0])
    out = [
        _u32(_TASKS[plan.task]),
        struct.pack("<qqq", plan.pane_ms, plan.max_label_delay_ms, plan.revision_horizon_ms),
        _u32(len(plan.classes), int(any_label)),
        struct.pack("<d", plan.spec.model.threshold),
        _u32(plan.delay_bins, CALIBRATION_BINS),
        _u32(*(plan.slots[name].start if name in plan.slots else _NOWHERE for name in _SLOTS)),
        _floats(plan.score_edges),
        _floats(plan.label_edges),
        struct.pack("<ddd", plan.error_scale, plan.label_mean, plan.label_std),
        _u32(len(classes)) + b"".join(struct.pack("<qI", value, index) for value, index in classes),
        _table(plan.class_index.items()),
        _text(plan.positive),
        _u32(len(plan.spec.data.segments)) + b"".join(map(_text, plan.spec.data.segments)),
        _u32(len(plan.of_segments), len(plan.features)),
    ]
    # Those that are counted in segments first: the core knows them by their number.
    for name, where in sorted(plan.features.items(), key=lambda item: item[0] not in plan.of_segments):
        feature = plan.reference.features[name]
        out.append(_text(name))
        if isinstance(feature, NumericReference):
            out += [
                _u32(0, where.bins.start),
                _floats(feature.edges),
                struct.pack("<dddd", feature.minimum, feature.maximum, feature.mean, plan.unit(feature)),
                _u32(where.missing, where.invalid, where.low, where.high),
                _u32(where.total, where.first_total, where.last_total),
            ]
        else:
            table = [(category, where.bins.start + index) for index, category in enumerate(feature.categories)]
            out += [_u32(1), _table(table), _u32(where.bins.stop - 1, where.missing)]
    return b"".join([*out, _text(plan.layout)])


def placeholder(delay_ms: int, horizon_ms: int) -> bytes:
    """A plan of which only the times are known; it is replaced before it is used."""
    return b"".join(
        [
            _u32(0),
            struct.pack("<qqq", 1, delay_ms, horizon_ms),
            _u32(0, 0),
            struct.pack("<d", 0.5),
            _u32(1, 1),
            _u32(*(0 for _ in _SLOTS)),
            _u32(0, 0),
            struct.pack("<ddd", 1.0, 0.0, 1.0),
            _u32(0, 0, 0, 0, 0, 0, 0),
        ]
    )


class CompiledPlan:
    """A plan inside the native core; partitions keep theirs alive.

    Raises
    ------
    ValueError
        The description could not be read: a fault of this module.
    """

    def __init__(self, described: bytes) -> None:
        self._library = library()
        self.pointer = self._library.dl_plan_new(described, len(described))
        if not self.pointer:
            raise ValueError("the native core cannot read the plan")

    def __del__(self) -> None:
        if getattr(self, "pointer", None):
            self._library.dl_plan_free(self.pointer)


_compiled: WeakKeyDictionary[PanePlan, ref[CompiledPlan]] = WeakKeyDictionary()
_lock: Final = threading.Lock()


def compiled(plan: PanePlan) -> CompiledPlan:
    """The plan inside the native core; all partitions share one as long as any of them holds it."""
    with _lock:
        known = _compiled.get(plan)
        found = known() if known is not None else None
        if found is None:
            found = CompiledPlan(describe(plan))
            _compiled[plan] = ref(found)
        return found
