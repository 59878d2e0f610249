"""The distillation loss of sigmoid classes: a KL of two outcomes for each class."""

from __future__ import annotations

import torch
from mmengine.dist import all_reduce
from torch import Tensor, nn
from torch.nn.functional import softplus

from ctkd_mm.models.losses.kd_loss import SoftLoss, tempered_logits
from ctkd_mm.models.temperatures.base import check_factor
from ctkd_mm.registry import MODELS


def bernoulli_kl_div(
    preds_S: Tensor,
    preds_T: Tensor,
    tau: Tensor,
    weights: Tensor | None = None,
    avg_factor: Tensor | None = None,
) -> Tensor:
    """Temperature-scaled KL divergence of sigmoid classes, averaged over places.

        mean_i tau_i² · sum_c KL( Bernoulli(p_T,ic) ‖ Bernoulli(p_S,ic) ),
        p = sigmoid(z / tau),   mean_i x_i = sum_i w_i x_i / sum_i w_i

    One class is a choice of two, so each term is the softmax KL of the logits
    [z, 0]. It is computed as the Bregman divergence of softplus, with s = z_S / tau
    and t = z_T / tau,

        KL = softplus(s) - softplus(t) - sigmoid(t) · (s - t),

    without a logarithm of a probability: finite where one underflows. In place i of N
    without weights, at a tau of its own, its gradients are

        dL/dz_S = tau · (sigmoid(s) - sigmoid(t)) / N
        dL/dtau = tau · sum_c [ 2 KL - s · (sigmoid(s) - sigmoid(t))
                                - t · sigmoid(t) · sigmoid(-t) · (t - s) ] / N

    Args:
        preds_S: Student class logits, (N, C): N anchors or points, no background.
        preds_T: Teacher class logits, (N, C); no gradient flows into them.
        tau: Temperature, > 0: (1,), (N, 1), or (N, 2) for one of the student and
            one of the teacher.
        weights: How much each place counts, >= 0, (N,); None counts all alike.
        avg_factor: What to divide by; None is the sum of the weights.

    Returns:
        Scalar, in nats. Zero (with a graph) when N is 0 or all weights are.

    Raises:
        ValueError: If the shapes do not fit.

    Source: G. Hinton et al., arXiv 1503.02531, section 2 for tau²; a binary KL for
    each label: P. Yang et al., *Multi-Label Knowledge Distillation*, ICCV 2023, arXiv
    2308.06453; why dense detectors want it and not a softmax over their classes:
    L. Yang et al. (BCKD), ICCV 2023, arXiv 2308.14286, which takes the cross entropy
    at tau = 1, weighted by ``|p_T - p_S|``.

    Example:
        >>> preds_S = torch.tensor([[2.0, 0.0, 0.0]])
        >>> preds_T = torch.tensor([[0.0, 2.0, 0.0]])
        >>> round(bernoulli_kl_div(preds_S, preds_T, torch.tensor([1.0])).item(), 3)
        0.762
    """
    s, t, scale = tempered_logits(preds_S, preds_T, tau)
    # From 40 on softplus is the identity also in float64; the default is 20.
    kl = softplus(s, threshold=40) - softplus(t, threshold=40) - t.sigmoid() * (s - t)
    rows = scale * kl.sum(dim=1, keepdim=True)
    if weights is None:
        weights = rows.new_ones(len(rows))
    if weights.shape != (len(rows),):
        raise ValueError(
            f'weights must have shape ({len(rows)},), got {tuple(weights.shape)}'
        )
    if avg_factor is None:
        avg_factor = weights.sum()
    smallest = torch.finfo(s.dtype).tiny
    return (weights[:, None] * rows).sum() / avg_factor.clamp(min=smallest)


@MODELS.register_module()
class BernoulliCTKDLoss(SoftLoss):
    """:func:`bernoulli_kl_div` at a constant or learnable temperature.

    The loss of a dense detector is one number for R places, mostly easy background:
    R is 201,600 anchors for an image of 1333 × 800 in RetinaNet. Place i counts with

        w_i = max_c sigmoid(z_T,ic)^confidence,

    so ``confidence`` decides what the mean is a mean of. With 0 it is all places: what
    the student gets wrong at k of them weighs k / R, beside detection losses that
    divide by the positive places, and ``loss_weight`` has to make up for the orders of
    magnitude between. With 2 it is about the places where the teacher is sure of an
    object: R places of a score of 0.01 count as much as R / 10,000 of a score of 1,
    the loss is of the size of one such place's KL, and 1 is a ``loss_weight`` to start
    from. The weights do not depend on tau, so tau cannot choose the places by which
    it is judged.

    Autograd keeps 6 times the logits for it: 0.8 GB for RetinaNet on two such images.

    Args:
        temperature: See :class:`SoftLoss`.
        loss_weight: See :class:`SoftLoss`.
        confidence: Exponent of the teacher's highest score, >= 0.

    Raises:
        ValueError: If ``confidence`` or ``loss_weight`` is negative or infinite.

    Source: CTKD, arXiv 2211.16231, for the temperature; the weighting is ours, in the
    place of BCKD's.

    Example:
        >>> loss_kd = BernoulliCTKDLoss(dict(type='ctkd_mm.GlobalTemperature'))
        >>> preds = torch.randn(1000, 80)
        >>> loss_kd(preds, preds).item()
        0.0
    """

    def __init__(
        self,
        temperature: nn.Module | dict,
        loss_weight: float = 1.0,
        confidence: float = 0.0,
    ) -> None:
        super().__init__(temperature, loss_weight)
        self.confidence = check_factor('confidence', confidence, 'counts all alike')

    def divergence(self, preds_S: Tensor, preds_T: Tensor, tau: Tensor) -> Tensor:
        """Return :func:`bernoulli_kl_div` with the teacher's confidence as weight."""
        weights = preds_T.amax(dim=1).sigmoid() ** self.confidence
        # Over all processes, as MMDetection's heads count positives: DDP's mean of the
        # gradients is then that of the joined batch.
        avg_factor = weights.sum()
        all_reduce(avg_factor, 'mean')
        return bernoulli_kl_div(preds_S, preds_T, tau, weights, avg_factor)
