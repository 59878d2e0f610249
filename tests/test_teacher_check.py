from __future__ import annotations

import copy

import pytest
import torch
from mmengine.registry import MODELS
from mmengine.runner import Runner
from mmengine.structures import InstanceData

from ctkd_mm.teacher_check import check_heads, evaluate_teacher


def test_levels_of_another_stride_are_refused_with_both(student_cfg):
    student_cfg.roi_head.bbox_roi_extractor.featmap_strides = [8, 16, 32, 64]
    model = MODELS.build(student_cfg)
    message = r'featmap_strides=\[8, 16, 32, 64\], .* strides \[4, 8, 16, 32\]'
    with pytest.raises(ValueError, match='architecture.roi_head.*' + message):
        check_heads('architecture', model)


def test_the_probe_changes_nothing(student_cfg):
    model = MODELS.build(student_cfg)
    model.train()
    before = copy.deepcopy(model.state_dict())
    check_heads('architecture', model)
    assert model.training and model.backbone.bn1.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


class Oracle:
    """Detects exactly what is there."""

    def __init__(self) -> None:
        self.images = 0

    def val_step(self, data: dict) -> list:
        for sample in data['data_samples']:
            self.images += 1
            truth = sample.gt_instances
            sample.pred_instances = InstanceData(
                bboxes=truth.bboxes.tensor,
                labels=truth.labels,
                scores=torch.ones(len(truth)),
            )
        return data['data_samples']


def test_only_the_images_that_were_looked_at_count(demo_cfg):
    runner = Runner.from_cfg(demo_cfg)
    runner.build_val_loop(runner._val_loop)
    oracle = Oracle()
    name, value = evaluate_teacher(runner, oracle, images=2)
    assert oracle.images == 2
    assert (name, value) == ('coco/bbox_mAP', 1.0)  # 4 images: half of it
