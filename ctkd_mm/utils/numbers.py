"""Tests of numbers in a config; what is no number fails them."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any


def is_positive(value: Any) -> bool:
    """Whether a value is a number, finite and > 0."""
    return is_not_negative(value) and value > 0


def is_not_negative(value: Any) -> bool:
    """Whether a value is a number, finite and >= 0."""
    # Not >= alone, which would let infinity through; NaN compares as false.
    return isinstance(value, Real) and 0 <= value < math.inf
