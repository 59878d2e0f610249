"""What the documentation shows, run."""

from __future__ import annotations

import doctest
import importlib
import re

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS


def python_blocks(root) -> list[str]:
    return re.findall(r'```python\n(.*?)```', (root / 'README.md').read_text(), re.S)


@pytest.mark.parametrize('name', ['temperature', 'loss', 'curriculum'])
def test_docstring_examples(name):
    result = doctest.testmod(importlib.import_module(f'ctkd_mm.{name}'))
    assert result.attempted
    assert not result.failed


def test_the_readmes_own_pair_builds(root, tmp_path):
    (text,) = [b for b in python_blocks(root) if 'RoILogitDistill' in b]
    teacher = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'
    text = text.replace('path/to/teacher_config.py', teacher)
    text = text.replace("'path/to/teacher.pth'", 'None')
    (tmp_path / '_base_').symlink_to(root / 'configs' / '_base_')
    (tmp_path / 'own').mkdir()
    (tmp_path / 'own' / 'pair.py').write_text(text)
    cfg = Config.fromfile(tmp_path / 'own' / 'pair.py')
    cfg.model.architecture.backbone.init_cfg = None
    (beside,) = [b for b in python_blocks(root) if 'student_recorders' in b]
    exec(beside, names := {})
    cfg.merge_from_dict(dict(model=names['model']))
    losses = MODELS.build(cfg.model).distiller.distill_losses
    assert {name: type(loss).__name__ for name, loss in losses.items()} == dict(
        loss_neck='PKDLoss', loss_kd='CTKDLoss'
    )
    assert 'loss_kd.temperature' in cfg.optim_wrapper.paramwise_cfg.custom_keys
    assert cfg.default_hooks.preflight.type == 'ctkd_mm.PreflightHook'
    assert cfg.train_cfg.type == 'ctkd_mm.ResumableEpochBasedTrainLoop'


def test_the_readmes_loop_trains_student_and_temperature(root):
    (text,) = [b for b in python_blocks(root) if 'optimizer.step()' in b]
    torch.manual_seed(0)
    student, teacher = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)
    teacher.requires_grad_(False)
    batch = torch.randn(16, 4), torch.randint(0, 3, (16,))
    names = dict(
        student=student,
        teacher=teacher,
        loader=[batch] * 3,
        task_loss=torch.nn.functional.cross_entropy,
    )
    exec(text, names)
    temperature = names['loss_kd'].temperature
    assert temperature.grl.lambda_ == 1.0
    assert temperature.raw_tau.item() != 1.0
