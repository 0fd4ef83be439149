"""How far an estimate can be trusted: what became of it, once the labels came."""

from __future__ import annotations

import math
from typing import Final

import msgspec

CONFIDENCE: Final = 0.95
_NORMAL: Final = 1.959963984540054
MEMORY: Final = 30
"""Windows after which what was seen weighs a third."""
PRIOR: Final = 5.0
"""Weight, in windows, of the assumption that errors are as large as the model says."""
LEAST_EVIDENCE: Final = 3.0
"""Windows below which nobody knows."""
LOW: Final = 0.5
"""Trust below which an estimate raises no observation."""
_SCALES: Final = (0.5, 10.0)
_MOST_SURPRISE: Final = 25.0
STEP: Final = 0.2
"""How much the logarithm of the width follows a miss."""
_WIDTHS: Final = (0.5, 5.0)


class Errors(msgspec.Struct, array_like=True):
    """Estimated against realised values of one metric, older ones fading.

    Parameters
    ----------
    weight : float
        Windows.
    held : float
        Those whose interval held the realised value.
    surprise : float
        Sum of squared errors in the variance that was promised.
    missed, moved, chance : float
        Sums of squares: of the errors, of realised values' distance from the reference's level, and of the error that
        the labels' chance alone makes.
    width : float
        What intervals are widened by, so that as many hold as promised, whatever the errors' distribution.

    References
    ----------
    Gibbs and Candès (2021), Adaptive conformal inference under distribution shift: the rule `width` follows.
    """

    weight: float = 0.0
    held: float = 0.0
    surprise: float = 0.0
    missed: float = 0.0
    moved: float = 0.0
    chance: float = 0.0
    width: float = 1.0

    @property
    def scale(self) -> float:
        """What promised errors are multiplied by, learnt from past ones."""
        scale = math.sqrt((PRIOR + self.surprise) / (PRIOR + self.weight))
        return min(max(scale, _SCALES[0]), _SCALES[1])

    @property
    def quantile(self) -> float:
        """Half the width of the interval, in standard errors: Student's t with the evidence's degrees of freedom."""
        # Fisher's expansion, right to half a per cent from five degrees on: scipy's takes longer than all the rest.
        freedom, z = PRIOR + self.weight, _NORMAL
        first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
        third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
        return z + first / freedom + second / freedom**2 + third / freedom**3

    def half_width(self, variance: float) -> float:
        """Half the width of the interval of an estimate with this promised variance."""
        return self.width * self.quantile * self.scale * math.sqrt(variance)

    def add(
        self,
        *,
        estimate: float,
        realised: float,
        level: float | None,
        variance: float,
        chance: float,
        weight: float = 1.0,
    ) -> None:
        """Take a reconciled window in.

        Parameters
        ----------
        estimate, realised : float
        level : float or None
            Of the reference.
        variance : float
            Of the error, as promised; `chance` the part of it that is the labels' own.
        weight : float
            In windows, at most 1: segments of one window share it.
        """
        error = estimate - realised
        kept = 1.0 - weight / MEMORY
        held = abs(error) <= self.half_width(variance)
        wider = self.width * math.exp(weight * STEP * ((not held) - (1 - CONFIDENCE)))
        self.width = min(max(wider, _WIDTHS[0]), _WIDTHS[1])
        moved = error if level is None else realised - level
        surprise = min(error * error / variance, _MOST_SURPRISE) if variance > 0 else float(error != 0.0)
        self.weight = kept * self.weight + weight
        self.held = kept * self.held + weight * held
        self.surprise = kept * self.surprise + weight * surprise
        self.missed = kept * self.missed + weight * error * error
        self.moved = kept * self.moved + weight * moved * moved
        self.chance = kept * self.chance + weight * chance

    @property
    def coverage(self) -> float:
        """Share of the windows whose interval held the realised value."""
        return self.held / self.weight if self.weight > 0 else 0.0

    @property
    def explained(self) -> float:
        """Share of what the metric moved, beyond chance, that the estimate moved with it; 1 where it did not move."""
        error = max(self.missed - self.chance, 0.0)
        moved = max(self.moved - self.chance, self.chance)
        return min(max(1.0 - error / moved, 0.0), 1.0) if moved > 0 else 1.0

    @property
    def trust(self) -> float | None:
        """0–1; None while there is too little evidence."""
        if self.weight < LEAST_EVIDENCE:
            return None
        return min(self.coverage / CONFIDENCE, 1.0) * self.explained
