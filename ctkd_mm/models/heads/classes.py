"""Softmax or sigmoid: the one place that decides what a head's classes are."""

from __future__ import annotations

from torch import nn


def has_sigmoid(head: nn.Module) -> bool:
    """Whether each column of a head's class logits is a sigmoid of its own.

    Otherwise they are a softmax, whose last column is the background.

    Args:
        head: ``bbox_head`` of a one-stage detector, or of a stage of a two-stage one.

    Returns:
        As MMDetection decides: dense heads by their number of columns, box heads of
        RoIs by ``loss_cls.use_sigmoid``.
    """
    if hasattr(head, 'prior_generator'):
        return head.cls_out_channels == head.num_classes
    return bool(getattr(head.loss_cls, 'use_sigmoid', False))
