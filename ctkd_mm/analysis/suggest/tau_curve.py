"""The loss over its temperature, and the range of temperatures in which it rises.

    f(T) = T² · KL( softmax(z_T / T) ‖ softmax(z_S / T) ),   mean over rows

is 0 at T = 0. For large T it tends to a finite limit, half the mean over rows of the
variance over the classes,

    f(inf) = mean_i Var_c(z_T,ic - z_S,ic) / 2,   with C in the denominator,

If the teacher's highest logits stand out, the curve rises above this limit and has a
maximum; otherwise it need not have one. Logits a times as large have the curve
a² · f(T / a): every temperature read from it is a times as large.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq, minimize_scalar

# Of the curve's supremum: where its rise begins, is half done, and ends.
RISE = (0.05, 0.5, 0.95)
# In units of the logits' scale. A student close to its teacher still differs where
# two classes are nearly equal, at temperatures far below the scale.
LOWEST, HIGHEST = 1e-6, 1e3
SAMPLES = 181  # 20 a decade
# In squares of the scale: the rounding of a KL at HIGHEST, in float64, and much more.
SMALLEST = 1e-7


class TauRange(NamedTuple):
    """Arguments of a learnable temperature.

    Attributes:
        tau_init: Floor of tau, > 0.
        tau_range: Width of the range, > 0.
        tau_start: Initial tau, inside the range.
    """

    tau_init: float
    tau_range: float
    tau_start: float


class TauCurve:
    """A loss over its temperature, sampled relative to the scale of its logits.

    Args:
        height: The loss at a temperature; 2-homogeneous in temperature and logits.
        scale: How far the logits lie apart, > 0, in their own unit.

    Attributes:
        taus: Where it was sampled, ascending, evenly in the logarithm.
        heights: The loss there.
        limit: The loss at 1000 scales, close to its limit.
        supremum: The highest loss of them.
        peak: Where the loss is highest; None where it is no higher than the limit, to
            0.1 percent.

    Raises:
        ValueError: If the loss is nearly 0 everywhere, or not finite.
    """

    def __init__(self, height: Callable[[float], float], scale: float) -> None:
        self.height = height
        self.taus = scale * np.geomspace(LOWEST, HIGHEST, SAMPLES)
        self.heights = np.array([height(tau) for tau in self.taus])
        self.limit, self.supremum = self.heights[-1], self.heights.max()
        if not self.supremum > SMALLEST * scale**2:  # NaN is refused too
            raise ValueError(
                'student and teacher agree everywhere, or not all logits are finite: '
                f'the highest loss is {self.supremum:.3g}, the logit scale {scale:.3g}'
            )
        self.peak = None
        if self.supremum >= 1.001 * self.limit:
            top = self.heights.argmax()
            around = self.taus[top - 1], self.taus[top + 1]
            self.peak = minimize_scalar(lambda tau: -height(tau), bounds=around).x

    def reach(self, share: float) -> float:
        """Find where the loss first reaches a share of its supremum.

        Args:
            share: Between 0 and 1.

        Returns:
            The temperature.
        """
        want = share * self.supremum
        above = (self.heights >= want).argmax()
        bracket = self.taus[above - 1], self.taus[above]
        return brentq(lambda tau: self.height(tau) - want, *bracket)

    def tau_range(self) -> TauRange:
        """Suggest the range of a learnable temperature.

        With T_q the lowest temperature at which the loss is q of its supremum:

            tau_init  = T_0.05                  tau_start = T_0.5
            tau_range = 2 · (T_0.95 - T_0.05)

        Below the floor the loss is nearly 0, however much the models differ. At the
        start it is half of its supremum and rises steeply. ``T_0.95`` is the middle of
        the range, where tau moves most easily, and there is room above it. Where the
        top is flat, the maximum is far up or does not exist; these three temperatures
        change little with small changes of the logits. They grow as the logits do.
        """
        floor, start, end = map(self.reach, RISE)
        return TauRange(floor, 2 * (end - floor), start)
