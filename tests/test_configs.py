from __future__ import annotations

from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import HOOKS as ROOT_HOOKS
from mmengine.registry import MODELS as ROOT_MODELS

from ctkd_mm import set_lambda

CONFIGS = Path(__file__).parents[1] / 'configs'
LEAVES = sorted(p for p in CONFIGS.glob('*/*.py') if p.parent.name != '_base_')
PAIRS = ['r101-to-r18', 'r101-to-r50', 'r50-to-mobilenetv2']


def without_weights(cfg: dict) -> dict:
    """Drop what would download: checkpoints and pretrained backbones."""
    cfg.pop('teacher_ckpt', None)
    for detector in (cfg, cfg.get('architecture', {})):
        if 'backbone' in detector:
            detector.backbone.init_cfg = None
    return cfg


def test_every_pair_comes_with_every_method():
    names = {p.relative_to(CONFIGS).as_posix() for p in LEAVES}
    for pair in PAIRS:
        for folder, method in [
            ('kd', 'kd'),
            ('ctkd', 'ctkd'),
            ('ctkd', 'ctkd-instance'),
        ]:
            assert f'{folder}/{method}_faster-rcnn_{pair}_fpn_1x_coco.py' in names
    assert 'baseline/faster-rcnn_r18_fpn_1x_coco.py' in names
    assert 'baseline/faster-rcnn_mobilenetv2_fpn_1x_coco.py' in names


@pytest.mark.parametrize('path', LEAVES, ids=lambda p: p.stem)
def test_config_builds_offline(path, monkeypatch, root):
    monkeypatch.chdir(root)
    cfg = Config.fromfile(path)
    assert Config.fromstring(cfg.pretty_text, '.py').model == cfg.model
    model = ROOT_MODELS.build(without_weights(cfg.model))
    hooks = [ROOT_HOOKS.build(hook) for hook in cfg.get('custom_hooks', [])]
    learnable = set_lambda(model, 1.0)
    assert learnable == len(hooks) == int(path.name.startswith('ctkd'))
    optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    if learnable:
        group = next(
            group
            for group in optim_wrapper.param_groups
            if group['params'][0] is next(model.distiller.distill_losses.parameters())
        )
        multiplier = 10 if '-instance' not in path.name else 1
        assert group['lr'] == pytest.approx(cfg.optim_wrapper.optimizer.lr * multiplier)
        assert group['weight_decay'] == 0


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


def test_cfg_options_reach_the_temperature():
    cfg = Config.fromfile(CONFIGS / 'ctkd/ctkd_faster-rcnn_r101-to-r18_fpn_1x_coco.py')
    cfg.merge_from_dict({'model.loss_kd.temperature.tau_range': 5})
    assert ROOT_MODELS.build(cfg.model.loss_kd).temperature.tau_range == 5
