"""Two steps of every method and every structure of detectors, in three precisions."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, save_detector
from helpers import dense_detectors, two_stage_detectors
from helpers.dense_detectors import narrow_detector
from helpers.two_stage_detectors import narrow_two_stage
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS

from ctkd_mm import set_lambda
from ctkd_mm.models.temperatures.scheduled import set_progress
from emulated_cuda.precisions import PRECISIONS
from emulated_cuda.waits import HostWaits

pytestmark = pytest.mark.emulated_cuda

METHODS = [
    path.stem
    for path in sorted((ROOT / 'configs' / '_base_' / 'methods').glob('*.py'))
    if 'classification' not in path.stem
]
# TOOD's head gives probabilities, and is refused.
DENSE = sorted(dense_detectors.CONFIGS.keys() - {'tood'})


def method(name: str) -> Config:
    return Config.fromfile(ROOT / 'configs' / '_base_' / 'methods' / f'{name}.py')


@pytest.fixture
def distiller(tmp_path: Path):
    """Builds a distiller, on the device, of two detectors and a method."""

    def build(kind: str, detector: dict, name: str, **changes: Any) -> BaseModel:
        cfg = method(name)
        temperature = cfg.loss_kd.get('temperature', {})
        if 'num_classes' in temperature:
            temperature.num_classes = 10
        torch.manual_seed(0)
        model = dict(
            type=f'ctkd_mm.{kind}',
            architecture=detector,
            teacher=detector,
            teacher_ckpt=str(save_detector(detector, tmp_path / 'teacher.pth')),
            loss_kd=cfg.loss_kd,
            distiller=cfg.get('distiller', {}),
            **changes,
        )
        model = MODELS.build(copy.deepcopy(model))
        model.init_weights()
        return model.cuda().train()

    return build


@pytest.fixture
def images(batch: dict) -> dict:
    """Two images, with masks for the detectors that want some."""
    for sample in batch['data_samples']:
        boxes = sample.gt_instances.bboxes.int().tolist()
        masks = torch.zeros(len(boxes), 96, 96, dtype=torch.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes):
            mask[y1:y2, x1:x2] = 1
        sample.gt_instances.masks = BitmapMasks(masks.numpy(), 96, 96)
    return batch


def check_steps(model: BaseModel, images: dict, paramwise_cfg: dict) -> None:
    """Take two steps in each precision.

    Nothing but the student and tau may move, and nothing of ours wait for the device.
    """
    set_lambda(model, 0.5)
    set_progress(model, 0.5)
    teacher = model.teacher_model if hasattr(model, 'teacher_model') else model.teacher
    frozen = copy.deepcopy(teacher.state_dict())
    for precision in PRECISIONS.values():
        optimizer = dict(type='SGD', lr=1e-3, momentum=0.9, weight_decay=1e-4)
        constructor = 'ctkd_mm.MergedOptimWrapperConstructor'
        wrapper = build_optim_wrapper(
            model,
            dict(
                precision,
                constructor=constructor,
                optimizer=optimizer,
                paramwise_cfg=paramwise_cfg,
                clip_grad=dict(max_norm=10),
            ),
        )
        trained = {k: v for k, v in model.named_parameters() if v.requires_grad}
        before = {key: value.detach().clone() for key, value in trained.items()}
        for _ in range(2):
            with HostWaits() as waits:
                losses = model.train_step(copy.deepcopy(images), wrapper)
            assert not [line for line in waits.lines if line.startswith('ctkd_mm/')]
            assert any(key.split('.')[-1].startswith('loss_') for key in losses)
            for key, value in losses.items():
                assert value.device.type == 'cuda', key
                assert torch.isfinite(value), key
        for key, value in trained.items():
            assert value.dtype == torch.float32, key
            assert torch.isfinite(value).all(), key
            assert value in wrapper.optimizer.state, key
        moved = [k for k, v in trained.items() if not torch.equal(v, before[k])]
        assert len(moved) > len(trained) / 2  # a small step may leave a 1 as it was
        for key in trained:
            if key.endswith('raw_tau'):
                assert wrapper.optimizer.state[trained[key]]['momentum_buffer'] != 0
    for key, value in teacher.state_dict().items():
        assert torch.equal(value, frozen[key]), key


@pytest.mark.parametrize('name', [name for name in METHODS if 'ld' not in name])
def test_a_method_takes_two_steps(name, distiller, batch):
    if name.endswith('-dense'):
        model = distiller('DenseLogitDistill', narrow_detector('retinanet'), name)
    else:
        model = distiller('RoILogitDistill', narrow_two_stage('faster'), name)
    check_steps(model, batch, method(name).get('paramwise_cfg', {}))


def test_localization_distillation_takes_two_steps(batch, tmp_path):
    leaf = ROOT / 'configs' / 'ld' / 'ctkd-ld_gfl_r101-to-r18_fpn_1x_coco.py'
    cfg, detector = Config.fromfile(leaf).model, narrow_detector('gfl')
    cfg.update(backbone=detector.backbone, neck=detector.neck)
    cfg.bbox_head.update(
        num_classes=10, in_channels=32, feat_channels=32, stacked_convs=1
    )
    cfg.teacher_config.model = detector
    cfg.teacher_ckpt = str(save_detector(detector, tmp_path / 'teacher.pth'))
    model = MODELS.build(cfg)
    model.init_weights()
    model.cuda().train()  # which gives nothing back
    check_steps(model, batch, method('ctkd-ld').paramwise_cfg)


@pytest.mark.parametrize('name', two_stage_detectors.CONFIGS)
def test_a_two_stage_detector_takes_two_steps(name, distiller, images):
    model = distiller('RoILogitDistill', narrow_two_stage(name), 'dkd')
    check_steps(model, images, {})


@pytest.mark.parametrize('name', DENSE)
def test_a_dense_detector_takes_two_steps(name, distiller, batch):
    model = distiller('DenseLogitDistill', narrow_detector(name), 'ctkd-dense')
    check_steps(model, batch, method('ctkd-dense').paramwise_cfg)
