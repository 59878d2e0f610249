# Teacher: MMDetection's model zoo, 44.7 box AP.
_base_ = []  # else MMEngine takes a file with an import for one of its new style
from mmengine.hub import get_config  # noqa: E402

model = dict(
    type='ctkd_mm.DenseLogitDistill',
    architecture=get_config('mmdet::gfl/gfl_r50_fpn_1x_coco.py').model,
    teacher='mmdet::gfl/gfl_r101_fpn_ms-2x_coco.py',
    teacher_ckpt='https://download.openmmlab.com/mmdetection/v2.0/gfl/gfl_r101_fpn_mstrain_2x_coco/gfl_r101_fpn_mstrain_2x_coco_20200629_200126-dd12f847.pth',
)
