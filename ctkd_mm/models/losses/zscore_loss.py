"""Losses that bring the logits to a common spread for another loss."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ctkd_mm.models.temperatures.fixed import spread
from ctkd_mm.registry import MODELS, built
from ctkd_mm.utils.precision import at_least_float32


class AroundLoss(nn.Module):
    """Base class of losses that change the logits for another loss.

    Computed in float32 (or float64 as given) also for half-precision logits.

    Args:
        loss: A loss ``(preds_S, preds_T, ...)`` or its config, for example
            ``dict(type='ctkd_mm.CTKDLoss', ...)``. Labels are passed on to it.
    """

    def __init__(self, loss: nn.Module | dict) -> None:
        super().__init__()
        self.loss = built(loss)

    def forward(self, preds_S: Tensor, preds_T: Tensor, **labels: Tensor) -> Tensor:
        """Return the inner loss of the transformed logits of (N, C)."""
        with torch.autocast(preds_S.device.type, enabled=False):
            preds = at_least_float32(preds_S), at_least_float32(preds_T.detach())
            # MMRazor passes labels to a forward that has an argument of this name.
            return self.loss(*self.transform(*preds), **labels)

    def transform(self, preds_S: Tensor, preds_T: Tensor) -> tuple[Tensor, Tensor]:
        """Return both models' logits as the inner loss gets them."""
        raise NotImplementedError


@MODELS.register_module()
class ZScoreLoss(AroundLoss):
    """A loss on standardised logits.

        z -> (z - mean(z)) / sigma(z)   for each row of both models; see :func:`spread`

    The gradient runs through the student's mean and sigma, as in the authors' code,
    and grows as 1 / sigma: a row of nearly equal logits has a large one. With
    :class:`ctkd_mm.models.losses.kd_loss.CTKDLoss` at the constant base temperature tau
    inside, the loss is tau² · KL of both at tau, each with its own spread: the student
    need not match the size of the teacher's logits.

    Args: see :class:`AroundLoss`.

    Source: S. Sun et al., *Logit Standardization in Knowledge Distillation*, CVPR
    2024, arXiv 2403.01427, algorithms 1 and 2.

    Example:
        >>> constant = dict(type='ctkd_mm.ConstantTemperature', tau=2)
        >>> loss_kd = ZScoreLoss(dict(type='ctkd_mm.CTKDLoss', temperature=constant))
        >>> preds = torch.randn(8, 81)
        >>> bool(loss_kd(3 * preds + 1, preds).abs() < 1e-5)
        True
    """

    def transform(self, preds_S: Tensor, preds_T: Tensor) -> tuple[Tensor, Tensor]:
        """Standardise the rows of both."""
        both = preds_S, preds_T
        return tuple((x - x.mean(dim=1, keepdim=True)) / spread(x) for x in both)


@MODELS.register_module()
class NormKDLoss(AroundLoss):
    """A loss on the student's logits at the teacher's spread.

        z_S -> z_S · sigma(z_T) / sigma(z_S)   for each row; see :func:`spread`

    The gradient runs through the student's sigma, as in the authors' code. With
    :class:`ctkd_mm.models.temperatures.fixed.SpreadTemperature` inside,
    tau_T = T_norm · sigma(z_T),
    this is NormKD, with its factor tau_T² (not tau_S · tau_T, which would reward a
    student for shrinking its logits):

        tau_T² · KL( softmax(z_T / tau_T) ‖ softmax(z_S / (T_norm · sigma(z_S))) )

    Args: see :class:`AroundLoss`.

    Source: Z. Chi et al., *NormKD: Normalized Logits for Knowledge Distillation*,
    2023, arXiv 2308.00520, and the authors' code, for plain KD and for DKD.

    Example:
        >>> loss_kd = NormKDLoss(CTKDLoss(SpreadTemperature(scale=2)))
        >>> preds = torch.randn(8, 81)
        >>> bool(loss_kd(3 * preds, preds).abs() < 1e-4)
        True
    """

    def transform(self, preds_S: Tensor, preds_T: Tensor) -> tuple[Tensor, Tensor]:
        """Give the student's rows the teacher's spread."""
        return preds_S * (spread(preds_T) / spread(preds_S)), preds_T
