"""No shipped config needs DDP's search for parameters without a gradient."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest
from helpers.steps import losses_of, part_of, without_objects
from mmengine.config import Config

from ctkd_mm import set_lambda
from ctkd_mm.models.teachers.load import build_detector
from ctkd_mm.registry import MODELS

ROOT = Path(__file__).parents[2]
SHIPPED = sorted(
    path
    for name in ('kd', 'ctkd', 'dkd')
    for path in (ROOT / 'configs' / name).glob('*.py')
) + sorted((ROOT / 'configs' / 'demo').glob('*kd*.py'))
# When narrow, the others' students are those of R101 to R50.
STUDENTS = [path for path in SHIPPED if not re.search('r101-to-r18|cascade', path.stem)]


def narrow(detector: dict) -> dict:
    """The detector with an eighth of R18's channels and few RoIs; frozen as it was."""
    if detector.backbone.type == 'ResNet':
        detector.backbone.update(depth=18, base_channels=8)
        detector.neck.in_channels = [8, 16, 32, 64]
    if 'roi_head' in detector:
        detector.roi_head.bbox_head.fc_out_channels = 32
        detector.train_cfg.rcnn.sampler.num = 32
    else:
        detector.bbox_head.stacked_convs = 1
    return detector


def test_no_shipped_config_searches_for_unused_parameters():
    for path in (ROOT / 'configs').rglob('*.py'):
        assert 'find_unused_parameters' not in path.read_text(), path


@pytest.mark.parametrize('path', STUDENTS, ids=lambda path: path.stem)
def test_no_shipped_config_leaves_a_parameter_without_a_gradient(path, batch):
    cfg = Config.fromfile(path)
    assert not cfg.get('find_unused_parameters')
    cfg.model.architecture = narrow(cfg.model.architecture)
    # Any teacher will do: no gradient of the student depends on which one it is.
    cfg.model.teacher = build_detector(copy.deepcopy(cfg.model.architecture))
    model = MODELS.build(cfg.model).train()
    batches = part_of(batch, 0), without_objects(part_of(batch, 1))
    for images, lambda_ in zip(batches, (0.0, 1.0)):
        model.zero_grad()
        set_lambda(model, lambda_)
        losses_of(model, images).backward()
        trainable = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        assert len(trainable) > 50
        assert [name for name, p in trainable if p.grad is None] == []
