from __future__ import annotations

import pytest
import torch
from mmengine.runner import Runner
from mmengine.structures import InstanceData

from ctkd_mm.checks.teacher import evaluate_teacher


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


@pytest.mark.start
def test_only_the_images_that_were_looked_at_count(demo_cfg):
    runner = Runner.from_cfg(demo_cfg)
    runner.build_val_loop(runner._val_loop)
    oracle = Oracle()
    name, value = evaluate_teacher(runner, oracle, images=2)
    assert oracle.images == 2
    assert (name, value) == ('coco/bbox_mAP', 1.0)  # 4 images: half of it
