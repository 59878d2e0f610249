"""The box heads of two-stage detectors: the class logits of RoIs."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

from mmengine.model import BaseModel
from torch import Tensor, nn

from ctkd_mm.models.heads.classes import has_sigmoid
from ctkd_mm.models.heads.probe import PROBE_SIZE, check_strides, probe


def box_head(key: str, model: BaseModel, stage: int) -> nn.Module:
    """Find the box head of a stage.

    Args:
        key: ``architecture`` or ``teacher``, for the message.
        model: The detector.
        stage: 0, or the stage of a cascade, counted from 0.

    Returns:
        The module that gives class logits for RoI features.

    Raises:
        ValueError: If the detector has no such head, scores boxes by more than
            features, as Hybrid Task Cascade and Sparse R-CNN do, or each class by a
            sigmoid.
    """
    roi_head = getattr(model, 'roi_head', None)
    heads = getattr(roi_head, 'bbox_head', None)
    cascaded = isinstance(heads, nn.ModuleList)
    stages = list(heads) if cascaded else [heads]
    if not all(hasattr(head, 'num_classes') for head in stages):
        raise ValueError(
            f'{key} must be a two-stage detector whose roi_head has a bbox_head, got '
            f'{type(model).__name__} with bbox_head={type(heads).__name__}. For a '
            "one-stage detector: type='ctkd_mm.DenseLogitDistill'"
        )
    if not 0 <= stage < len(stages):
        name = 'student_stage' if key == 'architecture' else 'teacher_stage'
        raise ValueError(
            f'model.{name}={stage}, but {key} ({type(model).__name__}) has '
            f'{len(stages)} box head(s): give one of {list(range(len(stages)))}'
        )
    # After the features and the RoIs, and the stage before them.
    more = list(inspect.signature(roi_head._bbox_forward).parameters)[2 + cascaded :]
    if more:
        raise ValueError(
            f'{key}.roi_head ({type(roi_head).__name__}) scores boxes by {more} too: '
            'take a Faster, Mask, Cascade, Cascade Mask or Double-Head R-CNN'
        )
    if has_sigmoid(stages[stage]):
        raise ValueError(
            f'{key}.roi_head.bbox_head.loss_cls.use_sigmoid is True: '
            'RoILogitDistill compares softmax classes with a background column; '
            'take a detector with use_sigmoid=False'
        )
    return stages[stage]


def roi_path(model: BaseModel, name: str, stage: int) -> str:
    """Path of the RoI head's module ``name`` of a stage, such as a recorder takes."""
    module = getattr(model.roi_head, name)
    path = f'roi_head.{name}'
    return f'{path}.{stage}' if isinstance(module, nn.ModuleList) else path


def box_forward(
    model: BaseModel, feats: Sequence[Tensor], rois: Tensor, stage: int
) -> Tensor:
    """Score RoIs with the box head of a stage.

    Args:
        model: The detector.
        feats: What its ``extract_feat`` returns.
        rois: (N, 5): the image's number in the batch, and x1, y1, x2, y2 in pixels.
        stage: 0, or the stage of a cascade.

    Returns:
        Class logits, (N, num_classes + 1).
    """
    head = model.roi_head
    cascaded = isinstance(head.bbox_head, nn.ModuleList)
    args = (stage, feats, rois) if cascaded else (feats, rois)
    return head._bbox_forward(*args)['cls_score']


def check_roi_head(key: str, model: BaseModel, stage: int = 0) -> str:
    """Run a detector on a made-up image and one RoI, and compare with its config.

    Args:
        key: ``architecture`` or ``teacher``, for the message.
        model: The two-stage detector; its mode is restored.
        stage: 0, or the stage of a cascade.

    Returns:
        A line for the log.

    Raises:
        ValueError: If a feature level has another stride than
            ``bbox_roi_extractor.featmap_strides`` says, or the logits are not
            ``num_classes + 1`` columns.
        RuntimeError: PyTorch's, if ``bbox_head`` takes RoI features of another size.
    """
    head = box_head(key, model, stage)
    extractor = model.get_submodule(roi_path(model, 'bbox_roi_extractor', stage))
    strides = list(getattr(extractor, 'featmap_strides', []))
    where = f'{key}.roi_head.bbox_roi_extractor.featmap_strides'
    with probe(model) as feats:
        check_strides(where, strides, feats[: len(strides)])
        roi = feats[0].new_tensor([[0, 0, 0, PROBE_SIZE / 2, PROBE_SIZE / 2]])
        logits = box_forward(model, feats, roi, stage)
    want = (1, head.num_classes + 1)
    if tuple(logits.shape) != want:
        raise ValueError(
            f'{key}.roi_head.bbox_head gives class logits of {tuple(logits.shape)} for '
            f'one RoI, expected {want}: num_classes and the background'
        )
    return f'{key}: RoIs from levels of strides {strides}, {want[1]} logits each'
