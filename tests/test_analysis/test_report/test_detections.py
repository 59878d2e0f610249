"""Which detections find an object, and whose they are."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from mmengine.structures import InstanceData

from ctkd_mm.analysis.report.detections import _teacher, mark_hits
from ctkd_mm.models.heads.classes import class_names


@pytest.mark.parametrize('whole', [True, False])
def test_the_teacher_of_mmdetections_own_distillation_is_built(
    teacher_cfg, narrow_teacher_ckpt, whole
):
    config = dict(model=teacher_cfg) if whole else teacher_cfg
    key = 'teacher_config' if whole else 'teacher'
    model = {key: config, 'teacher_ckpt': str(narrow_teacher_ckpt)}
    teacher = _teacher(SimpleNamespace(model=model))
    assert class_names(teacher.dataset_meta) == tuple('0123456789')


def test_detections_are_hits_once_an_object_by_class_and_overlap():
    truth = [
        dict(corners=(0, 0, 10, 10), label=0),
        dict(corners=(20, 0, 30, 10), label=1),
    ]
    rows = [  # corners, score, label, what it is
        ((0, 0, 10, 10), 0.6, 0, None),  # found already, by the next
        ((0, 0, 10, 6), 0.9, 0, 'hit'),  # IoU 0.6
        ((20, 0, 30, 10), 0.8, 0, 'miss'),  # of another class
        ((20, 0, 24, 10), 0.7, 1, 'miss'),  # IoU 0.4
        ((20, 0, 30, 10), 0.29, 1, 'below the threshold'),
    ]
    corners, scores, labels, _ = zip(*rows)
    found = InstanceData(
        bboxes=torch.tensor(corners).float(),
        scores=torch.tensor(scores),
        labels=torch.tensor(labels),
    )
    boxes = mark_hits(found, truth, ['cat', 'dog'])
    assert [(box['text'], box['kind']) for box in boxes] == [
        ('cat 0.90', 'hit'),
        ('cat 0.80', 'miss'),
        ('dog 0.70', 'miss'),
        ('cat 0.60', 'miss'),
    ]
    assert boxes[1]['corners'] == [20, 0, 30, 10]
    assert [box['kind'] for box in mark_hits(found, [], ['cat', 'dog'])] == ['miss'] * 4
