"""Learnable temperatures: ``(preds_S, preds_T) -> tau``.

    tau = tau_init + tau_range * sigmoid(GRL(raw; lambda))

``raw`` is one parameter for all samples (global) or a small network's output for
each sample (instance-wise). Source: CTKD, arXiv 2211.16231.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ctkd_mm.models.temperatures.base import Temperature, check_tau
from ctkd_mm.models.temperatures.gradient_reversal import GradientReversal
from ctkd_mm.registry import MODELS

# Where the paper starts its global temperature before the sigmoid.
PAPER_RAW_START = 1.0


class LearnedTemperature(Temperature):
    """Base class of learnable temperatures: the range, the start, the reversal.

    Args:
        tau_init: Floor of tau, > 0.
        tau_range: Width of the range, > 0; tau stays in
            (tau_init, tau_init + tau_range).
        tau_start: Initial tau, strictly inside that range. None is the paper's
            start, ``tau_init + tau_range * sigmoid(1)``: 15.62 by default.

    Raises:
        ValueError: If an argument is outside its range.
    """

    def __init__(
        self,
        tau_init: float = 1.0,
        tau_range: float = 20.0,
        tau_start: float | None = None,
    ) -> None:
        super().__init__()
        self.tau_init = check_tau('tau_init', tau_init)
        self.tau_range = check_tau('tau_range', tau_range)
        self.raw_start = PAPER_RAW_START
        if tau_start is not None:
            share = (check_tau('tau_start', tau_start) - tau_init) / tau_range
            if not 0 < share < 1:
                raise ValueError(
                    f'tau_start must lie strictly between tau_init={tau_init} and '
                    f'tau_init + tau_range={tau_init + tau_range}, got {tau_start!r}: '
                    'move it inside, or widen the range'
                )
            self.raw_start = math.log(share / (1 - share))
        self.grl = GradientReversal()

    def to_tau(self, raw: Tensor) -> Tensor:
        """Map raw values of any shape to tau, through the gradient reversal."""
        return self.keep(self.tau_init + self.tau_range * self.grl(raw).sigmoid())


@MODELS.register_module()
class GlobalTemperature(LearnedTemperature):
    """One learnable temperature for all samples.

    Args: see :class:`LearnedTemperature`.

    Source: CTKD, arXiv 2211.16231 (global temperature); the defaults are those of the
    authors' code.

    Example:
        >>> temperature = GlobalTemperature(tau_init=1.0, tau_range=20.0)
        >>> round(temperature(None, None).item(), 2)
        15.62
    """

    def __init__(
        self,
        tau_init: float = 1.0,
        tau_range: float = 20.0,
        tau_start: float | None = None,
    ) -> None:
        super().__init__(tau_init, tau_range, tau_start)
        self.raw_tau = nn.Parameter(torch.tensor([self.raw_start]))

    def forward(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        """Return tau, (1,). The logits are not looked at."""
        return self.to_tau(self.raw_tau)


@MODELS.register_module()
class InstanceTemperature(LearnedTemperature):
    """A temperature for each sample, from both models' class probabilities.

        raw_i = w2 · relu(W1 [softmax(z_T,i), softmax(z_S,i)] + b1) + b2

    The probabilities are detached: the student must not lower its loss by steering
    its own temperature, least of all with the reversed sign of this branch.

    Args:
        num_classes: Foreground classes C; logits have C + 1 columns. Of a classifier
            without a background: its number of classes - 1.
        hidden_channels: Width of the hidden layer. CTKD publishes neither width
            nor activation; 128 and ReLU are ours.
        tau_init: See :class:`LearnedTemperature`.
        tau_range: See :class:`LearnedTemperature`.
        tau_start: See :class:`LearnedTemperature`; the mean start, exact only as far as
            the first layer's random output is small.

    Raises:
        RuntimeError: PyTorch's, if logits do not have ``num_classes + 1`` columns.

    Source: CTKD, arXiv 2211.16231 (instance-wise temperature).

    Example:
        >>> temperature = InstanceTemperature(num_classes=80)
        >>> preds_S, preds_T = torch.randn(2, 512, 81)
        >>> temperature(preds_S, preds_T).shape
        torch.Size([512, 1])
    """

    def __init__(
        self,
        num_classes: int,
        hidden_channels: int = 128,
        tau_init: float = 1.0,
        tau_range: float = 20.0,
        tau_start: float | None = None,
    ) -> None:
        super().__init__(tau_init, tau_range, tau_start)
        self.num_classes = num_classes
        self.mlp = nn.Sequential(
            nn.Linear(2 * (num_classes + 1), hidden_channels),
            nn.ReLU(),
            nn.Linear(hidden_channels, 1),
        )
        nn.init.constant_(self.mlp[-1].bias, self.raw_start)

    def forward(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        """Return tau, (N, 1), for logits of (N, num_classes + 1)."""
        probs = torch.cat([preds_T.softmax(1), preds_S.softmax(1)], dim=1)
        return self.to_tau(self.mlp(probs.detach()))
