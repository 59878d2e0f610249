"""How others distil RoI logits, on the same models."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmengine.registry import MODELS

from ctkd_mm.models.algorithms.roi_logit_distill import RoILogitDistill
from ctkd_mm.models.heads.roi_head import box_forward


@MODELS.register_module()
class MDistillerStep(RoILogitDistill):
    """RoILogitDistill as mdistiller does it: the student's RoI head runs twice."""

    def run_teacher(self, feats: Sequence[torch.Tensor]) -> bool:
        """Score the RoIs once more with the student, then with the teacher."""
        records = self.distiller.student_recorders.recorders
        feats_S, rois = records['rois'].data_buffer[-1]
        with self.distiller.student_recorders, torch.enable_grad():
            box_forward(self.student, feats_S, rois, 0)
        box_forward(self.teacher, feats, rois, 0)
        return True


def mmrazor_config(model: dict, images: int) -> dict:
    """Configure MMRazor's own algorithm for a pair, at a constant temperature."""
    logits = dict(
        logits=dict(type='mmrazor.ModuleOutputs', source='roi_head.bbox_head.fc_cls')
    )
    sample = 'mmdet.models.task_modules.samplers.random_sampler.RandomSampler.sample'
    return dict(
        type='mmrazor.SingleTeacherDistill',
        architecture=model['architecture'],
        teacher=model['teacher'],
        # As on PyTorch >= 2.5, where MMRazor's way to switch it off does nothing.
        module_inplace=True,
        teacher_module_inplace=True,
        distiller=dict(
            type='mmrazor.ConfigurableDistiller',
            student_recorders=logits,
            teacher_recorders=logits,
            distill_deliveries=dict(
                proposals=dict(
                    type='MethodOutputs',
                    max_keep_data=2 * images,  # the RPN's, then the RoI head's
                    method_path=sample,
                )
            ),
            distill_losses=dict(loss_kd=dict(type='mmrazor.KLDivergence', tau=1)),
            loss_forward_mappings=dict(
                loss_kd=dict(
                    preds_S=dict(from_student=True, recorder='logits'),
                    preds_T=dict(from_student=False, recorder='logits'),
                )
            ),
        ),
    )
