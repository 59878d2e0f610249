"""Ramps over training progress: what lambda and scheduled temperatures follow."""

from __future__ import annotations

import math
from numbers import Real

from ctkd_mm.models.temperatures.base import check_factor


def progress(epoch: int, end: int, begin: int = 0) -> float:
    """How much of a ramp is done in the given epoch (or iteration).

        clip((epoch + 1 - begin) / (end - begin), 0, 1)

    Args:
        epoch: Current epoch or iteration, counted from 0.
        end: From epoch ``end - 1`` on, all of it.
        begin: Before this epoch, none of it.

    Returns:
        A share, between 0 and 1.

    Raises:
        ValueError: If ``end`` is not after ``begin``.

    Source: the authors' code of CTKD, whose epochs count from 1.
    """
    if not (isinstance(begin, Real) and isinstance(end, Real) and begin < end):
        raise ValueError(
            f'end must be > begin, got begin={begin!r}, end={end!r}: the ramp takes '
            'end - begin epochs or iterations'
        )
    return min(max((epoch + 1 - begin) / (end - begin), 0.0), 1.0)


def cosine_curriculum(
    epoch: int,
    end: int,
    begin: int = 0,
    lambda_min: float = 0.0,
    lambda_max: float = 1.0,
) -> float:
    """Lambda in the given epoch (or iteration): an easy start, then harder.

        lambda = lambda_min + (lambda_max - lambda_min) (1 - cos(pi progress)) / 2

    A pure function of :func:`progress`, so a resumed run needs no stored state.

    Args:
        epoch: Current epoch or iteration, counted from 0.
        end: From epoch ``end - 1`` on, lambda is ``lambda_max``.
        begin: Before this epoch, lambda is ``lambda_min``.
        lambda_min: Lambda before the ramp, >= 0.
        lambda_max: Lambda after the ramp, >= 0.

    Returns:
        Lambda, between ``lambda_min`` and ``lambda_max``.

    Raises:
        ValueError: If ``end`` is not after ``begin``, or a lambda negative.

    Source: CTKD, arXiv 2211.16231, and the authors' code, whose lambda carries the
    minus that :class:`GradientReversal` has here.

    Example:
        >>> [round(cosine_curriculum(epoch, end=5), 4) for epoch in range(6)]
        [0.0955, 0.3455, 0.6545, 0.9045, 1.0, 1.0]
    """
    for key, value in (('lambda_min', lambda_min), ('lambda_max', lambda_max)):
        check_factor(key, value, 'stops tau; GradientReversal carries the minus')
    ramp = half_cosine(progress(epoch, end, begin))
    return lambda_min + (lambda_max - lambda_min) * ramp


def half_cosine(share: float) -> float:
    """Map 0..1 to 0..1, flat at both ends: ``(1 - cos(pi share)) / 2``."""
    return (1 - math.cos(math.pi * share)) / 2
