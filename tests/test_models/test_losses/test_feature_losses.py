"""The shipped methods that join a feature loss with CTKD."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers.two_stage_detectors import narrow_two_stage
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS as ROOT_MODELS
from torch import Tensor


def pkd(feat_S: Tensor, feat_T: Tensor) -> float:
    """Half the mean square of the differences of standardised channels, times 6."""
    scaled = []
    for feat in (feat_S, feat_T):
        rows = feat.double().transpose(0, 1).flatten(1)
        scaled.append((rows - rows.mean(1, keepdim=True)) / rows.std(1, keepdim=True))
    return 6 * (scaled[0] - scaled[1]).square().mean().item() / 2


def cwd(feat_S: Tensor, feat_T: Tensor) -> float:
    """KL of the channels as distributions over places, mean of all, times 10."""
    p_S, p_T = (feat.double().flatten(2).softmax(dim=2) for feat in (feat_S, feat_T))
    return 10 * (p_T * (p_T / p_S).log()).sum(dim=2).mean().item()


@pytest.fixture(params=['pkd', 'cwd'])
def trained(request, root, batch) -> list[tuple[dict, dict]]:
    """Losses, and what they should be, of two iterations by a shipped config."""
    name = f'ctkd-{request.param}_faster-rcnn_r101-to-r50_fpn_1x_coco.py'
    cfg = Config.fromfile(root / 'configs' / 'ctkd' / name).model
    torch.manual_seed(0)
    detectors = [ROOT_MODELS.build(narrow_two_stage('faster')) for _ in range(2)]
    cfg.update(architecture=detectors[0], teacher=detectors[1])
    model = ROOT_MODELS.build(cfg).train()
    optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.01))
    steps = []
    for _ in range(2):
        pixels = model.data_preprocessor(copy.deepcopy(batch))['inputs']
        with torch.no_grad():
            levels = zip(*(detector.extract_feat(pixels) for detector in detectors))
        loss, num_levels = dict(pkd=(pkd, 4), cwd=(cwd, 5))[request.param]
        want = {
            f'distill.loss_{request.param}_{i}': loss(feat_S, feat_T)
            for i, (feat_S, feat_T) in enumerate(levels)
            if i < num_levels
        }
        log_vars = model.train_step(copy.deepcopy(batch), optimizer)
        steps.append((log_vars, want))
    return steps


def test_the_neck_is_distilled_by_the_formula_in_every_iteration(trained):
    for log_vars, want in trained:
        names = {name for name in log_vars if name.startswith('distill.')}
        assert names == {*want, 'distill.loss_kd'}
        for name, value in want.items():
            assert log_vars[name].item() == pytest.approx(value, rel=1e-4), name
            assert value > 1e-3


def test_the_neck_of_the_student_moves_towards_the_teachers(trained):
    first, second = (sum(want.values()) for _, want in trained)
    assert second < first
