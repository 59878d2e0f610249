"""Class-logit distillation for one-stage detectors: every anchor or point."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn

from ctkd_mm.models.algorithms.logit_distill import LogitDistill
from ctkd_mm.models.heads.dense_head import check_aligned, check_dense_head, dense_head
from ctkd_mm.models.losses.kinds import of_both
from ctkd_mm.registry import MODELS


@MODELS.register_module()
class DenseRows(nn.Module):
    """Makes rows of a dense head's class logits: one anchor or point each.

    Args:
        columns: Logits of an anchor or point, C.
    """

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.columns = columns

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Return rows (N, C) for levels of (B, A · C, H, W).

        Anchor a of a place has the channels a · C to a · C + C - 1. Written once: at
        millions of logits, every further copy is felt.
        """
        parts = [part for level in levels for part in level.split(self.columns, dim=1)]
        return torch.cat([part.flatten(2).mT for part in parts], dim=1).flatten(0, 1)


@MODELS.register_module()
class DenseLogitDistill(LogitDistill):
    """The teacher scores its own features at the same anchors or points.

    One training step: the student's usual losses, while its dense head's class logits
    are recorded; the teacher's for the same images, without gradient;
    ``loss_kd(preds_S, preds_T)`` on the logits of all levels, places and images.
    RetinaNet, FCOS, ATSS, GFL, RTMDet and others that put class logits of
    (B, A · C, H, W) for each level first can teach each other, if anchors or points
    are the same; the boxes are not looked at.

    Sigmoid classes (focal losses) take
    :class:`ctkd_mm.models.losses.bernoulli_loss.BernoulliCTKDLoss`,
    softmax classes with a background column (SSD)
    :class:`ctkd_mm.models.losses.kd_loss.CTKDLoss`.

    Args:
        architecture: See :class:`ctkd_mm.models.algorithms.logit_distill.LogitDistill`.
        teacher: See there.
        loss_kd: See there. The logits are (N, num_classes), or (N, num_classes + 1)
            with softmax, N the anchors or points of the batch.

    ``teacher_ckpt``, ``distiller`` and ``teacher_ignore_keys``: see there.

    Raises:
        ValueError: If a model is no such detector; if strides, anchors or points
            differ; if ``loss_kd`` is a softmax for sigmoid classes, the
            reverse, or wants labels; if the batches are padded differently; and as
            :class:`LogitDistill`.

    Source: logits of dense heads, sigmoid by sigmoid: L. Yang et al. (BCKD), ICCV
    2023, arXiv 2308.14286, with CTKD's temperature.
    """

    compares_maps = True

    @property
    def bbox_head(self) -> nn.Module:
        """The student's head, where hooks made for a detector look for it (YOLOX's)."""
        return self.student.bbox_head

    def check_pair(self, student: BaseModel, teacher: BaseModel) -> list[nn.Module]:
        """Check that both score the same anchors or points."""
        heads = [dense_head('architecture', student), dense_head('teacher', teacher)]
        check_aligned(*heads)
        return heads

    def records(self, student: BaseModel, teacher: BaseModel, labels: bool) -> dict:
        """Record both heads' class logits, all levels, and make rows of them.

        Raises:
            ValueError: If ``loss_kd`` takes labels, which are those of RoIs.
        """
        if labels:
            raise ValueError(
                'loss_kd takes the labels of RoIs, which a dense head does not have: '
                'take ctkd_mm.BernoulliCTKDLoss for sigmoid classes, ctkd_mm.CTKDLoss '
                'for softmax'
            )
        logits = dict(type='mmrazor.ModuleOutputs', source='bbox_head')
        columns = [m.bbox_head.cls_out_channels for m in (student, teacher)]
        rows = [dict(type='ctkd_mm.DenseRows', columns=number) for number in columns]
        preds = of_both(recorder='dense_logits', data_idx=0, connector='dense_rows')
        return dict(
            student_recorders=dict(dense_logits=logits),
            teacher_recorders=dict(dense_logits=logits),
            connectors=dict(dense_rows=rows[0], teacher_classes=rows[1:]),
            loss_forward_mappings=dict(loss_kd=preds),
        )

    def run_teacher(self, feats: Sequence[Tensor]) -> bool:
        """Make the teacher's head score its own features of the same images."""
        self.teacher.bbox_head(feats)
        return True

    def check_heads(self) -> list[str]:
        """Check both models' levels and logits; see ``check_dense_head``."""
        return [
            check_dense_head('architecture', self.student),
            check_dense_head('teacher', self.teacher),
        ]
