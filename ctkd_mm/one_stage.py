"""The dense heads of one-stage detectors: the places that they score."""

from __future__ import annotations

from typing import Any

from mmengine.model import BaseModel
from torch import nn


def dense_head(key: str, model: BaseModel) -> nn.Module:
    """Find the head of a one-stage detector.

    Args:
        key: ``architecture`` or ``teacher``, for the message.
        model: The detector.

    Returns:
        The module that gives class logits for every anchor or point.

    Raises:
        ValueError: If the detector has no such head.
    """
    head = getattr(model, 'bbox_head', None)
    if not hasattr(head, 'prior_generator') or not hasattr(head, 'cls_out_channels'):
        raise ValueError(
            f'{key} must be a one-stage detector that scores the anchors or points of '
            'a prior_generator, such as RetinaNet, FCOS, ATSS, GFL or RTMDet, got '
            f'{type(model).__name__} with bbox_head={type(head).__name__}. For a '
            "two-stage detector: type='ctkd_mm.RoILogitDistill'"
        )
    return head


def has_sigmoid(head: nn.Module) -> bool:
    """Whether the classes are sigmoids; a softmax has a column for the background."""
    return head.cls_out_channels == head.num_classes


def check_aligned(student: nn.Module, teacher: nn.Module) -> int:
    """Check that row i of both heads' logits is the same anchor or point.

    Args:
        student: From :func:`dense_head`, as the teacher's.
        teacher: The teacher's.

    Returns:
        The number of classes, without background.

    Raises:
        ValueError: If classes, strides, the number of anchors at a place, or the
            anchors or points themselves differ.
    """
    facts_S, facts_T = _facts(student), _facts(teacher)
    for name, value in facts_S.items():
        other = facts_T.get(name)
        if value != other:
            raise ValueError(
                'student and teacher must score the same classes at the same places, '
                f'got {name} {value} in architecture.bbox_head and {other} in '
                'teacher.bbox_head: give both the same num_classes, '
                'loss_cls.use_sigmoid, and anchor_generator or strides'
            )
    return student.num_classes


def _facts(head: nn.Module) -> dict[str, Any]:
    """What decides which class at which place a logit is for, coarse facts first."""
    generator = head.prior_generator
    facts = dict(
        num_classes=head.num_classes,
        use_sigmoid=has_sigmoid(head),
        strides=[tuple(stride) for stride in generator.strides],
        num_base_priors=generator.num_base_priors,
    )
    # Anchors (x1, y1, x2, y2) or points (x, y) of the upper left place.
    priors = generator.grid_priors([(1, 1)] * generator.num_levels, device='cpu')
    for level, prior in enumerate(priors):
        rounded = [[round(x, 2) for x in row] for row in prior.tolist()]
        facts[f'priors of level {level}'] = rounded
    return facts
