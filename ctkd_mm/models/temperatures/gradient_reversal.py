"""Gradient reversal: one loss, two players.

The student descends on the distillation loss while the temperature, behind this
layer, ascends on it with strength lambda, all in one optimizer step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class _GradReverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, lambda_: float) -> Tensor:
        ctx.lambda_ = lambda_
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None]:
        return -ctx.lambda_ * grad_output, None


def grad_reverse(x: Tensor, lambda_: float) -> Tensor:
    """Identity forward; backward multiplies the gradient by ``-lambda_``.

    Args:
        x: Any tensor.
        lambda_: Strength of the reversal. CTKD uses values in [0, 1]; 0 stops the
            gradient (it becomes zero, the graph stays).

    Returns:
        A view of ``x`` with the same values.

    Source: Y. Ganin and V. Lempitsky, *Unsupervised Domain Adaptation by
    Backpropagation*, ICML 2015; used by CTKD, arXiv 2211.16231.

    Example:
        >>> x = torch.ones(2, requires_grad=True)
        >>> grad_reverse(x, 0.5).sum().backward()
        >>> x.grad
        tensor([-0.5000, -0.5000])
    """
    return _GradReverse.apply(x, lambda_)


class GradientReversal(nn.Module):
    """:func:`grad_reverse` with a strength that a hook can set.

    ``lambda_`` is a plain attribute, not part of the state dict: it follows from
    the training progress, so a resumed run sets it anew.

    Args:
        lambda_: Strength of the reversal until :func:`set_lambda` changes it.

    Example:
        >>> layer = GradientReversal()
        >>> set_lambda(layer, 0.25)
        1
        >>> layer
        GradientReversal(lambda_=0.25)
    """

    def __init__(self, lambda_: float = 1.0) -> None:
        super().__init__()
        self.lambda_ = lambda_

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x``; its gradient will be multiplied by ``-lambda_``."""
        return grad_reverse(x, self.lambda_)

    def extra_repr(self) -> str:
        """Show lambda when the module is printed."""
        return f'lambda_={self.lambda_}'


def set_lambda(module: nn.Module, value: float) -> int:
    """Set the strength of every :class:`GradientReversal` below a module.

    Args:
        module: Any module; a whole model or wrapped model is fine.
        value: The new ``lambda_``.

    Returns:
        How many layers were set; 0 means that there is no temperature to train.

    Example:
        >>> loss_kd = CTKDLoss(GlobalTemperature())
        >>> set_lambda(loss_kd, cosine_curriculum(0, end=5))
        1
        >>> round(loss_kd.temperature.grl.lambda_, 4)
        0.0955
    """
    layers = [m for m in module.modules() if isinstance(m, GradientReversal)]
    for layer in layers:
        layer.lambda_ = value
    return len(layers)
