from __future__ import annotations

import copy

import pytest
import torch
from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmdet.structures import DetDataSample
from mmengine.model import BaseDataPreprocessor
from mmengine.registry import MODELS as ROOT_MODELS

from ctkd_mm.models.teachers.preprocessor import PairDataPreprocessor, pixels_of
from ctkd_mm.registry import MODELS

CAFFE = dict(mean=[103.53, 116.28, 123.675], std=[1, 1, 1], bgr_to_rgb=False)


def build(cfg: dict):
    model = MODELS.build(copy.deepcopy(cfg))
    model.init_weights()
    return model.train()


def standing_alone(teacher_cfg: dict, checkpoint, batch: dict) -> tuple:
    """FPN outputs of the teacher as MMDetection evaluates it."""
    teacher = ROOT_MODELS.build(copy.deepcopy(teacher_cfg)).eval()
    teacher.load_state_dict(torch.load(checkpoint)['state_dict'])
    inputs = teacher.data_preprocessor(copy.deepcopy(batch), False)['inputs']
    with torch.no_grad():
        return teacher.extract_feat(inputs)


def in_distillation(model, batch: dict) -> tuple:
    """FPN outputs of the teacher in a training step."""
    seen = []
    model.teacher.neck.register_forward_hook(lambda m, i, out: seen.append(out))
    model(**model.data_preprocessor(copy.deepcopy(batch), True), mode='loss')
    (feats,) = seen
    return feats


@pytest.fixture
def batch_of_two_sizes(batch) -> dict:
    batch['inputs'][1] = batch['inputs'][1][:, :70, :90]
    return batch


@pytest.mark.parametrize(
    'own',
    [
        {},
        CAFFE,
        dict(pad_size_divisor=64),
        dict(pad_value=7),
        {**CAFFE, 'pad_value': 3},
    ],
    ids=['the same', 'caffe', 'divisor', 'pad value', 'caffe and pad value'],
)
def test_the_teacher_sees_what_it_sees_standing_alone(
    ctkd_cfg, batch_of_two_sizes, own
):
    ctkd_cfg['teacher']['data_preprocessor'].update(own)
    model = build(ctkd_cfg)
    want = standing_alone(
        ctkd_cfg['teacher'], ctkd_cfg['teacher_ckpt'], batch_of_two_sizes
    )
    got = in_distillation(model, batch_of_two_sizes)
    assert len(got) == len(want) == 4
    for a, b in zip(got, want):
        assert (a - b).norm() <= 1e-5 * b.norm()


def test_shared_pixels_would_be_noticed(ctkd_cfg, batch_of_two_sizes):
    ctkd_cfg['teacher']['data_preprocessor'].update(CAFFE)
    model = build(ctkd_cfg)
    model.data_preprocessor.shared = True  # as MMRazor does
    want = standing_alone(
        ctkd_cfg['teacher'], ctkd_cfg['teacher_ckpt'], batch_of_two_sizes
    )
    got = in_distillation(model, batch_of_two_sizes)
    assert max((a - b).abs().max() for a, b in zip(got, want)) > 1e-2


def test_a_student_that_copies_without_waiting_still_does(ctkd_cfg):
    ctkd_cfg['architecture']['data_preprocessor']['non_blocking'] = True
    assert build(ctkd_cfg).data_preprocessor._non_blocking


def test_the_student_keeps_its_own_pixels_and_boxes(ctkd_cfg, batch_of_two_sizes):
    ctkd_cfg['teacher']['data_preprocessor'].update(CAFFE)
    model = build(ctkd_cfg)
    pair = model.data_preprocessor(copy.deepcopy(batch_of_two_sizes), True)
    alone = model.student.data_preprocessor(copy.deepcopy(batch_of_two_sizes), True)
    assert torch.equal(pair['inputs'], alone['inputs'])
    for a, b in zip(pair['data_samples'], alone['data_samples']):
        assert torch.equal(a.gt_instances.bboxes, b.gt_instances.bboxes)
        assert a.metainfo == b.metainfo


def test_equal_preprocessors_share_one_batch(ctkd_cfg, batch):
    data = build(ctkd_cfg).data_preprocessor(batch, True)
    assert data['teacher_inputs'] is data['inputs']


def test_evaluation_prepares_nothing_for_the_teacher(ctkd_cfg, batch):
    assert 'teacher_inputs' not in build(ctkd_cfg).data_preprocessor(batch, False)


def test_a_teacher_without_a_preprocessor_is_refused(ctkd_cfg):
    del ctkd_cfg['teacher']['data_preprocessor']
    with pytest.raises(ValueError, match='teacher.data_preprocessor must be a DetData'):
        build(ctkd_cfg)


def test_augmentation_of_the_batch_that_cannot_be_followed_is_refused(ctkd_cfg):
    ctkd_cfg['teacher']['data_preprocessor'].update(CAFFE)
    ctkd_cfg['architecture']['data_preprocessor']['batch_augments'] = [
        dict(type='BatchSyncRandomResize', random_size_range=(64, 128))
    ]
    with pytest.raises(ValueError, match=r'BatchSyncRandomResize.*123\.6.*103\.5'):
        build(ctkd_cfg)


def test_the_teachers_own_batch_augments_are_left_out():
    augments = [dict(type='BatchFixedSizePad', size=(192, 192))]
    student = DetDataPreprocessor(pad_size_divisor=32)
    teacher = DetDataPreprocessor(pad_size_divisor=32, batch_augments=augments, **CAFFE)
    image = torch.zeros(3, 96, 96, dtype=torch.uint8)
    prepared = PairDataPreprocessor(student, teacher)(
        dict(inputs=[image], data_samples=[DetDataSample()]), training=True
    )
    assert prepared['teacher_inputs'].shape == (1, 3, 96, 96)


def test_feature_losses_want_equal_padding(ctkd_cfg):
    neck = dict(neck=dict(type='mmrazor.ModuleOutputs', source='neck'))
    ctkd_cfg['distiller'] = dict(teacher_recorders=neck)
    ctkd_cfg['teacher']['data_preprocessor']['pad_size_divisor'] = 64
    with pytest.raises(ValueError, match='32 in architecture and 64 in teacher'):
        build(ctkd_cfg)


def test_the_pixels_of_classifiers_are_compared_too():
    class Classifiers(BaseDataPreprocessor):  # as mmpretrain's, no ImgDataPreprocessor
        def __init__(self, mean, to_rgb=False):
            super().__init__()
            self.register_buffer('mean', torch.tensor(mean).view(-1, 1, 1))
            self.to_rgb = to_rgb

    one = Classifiers([1.0, 2, 3])
    assert pixels_of(one) == pixels_of(Classifiers([1.0, 2, 3]))
    assert pixels_of(one) != pixels_of(Classifiers([1.0, 2, 4]))
    assert pixels_of(one) != pixels_of(Classifiers([1.0, 2, 3], to_rgb=True))


def test_the_teachers_images_keep_height_and_width_apart():
    student = DetDataPreprocessor(pad_size_divisor=32)
    teacher = DetDataPreprocessor(pad_size_divisor=32, **CAFFE)
    image = torch.zeros(3, 60, 90, dtype=torch.uint8)
    pair = PairDataPreprocessor(student, teacher)
    prepared = pair(dict(inputs=[image], data_samples=None), training=True)
    assert prepared['teacher_inputs'].shape == (1, 3, 64, 96)
