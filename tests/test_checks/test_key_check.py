from __future__ import annotations

import copy
import re
import shutil

import pytest
from mmengine.config import Config

from ctkd_mm.checks.key_check import (
    check_method,
    check_options,
    check_top_level,
    check_variables,
)


def test_a_misspelt_argument_of_runner_is_refused_with_the_right_one():
    with pytest.raises(ValueError, match=r"^custom_hook=\[\].*Write 'custom_hooks'"):
        check_top_level(Config(dict(custom_hook=[])))


def test_variables_of_a_config_are_no_misspelling():
    check_top_level(Config(dict(models=['a', 'b'])))
    for key in ('param_schedulers', 'val_evaluators'):
        with pytest.raises(ValueError, match=f"Write '{key[:-1]}'"):
            check_top_level(Config({key: []}))
    names = ('loss_kd', 'paramwise_cfg', 'metainfo', 'conv_cfg', 'val_evaluator_full')
    check_top_level(Config(dict.fromkeys(names)))


@pytest.mark.parametrize(
    ('key', 'section'), [('distiller', 'model'), ('paramwise_cfg', 'optim_wrapper')]
)
def test_a_part_of_the_method_that_nothing_uses_is_refused(key, section):
    part = dict(custom_keys={})
    check_method(Config({key: part, section: {key: part}}))
    with pytest.raises(ValueError, match=f'{key} of the method .* add {section} = '):
        check_method(Config({key: part, section: dict(type='X')}))


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
    check_variables(cfg)


def test_an_option_without_the_way_to_it_is_told(read_cfg, warnings):
    cfg = copy.deepcopy(read_cfg)
    cfg.merge_from_dict({'tau_range': 5})
    check_variables(cfg)
    (line,) = warnings
    assert line.startswith('tau_range=5 was set after ')
    assert '--cfg-options model.loss_kd.temperature.tau_range=...' in line


@pytest.mark.parametrize(
    ('model', 'late'),
    [
        ('', True),
        ('model = dict(loss_kd=_base_.loss_kd)', True),
        ('model = dict(loss_kd=loss_kd)', False),
        ('model = dict(loss_kd=dict(_delete_=True, **loss_kd))', False),
        ('if True:\n    model = dict(loss_kd=dict(loss_kd, loss_weight=3))', False),
    ],
)
def test_a_loss_that_a_file_sets_beside_its_model_is_refused(
    root, tmp_path, model, late
):
    shutil.copytree(root / 'configs', tmp_path / 'configs')
    file = tmp_path / 'mine.py'
    loss_kd = 'loss_kd = dict(temperature=dict(tau_range=5))'
    file.write_text(f"_base_ = ['{CTKD}']\n{loss_kd}\n{model}\n")
    cfg = Config.fromfile(file)
    if not late:
        check_variables(cfg)
        return
    with pytest.raises(ValueError, match=r'^loss_kd is set in .*mine\.py, but model'):
        check_variables(cfg)


@pytest.mark.parametrize(
    ('key', 'right'),
    [
        ('model.architecture.test_cfg.rcnn.score_thrr', 'score_thr'),
        ('model.architecture.train_cfg.rpn_proposl', 'rpn_proposal'),
        ('train_dataloader.dataset.filter_cfg.filter_emty_gt', 'filter_empty_gt'),
    ],
)
def test_what_an_own_class_may_read_is_told_if_near(read_cfg, warnings, key, right):
    cfg = copy.deepcopy(read_cfg)
    cfg.merge_from_dict({key: 1})
    check_options(cfg)
    (line,) = warnings
    assert line.startswith(f'{key}=1 is not read')
    assert f'Write {right!r}, unless a class of your own' in line


def test_an_own_constructor_has_options_of_its_own(read_cfg, warnings):
    cfg = copy.deepcopy(read_cfg)
    cfg.optim_wrapper.constructor = 'mine.Constructor'
    cfg.optim_wrapper.paramwise_cfg.bias_mult = 2
    check_options(cfg)
    (line,) = warnings
    assert line.startswith('optim_wrapper.paramwise_cfg.bias_mult=2 is not read')


def test_longer_names_and_variables_are_no_misspelt_options(read_cfg, warnings):
    cfg = copy.deepcopy(read_cfg)  # as MMDetection's guided anchoring has them
    cfg.merge_from_dict({'model.architecture.train_cfg.rpn.ga_assigner': {}})
    cfg.merge_from_dict({'detector.test_cfg.nms_type': 'soft'})
    check_options(cfg)
    assert warnings == []


def test_a_file_that_deletes_a_variable_passes(tmp_path):
    file = tmp_path / 'mine.py'  # as MMDetection's tracking configs do
    file.write_text('size = 1\nmodel = dict(size=size)\ndel size\n')
    check_variables(Config.fromfile(file))


@pytest.mark.parametrize(
    ('key', 'right'),
    [
        ('auto_scale_lr.enabel', 'enable'),
        ('optim_wrapper.paramwise_cfg.custom_key', 'custom_keys'),
        ('env_cfg.cudnn_benchmrk', 'cudnn_benchmark'),
    ],
)
def test_a_misspelt_option_that_nothing_would_miss_is_refused(read_cfg, key, right):
    cfg = copy.deepcopy(read_cfg)
    check_options(cfg)
    cfg.merge_from_dict({key: 1})
    message = rf'^{re.escape(key)}=1 is not read.* Write {right!r}'
    with pytest.raises(ValueError, match=message):
        check_options(cfg)


def test_a_file_that_was_edited_since_says_nothing(read_cfg, tmp_path):
    file = tmp_path / 'config.py'
    file.write_text('lr = 1\noptimizer = dict(lr=lr)\noptim_wrapper = dict(lr=lr)\n')
    cfg = Config.fromfile(file)
    cfg.lr = 2
    with pytest.raises(ValueError, match='^lr=2 was set after'):
        check_variables(cfg)
    file.write_text(file.read_text() + '# edited\n')
    check_variables(cfg)
