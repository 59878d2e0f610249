"""Which detectors can be teacher and student of each other."""

from __future__ import annotations

from mmengine.config import Config
from mmengine.hub import get_model
from mmengine.model import BaseModel
from mmrazor.registry import MODELS as MMRAZOR_MODELS


def build_two_stage(key: str, model: BaseModel | dict | str) -> BaseModel:
    """Build a two-stage detector with one box head.

    Args:
        key: The argument that it was given as, for the message.
        model: A model, its config, or the path of a config file with a ``model``
            in it; ``'mmdet::...'`` names one that MMDetection ships.

    Returns:
        The model.

    Raises:
        ValueError: If it has no RoI head with one box head.
    """
    if isinstance(model, str):
        model = get_model(model) if '::' in model else Config.fromfile(model).model
    if isinstance(model, dict):
        model = MMRAZOR_MODELS.build(model)
    bbox_head = getattr(getattr(model, 'roi_head', None), 'bbox_head', None)
    if not hasattr(bbox_head, 'num_classes'):
        raise ValueError(
            f'{key} must be a two-stage detector whose roi_head has one bbox_head, '
            f'got {type(model).__name__} with bbox_head={type(bbox_head).__name__}'
        )
    return model


def check_classes(student: BaseModel, teacher: BaseModel) -> None:
    """Check that both box heads give softmax logits of the same number of classes.

    Args:
        student: From :func:`build_two_stage`, as the teacher.
        teacher: The teacher.

    Raises:
        ValueError: If they do not.
    """
    heads = dict(architecture=student.roi_head.bbox_head)
    heads['teacher'] = teacher.roi_head.bbox_head
    classes_S, classes_T = (head.num_classes for head in heads.values())
    if classes_S != classes_T:
        raise ValueError(
            'student and teacher must know the same classes, got num_classes='
            f'{classes_S} in architecture and num_classes={classes_T} in teacher'
        )
    for key, head in heads.items():
        if getattr(head.loss_cls, 'use_sigmoid', False):
            raise ValueError(
                f'{key}.roi_head.bbox_head.loss_cls.use_sigmoid is True: '
                'RoILogitDistill compares softmax classes with a background column; '
                'take a detector with use_sigmoid=False'
            )
