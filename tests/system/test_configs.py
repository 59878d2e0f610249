from __future__ import annotations

import re
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import HOOKS as ROOT_HOOKS
from mmengine.registry import MODELS as ROOT_MODELS

from ctkd_mm import CurriculumHook, TemperatureScheduleHook, set_progress
from ctkd_mm.checks.config import READ_AT
from ctkd_mm.models.temperatures.base import find_temperatures

CONFIGS = Path(__file__).parents[2] / 'configs'
# Those for classification need mmpretrain: test_classification.py.
LEAVES = sorted(
    p
    for p in CONFIGS.glob('*/*.py')
    if p.parent.name not in ('_base_', 'classification')
)
DEMO = 'kd_faster-rcnn_r18-half-to-r18-eighth_fpn_digits.py'
# Those for other losses and heads are in leaves.
METHODS = [
    p
    for p in sorted(CONFIGS.glob('_base_/methods/*.py'))
    if not p.stem.endswith(('-dense', '-classification', '-ld'))
]
SAFE_HOOKS = Config.fromfile(CONFIGS / '_base_' / 'hooks.py').ctkd_hooks
STOP = dict(type='mmrazor.StopDistillHook', stop_epoch=280)
PAIRS = ['r101-to-r18', 'r101-to-r50', 'r50-to-mobilenetv2']


def without_weights(cfg: dict) -> dict:
    """Drop what would download: checkpoints and pretrained backbones."""
    cfg.pop('teacher_ckpt', None)
    for detector in (cfg, cfg.get('architecture'), cfg.get('teacher')):
        if isinstance(detector, dict) and 'backbone' in detector:
            detector.backbone.init_cfg = None
    return cfg


def test_every_pair_comes_with_every_method():
    names = {p.relative_to(CONFIGS).as_posix() for p in LEAVES}
    for pair in PAIRS:
        for method in ('kd/kd', 'ctkd/ctkd', 'ctkd/ctkd-instance', 'ctkd/ctkd-zscore'):
            assert f'{method}_faster-rcnn_{pair}_fpn_1x_coco.py' in names
        for method in ('dkd/dkd', 'dkd/ctkd-dkd'):
            assert f'{method}_faster-rcnn_{pair}_fpn_1x_coco.py' in names
    assert 'baseline/faster-rcnn_r18_fpn_1x_coco.py' in names
    assert 'baseline/faster-rcnn_mobilenetv2_fpn_1x_coco.py' in names


def check_temperature(model, cfg, name):
    """A temperature has what sets it, and the learnable ones alone learn."""
    hooks = [ROOT_HOOKS.build(hook) for hook in cfg.get('custom_hooks', [])]
    found = find_temperatures(model).items()
    learnable = {name: t for name, t in found if list(t.parameters())}
    assert bool(learnable) == name.startswith('ctkd')
    assert bool(learnable) == any(isinstance(hook, CurriculumHook) for hook in hooks)
    assert bool(set_progress(model, 0.5)) == any(
        isinstance(hook, TemperatureScheduleHook) for hook in hooks
    )
    optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    groups = {id(p): g for g in optim_wrapper.param_groups for p in g['params']}
    for temperature in learnable.values():
        multiplier = 1 if re.search('-instance|rtmdet', name) else 10
        for parameter in temperature.parameters():
            group = groups[id(parameter)]
            rate = cfg.optim_wrapper.optimizer.lr * multiplier
            assert group['lr'] == pytest.approx(rate)
            assert group['weight_decay'] == 0


@pytest.mark.parametrize('path', LEAVES, ids=lambda p: p.stem)
def test_config_builds_offline(path, monkeypatch, root):
    monkeypatch.chdir(root)
    cfg = Config.fromfile(path)
    assert Config.fromstring(cfg.pretty_text, '.py').model == cfg.model
    assert not READ_AT.keys() & cfg.keys(), 'nothing reads them there'
    for name, hook in SAFE_HOOKS.items():
        assert cfg.default_hooks[name].type == hook.type
    assert cfg.train_cfg.type == 'ctkd_mm.ResumableEpochBasedTrainLoop'
    scaled = cfg.auto_scale_lr  # what tools/train.py --auto-scale-lr needs
    assert not scaled.enable and scaled.base_batch_size in (4, 8, 16, 256)
    model = ROOT_MODELS.build(without_weights(cfg.model))
    check_temperature(model, cfg, path.name)


@pytest.mark.parametrize('method', METHODS, ids=lambda p: p.stem)
def test_every_method_for_softmax_classes_fits_a_pair(method, monkeypatch, root):
    monkeypatch.chdir(root)
    cfg = Config.fromfile(CONFIGS / 'demo' / DEMO)
    joined = Config.fromfile(method)
    cfg.model.loss_kd = joined.loss_kd
    cfg.custom_hooks = joined.get('custom_hooks', [])
    cfg.optim_wrapper.paramwise_cfg = joined.get('paramwise_cfg')
    for part in (cfg.model.loss_kd, cfg.model.loss_kd.get('loss', {})):
        if 'num_classes' in part.get('temperature', {}):
            part.temperature.num_classes = 10
    check_temperature(ROOT_MODELS.build(without_weights(cfg.model)), cfg, method.name)


def test_no_config_needs_custom_imports_or_a_scope():
    for path in CONFIGS.rglob('*.py'):
        assert 'custom_imports' not in path.read_text(), path
        assert '_scope_' not in path.read_text(), path


@pytest.mark.parametrize('pair', PAIRS)
def test_coco_teachers_are_the_zoos_and_share_the_students_pixels(pair):
    cfg = Config.fromfile(
        CONFIGS / 'ctkd' / f'ctkd_faster-rcnn_{pair}_fpn_1x_coco.py'
    ).model
    teacher = pair.split('-')[0]
    assert cfg.teacher == f'mmdet::faster_rcnn/faster-rcnn_{teacher}_fpn_ms-3x_coco.py'
    from mmengine.hub import get_config

    pixels = get_config(cfg.teacher).model.data_preprocessor
    assert pixels == cfg.architecture.data_preprocessor
    assert f'faster_rcnn_{teacher}_fpn_mstrain_3x_coco' in cfg.teacher_ckpt


@pytest.mark.parametrize('student', ['s', 'tiny'])
def test_rtmdet_keeps_its_own_recipe_and_stops_the_distillation_at_its_switch(student):
    base = f'mmdet::rtmdet/rtmdet_{student}_8xb32-300e_coco.py'
    own = Config.fromstring(f'_base_ = {base!r}', '.py')
    (path,) = CONFIGS.glob(f'ctkd/ctkd_rtmdet_*-to-{student}_*.py')
    (plain,) = CONFIGS.glob(f'kd/kd_rtmdet_*-to-{student}_*.py')
    cfg, kd = Config.fromfile(path), Config.fromfile(plain)
    assert cfg.model.architecture == own.model
    cosine = own.param_scheduler[1]
    share = cosine.pop('eta_min') / own.optim_wrapper.optimizer.lr
    cosine.update(eta_min=None, eta_min_ratio=pytest.approx(share))
    for key in ('train_dataloader', 'val_evaluator', 'param_scheduler'):
        assert cfg[key] == kd[key] == own[key]
    assert cfg.custom_hooks[:2] == kd.custom_hooks == own.custom_hooks
    assert cfg.default_hooks.stop == kd.default_hooks.stop == STOP
    assert own.custom_hooks[1].switch_epoch == STOP['stop_epoch']
    images = own.train_dataloader.batch_size * 8  # GPUs
    assert cfg.auto_scale_lr.base_batch_size == images
    student_alone = {**cfg.optim_wrapper.paramwise_cfg}
    del student_alone['custom_keys']
    assert student_alone == own.optim_wrapper.paramwise_cfg


def test_cfg_options_reach_the_temperature():
    cfg = Config.fromfile(CONFIGS / 'ctkd/ctkd_faster-rcnn_r101-to-r18_fpn_1x_coco.py')
    cfg.merge_from_dict({'model.loss_kd.temperature.tau_range': 5})
    assert ROOT_MODELS.build(cfg.model.loss_kd).temperature.tau_range == 5
