"""The distillation loss of CTKD: tau² · KL, averaged over RoIs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ctkd_mm.models.temperatures.base import check_factor
from ctkd_mm.registry import MODELS, built
from ctkd_mm.utils.precision import at_least_float32


def tempered_logits(
    preds_S: Tensor, preds_T: Tensor, tau: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Divide both models' logits by their temperatures.

    Args:
        preds_S: Student class logits, (N, C).
        preds_T: Teacher class logits, (N, C); no gradient flows into them.
        tau: Temperature, > 0: (1,), (N, 1), or (N, 2) for one of the student and
            one of the teacher.

    Returns:
        ``preds_S / tau_S`` and ``preds_T / tau_T``, (N, C), and the factor
        ``tau_S * tau_T``, (1,) or (N, 1), by which a loss keeps its gradient's size
        at any temperature.

    Raises:
        ValueError: If the logits differ in shape or are not two-dimensional, or
            tau has none of these shapes.

    Source: G. Hinton et al., *Distilling the Knowledge in a Neural Network*, 2015,
    section 2 for tau²; CTKD, arXiv 2211.16231, with its gradient in tau.
    """
    if preds_S.ndim != 2 or preds_S.shape != preds_T.shape:
        raise ValueError(
            'student and teacher logits must share one shape (N, C), got student '
            f'{tuple(preds_S.shape)} and teacher {tuple(preds_T.shape)}'
        )
    num_rows = preds_S.size(0)
    if tau.shape not in ((1,), (num_rows, 1), (num_rows, 2)):
        raise ValueError(
            f'tau must have shape (1,), ({num_rows}, 1) or ({num_rows}, 2), got '
            f'{tuple(tau.shape)}'
        )
    tau_S, tau_T = tau.split(1, -1) if tau.size(-1) > 1 else (tau, tau)
    return preds_S / tau_S, preds_T.detach() / tau_T, tau_S * tau_T


def tempered_log_probs(
    preds_S: Tensor, preds_T: Tensor, tau: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-softmax of :func:`tempered_logits` along the classes, and its factor."""
    logits_S, logits_T, scale = tempered_logits(preds_S, preds_T, tau)
    return logits_S.log_softmax(dim=1), logits_T.log_softmax(dim=1), scale


def kd_kl_div(preds_S: Tensor, preds_T: Tensor, tau: Tensor) -> Tensor:
    """Temperature-scaled KL divergence, averaged over RoIs.

        mean_i tau_i² · KL( softmax(z_T,i / tau_i) ‖ softmax(z_S,i / tau_i) )

    The gradient in tau runs through the factor tau² and both softmaxes. All is
    computed from log-probabilities, so it stays finite where a probability
    underflows.

    Args:
        preds_S: Student class logits, (N, C), background included.
        preds_T: Teacher class logits, (N, C); no gradient flows into them.
        tau: Temperature, > 0, (1,) or (N, 1); for two temperatures, (N, 2), see
            :func:`tempered_logits`.

    Returns:
        A scalar, the mean over rows of tau² · KL, in nats. Zero (with a graph) when
        N is 0.

    Raises:
        ValueError: See :func:`tempered_logits`.

    Source: CTKD, arXiv 2211.16231; the reduction is that of MMRazor's
    ``KLDivergence`` ('batchmean').

    Example:
        >>> preds_S = torch.tensor([[2.0, 0.0, 0.0]])
        >>> preds_T = torch.tensor([[0.0, 2.0, 0.0]])
        >>> [round(kd_kl_div(preds_S, preds_T, torch.tensor([t])).item(), 3)
        ...  for t in (1.0, 4.0)]
        [1.361, 1.422]
    """
    log_S, log_T, scale = tempered_log_probs(preds_S, preds_T, tau)
    return (scale * kl_div(log_S, log_T)).sum() / max(preds_S.size(0), 1)


def kl_div(log_S: Tensor, log_T: Tensor) -> Tensor:
    """KL(p_T ‖ p_S) of each row, (N, 1), from log-probabilities, (N, C)."""
    return (log_T.exp() * (log_T - log_S)).sum(dim=1, keepdim=True)


class SoftLoss(nn.Module):
    """Base class of losses at a learnable temperature; :meth:`divergence` differs.

    Computed in float32 (or float64 as given) also inside autocast: in half
    precision the sum over classes and tau² lose the small divergences that the
    loss is made of.

    Args:
        temperature: A module ``(preds_S, preds_T) -> tau`` or its config, for
            example ``dict(type='ctkd_mm.GlobalTemperature')``.
        loss_weight: Factor on the loss, >= 0. It scales the temperature's ascent
            as well as the student's descent.

    Raises:
        ValueError: If ``loss_weight`` is negative, not finite or no number.
    """

    def __init__(self, temperature: nn.Module | dict, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.temperature = built(temperature)
        self.loss_weight = check_factor('loss_weight', loss_weight, 'turns it off')

    def forward(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        """Return the weighted loss, a scalar, for logits of (N, C).

        Raises:
            ValueError: If the two shapes differ; see :func:`tempered_logits`.
        """
        return self.weighted(preds_S, preds_T)

    def weighted(self, preds_S: Tensor, preds_T: Tensor, *args: Tensor) -> Tensor:
        """Compute the loss for :meth:`forward`, and for losses with labels."""
        with torch.autocast(preds_S.device.type, enabled=False):
            preds = at_least_float32(preds_S), at_least_float32(preds_T.detach())
            tau = self.temperature(*preds)
            return self.loss_weight * self.divergence(*preds, tau, *args)

    def divergence(
        self, preds_S: Tensor, preds_T: Tensor, tau: Tensor, *args: Tensor
    ) -> Tensor:
        """Return the loss at ``tau``, a scalar, without its weight."""
        raise NotImplementedError


@MODELS.register_module()
class CTKDLoss(SoftLoss):
    """:func:`kd_kl_div` at a learnable temperature.

    Args: see :class:`SoftLoss`.

    Source: CTKD, arXiv 2211.16231. Called as MMRazor's ``KLDivergence``, so either can
    stand in ``loss_kd``.

    Example:
        In a loop of your own. The temperature climbs on the loss that the student
        descends:

        >>> student, teacher = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)
        >>> loss_kd = CTKDLoss(GlobalTemperature(tau_start=2.0))
        >>> parameters = [*student.parameters(), *loss_kd.parameters()]
        >>> optimizer = torch.optim.SGD(parameters, lr=0.1)
        >>> images = torch.randn(64, 4)
        >>> losses = []
        >>> for epoch in range(10):
        ...     _ = set_lambda(loss_kd, cosine_curriculum(epoch, end=5))
        ...     loss = loss_kd(student(images), teacher(images))
        ...     optimizer.zero_grad()
        ...     loss.backward()
        ...     optimizer.step()
        ...     losses.append(loss.item())
        >>> losses[-1] < losses[0]
        True
        >>> bool(loss_kd.temperature.tau > 2)
        True
    """

    def divergence(self, preds_S: Tensor, preds_T: Tensor, tau: Tensor) -> Tensor:
        """Return :func:`kd_kl_div`."""
        return kd_kl_div(preds_S, preds_T, tau)
