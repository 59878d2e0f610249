"""RoI-logit distillation for two-stage detectors: the step on one screen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn

from ctkd_mm.models.algorithms.logit_distill import LogitDistill
from ctkd_mm.models.heads import roi_head
from ctkd_mm.models.losses.kinds import of_both
from ctkd_mm.registry import MODELS


@MODELS.register_module()
class RoILogitDistill(LogitDistill):
    """The teacher scores the student's own RoIs; ``loss_kd`` compares the logits.

    One training step: the student's usual losses, while recorders keep the RoIs
    that its sampler chose and its class logits for them; the teacher's features and
    its box head on *those RoIs*, without gradient; ``loss_kd(preds_S, preds_T)``.
    Row i of both logit matrices is the same box, foreground and background alike.
    The student's RoI head runs once; the teacher's RPN, sampler and losses never.

    Faster, Mask, Cascade, Cascade Mask and Double-Head R-CNN and models with a
    shared head (C4) can teach each other. Of a cascade one stage takes part: as the
    student with the RoIs that reach this stage, as the teacher with its box head.

    ``loss_kd`` gets logits of (N, num_classes + 1), N the RoIs of the batch. A loss
    with ``forward(preds_S, preds_T, labels)`` also gets the labels that the student is
    trained with, (N,), background ``num_classes``.

    Args:
        student_stage: Which stage of a cascaded student, from 0.
        teacher_stage: Which stage of a cascaded teacher, from 0.

    ``architecture``, ``teacher``, ``loss_kd``, ``teacher_ckpt`` and the others: see
    :class:`ctkd_mm.models.algorithms.logit_distill.LogitDistill`.

    Raises:
        ValueError: If a model has no such box head with softmax classes, and as
            :class:`LogitDistill`.
        RuntimeError: While training, if the student scores RoIs of more images than
            the batch has, as Trident R-CNN does.

    Source: the step of B. Zhao et al., *Decoupled Knowledge Distillation*, CVPR
    2022, with CTKD's temperature. First-stage logits of unlike pairs: the settings
    of DIST, arXiv 2205.10536, where a Cascade Mask R-CNN teaches a Faster R-CNN.
    """

    def __init__(
        self, *args: Any, student_stage: int = 0, teacher_stage: int = 0, **kwargs: Any
    ) -> None:
        self.student_stage, self.teacher_stage = student_stage, teacher_stage
        super().__init__(*args, **kwargs)

    def check_pair(self, student: BaseModel, teacher: BaseModel) -> list[nn.Module]:
        """Check that both score RoIs for softmax classes."""
        return [
            roi_head.box_head('architecture', student, self.student_stage),
            roi_head.box_head('teacher', teacher, self.teacher_stage),
        ]

    def records(self, student: BaseModel, teacher: BaseModel, labels: bool) -> dict:
        """Record the student's RoIs and labels, and both models' class logits."""
        head_S = roi_head.roi_path(student, 'bbox_head', self.student_stage)
        head_T = roi_head.roi_path(teacher, 'bbox_head', self.teacher_stage)
        extractor = roi_head.roi_path(student, 'bbox_roi_extractor', self.student_stage)
        logits_T = dict(type='mmrazor.ModuleOutputs', source=head_T)
        student_recorders = dict(
            rois=dict(type='mmrazor.ModuleInputs', source=extractor),
            roi_logits=dict(type='mmrazor.ModuleOutputs', source=head_S),
        )
        # The last of a step: hard-example samplers score candidates before.
        mappings = of_both(recorder='roi_logits', record_idx=-1, data_idx=0)
        if labels:
            loss_cls = dict(type='mmrazor.ModuleInputs', source=f'{head_S}.loss_cls')
            student_recorders['roi_labels'] = loss_cls
            mappings['labels'] = dict(
                recorder='roi_labels', from_student=True, record_idx=-1, data_idx=1
            )
        return dict(
            student_recorders=student_recorders,
            teacher_recorders=dict(roi_logits=logits_T),
            connectors=dict(teacher_classes=[]),
            loss_forward_mappings=dict(loss_kd=mappings),
        )

    def run_teacher(self, feats: Sequence[Tensor]) -> bool:
        """Make the teacher's box head score the student's RoIs."""
        rois = self._student_rois(feats[0])
        if len(rois):
            roi_head.box_forward(self.teacher, feats, rois, self.teacher_stage)
        return bool(len(rois))

    def _student_rois(self, level: Tensor) -> Tensor:
        """Find the RoIs, (N, 5), that the student's recorded logits are of."""
        records = self.distiller.student_recorders.recorders
        logits = records['roi_logits'].data_buffer
        if not logits:  # no RoI was left for this stage
            return level.new_empty(0, 5, dtype=torch.float32)
        # A sampler may have cropped candidates before them, a mask head some after.
        num_rois = len(logits[-1][0])
        crops = [c for c in records['rois'].data_buffer if len(c[1]) == num_rois]
        feats, rois = crops[-1] if crops else ([()], None)
        if len(feats[0]) != len(level):
            raise RuntimeError(
                f'architecture ({type(self.student).__name__}) scores {num_rois} RoIs '
                f'of {len(feats[0])} images for a batch of {len(level)}: take a '
                'student that does not multiply the batch before its bbox_head'
            )
        return rois

    def check_heads(self) -> list[str]:
        """Check both models' feature strides and logits; see ``check_roi_head``."""
        return [
            roi_head.check_roi_head('architecture', self.student, self.student_stage),
            roi_head.check_roi_head('teacher', self.teacher, self.teacher_stage),
        ]
