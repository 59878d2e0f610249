"""One-stage detectors of MMDetection, narrow, for the digits' ten classes."""

from __future__ import annotations

from mmengine.config import ConfigDict
from mmengine.hub import get_config

CONFIGS = dict(
    retinanet='retinanet/retinanet_r18_fpn_1x_coco.py',
    fcos='fcos/fcos_r50-caffe_fpn_gn-head-center-normbbox-centeronreg-giou_1x_coco.py',
    atss='atss/atss_r50_fpn_1x_coco.py',
    gfl='gfl/gfl_r50_fpn_1x_coco.py',
    rtmdet='rtmdet/rtmdet_tiny_8xb32-300e_coco.py',
    yolox='yolox/yolox_tiny_8xb8-300e_coco.py',
    tood='tood/tood_r50_fpn_1x_coco.py',
)


def narrow_detector(name: str, channels: int = 32) -> ConfigDict:
    """Config of a detector whose neck and head have ``channels``, for scratch."""
    cfg = get_config(f'mmdet::{CONFIGS[name]}').model
    norm = dict(norm_cfg=dict(type='BN', requires_grad=True))
    if name == 'rtmdet':
        cfg.backbone.update(widen_factor=0.125, init_cfg=None, **norm)
        cfg.neck.update(in_channels=[32, 64, 128], out_channels=channels, **norm)
        cfg.bbox_head.update(norm)
        cfg.use_syncbn = False  # of one device in each process
    elif name == 'yolox':
        cfg.backbone.update(widen_factor=0.125)
        cfg.neck.update(in_channels=[32, 64, 128], out_channels=channels)
        cfg.data_preprocessor.batch_augments = None
    else:
        cfg.backbone.update(
            depth=18, base_channels=8, frozen_stages=-1, init_cfg=None, **norm
        )
        cfg.neck.update(in_channels=[8, 16, 32, 64], out_channels=channels)
    cfg.bbox_head.update(
        num_classes=10,
        in_channels=channels,
        feat_channels=channels,
        stacked_convs=2 if name == 'tood' else 1,
    )
    return cfg
