from __future__ import annotations

import copy

import pytest
import torch
from helpers.dense_detectors import narrow_detector
from mmengine.hub import get_config
from mmengine.registry import MODELS
from mmengine.runner import Runner
from mmengine.structures import InstanceData

from ctkd_mm.checks.teacher import evaluate_teacher
from ctkd_mm.models.heads.dense_head import check_dense_head
from ctkd_mm.models.heads.roi_head import check_roi_head


def test_levels_of_another_stride_are_refused_with_both(student_cfg):
    student_cfg.roi_head.bbox_roi_extractor.featmap_strides = [8, 16, 32, 64]
    model = MODELS.build(student_cfg)
    message = r'featmap_strides=\[8, 16, 32, 64\], .* strides \[4, 8, 16, 32\]'
    with pytest.raises(ValueError, match='architecture.roi_head.*' + message):
        check_roi_head('architecture', model)


def test_the_probe_changes_nothing(student_cfg):
    model = MODELS.build(student_cfg)
    model.train()
    before = copy.deepcopy(model.state_dict())
    check_roi_head('architecture', model)
    assert model.training and model.backbone.bn1.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_dense_head_on_levels_of_other_strides_is_refused_with_both():
    cfg = narrow_detector('retinanet')
    cfg.neck.start_level = 0
    message = (
        r'teacher.bbox_head.*strides=\[8, 16, 32, 64, 128\], .* '
        r'\[96, 48, 24, 12, 6\] wide for an image of 384 pixels'
    )
    with pytest.raises(ValueError, match=message):
        check_dense_head('teacher', MODELS.build(cfg))


def test_a_dense_head_with_other_channels_is_refused_with_both():
    model = MODELS.build(narrow_detector('retinanet'))
    model.bbox_head.retina_cls = torch.nn.Conv2d(32, 9 * 11, 3, padding=1)
    message = r'of \[99, 99, 99, 99, 99\] channels, expected \[90, 90, 90, 90, 90\]'
    with pytest.raises(ValueError, match=message):
        check_dense_head('teacher', model)


def test_a_dense_head_that_gives_probabilities_is_refused_by_name():
    model = MODELS.build(narrow_detector('tood'))
    with pytest.raises(ValueError, match=r'bbox_head \(TOODHead\) gives probabilities'):
        check_dense_head('architecture', model)


def test_ssds_rounded_strides_are_its_own():
    cfg = get_config('mmdet::ssd/ssd300_coco.py').model
    cfg.backbone.init_cfg = None
    line = check_dense_head('teacher', MODELS.build(cfg))
    assert 'strides [8, 16, 32, 64, 100, 300], 81 logits each' in line


def test_the_dense_probe_changes_nothing():
    model = MODELS.build(narrow_detector('rtmdet'))
    model.train()
    before = copy.deepcopy(model.state_dict())
    check_dense_head('architecture', model)
    assert all(module.training for module in model.modules())
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


@pytest.mark.start
def test_only_the_images_that_were_looked_at_count(demo_cfg):
    runner = Runner.from_cfg(demo_cfg)
    runner.build_val_loop(runner._val_loop)
    oracle = Oracle()
    name, value = evaluate_teacher(runner, oracle, images=2)
    assert oracle.images == 2
    assert (name, value) == ('coco/bbox_mAP', 1.0)  # 4 images: half of it
