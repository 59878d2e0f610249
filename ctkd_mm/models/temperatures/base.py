"""The base class of temperatures, and how to find them in a model."""

from __future__ import annotations

import math
from numbers import Real

from torch import Tensor, nn


class Temperature(nn.Module):
    """Base class of temperatures; it remembers the last tau, for logging.

    A subclass's ``forward(preds_S, preds_T)`` takes class logits, (N, C), and returns
    ``self.keep(tau)``, tau > 0: (1,) for all rows, (N, 1) for each, or (N, 2) for each
    row and model, the student's first.

    Attributes:
        tau: The last tau, detached; None before the first forward.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tau: Tensor | None = None

    def keep(self, tau: Tensor) -> Tensor:
        """Remember tau and return it."""
        self.tau = tau.detach()
        return tau


def check_tau(key: str, value: float) -> float:
    """Return a temperature, or the width of a range of them, as a float.

    Args:
        key: Its name in the config.
        value: In units of tau.

    Raises:
        ValueError: If it is not positive and finite.
    """
    if not (isinstance(value, Real) and 0 < value < math.inf):
        raise ValueError(f'{key} must be > 0 and finite, got {value!r}')
    return float(value)


def check_factor(name: str, value: float, zero: str) -> float:
    """Return a factor of a loss or of its gradient.

    Args:
        name: Its key in the config.
        value: The factor.
        zero: What 0 does.

    Raises:
        ValueError: If it is negative, infinite or no number.
    """
    if not (isinstance(value, Real) and 0 <= value < math.inf):
        raise ValueError(f'{name} must be >= 0 and finite, got {value!r}: 0 {zero}')
    return value


def find_temperatures(model: nn.Module) -> dict[str, Temperature]:
    """Find every temperature in a model, learnable or not, by its path there.

    Args:
        model: Any module, wrapped or not.

    Returns:
        The temperatures, in the order of the modules.
    """
    return {k: m for k, m in model.named_modules() if isinstance(m, Temperature)}
