from __future__ import annotations

import pytest
from mmengine.config import Config
from torch import nn

from ctkd_mm import CTKDLoss, CurriculumHook, GlobalTemperature
from ctkd_mm.checks.config import (
    check_curriculum,
    check_custom_keys,
    check_hook_names,
    check_interval,
    check_num_classes,
)
from ctkd_mm.models.temperatures.ramps import cosine_curriculum


def test_a_temperature_without_its_hook_is_refused():
    model = nn.ModuleDict(dict(loss_kd=CTKDLoss(GlobalTemperature())))
    with pytest.raises(ValueError, match=r'temperature loss_kd\.temperature\.grl'):
        check_curriculum(model, [])
    check_curriculum(model, [CurriculumHook(end=5)])


def test_no_temperature_needs_no_hook():
    check_curriculum(nn.Linear(1, 1), [])


def test_the_advice_for_a_constant_lambda_holds():
    assert cosine_curriculum(0, end=1) == 1


def test_other_numbers_of_classes_are_refused_with_both():
    class Data:
        metainfo = dict(classes=('a', 'b'))

    head = nn.Module()
    model = nn.ModuleDict(dict(bbox_head=head, rpn_head=nn.Module()))
    model.rpn_head.num_classes = 1
    head.num_classes = 2
    check_num_classes(model, Data, 'key')
    head.num_classes = 3
    message = r'^model\.bbox_head\.num_classes=3, but key\.metainfo\.classes has 2'
    with pytest.raises(ValueError, match=message):
        check_num_classes(model, Data, 'key')


def test_a_multiplier_for_no_parameter_is_told(warnings):
    keys = dict(weight=dict(lr_mult=2), wieght=dict(lr_mult=3))
    paramwise = dict(paramwise_cfg=dict(custom_keys=keys))
    check_custom_keys(nn.Linear(1, 1), Config(dict(optim_wrapper=paramwise)))
    (line,) = warnings
    assert "'wieght'={'lr_mult': 3}" in line


def test_a_hook_that_wants_the_detector_is_refused():
    check_hook_names(['EMAHook', 'CurriculumHook'])
    with pytest.raises(ValueError, match='has SetEpochInfoHook, which takes'):
        check_hook_names(['EMAHook', 'SetEpochInfoHook'])


@pytest.mark.parametrize('interval', [0, -1, '1', 0.5])
def test_an_interval_that_validates_never_is_refused(interval):
    check_interval(Config(dict(train_cfg=dict(max_epochs=1))))
    check_interval(Config(dict(train_cfg=dict(val_interval=2))))
    message = rf'^train_cfg\.val_interval={interval!r}, expected a number >= 1'
    with pytest.raises(ValueError, match=message):
        check_interval(Config(dict(train_cfg=dict(val_interval=interval))))
