"""Which losses fit softmax classes, and which sigmoids."""

from __future__ import annotations

import inspect
from typing import Any

from mmdet.models.losses import KnowledgeDistillationKLDivLoss
from mmrazor.models.losses import WSLD, DISTLoss, DKDLoss, KDSoftCELoss, KLDivergence
from mmrazor.registry import MODELS
from torch import nn

from ctkd_mm.models.losses.bernoulli_loss import BernoulliCTKDLoss
from ctkd_mm.models.losses.kd_loss import SoftLoss
from ctkd_mm.models.losses.zscore_loss import AroundLoss

# To the last, a column means something beside the others in its row alone.
SOFTMAX = (
    SoftLoss,
    KLDivergence,
    DISTLoss,
    DKDLoss,
    KDSoftCELoss,
    WSLD,
    KnowledgeDistillationKLDivLoss,
    AroundLoss,
)


def check_loss(loss: nn.Module, sigmoid: bool) -> None:
    """Check that a loss takes the columns of the logits for what they are.

    Args:
        loss: The built ``loss_kd``; losses inside it count too.
        sigmoid: Whether each column is a class of its own; else they are a softmax
            with a background.

    Raises:
        ValueError: If it does not. A loss that is none of those known here passes.
    """
    for part in loss.modules():
        name, for_sigmoid = type(part).__name__, isinstance(part, BernoulliCTKDLoss)
        if for_sigmoid and not sigmoid:
            raise ValueError(
                f'loss_kd has {name}, to which each column is a sigmoid, but here the '
                'classes are a softmax with a background: take ctkd_mm.CTKDLoss'
            )
        if sigmoid and not for_sigmoid and isinstance(part, SOFTMAX):
            raise ValueError(
                f'loss_kd has {name}, to which the columns are a softmax, but here '
                'each class is a sigmoid, without a background (loss_cls.use_sigmoid): '
                'take ctkd_mm.BernoulliCTKDLoss alone'
            )


def takes_labels(loss_kd: dict) -> bool:
    """Whether a loss config names a loss whose ``forward`` has ``labels``."""
    loss: Any = loss_kd
    while isinstance(loss, dict):  # a loss around a loss passes them on
        loss = loss.get('loss', loss.get('type'))
    if isinstance(loss, str):
        loss = MODELS.get(loss)
    if loss is None:
        return False  # its build says what is missing
    return 'labels' in inspect.signature(loss.forward).parameters
