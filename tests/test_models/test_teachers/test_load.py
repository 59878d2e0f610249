from __future__ import annotations

import copy
import hashlib

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.runner import Runner

from ctkd_mm.models.teachers.load import (
    adopt_teacher,
    build_detector,
    build_student,
    load_teacher,
    teacher_of,
)
from ctkd_mm.utils.weights import weights_sha256


@pytest.fixture
def teacher(teacher_cfg):
    return ROOT_MODELS.build(teacher_cfg)


@pytest.fixture
def saved(narrow_teacher_ckpt) -> dict:
    return torch.load(narrow_teacher_ckpt)


def save(checkpoint, tmp_path) -> str:
    path = str(tmp_path / 'changed.pth')
    torch.save(checkpoint, path)
    return path


def test_a_detector_may_be_written_as_in_mmrazors_configs():
    path = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'
    found = build_detector(dict(cfg_path=path, pretrained=False))
    assert str(found) == str(build_detector(path))


def test_the_student_of_a_pair_sees_the_pixels_of_its_training(
    teacher_cfg, saved, tmp_path, narrow_teacher_ckpt
):
    weights = {f'architecture.{k}': v for k, v in saved['state_dict'].items()}
    pixels = dict(type='DetDataPreprocessor', mean=[1, 2, 3], std=[4, 5, 6])
    model = dict(architecture=teacher_cfg, teacher_ckpt='x.pth')
    path = save(dict(state_dict=weights), tmp_path)
    own = build_student(model, path)
    assert own.data_preprocessor.mean.flatten().tolist() != [1, 2, 3]
    other = build_student(dict(model, data_preprocessor=pixels), path)
    assert other.data_preprocessor.mean.flatten().tolist() == [1, 2, 3]
    assert model == dict(architecture=teacher_cfg, teacher_ckpt='x.pth')
    alone = build_student(teacher_cfg, narrow_teacher_ckpt)
    for found in (own, other, alone):
        assert weights_sha256(found) == weights_sha256(alone)


def test_every_weight_is_the_files(teacher, saved, narrow_teacher_ckpt):
    meta = load_teacher(teacher, str(narrow_teacher_ckpt))
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, saved['state_dict'][name]), name
    assert meta['dataset_meta']['classes'] == tuple('0123456789')


def test_a_bare_state_dict_and_the_prefix_of_ddp_are_understood(
    teacher, saved, tmp_path
):
    weights = {f'module.{k}': v for k, v in saved['state_dict'].items()}
    assert load_teacher(teacher, save(weights, tmp_path)) == {}
    name = 'roi_head.bbox_head.fc_cls.weight'
    assert torch.equal(teacher.state_dict()[name], saved['state_dict'][name])


def test_all_that_does_not_fit_is_listed(teacher, saved, tmp_path):
    weights = saved['state_dict']
    for i in range(6):
        weights[f'mask_head.{i}'] = torch.zeros(1)
    del weights['rpn_head.rpn_cls.weight']
    weights['roi_head.bbox_head.fc_cls.bias'] = torch.zeros(81)
    with pytest.raises(ValueError) as caught:
        load_teacher(teacher, save(saved, tmp_path))
    message = str(caught.value)
    assert '1 missing: rpn_head.rpn_cls.weight' in message
    assert '6 unexpected: mask_head.0, ' in message and 'and 1 more' in message
    shapes = 'fc_cls.bias (81,) in the file, (11,) in the model'
    assert f'1 of another shape: roi_head.bbox_head.{shapes}' in message
    assert 'teacher_ignore_keys' in message


def test_named_keys_may_differ(teacher, saved, tmp_path):
    saved['state_dict']['mask_head.0'] = torch.zeros(1)
    load_teacher(teacher, save(saved, tmp_path), ['^mask_head'])


def test_a_string_is_one_expression_and_not_one_a_letter(teacher, saved, tmp_path):
    saved['state_dict']['mask_head.0'] = torch.zeros(1)
    load_teacher(teacher, save(saved, tmp_path), '^mask_head')
    with pytest.raises(ValueError, match='missing'):
        load_teacher(teacher, save({'a': torch.zeros(1)}, tmp_path), 'mask_head')


def test_the_counter_of_batch_norm_may_be_missing(teacher, saved, tmp_path):
    weights = saved['state_dict']
    for name in [name for name in weights if 'num_batches_tracked' in name]:
        del weights[name]
    load_teacher(teacher, save(saved, tmp_path))


def test_a_distillation_checkpoint_is_recognised(teacher, saved, tmp_path):
    weights = {f'architecture.{k}': v for k, v in saved['state_dict'].items()}
    with pytest.raises(ValueError, match='distilled: ctkd_mm extract'):
        load_teacher(teacher, save(dict(state_dict=weights), tmp_path))


def test_the_hash_is_of_names_types_shapes_and_values():
    model = torch.nn.Linear(2, 1)
    digest = hashlib.sha256()
    for name, shape in (('bias', '(1,)'), ('weight', '(1, 2)')):
        digest.update(f'{name} torch.float32 {shape}\n'.encode())
        digest.update(model.state_dict()[name].numpy().tobytes())
    assert weights_sha256(model) == digest.hexdigest()
    with torch.no_grad():
        model.bias += 1e-6
    assert weights_sha256(model) != digest.hexdigest()


def test_the_hash_takes_every_type():
    model = torch.nn.Module()
    for dtype in (torch.bfloat16, torch.bool, torch.int64, torch.float64):
        model.register_buffer(f'of_{str(dtype)[6:]}', torch.ones((), dtype=dtype))
    before = weights_sha256(model)
    model.of_bfloat16 += 1
    assert weights_sha256(model) != before


@pytest.mark.parametrize(
    ('content', 'found'),
    [
        ([torch.zeros(1)], 'holds no weights: .* found list'),
        (dict(state_dict=[torch.zeros(1)], meta={}), 'no weights: .* found list'),
        (dict(state_dict={}), 'no weights: .* found dict'),
        (dict(epoch=3, lr=0.1), "no weights: .* found 'epoch', 'lr'"),
    ],
    ids=['list', 'list inside', 'empty', 'numbers'],
)
def test_a_file_without_weights_is_refused(teacher, tmp_path, content, found):
    path = save(content, tmp_path)
    with pytest.raises(ValueError, match=found) as caught:
        load_teacher(teacher, path)
    assert f'teacher_ckpt={path!r}' in str(caught.value)


def test_weights_beside_numbers_are_weights(teacher, saved, tmp_path):
    assert load_teacher(teacher, save({**saved, 'epoch': 3}, tmp_path)) == saved['meta']


def in_mmrazors_algorithm(student: dict, teacher: dict) -> dict:
    """Config of a pair in MMRazor's own algorithm, with the RPN's logits."""
    recorders = dict(rpn=dict(type='mmrazor.ModuleOutputs', source='rpn_head.rpn_cls'))
    distiller = dict(
        type='mmrazor.ConfigurableDistiller',
        student_recorders=recorders,
        teacher_recorders=recorders,
        distill_losses=dict(loss_rpn=dict(type='mmrazor.L2Loss')),
        loss_forward_mappings=dict(
            loss_rpn=dict(
                s_feature=dict(recorder='rpn', from_student=True),
                t_feature=dict(recorder='rpn', from_student=False),
            )
        ),
    )
    pair = dict(architecture=student, teacher=teacher, distiller=distiller)
    return dict(type='mmrazor.SingleTeacherDistill', **pair)


@pytest.fixture
def mmrazors(student_cfg, teacher_cfg) -> BaseModel:
    """MMRazor's own algorithm, built without a file."""
    return ROOT_MODELS.build(in_mmrazors_algorithm(student_cfg, teacher_cfg))


def test_mmrazors_teacher_is_loaded_and_noted(mmrazors, saved, narrow_teacher_ckpt):
    adopt_teacher(mmrazors, str(narrow_teacher_ckpt))
    for name, value in mmrazors.teacher.state_dict().items():
        assert torch.equal(value, saved['state_dict'][name]), name
    assert mmrazors.teacher_ckpt == str(narrow_teacher_ckpt)
    assert mmrazors.teacher_meta == saved['meta']
    assert mmrazors.teacher_sha256 == weights_sha256(mmrazors.teacher)


def test_mmrazors_teacher_in_part_is_refused(mmrazors, saved, tmp_path):
    del saved['state_dict']['rpn_head.rpn_cls.bias']
    with pytest.raises(ValueError, match='1 missing: rpn_head.rpn_cls.bias'):
        adopt_teacher(mmrazors, save(saved, tmp_path))


def test_mmrazors_teacher_of_other_pixels_is_refused(mmrazors, narrow_teacher_ckpt):
    mmrazors.teacher.data_preprocessor.std += 1
    with pytest.raises(ValueError, match='shows the teacher the pixels of the student'):
        adopt_teacher(mmrazors, str(narrow_teacher_ckpt))


def test_mmrazors_teacher_of_pixels_that_stay_as_they_are_is_refused(
    student_cfg, teacher_cfg, narrow_teacher_ckpt
):
    teacher_cfg['data_preprocessor'] = dict(type='DetDataPreprocessor')  # no mean
    model = ROOT_MODELS.build(in_mmrazors_algorithm(student_cfg, teacher_cfg))
    with pytest.raises(ValueError, match='shows the teacher the pixels of the student'):
        adopt_teacher(model, str(narrow_teacher_ckpt))


def test_mmrazors_teacher_without_a_file_is_refused(mmrazors):
    with pytest.raises(ValueError, match='teacher_ckpt is None: .* would be random'):
        adopt_teacher(mmrazors, None)


def test_a_teacher_that_learns_is_none_of_ours(mmrazors):
    assert teacher_of(mmrazors) is mmrazors.teacher
    mmrazors.teacher_trainable = True
    assert teacher_of(mmrazors) is None


def test_mmdetections_teacher_has_another_name(teacher):
    class Detector(BaseModel):
        def forward(self, inputs):
            raise NotImplementedError

    model = Detector()
    model.teacher_model = teacher
    assert teacher_of(model) is teacher


def test_a_detector_alone_has_no_teacher(teacher):
    assert teacher_of(teacher) is None


@pytest.mark.start
def test_the_hash_of_mmrazors_teacher_is_noted_and_compared_on_a_resume(
    demo_cfg, student_cfg, teacher_cfg, narrow_teacher_ckpt, saved, tmp_path
):
    cfg = demo_cfg
    cfg.model = in_mmrazors_algorithm(student_cfg, teacher_cfg)
    cfg.model.teacher_ckpt = str(narrow_teacher_ckpt)
    cfg.custom_hooks = []
    cfg.paramwise_cfg = cfg.optim_wrapper.paramwise_cfg = None
    cfg.train_cfg.max_epochs = 1
    runner = Runner.from_cfg(copy.deepcopy(cfg))
    runner.train()
    epoch = f'{cfg.work_dir}/epoch_1.pth'
    meta = torch.load(epoch, weights_only=False)['meta']
    assert meta['teacher']['sha256'] == weights_sha256(runner.model.teacher)

    saved['state_dict']['rpn_head.rpn_cls.bias'] += 1
    cfg.model.teacher_ckpt = save(saved, tmp_path)
    cfg.update(load_from=epoch, resume=True)
    with pytest.raises(ValueError, match='teacher sha256='):
        Runner.from_cfg(cfg).train()
