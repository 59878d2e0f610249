from __future__ import annotations

import copy
import hashlib

import pytest
import torch
from mmengine.registry import MODELS as ROOT_MODELS

from ctkd_mm.models.teachers.load import load_teacher
from ctkd_mm.registry import MODELS
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


def test_the_counter_of_batch_norm_may_be_missing(teacher, saved, tmp_path):
    weights = saved['state_dict']
    for name in [name for name in weights if 'num_batches_tracked' in name]:
        del weights[name]
    load_teacher(teacher, save(saved, tmp_path))


def test_a_distillation_checkpoint_is_recognised(teacher, saved, tmp_path):
    weights = {f'architecture.{k}': v for k, v in saved['state_dict'].items()}
    with pytest.raises(ValueError, match='tools/extract_student.py'):
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


def test_distillation_without_init_weights_is_refused(ctkd_cfg, batch):
    model = MODELS.build(copy.deepcopy(ctkd_cfg))
    data = model.data_preprocessor(batch, True)
    with pytest.raises(RuntimeError, match='no weights: call init_weights'):
        model(**data, mode='loss')


def test_a_teacher_without_a_checkpoint_is_refused(ctkd_cfg):
    del ctkd_cfg['teacher_ckpt']
    with pytest.raises(ValueError, match=r'teacher_ckpt is None: .* random'):
        MODELS.build(ctkd_cfg).init_weights()


def test_evaluation_does_not_read_the_teachers_file(ctkd_cfg, batch):
    ctkd_cfg['teacher_ckpt'] = 'nowhere.pth'
    model = MODELS.build(ctkd_cfg).eval()
    assert len(model.test_step(batch)) == 2


def test_no_module_tree_carries_the_teacher(ctkd_cfg):
    model = MODELS.build(ctkd_cfg)
    model.init_weights()
    ours = {id(p) for p in model.parameters()}
    assert not any(id(p) in ours for p in model.teacher.parameters())
    assert not any('teacher' in name for name in model.state_dict())
    assert copy.deepcopy(model).teacher is model.teacher  # as an EMA copy


def test_the_teacher_moves_with_the_model_and_not_with_its_copies(ctkd_cfg):
    model = MODELS.build(ctkd_cfg).double()
    assert all(p.dtype == torch.float64 for p in model.teacher.parameters())
    copy.deepcopy(model).float()
    assert all(p.dtype == torch.float64 for p in model.teacher.parameters())
