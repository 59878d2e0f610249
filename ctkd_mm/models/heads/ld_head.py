"""MMDetection's head of Localization Distillation, for a loss that learns."""

from __future__ import annotations

from typing import Any

from mmdet.models.dense_heads import LDHead

from ctkd_mm.registry import MODELS


@MODELS.register_module()
class LearnedLDHead(LDHead):
    """``LDHead`` whose ``loss_ld`` has parameters.

    In a batch without a matched box MMDetection does not compute ``loss_ld``. Its
    parameters get a gradient of zero then, not none, so that DDP needs no
    ``find_unused_parameters``.

    Source: Z. Zheng et al., *Localization Distillation for Dense Object Detection*,
    CVPR 2022, arXiv 2102.12252; extends MMDetection's ``LDHead``.
    """

    def loss_by_feat(self, *args: Any, **kwargs: Any) -> dict:
        """Return MMDetection's losses, ``loss_ld`` always with its parameters."""
        losses = super().loss_by_feat(*args, **kwargs)
        parameters = sum(p.sum() for p in self.loss_ld.parameters())
        losses['loss_ld'][0] = losses['loss_ld'][0] + 0 * parameters
        return losses
