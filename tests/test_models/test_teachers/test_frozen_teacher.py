from __future__ import annotations

import copy

import pytest
import torch
from helpers.two_stage_detectors import build_distiller, training_step
from mmengine.registry import MODELS as ROOT_MODELS

from ctkd_mm.registry import MODELS


def test_distillation_without_init_weights_is_refused(ctkd_cfg, batch):
    model = MODELS.build(copy.deepcopy(ctkd_cfg))
    data = model.data_preprocessor(batch, True)
    with pytest.raises(RuntimeError, match='no weights: call init_weights'):
        model(**data, mode='loss')


def test_a_teacher_without_a_checkpoint_is_refused(ctkd_cfg):
    del ctkd_cfg['teacher_ckpt']
    with pytest.raises(ValueError, match=r'teacher_ckpt is None: .* random'):
        MODELS.build(ctkd_cfg).init_weights()


def test_the_student_is_initialised_as_its_config_says(ctkd_cfg):
    constant = dict(type='Constant', layer='Conv2d', val=0.25)
    ctkd_cfg['architecture']['backbone']['init_cfg'] = constant
    model = MODELS.build(ctkd_cfg)
    model.init_weights()
    assert (model.student.backbone.conv1.weight == 0.25).all()
    assert (model.teacher.backbone.conv1.weight != 0.25).any()


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


def test_the_teacher_is_frozen_and_stays_in_eval_mode(ctkd_cfg, batch):
    model = build_distiller(ctkd_cfg)
    before = copy.deepcopy(model.teacher.state_dict())
    assert model.train() is model
    assert model.student.training
    assert not any(m.training for m in model.teacher.modules())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    model.parse_losses(training_step(model, batch))[0].backward()
    optimizer.step()
    assert all(p.grad is None for p in model.teacher.parameters())
    for name, value in model.teacher.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_given_teacher_keeps_its_weights(ctkd_cfg, teacher_cfg):
    torch.manual_seed(3)
    teacher = ROOT_MODELS.build(teacher_cfg)
    before = copy.deepcopy(teacher.state_dict())
    model = MODELS.build({**ctkd_cfg, 'teacher': teacher})
    model.init_weights()
    for name, value in model.teacher.state_dict().items():
        assert torch.equal(value, before[name]), name
