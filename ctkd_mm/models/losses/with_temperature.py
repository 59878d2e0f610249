"""A learnable temperature in place of the number that a loss has."""

from __future__ import annotations

from functools import partial
from numbers import Number
from typing import Any

from mmdet.models.losses import KnowledgeDistillationKLDivLoss
from mmdet.models.losses.kd_loss import knowledge_distillation_kl_div_loss
from mmrazor.models.losses import DKDLoss
from torch import Tensor, nn

from ctkd_mm.models.temperatures.fixed import ConstantTemperature
from ctkd_mm.registry import MODELS, built
from ctkd_mm.utils.precision import at_least_float32

# What OpenMMLab's losses call it.
NAMES = ('tau', 'T')


@MODELS.register_module()
class WithTemperature(nn.Module):
    """A loss of MMRazor or MMDetection, unchanged, at a learnable temperature.

        L(preds_S, preds_T, ...; tau),   tau = temperature(preds_S, preds_T)

    In every forward, ``tau`` stands in the place of the number that the loss has as
    its ``tau`` or ``T``; afterwards the number stands there again. All other
    arguments, ``loss_weight`` and ``reduction`` mean what they mean to the loss. At a
    :class:`ctkd_mm.models.temperatures.fixed.ConstantTemperature` it is the original,
    bit by bit. Half precision logits are widened to float32, in which the gradient in
    tau, a sum over all of them, neither overflows nor rounds away.

    The gradient in tau is that of the loss as it is written:

    - MMRazor's ``KDSoftCELoss`` and ``WSLD`` are cross entropies. Without the
      teacher's entropy they grow with tau even where student and teacher agree.
    - A loss that detaches the teacher's softmax hides one half of it.
      MMDetection's ``KnowledgeDistillationKLDivLoss`` does; here only the teacher's
      logits are detached, so that tau has its whole gradient.
    - PyTorch's ``kl_div`` has a gradient of NaN in tau where a teacher's probability
      is exactly 0: in float32, a logit some 100 tau below the highest.
      :class:`ctkd_mm.models.losses.kd_loss.CTKDLoss` and ``DKDLoss`` have not.

    Args:
        loss: A module with a number ``tau`` or ``T``, or its config without one. Its
            ``forward`` takes the student's tensor first and the teacher's second.
        temperature: A module ``(preds_S, preds_T) -> tau``, tau of one element, or its
            config, for example ``dict(type='ctkd_mm.GlobalTemperature')``.

    Raises:
        ValueError: If ``loss`` has no temperature, its config gives it a second one, or
            it has no gradient in one (MMRazor's ``DKDLoss``).

    Source: CTKD, arXiv 2211.16231, proposed as a part that existing distillation
    losses take.

    Example:
        >>> from ctkd_mm.models.losses.with_temperature import WithTemperature
        >>> loss_ld = WithTemperature(
        ...     dict(type='mmdet.KnowledgeDistillationKLDivLoss', loss_weight=0.25),
        ...     dict(type='ctkd_mm.GlobalTemperature', tau_start=10),
        ... )
        >>> corners = torch.randn(8, 17)
        >>> value = loss_ld(corners, corners, weight=torch.ones(8), avg_factor=4.0)
        >>> bool(value.abs() < 1e-5)
        True
    """

    def __init__(self, loss: nn.Module | dict, temperature: nn.Module | dict) -> None:
        super().__init__()
        if isinstance(loss, dict):
            for name in loss.keys() & {*NAMES}:
                raise ValueError(
                    f'loss.{name}={loss[name]} beside temperature in the config of '
                    f'WithTemperature has no effect: drop it; a learnable temperature '
                    'starts at temperature.tau_start'
                )
        self.loss, self.temperature = built(loss), built(temperature)
        self.name = _find_number(self.loss)
        if isinstance(self.loss, DKDLoss):
            raise ValueError(
                "WithTemperature: mmrazor's DKDLoss has a gradient of NaN in a "
                'temperature, as its masked softmax is exactly 0: take ctkd_mm.DKDLoss'
            )

    def forward(
        self, preds_S: Tensor, preds_T: Tensor, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Return what the loss returns for these arguments, at tau.

        The first two go to it by position, whatever it calls them.

        Raises:
            ValueError: If tau is not one for all samples.
        """
        preds_S, preds_T = at_least_float32(preds_S), at_least_float32(preds_T)
        tau = self._one_number(self.temperature(preds_S, preds_T.detach()))
        forward = self.loss
        if type(forward).forward is KnowledgeDistillationKLDivLoss.forward:
            forward = partial(_kd_kl_div_loss, forward)
        number = getattr(self.loss, self.name)
        setattr(self.loss, self.name, tau)
        try:
            return forward(preds_S, preds_T, *args, **kwargs)
        finally:
            # Left in the module, tau would keep its graph, which no copy survives.
            setattr(self.loss, self.name, number)

    def _one_number(self, tau: Tensor) -> Tensor | float:
        if isinstance(self.temperature, ConstantTemperature):
            return self.temperature.value  # in double precision, as the loss has it
        if tau.shape not in ((), (1,)):
            raise ValueError(
                f'WithTemperature: {type(self.loss).__name__} takes one temperature '
                f'for all samples, {type(self.temperature).__name__} gives tau of '
                f'shape {tuple(tau.shape)}: take ctkd_mm.GlobalTemperature'
            )
        return tau.reshape(())  # of (1,), the loss would be no scalar


def _kd_kl_div_loss(
    loss: KnowledgeDistillationKLDivLoss,
    pred: Tensor,
    soft_label: Tensor,
    weight: Tensor | None = None,
    avg_factor: float | None = None,
    reduction_override: str | None = None,
) -> Tensor:
    """Compute MMDetection's loss with its gradient in T left whole."""
    return loss.loss_weight * knowledge_distillation_kl_div_loss(
        pred,
        soft_label.detach(),
        weight,
        reduction=reduction_override or loss.reduction,
        avg_factor=avg_factor,
        T=loss.T,
        detach_target=False,
    )


def _find_number(loss: nn.Module) -> str:
    for name in NAMES:
        if isinstance(getattr(loss, name, None), Number):
            return name
    raise ValueError(
        f'WithTemperature: loss={type(loss).__name__} has no temperature, expected a '
        f'number as its attribute {" or ".join(NAMES)}: take such a loss, or '
        'ctkd_mm.CTKDLoss, which takes temperature itself'
    )
