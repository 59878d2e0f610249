"""Temperatures that learn nothing: ``(preds_S, preds_T) -> tau``."""

from __future__ import annotations

import torch
from torch import Tensor

from ctkd_mm.models.temperatures.base import Temperature, check_tau
from ctkd_mm.registry import MODELS

# Keeps rows of equal logits finite.
SMALLEST_SPREAD = 1e-7


def spread(preds: Tensor) -> Tensor:
    """Standard deviation of each row's logits.

    Args:
        preds: Class logits, (N, C), C >= 2.

    Returns:
        sigma, (N, 1), with C - 1 in the denominator; at least 1e-7.

    Raises:
        ValueError: If ``preds`` has another shape.

    Source: the authors' code of both methods below (of which one adds 1e-7);
    algorithm 1 of Logit Standardization divides by C.
    """
    if preds.ndim != 2 or preds.size(1) < 2:
        raise ValueError(
            f'the spread of logits needs (N, C) with C >= 2, got {tuple(preds.shape)}'
        )
    return preds.std(dim=1, keepdim=True).clamp(min=SMALLEST_SPREAD)


class FixedTemperature(Temperature):
    """Base class of temperatures that are made from one number.

    Args:
        tau: Temperature, > 0.

    Raises:
        ValueError: If tau is not positive and finite.
    """

    def __init__(self, tau: float) -> None:
        super().__init__()
        self.value = check_tau('tau', tau)


@MODELS.register_module()
class ConstantTemperature(FixedTemperature):
    """The same temperature for every row, throughout the training.

    Args: see :class:`FixedTemperature`.

    Source: G. Hinton et al., *Distilling the Knowledge in a Neural Network*, 2015,
    arXiv 1503.02531, equation 1.

    Example:
        >>> ConstantTemperature(4)(torch.zeros(2, 3), torch.zeros(2, 3))
        tensor([4.])
    """

    def forward(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        """Return tau, (1,), on the student's device and in its dtype."""
        return self.keep(preds_S.new_full((1,), self.value))


@MODELS.register_module()
class TeacherTemperature(FixedTemperature):
    """A constant temperature for the teacher; the student's is 1.

    In a loss with the factor tau_S · tau_T, such as
    :class:`ctkd_mm.models.losses.kd_loss.CTKDLoss`,
    this is Transformed Teacher Matching, ``loss_weight`` being λ / (1 - λ):

        beta · KL( softmax(z_T / tau) ‖ softmax(z_S) ),   beta = tau · λ / (1 - λ)

    Args:
        tau: The teacher's temperature, > 0; the paper's gamma is 1 / tau.

    Source: K. Zheng and E.-H. Yang, *Knowledge Distillation Based on Transformed
    Teacher Matching*, ICLR 2024, arXiv 2402.11148, equations 2 and 19. Its weighted
    form, WTTM, changes each row's weight, no temperature, and is not this.

    Example:
        >>> TeacherTemperature(4)(torch.zeros(2, 3), torch.zeros(2, 3))
        tensor([[1., 4.],
                [1., 4.]])
    """

    def forward(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        """Return tau, (N, 2): 1 and the teacher's."""
        tau = preds_S.new_ones(len(preds_S), 2)
        tau[:, 1] = self.value
        return self.keep(tau)


@MODELS.register_module()
class SpreadTemperature(Temperature):
    """A temperature for each row, from the spread of the teacher's logits.

        tau_i = scale · sigma(z_T,i),   sigma: see
        :func:`ctkd_mm.models.temperatures.fixed.spread`

    With it, :class:`ctkd_mm.models.losses.zscore_loss.NormKDLoss` is NormKD.

    Args:
        scale: The paper's T_norm, > 0.

    Raises:
        ValueError: If ``scale`` is not positive and finite.

    Source: Z. Chi et al., *NormKD: Normalized Logits for Knowledge Distillation*,
    2023, arXiv 2308.00520, and the authors' code.

    Example:
        >>> preds_T = torch.tensor([[0.0, 2.0, 4.0]])
        >>> SpreadTemperature(2)(preds_T, preds_T)
        tensor([[4.]])
    """

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = check_tau('scale', scale)

    def forward(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        """Return tau, (N, 1). The student's logits are not looked at."""
        return self.keep(self.scale * spread(preds_T))


@MODELS.register_module()
class SharpnessTemperature(FixedTemperature):
    """Two temperatures for each row: the sharper model of the two gets the higher.

        tau_S,i = 2 y / (x + y) · tau,   tau_T,i = 2 x / (x + y) · tau
        x = max_c |z_T,ic|,   y = max_c |z_S,ic|

    Both have a gradient in the student's logits, as in the authors' code, and so has
    the factor tau_S · tau_T of the loss.

    Args:
        tau: Mean of the two temperatures, > 0.

    Source: Y. Wei and Y. Bai, *Dynamic Temperature Knowledge Distillation*, 2024,
    arXiv 2404.12711, equation 5, whose derivation (not its results) the authors have
    since withdrawn. Their code takes the largest logit where the paper takes the
    largest magnitude: the same unless a logit is further below 0 than the largest is
    above it; a row of negative logits would get a negative temperature. Their whole
    loss adds plain KD at tau, and a warm-up of both.

    Example:
        >>> preds_S = torch.tensor([[3.0, 0.0]])
        >>> preds_T = torch.tensor([[1.0, 0.0]])
        >>> SharpnessTemperature(4)(preds_S, preds_T)
        tensor([[6., 2.]])
    """

    def forward(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        """Return tau, (N, 2)."""
        peaks = torch.stack([p.abs().amax(dim=1) for p in (preds_S, preds_T)], dim=1)
        peaks = peaks.clamp(min=1e-7)  # a row of zeros would divide by its temperature
        return self.keep(2 * self.value * peaks / peaks.sum(dim=1, keepdim=True))
