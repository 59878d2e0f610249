from __future__ import annotations

import pytest
from helpers.dense_detectors import narrow_detector
from helpers.two_stage_detectors import narrow_two_stage
from mmengine.hub import get_config
from mmengine.registry import MODELS

from ctkd_mm.models.heads.classes import has_sigmoid

SOFTMAX = dict(type='CrossEntropyLoss', use_sigmoid=False)


@pytest.mark.parametrize(
    ('cfg', 'changes', 'sigmoid'),
    [
        (lambda: narrow_detector('retinanet').bbox_head, {}, True),
        (lambda: narrow_detector('retinanet').bbox_head, dict(loss_cls=SOFTMAX), False),
        (lambda: narrow_detector('rtmdet').bbox_head, {}, True),
        (lambda: get_config('mmdet::ssd/ssd300_coco.py').model.bbox_head, {}, False),
        (lambda: narrow_two_stage('faster').roi_head.bbox_head, {}, False),
        (
            lambda: narrow_two_stage('faster').roi_head.bbox_head,
            dict(loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=True)),
            True,
        ),
    ],
    ids=['retinanet', 'softmax retinanet', 'rtmdet', 'ssd', 'rcnn', 'sigmoid rcnn'],
)
def test_it_is_what_mmdetection_makes_of_the_config(cfg, changes, sigmoid):
    assert has_sigmoid(MODELS.build({**cfg(), **changes})) is sigmoid
