"""Two-stage detectors of MMDetection, narrow, for the digits' ten classes."""

from __future__ import annotations

import copy

import torch
from mmengine.config import ConfigDict
from mmengine.hub import get_config
from mmengine.model import BaseModel
from mmengine.registry import MODELS

CONFIGS = dict(
    faster='faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
    mask='mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
    cascade='cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py',
    cascade_mask='cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py',
    double_head='double_heads/dh-faster-rcnn_r50_fpn_1x_coco.py',
    c4='faster_rcnn/faster-rcnn_r50-caffe_c4-1x_coco.py',
    ohem='faster_rcnn/faster-rcnn_r50_fpn_ohem_1x_coco.py',
    pisa='pisa/mask-rcnn_r50_fpn_pisa_1x_coco.py',
)


def narrow_two_stage(name: str) -> ConfigDict:
    """Config of a detector of 8 to 64 channels, for scratch; C4 as wide as R18."""
    cfg = get_config(f'mmdet::{CONFIGS[name]}').model
    cfg.backbone.update(depth=18, frozen_stages=-1, init_cfg=None)
    width = 256 if name == 'c4' else 16
    if name == 'c4':
        cfg.roi_head.shared_head.update(depth=18, init_cfg=None)
    else:
        cfg.backbone.update(base_channels=8)
        cfg.neck.update(in_channels=[8, 16, 32, 64], out_channels=width)
    cfg.rpn_head.update(in_channels=width, feat_channels=width)
    for part in ('bbox_roi_extractor', 'mask_roi_extractor'):
        if part in cfg.roi_head:
            cfg.roi_head[part].update(out_channels=width)
    for head in as_list(cfg.roi_head.bbox_head):
        head.update(in_channels=512 if name == 'c4' else width, num_classes=10)
        if name != 'c4':
            head.update(fc_out_channels=32)
        if name == 'double_head':
            head.update(num_convs=1, conv_out_channels=64)
    for head in as_list(cfg.roi_head.get('mask_head', [])):
        head.update(in_channels=width, conv_out_channels=8, num_convs=1, num_classes=10)
    cfg.train_cfg.rpn_proposal.update(nms_pre=200, max_per_img=60)
    for stage in as_list(cfg.train_cfg.rcnn):
        stage.sampler.update(num=12)
    return cfg


def as_list(stages) -> list:
    """One of a single stage, or those of a cascade."""
    return stages if isinstance(stages, list) else [stages]


def build_distiller(cfg: dict, seed: int = 0) -> BaseModel:
    """Build a distiller in training mode, with its teacher's weights."""
    torch.manual_seed(seed)
    model = MODELS.build(copy.deepcopy(cfg))
    model.init_weights()
    return model.train()


def training_step(model: BaseModel, batch: dict, seed: int = 0) -> dict:
    """Losses of one training step, with the samplers' random draws fixed."""
    data = model.data_preprocessor(copy.deepcopy(batch), training=True)
    torch.manual_seed(seed)
    return model.train()(**data, mode='loss')
