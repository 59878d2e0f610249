"""The distillation loss: tau² · KL, summed over classes, averaged over RoIs."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .registry import MODELS


def kd_kl_div(preds_S: Tensor, preds_T: Tensor, tau: Tensor) -> Tensor:
    """Temperature-scaled KL divergence, averaged over RoIs.

        mean_i tau_i² · KL( softmax(z_T,i / tau_i) ‖ softmax(z_S,i / tau_i) )

    The gradient in tau runs through the factor tau² and both softmaxes. All is
    computed from log-probabilities, so it stays finite where a probability
    underflows.

    Args:
        preds_S: Student class logits, (N, C), background included.
        preds_T: Teacher class logits, (N, C); no gradient flows into them.
        tau: Temperature, > 0, (1,) or (N, 1).

    Returns:
        Scalar: mean over rows of tau² · KL, in nats. Zero (with a graph) when N
        is 0.

    Raises:
        ValueError: If the logits differ in shape or are not two-dimensional, or
            tau fits neither form.

    Source: CTKD, arXiv 2211.16231; the reduction is that of MMRazor's
    ``KLDivergence`` ('batchmean').
    """
    if preds_S.ndim != 2 or preds_S.shape != preds_T.shape:
        raise ValueError(
            'student and teacher logits must share one shape (N, C), got student '
            f'{tuple(preds_S.shape)} and teacher {tuple(preds_T.shape)}'
        )
    num_rois = preds_S.size(0)
    if tau.shape not in ((1,), (num_rois, 1)):
        raise ValueError(
            f'tau must have shape (1,) or ({num_rois}, 1), got {tuple(tau.shape)}'
        )
    log_S = torch.log_softmax(preds_S / tau, dim=1)
    log_T = torch.log_softmax(preds_T.detach() / tau, dim=1)
    kl = (log_T.exp() * (log_T - log_S)).sum(dim=1, keepdim=True)
    return (tau.square() * kl).sum() / max(num_rois, 1)


@MODELS.register_module()
class CTKDLoss(nn.Module):
    """:func:`kd_kl_div` at a learnable temperature.

    Computed in float32 (or float64 as given) also inside autocast: in half
    precision the sum over classes and tau² lose the small divergences that the
    loss is made of.

    Args:
        temperature: A module ``(preds_S, preds_T) -> tau`` or its config, for
            example ``dict(type='ctkd_mm.GlobalTemperature')``.
        loss_weight: Factor on the loss, >= 0. It scales the temperature's ascent
            as well as the student's descent.

    Raises:
        ValueError: If ``loss_weight`` is negative.

    Source: CTKD, arXiv 2211.16231. Called as MMRazor's ``KLDivergence``, so either can
    stand in ``loss_kd``.

    Example:
        >>> loss_kd = CTKDLoss(dict(type='ctkd_mm.GlobalTemperature'))
        >>> preds = torch.randn(8, 81)
        >>> loss_kd(preds, preds).item()
        0.0
    """

    def __init__(self, temperature: nn.Module | dict, loss_weight: float = 1.0) -> None:
        super().__init__()
        if not 0 <= loss_weight < math.inf:
            raise ValueError(
                f'loss_weight must be >= 0 and finite, got {loss_weight}: 0 turns '
                'distillation off'
            )
        if isinstance(temperature, dict):
            temperature = MODELS.build(temperature)
        self.temperature = temperature
        self.loss_weight = loss_weight

    def forward(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        """Return the weighted loss, a scalar, for logits of (N, C).

        Raises:
            ValueError: If the two shapes differ; see :func:`kd_kl_div`.
        """
        preds_T = preds_T.detach()
        with torch.autocast(preds_S.device.type, enabled=False):
            preds_S, preds_T = _at_least_float32(preds_S), _at_least_float32(preds_T)
            tau = self.temperature(preds_S, preds_T)
            return self.loss_weight * kd_kl_div(preds_S, preds_T, tau)


def _at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
