"""Traffic made by the column: tens of millions of predictions and labels, a microsecond each.

Every value is a function of (seed, id), so that labels can be made for any ids in any order without remembering what
was predicted. All records of a kind have one width: the codec's own encoding of one record is the template, and its
digits are filled in by lookup.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.traffic import CARRIERS, START_MS
from schemas.codec import encode
from schemas.events import GroundTruth, Prediction

Ids = NDArray[np.uint64]
Records = tuple[list[bytes], list[bytes]]
"""Keys and values."""

MOST: Final = 10**9
"""Ids have nine digits."""
_FEATURES: Final = ("x", "y", "z")
_FOUR: Final = np.array([b"%04d" % n for n in range(10_000)])
_POINT: Final = np.array([b"%d.%03d" % divmod(n, 1_000) for n in range(10_000)])
_ONE: Final = np.array([b"%d" % n for n in range(10)])
_CARRIER: Final = np.array([name.encode() for name in CARRIERS])


class Columns(NamedTuple):
    """What some ids predicted and what turned out; scores and features in units of 1/10,000 and 1/1,000."""

    features: NDArray[np.int64]
    score: NDArray[np.int64]
    carrier: NDArray[np.intp]
    truth: NDArray[np.bool_]


@dataclass(frozen=True)
class Bulk:
    """Predictions 0 to `count` - 1 of one model, in event time, and the label of each.

    Parameters
    ----------
    count : int
    model : str
    seed : int
        0–99; ids of different seeds are different.
    span_ms : int
        Event time that the whole lot covers.
    start_ms : int
        Event time of the first.
    delay_ms : int
        From a prediction to its label, in event time.

    Examples
    --------
    >>> keys, values = Bulk(10).predictions(3, 4)
    >>> keys, len(values[0])
    ([b'p01000000003'], 230)
    >>> Bulk(10).labels(np.array([3], dtype=np.uint64))[1]
    [b'{"prediction_id":"p01000000003","event_time_ms":1760001140000,"label":0,"revision":0,"schema_version":1}']
    """

    count: int
    model: str = "bench"
    seed: int = 1
    span_ms: int = 3_600_000
    start_ms: int = START_MS
    delay_ms: int = 60_000

    def __post_init__(self) -> None:
        if not (0 < self.count <= MOST and 0 <= self.seed < 100):
            raise ValueError(f"{self.count} ids of seed {self.seed}: at most {MOST:,} of seeds 0 to 99")

    def times(self, ids: Ids) -> NDArray[np.int64]:
        """Event times of predictions."""
        return self.start_ms + ids.astype(np.int64) * self.span_ms // self.count

    def columns(self, ids: Ids) -> Columns:
        """What the predictions say and what turns out: scores are calibrated, features near 5 with a spread of 1.4."""
        first, second, third = (_mixed(ids, self.seed * 4 + number) for number in range(3))
        sums = np.column_stack([first, second]).view(np.uint8).reshape(len(ids), 4, 4).sum(axis=2, dtype=np.int64)
        parts = third.view(np.uint16).reshape(-1, 4).astype(np.int64)
        score = (parts[:, 0] * parts[:, 1] * 10_000) >> 32
        return Columns(
            features=sums[:, :3] * 9_999 // 1_020,
            score=score,
            carrier=(parts[:, 2] % len(CARRIERS)).astype(np.intp),
            truth=parts[:, 3] * 10_000 < score << 16,
        )

    def predictions(self, start: int, stop: int) -> Records:
        """Records for `predictions`, ids `start` to `stop` - 1."""
        ids = np.arange(start, stop, dtype=np.uint64)
        columns = self.columns(ids)
        template, where = self._prediction
        rows = np.full(len(ids), template).view(where)
        self._address(rows, ids, self.times(ids))
        for number, name in enumerate(_FEATURES):
            rows[name] = _POINT[columns.features[:, number]]
        rows["probability"] = _FOUR[columns.score]
        rows["prediction"] = _ONE[(columns.score >= 5_000).astype(np.intp)]
        rows["carrier"] = rows["segment"] = _CARRIER[columns.carrier]
        return rows["id"].tolist(), rows.view(template.dtype).tolist()

    def labels(self, ids: Ids) -> Records:
        """Records for `ground-truth`, in the order of `ids`."""
        template, where = self._label
        rows = np.full(len(ids), template).view(where)
        self._address(rows, ids, self.times(ids) + self.delay_ms)
        rows["label"] = _ONE[self.columns(ids).truth.astype(np.intp)]
        return rows["id"].tolist(), rows.view(template.dtype).tolist()

    def by_carrier(self, chunk: int = 1_000_000) -> dict[str, int]:
        """Predictions by carrier: what a segment has to count."""
        found = np.zeros(len(CARRIERS), dtype=np.int64)
        for start in range(0, self.count, chunk):
            ids = np.arange(start, min(start + chunk, self.count), dtype=np.uint64)
            found += np.bincount(self.columns(ids).carrier, minlength=len(CARRIERS))
        return dict(zip(CARRIERS, found.tolist(), strict=True))

    # -------------------------------------------------------------------------------------------- templates

    @staticmethod
    def _address(rows: NDArray[Any], ids: Ids, times: NDArray[np.int64]) -> None:
        number = ids.astype(np.int64)
        rows["id0"], rows["id1"], rows["id2"] = (
            _ONE[number // 10**8],
            _FOUR[number // 10**4 % 10**4],
            _FOUR[number % 10**4],
        )
        rows["at0"], rows["at1"] = _ONE[times // 10**12], _FOUR[times // 10**8 % 10**4]
        rows["at2"], rows["at3"] = _FOUR[times // 10**4 % 10**4], _FOUR[times % 10**4]

    @cached_property
    def _prediction(self) -> tuple[NDArray[np.bytes_], np.dtype[Any]]:
        value = encode(
            Prediction(
                prediction_id=f"p{self.seed:02d}{0:09d}",
                model=self.model,
                version=1,
                event_time_ms=self.start_ms,
                features={**dict.fromkeys(_FEATURES, 5.123), "carrier": CARRIERS[0]},
                prediction=0,
                probability=0.1234,
                segment={"carrier": CARRIERS[0]},
            )
        )
        fields = [(name, value.index(b'"%s":' % name.encode()) + 4, 5) for name in _FEATURES]
        fields += [
            ("carrier", value.index(b'"carrier":"') + 11, 2),
            ("segment", value.rindex(b'"carrier":"') + 11, 2),
            ("prediction", value.index(b'"prediction":') + 13, 1),
            ("probability", value.index(b'"probability":0.') + 16, 4),
        ]
        return _template(value, fields)

    @cached_property
    def _label(self) -> tuple[NDArray[np.bytes_], np.dtype[Any]]:
        value = encode(
            GroundTruth(prediction_id=f"p{self.seed:02d}{0:09d}", event_time_ms=self.start_ms, label=0, revision=0)
        )
        return _template(value, [("label", value.index(b'"label":') + 8, 1)])


def permuted(index: Ids, size: int, seed: int = 1) -> Ids:
    """Where a random-looking permutation of 0 … `size` - 1 puts `index`: no list of all ids is shuffled.

    Notes
    -----
    A Feistel network of four rounds on the next even number of bits; what falls outside is put through it again until
    it falls inside, which keeps it one to one.

    Examples
    --------
    >>> sorted(permuted(np.arange(1000, dtype=np.uint64), 1000).tolist()) == list(range(1000))
    True
    """
    half = np.uint64(max(1, (max(size - 1, 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << half) - np.uint64(1)
    out = index.astype(np.uint64)
    todo = np.arange(len(out))
    while len(todo):
        left, right = out[todo] >> half, out[todo] & mask
        for number in range(4):
            left, right = right, left ^ (_mixed(right, seed * 8 + number) & mask)
        out[todo] = (left << half) | right
        todo = todo[out[todo] >= np.uint64(size)]
    return out


def _mixed(ids: Ids, stream: int) -> Ids:
    """64 random-looking bits for each id (the finaliser of SplitMix64)."""
    x = ids + np.uint64(stream * 0x9E3779B97F4A7C15 % 2**64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)), dtype=np.uint64)


def _template(value: bytes, fields: list[tuple[str, int, int]]) -> tuple[NDArray[np.bytes_], np.dtype[Any]]:
    """The template as an array of one, and a type that names the bytes to fill in."""
    key, at = value.index(b'"prediction_id":"') + 17, value.index(b'"event_time_ms":') + 16
    fields = [
        *fields,
        *(("id", key, 12), ("id0", key + 3, 1), ("id1", key + 4, 4), ("id2", key + 8, 4)),
        *(("at0", at, 1), ("at1", at + 1, 4), ("at2", at + 5, 4), ("at3", at + 9, 4)),
    ]
    where = np.dtype(
        {
            "names": [name for name, _, _ in fields],
            "formats": [f"S{width}" for _, _, width in fields],
            "offsets": [offset for _, offset, _ in fields],
            "itemsize": len(value),
        }
    )
    return np.array(value, dtype=f"S{len(value)}"), where
