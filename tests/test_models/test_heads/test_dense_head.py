from __future__ import annotations

import copy

import pytest
import torch
from helpers.dense_detectors import narrow_detector
from mmengine.hub import get_config
from mmengine.registry import MODELS

from ctkd_mm.models.heads.dense_head import check_dense_head


def test_levels_of_other_strides_are_refused_with_both():
    cfg = narrow_detector('retinanet')
    cfg.neck.start_level = 0
    message = (
        r'teacher.bbox_head.prior_generator.strides=\[8, 16, 32, 64, 128\], but .* '
        r'\[96, 48, 24, 12, 6\] wide .* 384 pixels, .* strides \[4, 8, 16, 32, 64\]'
    )
    with pytest.raises(ValueError, match=message):
        check_dense_head('teacher', MODELS.build(cfg))


def test_fewer_levels_than_strides_are_refused():
    model = MODELS.build(narrow_detector('retinanet'))
    extract_feat = model.extract_feat
    model.extract_feat = lambda images: extract_feat(images)[:4]
    with pytest.raises(ValueError, match=r'the levels are \[48, 24, 12, 6\] wide'):
        check_dense_head('teacher', model)


def test_other_channels_are_refused_with_both():
    model = MODELS.build(narrow_detector('retinanet'))
    model.bbox_head.retina_cls = torch.nn.Conv2d(32, 9 * 11, 3, padding=1)
    message = r'of \[99, 99, 99, 99, 99\] channels, expected \[90, 90, 90, 90, 90\]'
    with pytest.raises(ValueError, match=message):
        check_dense_head('teacher', model)


def test_probabilities_are_refused_by_name():
    model = MODELS.build(narrow_detector('tood'))
    with pytest.raises(ValueError, match=r'bbox_head \(TOODHead\) gives probabilities'):
        check_dense_head('architecture', model)


def test_ssds_rounded_strides_are_its_own():
    cfg = get_config('mmdet::ssd/ssd300_coco.py').model
    cfg.backbone.init_cfg = None
    line = check_dense_head('teacher', MODELS.build(cfg))
    assert 'strides [8, 16, 32, 64, 100, 300], 81 logits each' in line


def test_the_probe_changes_nothing():
    model = MODELS.build(narrow_detector('rtmdet'))
    model.train()
    before = copy.deepcopy(model.state_dict())
    line = check_dense_head('architecture', model)
    assert line == (
        'architecture: [1, 1, 1] anchors or points a place at strides [8, 16, 32], '
        '10 logits each'
    )
    assert all(module.training for module in model.modules())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
