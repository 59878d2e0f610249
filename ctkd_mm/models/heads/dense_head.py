"""The dense heads of one-stage detectors: one class logit for each anchor or point."""

from __future__ import annotations

from typing import Any

from mmengine.model import BaseModel
from torch import nn

from ctkd_mm.models.heads.classes import has_sigmoid
from ctkd_mm.models.heads.probe import PROBE_SIZE, check_strides, probe


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
            f'{key} must be a one-stage detector whose head scores the anchors or '
            f'points of a prior_generator, got {type(model).__name__} with bbox_head='
            f'{type(head).__name__}: for a two-stage detector take '
            "type='ctkd_mm.RoILogitDistill'"
        )
    return head


def check_aligned(student: nn.Module, teacher: nn.Module) -> None:
    """Check that row i of both heads' logits is the same anchor or point.

    Args:
        student: From :func:`dense_head`, as the teacher's.
        teacher: The teacher's.

    Raises:
        ValueError: If only one has sigmoid classes; if strides, the number of anchors
            at a place, or the anchors or points themselves differ.
    """
    facts_S, facts_T = _facts(student), _facts(teacher)
    for name, value in facts_S.items():
        other = facts_T.get(name)
        if value != other:
            raise ValueError(
                f'student and teacher must score the same places, got {name} {value} '
                f'in architecture.bbox_head and {other} in teacher.bbox_head: give '
                'both the same loss_cls.use_sigmoid, anchor_generator or strides'
            )


def _facts(head: nn.Module) -> dict[str, Any]:
    """What decides which class at which place a logit is for, coarse facts first."""
    generator = head.prior_generator
    facts = dict(
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


def check_dense_head(key: str, model: BaseModel) -> str:
    """Run a one-stage detector on a made-up image, and compare with its config.

    Args:
        key: ``architecture`` or ``teacher``, for the message.
        model: The detector; its mode is restored.

    Returns:
        A line for the log.

    Raises:
        ValueError: If the levels of the logits have other strides than
            ``bbox_head.prior_generator`` says, another number of channels than its
            anchors and the classes make, or are probabilities.
    """
    head = dense_head(key, model)
    generator = head.prior_generator
    strides = [stride[0] for stride in generator.strides]
    size = getattr(generator, 'input_size', PROBE_SIZE)  # SSD is built for one
    with probe(model, size) as feats:
        levels = head(feats)[0]
    check_strides(f'{key}.bbox_head.prior_generator.strides', strides, levels, size)
    want = [num * head.cls_out_channels for num in generator.num_base_priors]
    channels = [level.shape[1] for level in levels]
    if channels != want:
        raise ValueError(
            f'{key}.bbox_head gives logits of {channels} channels, expected {want}: '
            f'num_base_priors={generator.num_base_priors} anchors or points with '
            f'{head.cls_out_channels} classes each'
        )
    if all(level.min() >= 0 and level.max() <= 1 for level in levels):
        raise ValueError(
            f'{key}.bbox_head ({type(head).__name__}) gives probabilities, all between '
            '0 and 1, where class logits are expected: take a detector whose head '
            'leaves the sigmoid to its loss'
        )
    return (
        f'{key}: {generator.num_base_priors} anchors or points a place at strides '
        f'{strides}, {head.cls_out_channels} logits each'
    )
