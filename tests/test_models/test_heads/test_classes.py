from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from helpers.dense_detectors import narrow_detector
from helpers.two_stage_detectors import narrow_two_stage
from mmdet.structures import DetDataSample
from mmengine.hub import get_config
from mmengine.registry import MODELS
from mmengine.structures import InstanceData

from ctkd_mm.models.heads.classes import TeacherClasses, class_names, has_sigmoid

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


# The student's classes among the teacher's.

NAMES = ('cat', 'dog', 'cow', 'horse')


@pytest.fixture
def heads() -> tuple:
    """Box heads of 2 and of 4 softmax classes."""
    cfg = narrow_two_stage('faster').roi_head.bbox_head
    return tuple(MODELS.build({**cfg, 'num_classes': n}) for n in (2, 4))


@pytest.fixture
def sigmoid_heads() -> tuple:
    """Dense heads of 2 and of 4 sigmoid classes."""
    cfg = narrow_detector('retinanet').bbox_head
    return tuple(MODELS.build({**cfg, 'num_classes': n}) for n in (2, 4))


def logits(columns: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(64, columns, generator=generator, dtype=torch.float64) * 8


def test_kept_classes_keep_their_probabilities_and_the_rest_is_background(heads):
    classes = TeacherClasses('by name', *heads)
    line = classes.find(NAMES, ('horse', 'dog'))
    assert line == 'teacher classes: 2 of 4 by name'
    preds = logits(5)
    found, z = classes(preds).numpy(), preds.numpy()
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    q = np.exp(found) / np.exp(found).sum(axis=1, keepdims=True)
    want = np.stack([p[:, 3], p[:, 1], p[:, 0] + p[:, 2] + p[:, 4]], axis=1)
    np.testing.assert_allclose(q, want, rtol=1e-13)
    np.testing.assert_array_equal(found[:, :2], z[:, [3, 1]])


def test_columns_of_sigmoids_are_picked_as_they_are(sigmoid_heads):
    classes = TeacherClasses(['horse', 1], *sigmoid_heads)
    classes.find(NAMES, ())
    preds = logits(4)
    np.testing.assert_array_equal(classes(preds), preds.numpy()[:, [3, 1]])


def test_all_classes_in_another_order_are_the_same_bits(heads):
    classes = TeacherClasses([2, 0, 3, 1], heads[1], heads[1])
    preds = logits(5).float()
    assert torch.equal(classes(preds), preds[:, [2, 0, 3, 1, 4]])


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_float32(heads, dtype):
    classes = TeacherClasses([3, 1], *heads)
    preds = logits(5).to(dtype)
    want = preds.double()[:, [0, 2, 4]].exp().sum(dim=1).log()
    assert classes(preds).dtype == torch.float32
    torch.testing.assert_close(
        classes(preds)[:, 2].double(), want, rtol=1e-6, atol=1e-6
    )


def test_checkpoints_do_not_hold_what_the_config_says(heads):
    classes = TeacherClasses([3, 1], *heads)
    assert not classes.state_dict()
    assert classes.to('meta').order.is_meta  # it moves with the model


@pytest.mark.parametrize(
    ('wanted', 'names_T', 'names_S', 'message'),
    [
        (
            'by name',
            NAMES,
            ('hors', 'bird'),
            "model.teacher_classes: the teacher names 4 classes, not 'hors': did you "
            "mean horse?, 'bird'. List its own, or indices, in the student's order",
        ),
        (
            'by name',
            (),
            ('cat', 'dog'),
            "the teacher names 0 classes, not 'cat', 'dog'",
        ),
        (['cat', 'dgo'], NAMES, (), "not 'dgo': did you mean dog?"),
        ('by name', NAMES, ('cat',), "teacher_classes='by name' must give each class"),
        (['cat', 'cat'], NAMES, (), "teacher_classes=['cat', 'cat'] must give each"),
        (['cat', 4], NAMES, (), "teacher_classes=['cat', 4] must give each class"),
    ],
)
def test_names_that_do_not_fit_are_refused(heads, wanted, names_T, names_S, message):
    classes = TeacherClasses(wanted, *heads)
    with pytest.raises(ValueError) as error:
        classes.find(names_T, names_S)
    assert message in str(error.value)
    assert len(str(error.value).split()) <= 30


@pytest.mark.parametrize('wanted', [None, [0], [0, 0], [0, 4], [0, -1], [0, 1, 2]])
def test_indices_that_do_not_fit_are_refused_at_once(heads, wanted):
    message = (
        f'num_classes is 2 in architecture, 4 in teacher: .*={re.escape(f"{wanted}")}'
    )
    with pytest.raises(ValueError, match=message) as error:
        TeacherClasses(wanted, *heads)
    assert len(str(error.value).split()) <= 30


def test_another_string_is_refused(heads):
    with pytest.raises(ValueError, match="teacher_classes='all' must be 'by name' or"):
        TeacherClasses('all', *heads)


def test_names_that_nobody_looked_up_are_no_columns(heads):
    with pytest.raises(RuntimeError, match='has names: add ctkd_mm.PreflightHook'):
        TeacherClasses(['cat', 'dog'], *heads)(logits(5))


def test_predictions_get_the_students_labels_and_lose_other_classes(heads):
    sample = DetDataSample()
    sample.pred_instances = InstanceData(
        labels=torch.tensor([0, 3, 1, 2, 3]), scores=torch.arange(5.0)
    )
    TeacherClasses([3, 1], *heads).relabel([sample])
    assert sample.pred_instances.labels.tolist() == [0, 1, 0]
    assert sample.pred_instances.scores.tolist() == [1, 2, 4]


@pytest.mark.parametrize(
    ('meta', 'names'),
    [
        (dict(dataset_meta=dict(classes=['a', 'b'])), ('a', 'b')),
        (dict(CLASSES=('a', 'b')), ('a', 'b')),  # MMDetection 2
        (dict(classes=('a', 'b')), ('a', 'b')),  # a data set
        (dict(dataset_meta=None), ()),
        ({}, ()),
    ],
)
def test_names_of_classes_are_read_wherever_they_stand(meta, names):
    assert class_names(meta) == names
