"""The loss of DKD: the target class against the others, and the others alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ctkd_mm.models.losses.kd_loss import SoftLoss, kl_div, tempered_log_probs
from ctkd_mm.models.temperatures.base import check_factor
from ctkd_mm.registry import MODELS


def dkd_kl_div(
    preds_S: Tensor,
    preds_T: Tensor,
    labels: Tensor,
    tau: Tensor,
    alpha: float = 1.0,
    beta: float = 0.25,
) -> Tensor:
    """Decoupled KL divergence at a temperature, averaged over RoIs.

        mean_i tau_i² · (alpha · TCKD_i + beta · NCKD_i)
        TCKD = KL( [p_T, 1 - p_T] ‖ [p_S, 1 - p_S] )      p: the target class's share
        NCKD = KL( q_T ‖ q_S )             q: the shares among the other classes alone

    Both at tau, so ``KL = TCKD + (1 - p_T) · NCKD`` is :func:`kd_kl_div`; here NCKD
    counts in full, however sure the teacher is. The target of a background RoI is
    the background: its TCKD compares how far each model sees any object, its NCKD
    which object that would be.

    All is computed from log-probabilities, ``log(1 - p)`` as the log-sum-exp of the
    others, so value and gradients (student and tau) stay finite where a share
    underflows.

    Args:
        preds_S: Student class logits, (N, C), background included.
        preds_T: Teacher class logits, (N, C); no gradient flows into them.
        labels: Target class of each RoI, (N,), int64, in [0, C); background is
            C - 1, as MMDetection's box heads assign it.
        tau: Temperature, > 0: (1,), (N, 1) or (N, 2), see
            :func:`tempered_logits`.
        alpha: Factor on TCKD, >= 0.
        beta: Factor on NCKD, >= 0. The default is the authors' for detection.

    Returns:
        Scalar, in nats. Zero (with a graph) when N is 0 or C is 1.

    Raises:
        ValueError: As :func:`tempered_logits`.
        RuntimeError: PyTorch's, if a label is outside [0, C), or the labels are not
            int64 of (N,).

    Source: B. Zhao et al., *Decoupled Knowledge Distillation*, CVPR 2022, arXiv
    2203.08679, section 3; the target is that of ``megvii-research/mdistiller``.

    Example:
        >>> preds_S = torch.tensor([[2.0, 0.0, 0.0]])
        >>> preds_T = torch.tensor([[0.0, 2.0, 0.0]])
        >>> labels, tau = torch.tensor([1]), torch.tensor([1.0])
        >>> round(dkd_kl_div(preds_S, preds_T, labels, tau).item(), 3)
        1.377
    """
    log_S, log_T, scale = tempered_log_probs(preds_S, preds_T, tau)
    pair_S, log_q_S = _decouple(log_S, labels)
    pair_T, log_q_T = _decouple(log_T, labels)
    dkd = alpha * kl_div(pair_S, pair_T) + beta * kl_div(log_q_S, log_q_T)
    return (scale * dkd).sum() / max(preds_S.size(0), 1)


@MODELS.register_module()
class DKDLoss(SoftLoss):
    """:func:`dkd_kl_div` at a constant or learnable temperature.

    Args:
        temperature: See :class:`SoftLoss`.
        alpha: Factor on the target's part, >= 0.
        beta: Factor on the other classes' part, >= 0.
        loss_weight: See :class:`SoftLoss`.

    Raises:
        ValueError: If ``alpha``, ``beta`` or ``loss_weight`` is negative or infinite.

    Source: DKD, arXiv 2203.08679. MMRazor's ``DKDLoss`` is the sum over RoIs, whatever
    its ``reduction``; this is the mean.

    Example:
        >>> loss_kd = DKDLoss(dict(type='ctkd_mm.GlobalTemperature', tau_start=2))
        >>> preds, labels = torch.randn(8, 81), torch.randint(81, (8,))
        >>> bool(loss_kd(preds, preds, labels).abs() < 1e-5)
        True
    """

    def __init__(
        self,
        temperature: nn.Module | dict,
        alpha: float = 1.0,
        beta: float = 0.25,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(temperature, loss_weight)
        self.alpha = check_factor('alpha', alpha, 'leaves the target out')
        self.beta = check_factor('beta', beta, 'leaves the other classes out')

    def forward(self, preds_S: Tensor, preds_T: Tensor, labels: Tensor) -> Tensor:
        """Return the weighted loss, a scalar, for logits of (N, C) and labels (N,).

        Raises:
            ValueError: See :func:`dkd_kl_div`.
        """
        return self.weighted(preds_S, preds_T, labels)

    def divergence(
        self, preds_S: Tensor, preds_T: Tensor, tau: Tensor, labels: Tensor
    ) -> Tensor:
        """Return :func:`dkd_kl_div`."""
        return dkd_kl_div(preds_S, preds_T, labels, tau, self.alpha, self.beta)


def _decouple(log_probs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Split into log [p, 1 - p], (N, 2), and log q, (N, C), where q = 0 at targets."""
    index = labels[:, None]
    # The lowest finite number: exp() of it is 0 too, and no -inf - -inf makes a NaN.
    others = log_probs.scatter(1, index, torch.finfo(log_probs.dtype).min)
    rest = others.logsumexp(dim=1, keepdim=True)
    # Not others - rest: where a target leaves little, that would not sum to 1.
    log_q = others.log_softmax(dim=1)
    return torch.cat([log_probs.gather(1, index), rest], dim=1), log_q
