"""Which losses want softmax classes, which sigmoid classes, and what else they get."""

from __future__ import annotations

import inspect
from typing import Any

from mmdet.models.losses import KnowledgeDistillationKLDivLoss
from mmrazor.models.losses import WSLD, DISTLoss, DKDLoss, KDSoftCELoss, KLDivergence
from torch import nn

from ctkd_mm.models.heads.classes import has_sigmoid
from ctkd_mm.models.losses.bernoulli_loss import BernoulliCTKDLoss
from ctkd_mm.models.losses.kd_loss import SoftLoss
from ctkd_mm.models.losses.zscore_loss import AroundLoss
from ctkd_mm.models.temperatures.learned import InstanceTemperature
from ctkd_mm.registry import MODELS

# The last two read the others in its row with a column.
SOFTMAX = SoftLoss, KLDivergence, DISTLoss, DKDLoss, KDSoftCELoss, WSLD
SOFTMAX += KnowledgeDistillationKLDivLoss, AroundLoss, InstanceTemperature


def check_loss_fits_head(loss: nn.Module, head: nn.Module) -> None:
    """Check that a loss takes the class logits of a head for what they are.

    Args:
        loss: The built ``loss_kd``; losses and temperatures inside it count too.
        head: The student's ``bbox_head``.

    Raises:
        ValueError: If a softmax loss stands before sigmoid classes, the reverse, or an
            instance temperature is built for another number of classes. A loss that is
            none of those known here passes.
    """
    sigmoid = has_sigmoid(head)
    for path, part in loss.named_modules():
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
        known = getattr(part, 'num_classes', head.num_classes)
        if isinstance(part, InstanceTemperature) and known != head.num_classes:
            raise ValueError(
                f'model.loss_kd.{path}.num_classes={known} must be that of student and '
                f'teacher, {head.num_classes}'
            )


def of_both(**preds: Any) -> dict[str, dict]:
    """Mappings of MMRazor that give a loss the same records of both models.

    Args:
        preds: Where the logits are: ``recorder``, ``data_idx`` and so on. The teacher's
            go through the connectors ``teacher_classes``.
    """
    teacher = {**preds, 'from_student': False, 'connector': 'teacher_classes'}
    return dict(preds_S=dict(from_student=True, **preds), preds_T=teacher)


def takes_labels(loss_kd: dict) -> bool:
    """Whether a loss config names a loss whose ``forward`` has ``labels``."""
    loss: Any = loss_kd
    while isinstance(loss, dict):  # a loss around a loss passes them on
        loss = loss.get('loss', loss.get('type'))
    if isinstance(loss, str):
        loss = MODELS.get(loss)
    # None: its build says what is missing.
    return loss is not None and 'labels' in inspect.signature(loss.forward).parameters
