"""The shipped COCO configs on photographs of COCO, full size, with 80 classes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
import torch
from mmdet.apis import DetInferencer
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from ctkd_mm.analysis.run_log import read_metrics, read_scalars
from ctkd_mm.models.teachers.load import build_detector

ROOT = Path(__file__).parents[2]
COCO = ROOT / 'data' / 'coco'
pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(
        not (COCO / 'annotations' / 'instances_val2017.json').is_file(),
        reason='data/coco is missing: see docs/coco.md',
    ),
]
# Config of the pair, DetInferencer's name of its student, key of the score threshold.
PAIRS = {
    'two-stage': (
        'configs/ctkd/ctkd_faster-rcnn_r101-to-r18_fpn_1x_coco.py',
        'configs/baseline/faster-rcnn_r18_fpn_1x_coco.py',
        'test_cfg.rcnn.score_thr',
    ),
    'dense': (
        'configs/ctkd/ctkd_retinanet_r101-to-r50_fpn_1x_coco.py',
        'retinanet_r50_fpn_1x_coco',
        'test_cfg.score_thr',
    ),
}


def run(tool: str, *args: object) -> str:
    done = subprocess.run(
        [sys.executable, f'tools/{tool}.py', *map(str, args)],
        cwd=ROOT,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


@pytest.fixture(scope='module', params=PAIRS)
def pair(request, tmp_path_factory) -> tuple[str, str, list[str], Path]:
    """Configs, options for two training and eight validation images, a folder."""
    folder = tmp_path_factory.mktemp(request.param)
    config, student, threshold = PAIRS[request.param]
    init_default_scope('mmdet')
    torch.manual_seed(0)
    model = Config.fromfile(ROOT / config).model
    teacher, backbone = folder / 'teacher.pth', folder / 'backbone.pth'
    val = json.loads((COCO / 'annotations' / 'instances_val2017.json').read_text())
    torch.save(
        dict(
            # As MMDetection 2 wrote the files of the model zoo.
            meta=dict(
                CLASSES=tuple(category['name'] for category in val['categories']),
                mmdet_version='2.12.0',
                epoch=36,
                iter=263916,
            ),
            state_dict=build_detector(model.teacher).state_dict(),
        ),
        teacher,
        _use_new_zipfile_serialization=False,
    )
    torch.save(MODELS.build(model.architecture.backbone).state_dict(), backbone)
    subset = folder / 'val8.json'
    ann_file = COCO / 'annotations' / 'instances_val2017.json'
    run('coco_subset', ann_file, '--images', 8, '--out', subset)
    options = [
        f'model.teacher_ckpt={teacher}',
        f'model.architecture.backbone.init_cfg.checkpoint={backbone}',
        'train_dataloader.dataset.indices=2',
        'train_dataloader.batch_size=1',
        'train_cfg.max_epochs=1',
        f'val_dataloader.dataset.ann_file={subset}',
        f'val_evaluator.ann_file={subset}',
        'default_hooks.logger.interval=1',
        # Without a detection MMDetection logs no mAP, and random scores are low.
        f'model.architecture.{threshold}=0.001',
    ]
    return config, student, options, folder


@pytest.fixture(scope='module')
def trained(pair) -> Path:
    """Work directory of two training iterations and a validation."""
    config, _, options, folder = pair
    told = run('train', config, '--work-dir', folder / 'run', '--cfg-options', *options)
    assert 'preflight: 80 classes, the same in teacher_ckpt, train_dataloader' in told
    return folder / 'run'


def test_two_iterations_are_trained_and_eight_images_evaluated(trained):
    lines = read_scalars(trained)
    assert [line['step'] for line in lines] == [1, 2]
    assert all(line['distill.loss_kd'] > 0 for line in lines)
    assert 0 <= read_metrics(trained)[-1]['coco/bbox_mAP'] <= 1


def test_the_extracted_student_detects_in_a_photograph(pair, trained):
    _, student, _, folder = pair
    checkpoint = trained / 'epoch_1_student.pth'
    run('extract_student', trained / 'epoch_1.pth', '--out', checkpoint)
    photograph = next((COCO / 'val2017').glob('*.jpg'))
    detect = DetInferencer(student, str(checkpoint), 'cpu', show_progress=False)
    detect(str(photograph), out_dir=str(folder / 'shown'), pred_score_thr=0.01)
    drawn = cv2.imread(str(folder / 'shown' / 'vis' / photograph.name))
    assert drawn.shape == cv2.imread(str(photograph)).shape


@pytest.mark.parametrize('pair', ['two-stage'], indirect=True)
def test_a_temperature_is_suggested(pair):
    config, _, options, folder = pair
    out = folder / 'curve.png'
    told = run(
        *('suggest_temperature', config, '--images', 2, '--out', out),
        *('--cfg-options', *options),
    )
    assert 'model.loss_kd.temperature.tau_init=' in told
    assert 'model.loss_kd.loss_weight=' in told
    assert out.is_file()
