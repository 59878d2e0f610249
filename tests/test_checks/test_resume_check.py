from __future__ import annotations

import copy
from math import inf

import pytest
from mmengine.config import Config
from mmengine.runner import Runner

from ctkd_mm.checks.resume_check import check_resumed


@pytest.fixture
def meta(demo_cfg) -> dict:
    return dict(cfg=demo_cfg.pretty_text)


def test_the_same_settings_pass_wherever_the_run_is(demo_cfg, meta, warnings):
    moved = {
        'work_dir': 'moved',
        'resume': True,
        'model.teacher_ckpt': 'moved.pth',
        'train_dataloader.dataset.data_root': 'moved/',
        'train_dataloader.num_workers': 7,
        'train_cfg.max_epochs': 99,
    }
    demo_cfg.merge_from_dict(moved)
    check_resumed(demo_cfg, meta)
    check_resumed(demo_cfg, {})  # a checkpoint of other making
    check_resumed(demo_cfg, dict(cfg='model=dict(loss_kd=<object at 0x7f>)'))
    assert warnings == []


@pytest.mark.parametrize(
    ('option', 'told'),
    [
        ({'temperature.tau_range': 5}, r'temperature\.tau_range=5, was 20'),
        ({'loss_weight': 2.0}, r'loss_weight=2\.0, was not set'),
    ],
)
def test_another_distillation_loss_is_refused(demo_cfg, meta, option, told):
    demo_cfg.merge_from_dict({f'model.loss_kd.{k}': v for k, v in option.items()})
    with pytest.raises(ValueError, match=rf'loss: model\.loss_kd\.{told}\. Give the'):
        check_resumed(demo_cfg, meta)


def test_other_settings_are_told_with_both_values(demo_cfg, meta, warnings):
    demo_cfg.train_dataloader.dataset.pipeline[2].scale = (96, 96)
    demo_cfg.optim_wrapper.optimizer.lr = 0.5
    check_resumed(demo_cfg, meta)
    (line,) = warnings
    assert 'train_dataloader.dataset.pipeline.2.scale.0=96, was 128' in line
    assert 'optim_wrapper.optimizer.lr=0.5, was 0.001' in line


def test_settings_in_lists_and_of_odd_names_are_compared(demo_cfg, meta, warnings):
    demo_cfg.optim_wrapper.paramwise_cfg.custom_keys['a.b'] = dict(lr_mult=inf)
    demo_cfg.param_scheduler[1].end += 1
    check_resumed(demo_cfg, meta)
    (line,) = warnings
    assert 'custom_keys.a.b.lr_mult=' in line
    assert 'param_scheduler.1.end=7, was 6' in line


@pytest.mark.parametrize(
    'key', ['bbox_head.loss_ld.temperature.tau_range', 'distiller.distill_losses.kd.w']
)
def test_a_loss_elsewhere_in_the_model_counts_as_well(key):
    was, now = Config(dict(model={})), Config(dict(model={}))
    was.merge_from_dict({f'model.{key}': 20})
    now.merge_from_dict({f'model.{key}': 5})
    with pytest.raises(ValueError, match=rf'loss: model\.{key}=5, was 20'):
        check_resumed(now, dict(cfg=was.pretty_text))
    check_resumed(Config(), dict(cfg=was.pretty_text))  # a Runner without a config


def test_a_config_in_a_checkpoint_is_not_executed(demo_cfg, meta, warnings, tmp_path):
    touch = f"__import__('pathlib').Path({str(tmp_path / 'ran')!r}).touch()"
    check_resumed(demo_cfg, dict(cfg=f'{meta["cfg"]}\nmore = {touch}\n'))
    check_resumed(demo_cfg, dict(cfg=f'{meta["cfg"]}\ntrain_cfg = {touch}\n'))
    assert list(tmp_path.iterdir()) == []


def test_a_training_that_resumes_with_another_range_is_refused(demo_cfg):
    demo_cfg.train_cfg.max_epochs = 1
    demo_cfg.val_cfg = demo_cfg.val_dataloader = demo_cfg.val_evaluator = None
    Runner.from_cfg(copy.deepcopy(demo_cfg)).train()
    demo_cfg.resume = True
    demo_cfg.model.loss_kd.temperature.tau_range = 5
    with pytest.raises(ValueError, match=r'cannot resume with another .*tau_range=5'):
        Runner.from_cfg(demo_cfg).train()
