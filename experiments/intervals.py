"""What a few seeds show: means, 95% intervals, and tests of many differences."""

from __future__ import annotations

import math
from typing import NamedTuple, Sequence

import numpy as np
from scipy.optimize import brentq
from scipy.stats import nct
from scipy.stats import t as student_t


class Interval(NamedTuple):
    """A mean, half the width of its 95% interval, and how likely 0 makes it.

    Attributes:
        mean: Of the seeds.
        half: t(0.975; n - 1) · s / sqrt(n).
        p_value: Of a two-sided t-test against 0.
    """

    mean: float
    half: float
    p_value: float


def interval(values: Sequence[float]) -> Interval:
    """Mean of n >= 2 seeds and its interval by Student's t.

        mean ± t(0.975; n - 1) · s / sqrt(n),  s² = sum (x - mean)² / (n - 1)

    Args:
        values: One value a seed.
    """
    n, mean = len(values), float(np.mean(values))
    error = float(np.std(values, ddof=1)) / math.sqrt(n)
    p_value = 2 * student_t.sf(abs(mean) / error, n - 1) if error else float(not mean)
    return Interval(mean, float(student_t.ppf(0.975, n - 1) * error), float(p_value))


def paired(values: Sequence[float], others: Sequence[float]) -> Interval:
    """Interval of the difference ``values - others``, seed by seed."""
    return interval(np.subtract(values, others))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for their number, so that one below 0.05 counts.

    The i-th smallest of m, from 0, is multiplied by m - i; none is below one before.

    Args:
        p_values: Of the comparisons of a family.

    Returns:
        The adjusted ones, in the same order, at most 1.

    Source: S. Holm, *A simple sequentially rejective multiple test procedure*, 1979.
    """
    order, adjusted = np.argsort(p_values), np.empty(len(p_values))
    scaled = np.asarray(p_values)[order] * np.arange(len(p_values), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return adjusted.tolist()


def verdict(difference: Interval, p_value: float) -> str:
    """Say what a difference shows at an adjusted p-value."""
    if p_value >= 0.05:
        return 'no difference shown'
    return 'better' if difference.mean > 0 else 'worse'


def detectable(difference: Interval, n: int) -> float:
    """Size of a difference that such seeds find in four of five cases.

        d · s / sqrt(n), where P(T > t(0.975; n - 1)) = 0.8

    for T of the noncentral t-distribution with n - 1 degrees of freedom and shift d.

    Args:
        difference: Of n pairs; its spread is taken for the true one.
        n: How many.
    """
    bound = student_t.ppf(0.975, n - 1)
    # A shift of that size is as good as never found on the wrong side.
    shift = brentq(lambda shift: nct.sf(bound, n - 1, shift) - 0.8, 1, 2 * bound)
    return float(shift * difference.half / bound)
