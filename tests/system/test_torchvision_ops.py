"""mmcv's operators by torchvision's, for measuring: values and gradients of mmcv's."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import mmcv
import pytest
import torch
from helpers import torchvision_cpu
from mmcv import ops
from torch import Tensor

if importlib.util.find_spec('torchvision') is None:
    pytest.skip(
        'torchvision is not installed (the extra "classification")',
        allow_module_level=True,
    )
torchvision_cpu.load()  # before mmdet, which imports mmpretrain
ROOT = Path(__file__).parents[2]


@pytest.fixture
def use_torchvision(monkeypatch):
    """Make mmcv call torchvision's operators from here on."""
    monkeypatch.syspath_prepend(str(ROOT / 'benchmarks' / 'gpu'))
    from torchvision_ops import TorchvisionExtension

    torch.manual_seed(0)

    def use() -> None:
        for name in ('nms', 'roi_align', 'focal_loss'):
            module = sys.modules[f'mmcv.ops.{name}']
            monkeypatch.setattr(module, 'ext_module', TorchvisionExtension())

    return use


def boxes(count: int) -> Tensor:
    """Boxes of up to 60 pixels, some beyond an image of 64."""
    generator = torch.Generator().manual_seed(0)
    corners, sizes = torch.rand(2, count, 2, generator=generator) * 60
    return torch.cat([corners - 5, corners + sizes], 1)


@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('threshold', [0.2, 0.5])
def test_nms_keeps_the_same_boxes(use_torchvision, offset, threshold):
    candidates, scores = boxes(200), torch.linspace(0, 1, 200)[torch.randperm(200)]
    want = ops.nms(candidates, scores, threshold, offset, score_threshold=0.2)
    use_torchvision()
    dets, kept = ops.nms(candidates, scores, threshold, offset, score_threshold=0.2)
    assert 5 < len(kept) < 155  # of 160
    assert torch.equal(kept, want[1])
    assert torch.equal(dets, want[0])


@pytest.mark.parametrize('aligned', [True, False])
@pytest.mark.parametrize('sampling_ratio', [0, 2])
@pytest.mark.parametrize('count', [30, 0])
def test_roi_align_has_the_same_values_and_gradients(
    use_torchvision, aligned, sampling_ratio, count
):
    layer = ops.RoIAlign((7, 5), 0.25, sampling_ratio, aligned=aligned)
    rois = torch.cat([torch.arange(count)[:, None] % 2, boxes(count)], 1)
    maps = torch.randn(2, 3, 16, 16)

    def crops_and_gradient() -> tuple[Tensor, Tensor]:
        leaf = maps.clone().requires_grad_()
        crops = layer(leaf, rois)
        weights = torch.linspace(-1, 1, max(crops.numel(), 1))[: crops.numel()]
        (crops * weights.view_as(crops)).sum().backward()
        return crops.detach(), leaf.grad

    want = crops_and_gradient()
    use_torchvision()
    torch.testing.assert_close(crops_and_gradient(), want, rtol=1e-5, atol=1e-5)


def test_the_focal_loss_is_mmdetections(use_torchvision):
    from mmdet.models.losses.focal_loss import py_sigmoid_focal_loss

    # mmcv has no such operator for a CPU.
    use_torchvision()
    logits, target = torch.randn(20, 4), torch.arange(20) % 5  # 4 is background
    found, want = (logits.clone().requires_grad_() for _ in range(2))
    labels = torch.nn.functional.one_hot(target, 5)[:, :4]
    loss = ops.sigmoid_focal_loss(found, target, 1.5, 0.3, None, 'none')
    expected = py_sigmoid_focal_loss(want, labels, None, 1.5, 0.3, 'none')
    torch.testing.assert_close(loss, expected)
    for value in (loss, expected):
        value.sum().backward()
    torch.testing.assert_close(found.grad, want.grad)


def test_what_has_no_counterpart_refuses(use_torchvision):
    use_torchvision()
    with pytest.raises(NotImplementedError, match='softnms has no counterpart'):
        ops.soft_nms(boxes(4), torch.rand(4))
    with pytest.raises(NotImplementedError, match="pool_mode='max'"):
        ops.RoIAlign(2, pool_mode='max')(torch.rand(1, 1, 8, 8), torch.zeros(1, 5))
    with pytest.raises(NotImplementedError, match='no class weights'):
        ops.sigmoid_focal_loss(
            torch.rand(3, 2), torch.tensor([0, 1, 0]), 2.0, 0.25, torch.ones(2), 'none'
        )


@pytest.mark.process
def test_the_demo_trains_on_an_mmcv_without_operators(tmp_path):
    site, out = tmp_path / 'site', tmp_path / 'out'
    (site / 'mmcv').mkdir(parents=True)
    for path in Path(mmcv.__file__).parent.iterdir():
        if not path.name.startswith('_ext'):
            (site / 'mmcv' / path.name).symlink_to(path)
    load = 'from helpers import torchvision_cpu\ntorchvision_cpu.load()\n'
    (site / 'sitecustomize.py').write_text(load)
    paths = os.pathsep.join([str(site), str(ROOT / 'tests')])
    script = ROOT / 'benchmarks' / 'gpu' / 'run.py'
    options = ['--short', '--device', 'cpu', '--only', 'precisions', '--out', out]
    done = subprocess.run(
        [sys.executable, script, *options],
        env={**os.environ, 'PYTHONPATH': paths},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    found = json.loads((out / 'precisions.json').read_text())
    assert found['environment']['operators_of_mmcv'] == 'torchvision'
    assert len(found['tables']['Precisions']) == 2
