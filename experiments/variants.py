"""Losses that tell the weight of a distillation loss from its difficulty.

Each changes one thing in :class:`ctkd_mm.CTKDLoss`. They are measured by the ledger; a
constant temperature is :class:`ctkd_mm.ConstantTemperature`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ctkd_mm.models.losses.kd_loss import CTKDLoss, kl_div, tempered_log_probs
from ctkd_mm.registry import MODELS


@MODELS.register_module()
class RelativeCTKDLoss(CTKDLoss):
    """The loss divided by its own size, without a gradient through the divisor.

        L / stop(L):   value 1, gradient that of log L, for the student and for tau

    So a tau that raises the loss raises no weight. ``loss_weight`` is all its size.
    """

    def divergence(self, preds_S: Tensor, preds_T: Tensor, tau: Tensor) -> Tensor:
        """Return L / stop(L)."""
        loss = super().divergence(preds_S, preds_T, tau)
        return loss / loss.detach().clamp(min=torch.finfo(loss.dtype).tiny)


@MODELS.register_module()
class DifficultyCTKDLoss(CTKDLoss):
    """Tau's gradient without the factor tau²: it climbs on the KL alone.

        mean_i stop(tau_i²) · KL( softmax(z_T,i / tau_i) ‖ softmax(z_S,i / tau_i) )

    The student's gradient is that of ``CTKDLoss``.
    """

    def divergence(self, preds_S: Tensor, preds_T: Tensor, tau: Tensor) -> Tensor:
        """Return the loss with its factor detached."""
        log_S, log_T, scale = tempered_log_probs(preds_S, preds_T, tau)
        rows = scale.detach() * kl_div(log_S, log_T)
        return rows.sum() / max(len(preds_S), 1)


@MODELS.register_module()
class BalancedCTKDLoss(CTKDLoss):
    """Foreground and background rows count alike, however many there are of each.

        (mean over foreground rows + mean over background rows) / 2

    A group without rows counts as 0.
    """

    def forward(self, preds_S: Tensor, preds_T: Tensor, labels: Tensor) -> Tensor:
        """Return the weighted loss for logits of (N, C) and labels (N,)."""
        return self.weighted(preds_S, preds_T, labels)

    def divergence(
        self, preds_S: Tensor, preds_T: Tensor, tau: Tensor, labels: Tensor
    ) -> Tensor:
        """Return the mean of both groups' means."""
        log_S, log_T, scale = tempered_log_probs(preds_S, preds_T, tau)
        rows = (scale * kl_div(log_S, log_T))[:, 0]
        background = labels == preds_S.size(1) - 1
        groups = [rows[background], rows[~background]]
        return sum(group.sum() / max(len(group), 1) for group in groups) / 2
