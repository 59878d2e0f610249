"""Full-size COCO pairs with random weights, for the benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from mmdet.models import RPNHead
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.structures import InstanceData
from torch import nn

NUM_CLASSES, BOXES = 80, 8  # COCO has 7.3 objects an image
PROPOSALS = 1000  # of an image in training: MMDetection's default


@MODELS.register_module()
class FixedRPNHead(RPNHead):
    """An RPN that computes its proposals and then gives others: the same in any model.

    A RoI's cost depends on its size. Untrained RPNs would give each model other sizes.
    """

    def loss_and_predict(
        self, x: tuple, batch_data_samples: list, proposal_cfg: Any = None
    ) -> tuple:
        """Return the own losses and the fixed proposals."""
        losses, _ = super().loss_and_predict(x, batch_data_samples, proposal_cfg)
        proposals = [_proposals(sample) for sample in batch_data_samples]
        return losses, proposals


def _proposals(sample: DetDataSample) -> InstanceData:
    """Half around the objects, half anywhere, of log-uniform sizes."""
    generator = torch.Generator().manual_seed(0)
    height, width = sample.img_shape
    size = torch.tensor([width, height, width, height])
    objects = sample.gt_instances.bboxes.cpu()[torch.arange(PROPOSALS // 2) % BOXES]
    noise = torch.randn(objects.shape, generator=generator)
    near = objects + 0.1 * noise * (objects[:, 2:] - objects[:, :2]).repeat(1, 2)
    near = near.clamp(min=0).minimum(size)
    boxes = torch.cat([near, boxes_anywhere(PROPOSALS // 2, height, width, generator)])
    boxes = boxes.to(sample.gt_instances.bboxes)
    scores = torch.linspace(1, 0, PROPOSALS, device=boxes.device)
    return InstanceData(
        bboxes=boxes, scores=scores, labels=torch.zeros_like(scores, dtype=torch.long)
    )


def boxes_anywhere(
    count: int, height: int, width: int, generator: torch.Generator
) -> torch.Tensor:
    """Draw boxes of log-uniform sides from 16 pixels to the image's, (count, 4)."""
    size = torch.tensor([width, height])
    centre = torch.rand(count, 2, generator=generator) * size
    log_side = torch.rand(count, 2, generator=generator)
    half = 8 * (min(height, width) / 16) ** log_side
    boxes = torch.cat([centre - half, centre + half], 1)
    return boxes.clamp(min=0).minimum(size.repeat(2))


def config(method: str, pair: str) -> Config:
    """Load a shipped config; its student starts from random weights, not ImageNet's.

    Args:
        method: Folder and first part of the name in ``configs``, such as ``kd``.
        pair: Such as ``r101-to-r18``; ``digits`` is the demo's, of 10 classes.
    """
    folder, name = method.split('-')[0], f'{pair}_fpn_1x_coco'
    if pair == 'digits':
        folder, name = 'demo', 'r18-half-to-r18-eighth_fpn_digits'
    cfg = Config.fromfile(Path('configs') / folder / f'{method}_faster-rcnn_{name}.py')
    cfg.model.architecture.backbone.init_cfg = None
    cfg.model.architecture.rpn_head.type = 'FixedRPNHead'
    return cfg


def plain_teacher(cfg: Config) -> BaseModel:
    """Build the config's teacher, with random weights and no speed-up.

    Its BatchNorms get statistics of their own: fresh ones would do nothing.
    """
    torch.manual_seed(0)
    name = cfg.model.teacher
    model = Config.fromfile(name).model
    model.rpn_head.type = 'FixedRPNHead'
    teacher = MODELS.build(model)
    teacher.backbone.init_cfg = None
    teacher.init_weights()
    for module in teacher.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.2, 0.6)
            module.bias.data.normal_(0, 0.1)
    return teacher.eval()


def batch(height: int, width: int, images: int) -> dict:
    """Noise images with random boxes, as a data loader gives them."""
    generator = torch.Generator().manual_seed(0)
    size = torch.tensor([width, height])
    inputs, samples = [], []
    for _ in range(images):
        image = torch.randint(0, 256, (3, height, width), generator=generator)
        inputs.append(image.to(torch.uint8))
        sides = (torch.rand(BOXES, 2, generator=generator) * 0.4 + 0.05) * size
        corners = torch.rand(BOXES, 2, generator=generator) * (size - sides)
        shape = (height, width)
        sample = DetDataSample(
            metainfo=dict(img_shape=shape, ori_shape=shape, scale_factor=(1, 1))
        )
        sample.gt_instances = InstanceData(
            bboxes=torch.cat([corners, corners + sides], 1),
            labels=torch.randint(0, NUM_CLASSES, (BOXES,), generator=generator),
        )
        samples.append(sample)
    return dict(inputs=inputs, data_samples=samples)
