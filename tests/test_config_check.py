from __future__ import annotations

import copy
import re

import pytest
from mmengine.config import Config
from torch import nn

from ctkd_mm import CTKDLoss, CurriculumHook, GlobalTemperature
from ctkd_mm.config_check import (
    check_curriculum,
    check_custom_keys,
    check_hook_names,
    check_method,
    check_num_classes,
    check_top_level,
    check_variables,
)
from ctkd_mm.curriculum import cosine_curriculum


def test_a_misspelt_argument_of_runner_is_refused_with_the_right_one():
    with pytest.raises(ValueError, match=r"^custom_hook=\[\].*Write 'custom_hooks'"):
        check_top_level(Config(dict(custom_hook=[])))


def test_variables_of_a_config_are_no_misspelling():
    names = ('loss_kd', 'paramwise_cfg', 'metainfo', 'conv_cfg', 'val_evaluator_full')
    check_top_level(Config(dict.fromkeys(names)))


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


def test_a_multiplier_for_no_parameter_is_told(monkeypatch):
    lines = []
    monkeypatch.setattr(
        'ctkd_mm.config_check.print_log', lambda line, **_: lines.append(line)
    )
    keys = dict(weight=dict(lr_mult=2), wieght=dict(lr_mult=3))
    paramwise = dict(paramwise_cfg=dict(custom_keys=keys))
    check_custom_keys(nn.Linear(1, 1), Config(dict(optim_wrapper=paramwise)))
    (line,) = lines
    assert "'wieght'={'lr_mult': 3}" in line


@pytest.mark.parametrize(
    ('key', 'section'), [('distiller', 'model'), ('paramwise_cfg', 'optim_wrapper')]
)
def test_a_part_of_the_method_that_nothing_uses_is_refused(key, section):
    part = dict(custom_keys={})
    check_method(Config({key: part, section: {key: part}}))
    with pytest.raises(ValueError, match=f'{key} of the method .* add {section} = '):
        check_method(Config({key: part, section: dict(type='X')}))


def test_a_hook_that_wants_the_detector_is_refused():
    check_hook_names(['EMAHook', 'CurriculumHook'])
    with pytest.raises(ValueError, match='has SetEpochInfoHook, which takes'):
        check_hook_names(['EMAHook', 'SetEpochInfoHook'])


CTKD = 'configs/demo/ctkd_faster-rcnn_r18-half-to-r18-eighth_fpn_digits.py'


@pytest.fixture(scope='session')
def read_cfg(root) -> Config:
    """The demo's CTKD config, as read from its file."""
    return Config.fromfile(root / CTKD)


@pytest.mark.parametrize(
    ('option', 'advice'),
    [
        ({'loss_kd.temperature.tau_range': 5}, 'model.loss_kd.NAME=...'),
        (
            {'paramwise_cfg.bypass_duplicate': True},
            'optim_wrapper.paramwise_cfg.NAME=...',
        ),
        (
            {'custom_keys': dict(backbone=dict(lr_mult=0))},
            'optim_wrapper.paramwise_cfg.custom_keys.NAME=...',
        ),
        ({'data_root': 'elsewhere/'}, 'train_dataloader.dataset.data_root=...'),
    ],
    ids=['loss_kd', 'paramwise_cfg', 'custom_keys', 'data_root'],
)
def test_a_variable_set_too_late_is_refused_with_what_to_set(read_cfg, option, advice):
    cfg = copy.deepcopy(read_cfg)
    cfg.merge_from_dict(option)
    with pytest.raises(ValueError, match=f'would do nothing: .*{re.escape(advice)}'):
        check_variables(cfg)


def test_what_the_model_uses_may_be_set_with_or_without_the_variable(read_cfg):
    cfg = copy.deepcopy(read_cfg)
    check_variables(cfg)
    cfg.merge_from_dict({'model.loss_kd.temperature.tau_range': 5})
    check_variables(cfg)
    cfg.loss_kd = cfg.model.loss_kd
    cfg.my_note = 'of nothing that is read'
    cfg.seed = 3  # no variable of the file, though randomness has a seed
    check_variables(cfg)


def test_a_file_that_was_edited_since_says_nothing(read_cfg, tmp_path):
    file = tmp_path / 'config.py'
    file.write_text('lr = 1\noptimizer = dict(lr=lr)\noptim_wrapper = dict(lr=lr)\n')
    cfg = Config.fromfile(file)
    cfg.lr = 2
    with pytest.raises(ValueError, match='^lr=2 was set after'):
        check_variables(cfg)
    file.write_text(file.read_text() + '# edited\n')
    check_variables(cfg)
