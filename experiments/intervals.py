"""What a few seeds show: means and 95% intervals."""

from __future__ import annotations

import math
from typing import NamedTuple, Sequence

import numpy as np
from scipy.stats import t as student_t


class Interval(NamedTuple):
    """A mean and half the width of its 95% interval."""

    mean: float
    half: float

    @property
    def verdict(self) -> str:
        """Of a difference: better, worse, or no difference shown."""
        if abs(self.mean) <= self.half:
            return 'no difference shown'
        return 'better' if self.mean > 0 else 'worse'


def interval(values: Sequence[float]) -> Interval:
    """Mean of n >= 2 seeds and its interval by Student's t.

        mean ± t(0.975; n - 1) · s / sqrt(n),  s² = sum (x - mean)² / (n - 1)

    Args:
        values: One value a seed.
    """
    n = len(values)
    spread = np.std(values, ddof=1) / math.sqrt(n)
    return Interval(float(np.mean(values)), float(student_t.ppf(0.975, n - 1) * spread))


def paired(values: Sequence[float], others: Sequence[float]) -> Interval:
    """Interval of the difference ``values - others``, seed by seed."""
    return interval(np.subtract(values, others))
